//! Metrics: functions of predictions and references to a number, by name, computed in `f64`. Where one
//! is undefined (of a constant prediction, say) it is 0.
//!
//! A row has one class, a list of 0 and 1 for each class, a number, or a list of numbers. Of lists of
//! numbers a metric is the mean over their places, as scikit-learn's `uniform_average`.
//!
//! **Classes that do not occur** among predictions and references have no part in the macro F1 of rows with
//! one class each. Of rows with any classes they count as 0. Both is what scikit-learn does by default.
//!
//! Rows of language models have texts: see [`texts`].
//!
//! A metric is a function in a file of its kind and a line in [`METRICS`].

mod classes;
mod correlation;
mod errors;
pub mod texts;

pub use classes::{accuracy, exact_match, f1, macro_f1, matthews, micro_f1};
pub use correlation::{pearson, spearman};
pub use errors::{mae, mse, r2, rmse};

use ailora_runtime::train::{Better, Headline};
use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use thiserror::Error;

use crate::{
    choice::did_you_mean,
    score::{
        arithmetic::{LLM_ADAPTERS, STRICT},
        rouge::Kind,
    },
};

/// Share of rows whose class is predicted.
pub const ACCURACY: Metric = Metric {
    name: "accuracy",
    better: Better::Higher,
    measure: |found, expected| Ok(accuracy(&indices(found)?, &indices(expected)?)),
};

/// F1 of class 1.
pub const F1: Metric = Metric {
    name: "f1",
    better: Better::Higher,
    measure: |found, expected| Ok(f1(&indices(found)?, &indices(expected)?)),
};

/// Mean of the classes' F1.
pub const MACRO_F1: Metric = Metric {
    name: "macro_f1",
    better: Better::Higher,
    measure: |found, expected| {
        Ok(macro_f1(
            &classes(found)?,
            &classes(expected)?,
            width(expected),
        ))
    },
};

/// F1 over all classes of all rows together.
pub const MICRO_F1: Metric = Metric {
    name: "micro_f1",
    better: Better::Higher,
    measure: |found, expected| Ok(micro_f1(&classes(found)?, &classes(expected)?)),
};

/// Share of rows of which every class is predicted, and no other.
pub const EXACT_MATCH: Metric = Metric {
    name: "exact_match",
    better: Better::Higher,
    measure: |found, expected| Ok(exact_match(&classes(found)?, &classes(expected)?)),
};

/// Matthews correlation of classes.
pub const MATTHEWS: Metric = Metric {
    name: "matthews",
    better: Better::Higher,
    measure: |found, expected| Ok(matthews(&indices(found)?, &indices(expected)?)),
};

/// Pearson's correlation of numbers.
pub const PEARSON: Metric = Metric {
    name: "pearson",
    better: Better::Higher,
    measure: |found, expected| mean(found, expected, pearson),
};

/// Spearman's correlation of numbers.
pub const SPEARMAN: Metric = Metric {
    name: "spearman",
    better: Better::Higher,
    measure: |found, expected| mean(found, expected, spearman),
};

/// Mean squared error.
pub const MSE: Metric = Metric {
    name: "mse",
    better: Better::Lower,
    measure: |found, expected| mean(found, expected, mse),
};

/// Root of the mean squared error.
pub const RMSE: Metric = Metric {
    name: "rmse",
    better: Better::Lower,
    measure: |found, expected| mean(found, expected, rmse),
};

/// Mean absolute error.
pub const MAE: Metric = Metric {
    name: "mae",
    better: Better::Lower,
    measure: |found, expected| mean(found, expected, mae),
};

/// Share of the variance that is predicted.
pub const R2: Metric = Metric {
    name: "r2",
    better: Better::Higher,
    measure: |found, expected| mean(found, expected, r2),
};

/// ROUGE's F of words.
pub const ROUGE_1: Metric = Metric {
    name: "rouge1",
    better: Better::Higher,
    measure: |found, expected| texts::rouge(found, expected, Kind::Ngrams(1)),
};

/// ROUGE's F of pairs of words.
pub const ROUGE_2: Metric = Metric {
    name: "rouge2",
    better: Better::Higher,
    measure: |found, expected| texts::rouge(found, expected, Kind::Ngrams(2)),
};

/// ROUGE's F of the longest common subsequence.
pub const ROUGE_L: Metric = Metric {
    name: "rougeL",
    better: Better::Higher,
    measure: |found, expected| texts::rouge(found, expected, Kind::Lcs),
};

/// ROUGE's F of the longest common subsequences of sentences, a line each.
pub const ROUGE_LSUM: Metric = Metric {
    name: "rougeLsum",
    better: Better::Higher,
    measure: |found, expected| texts::rouge(found, expected, Kind::LcsOfSentences),
};

/// Share of texts that end in the right number, by the rule `llm-adapters`.
pub const NUMBER_ACCURACY: Metric = Metric {
    name: "number_accuracy",
    better: Better::Higher,
    measure: |found, expected| texts::number_accuracy(found, expected, &LLM_ADAPTERS),
};

/// Share of texts that end in the right number, by the rule `strict`.
pub const STRICT_NUMBER_ACCURACY: Metric = Metric {
    name: "strict_number_accuracy",
    better: Better::Higher,
    measure: |found, expected| texts::number_accuracy(found, expected, &STRICT),
};

/// Share of texts that give the right letter, by the rule `llm-adapters`.
pub const LETTER_ACCURACY: Metric = Metric {
    name: "letter_accuracy",
    better: Better::Higher,
    measure: |found, expected| texts::letter_accuracy(found, expected, &LLM_ADAPTERS),
};

/// Share of texts that give the right letter, by the rule `strict`.
pub const STRICT_LETTER_ACCURACY: Metric = Metric {
    name: "strict_letter_accuracy",
    better: Better::Higher,
    measure: |found, expected| texts::letter_accuracy(found, expected, &STRICT),
};

/// Every metric, by the name that descriptions and result files have.
pub static METRICS: &[Metric] = &[
    ACCURACY,
    F1,
    MACRO_F1,
    MICRO_F1,
    EXACT_MATCH,
    MATTHEWS,
    PEARSON,
    SPEARMAN,
    MSE,
    RMSE,
    MAE,
    R2,
    ROUGE_1,
    ROUGE_2,
    ROUGE_L,
    ROUGE_LSUM,
    NUMBER_ACCURACY,
    STRICT_NUMBER_ACCURACY,
    LETTER_ACCURACY,
    STRICT_LETTER_ACCURACY,
];

/// A measure of how well predictions match what was expected.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name in descriptions and result files.
    pub name: &'static str,
    /// Which values are better.
    pub better: Better,
    /// Its value for predictions and references, one of each an example.
    pub measure: fn(&[Value], &[Value]) -> Result<f64, MetricError>,
}

impl Metric {
    /// The metric of this name.
    ///
    /// # Errors
    /// There is none; the error names all.
    pub fn named(name: &str) -> Result<Self, String> {
        let found = METRICS.iter().find(|metric| metric.name == name);
        found.copied().ok_or_else(|| {
            let names = || METRICS.iter().map(|metric| metric.name);
            format!(
                "no metric is called `{name}`; expected one of {}{}",
                names().collect::<Vec<_>>().join(", "),
                did_you_mean(name, names())
            )
        })
    }

    /// It as a score by which evaluations are compared.
    pub fn headline(&self) -> Headline {
        Headline {
            name: self.name.to_owned(),
            better: self.better,
        }
    }
}

/// Checks that metrics can score targets like this one.
///
/// # Errors
/// The first that cannot.
pub fn suit(metrics: &[Metric], target: &Value) -> Result<(), String> {
    let target = std::slice::from_ref(target);
    let odd = metrics.iter().find_map(|metric| {
        let error = (metric.measure)(target, target).err()?;
        Some((metric.name, error))
    });
    match odd {
        None => Ok(()),
        Some((name, MetricError::Value { expected, .. })) => Err(format!(
            "`metrics`: `{name}` is of rows that have {expected} each, and those of this objective have not"
        )),
        Some((name, error)) => Err(format!("`metrics`: `{name}`: {error}")),
    }
}

/// A metric is equal to another of its name.
impl PartialEq for Metric {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::named(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Why predictions could not be scored.
#[derive(Debug, Error, PartialEq)]
pub enum MetricError {
    /// Nothing to score.
    #[error("no examples to score")]
    Empty,
    /// The numbers of predictions and references do not match.
    #[error("expected a prediction for each of {expected} references, found {found}")]
    Count {
        /// Number of references.
        expected: usize,
        /// Number of predictions.
        found: usize,
    },
    /// A prediction or a reference is of another kind than the metric needs.
    #[error("label of example {row}: expected {expected}, found {found}")]
    Value {
        /// Example, from 0.
        row: usize,
        /// What the metric needs.
        expected: &'static str,
        /// What there is.
        found: Value,
    },
}

/// Computes `metrics` by name, in their order.
///
/// # Errors
/// See [`MetricError`].
pub fn score(
    metrics: &[Metric],
    predictions: &[Value],
    references: &[Value],
) -> Result<IndexMap<String, f64>, MetricError> {
    if references.is_empty() {
        return Err(MetricError::Empty);
    }
    if predictions.len() != references.len() {
        return Err(MetricError::Count {
            expected: references.len(),
            found: predictions.len(),
        });
    }
    let value = |metric: &Metric| {
        Ok((
            metric.name.to_owned(),
            (metric.measure)(predictions, references)?,
        ))
    };
    metrics.iter().map(value).collect()
}

/// Classes, by their index.
///
/// # Errors
/// A value is no index.
pub fn indices(values: &[Value]) -> Result<Vec<usize>, MetricError> {
    all(values, "the index of a class", |value| {
        usize::try_from(value.as_u64()?).ok()
    })
}

/// Numbers.
///
/// # Errors
/// A value is no finite number.
pub fn numbers(values: &[Value]) -> Result<Vec<f64>, MetricError> {
    all(values, "a finite number", Value::as_f64)
}

/// The classes that each row has: one, or those whose place in a list of 0 and 1 has a 1.
///
/// # Errors
/// A value is neither the index of a class nor such a list.
pub fn classes(values: &[Value]) -> Result<Vec<Vec<usize>>, MetricError> {
    let expected = "the index of a class, or a list of 0 and 1";
    all(values, expected, |value| {
        let Some(flags) = value.as_array() else {
            return Some(vec![usize::try_from(value.as_u64()?).ok()?]);
        };
        let flags: Option<Vec<u64>> = flags.iter().map(Value::as_u64).collect();
        let flags = flags.filter(|flags| flags.iter().all(|flag| *flag <= 1))?;
        let set = flags.iter().enumerate().filter(|(_, flag)| **flag == 1);
        Some(set.map(|(class, _)| class).collect())
    })
}

/// The length of the lists, if rows are lists.
fn width(values: &[Value]) -> Option<usize> {
    values.first()?.as_array().map(Vec::len)
}

/// The mean of a metric of numbers over their places in the rows.
fn mean(
    found: &[Value],
    expected: &[Value],
    metric: fn(&[f64], &[f64]) -> f64,
) -> Result<f64, MetricError> {
    let Some(width) = width(expected) else {
        return Ok(metric(&numbers(found)?, &numbers(expected)?));
    };
    let column = |rows: &[Value], place: usize| {
        all(rows, "a list of as many finite numbers", |row| {
            let row = row.as_array().filter(|row| row.len() == width)?;
            row.get(place)?.as_f64()
        })
    };
    let mut sum = 0.0;
    for place in 0..width {
        sum += metric(&column(found, place)?, &column(expected, place)?);
    }
    Ok(ratio(sum, width as f64))
}

/// What `read` makes of each value.
///
/// # Errors
/// It makes nothing of one, and `expected` says what should be there.
pub fn all<T>(
    values: &[Value],
    expected: &'static str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<T>, MetricError> {
    let read = |(row, value): (usize, &Value)| {
        read(value).ok_or_else(|| MetricError::Value {
            row,
            expected,
            found: value.clone(),
        })
    };
    values.iter().enumerate().map(read).collect()
}

/// Index of the largest value, the first of equals.
pub fn argmax(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 {
        0.0
    } else {
        numerator / denominator
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(values: Value) -> Vec<Value> {
        values.as_array().unwrap().clone()
    }

    #[test]
    fn score_names_metrics_in_their_order() {
        let metrics = ["f1", "accuracy"].map(|name| Metric::named(name).unwrap());
        let scores = score(
            &metrics,
            &values(json!([0, 1, 0])),
            &values(json!([0, 1, 1])),
        );
        let scores = scores.unwrap();
        assert_eq!(scores.keys().collect::<Vec<_>>(), ["f1", "accuracy"]);
        assert!((scores["f1"] - 2.0 / 3.0).abs() < 1e-12);
        assert!((scores["accuracy"] - 2.0 / 3.0).abs() < 1e-12);

        let metrics = [Metric::named("spearman").unwrap()];
        let scores = score(
            &metrics,
            &values(json!([3.0, 1.0, 2])),
            &values(json!([1, 2, 4.0])),
        );
        assert!((scores.unwrap()["spearman"] + 0.5).abs() < 1e-12);
        let error = Metric::named("accurracy").unwrap_err();
        assert!(error.ends_with("did you mean `accuracy`?"), "{error}");
    }

    #[test]
    fn bad_input_is_no_score() {
        let accuracy = [Metric::named("accuracy").unwrap()];
        let pearson = [Metric::named("pearson").unwrap()];
        let classes = values(json!([0, 1]));
        let message = |metrics, found: Value, expected: &[Value]| {
            let error = score(metrics, &values(found), expected).unwrap_err();
            error.to_string()
        };
        assert_eq!(message(&accuracy, json!([]), &[]), "no examples to score");
        assert_eq!(
            message(&accuracy, json!([1]), &classes),
            "expected a prediction for each of 2 references, found 1"
        );
        assert_eq!(
            message(&accuracy, json!([1, 0.5]), &classes),
            "label of example 1: expected the index of a class, found 0.5"
        );
        // What is not a number is null in JSON.
        assert_eq!(
            message(&pearson, json!([f64::NAN, 0.5]), &classes),
            "label of example 0: expected a finite number, found null"
        );
    }

    /// Expected values: scikit-learn 1.9.1, its default for several outputs.
    #[test]
    fn several_numbers_are_scored_by_the_mean_over_their_places() {
        let predicted = values(json!([
            [1.5, -5.7],
            [-0.3, 8.9],
            [0.0, -10.8],
            [1.0, 0.9],
            [-0.6, -3.4],
            [-0.2, -6.4]
        ]));
        let gold = values(json!([
            [0.6, 0.0],
            [-0.0, 15.0],
            [0.5, -13.0],
            [0.8, 8.0],
            [-1.8, -17.0],
            [-1.1, -14.0]
        ]));
        let scores = score(&[MSE, RMSE, MAE, R2], &predicted, &gold).unwrap();
        let expected = [
            30.92583333333333,
            4.2926178208340495,
            3.858333333333334,
            0.4777305195480023,
        ];
        for ((name, found), expected) in scores.into_iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-12,
                "{name}: {found} != {expected}"
            );
        }
        let error = score(&[MSE], &values(json!([[1.0]])), &gold[..1]).unwrap_err();
        assert!(error.to_string().contains("found [1.0]"), "{error}");
    }

    #[test]
    fn every_metric_has_its_direction() {
        for metric in METRICS {
            let is_error = ["mse", "rmse", "mae"].contains(&metric.name);
            let expected = if is_error {
                Better::Lower
            } else {
                Better::Higher
            };
            assert_eq!(metric.better, expected, "{}", metric.name);
            assert_eq!(metric.headline().better, expected);
        }
    }

    #[test]
    fn texts_are_scored_against_texts_and_answers() {
        let metrics = [ROUGE_1, ROUGE_2, ROUGE_L, ROUGE_LSUM];
        let found = values(json!(["a b c d", "d e f.<n>a b c."]));
        let gold = values(json!([["d c b a", "a b x y z"], "a b c.\nd e f."]));
        let scores = score(&metrics, &found, &gold).unwrap();
        for (name, first, second) in [
            ("rouge1", 1.0, 1.0),
            ("rouge2", 2.0 / 7.0, 0.8),
            ("rougeL", 4.0 / 9.0, 0.5),
            ("rougeLsum", 4.0 / 9.0, 1.0),
        ] {
            let expected = (first + second) / 2.0;
            let found = scores[name];
            assert!((found - expected).abs() < 1e-12, "{name}: {found}");
        }
        let found = values(json!(["The answer is $1,000.", "is 10-7"]));
        let gold = values(json!(["12 + 988 #### 1,000", 7]));
        let numbers = [NUMBER_ACCURACY, STRICT_NUMBER_ACCURACY];
        let scores = score(&numbers, &found, &gold).unwrap();
        assert_eq!(scores["number_accuracy"], 0.5);
        assert_eq!(scores["strict_number_accuracy"], 1.0);
        let found = values(json!(["Answer: B", "no"]));
        let letters = [LETTER_ACCURACY, STRICT_LETTER_ACCURACY];
        let scores = score(&letters, &found, &values(json!(["B", "A"]))).unwrap();
        assert_eq!(scores["letter_accuracy"], 0.0);
        assert_eq!(scores["strict_letter_accuracy"], 0.5);
        for (metric, gold) in [
            (ROUGE_1, json!([])),
            (ROUGE_1, json!(["a", 1])),
            (NUMBER_ACCURACY, json!("B")),
            (LETTER_ACCURACY, json!("7")),
        ] {
            let error = score(&[metric], &[json!("x")], &[gold]).unwrap_err();
            assert!(error.to_string().contains("expected a"), "{error}");
        }
        let error = score(&[ROUGE_1], &[json!(3)], &[json!("x")]).unwrap_err();
        assert!(
            error.to_string().contains("expected a text, found 3"),
            "{error}"
        );
    }

    #[test]
    fn metrics_of_other_targets_are_refused_by_name() {
        let any = json!([0, 0]);
        assert_eq!(suit(&[MICRO_F1, MACRO_F1, EXACT_MATCH], &any), Ok(()));
        for (metric, target) in [(ACCURACY, &any), (F1, &json!(0.5)), (MICRO_F1, &json!(0.5))] {
            let error = suit(&[metric], target).unwrap_err();
            assert!(error.contains(metric.name), "{error}");
        }
        assert!(suit(&[MSE], &json!("a")).is_err());
    }

    #[test]
    fn the_first_of_equals_is_the_largest() {
        assert_eq!(argmax(&[0.5, 0.5, -1.0]), 0);
        assert_eq!(argmax(&[-1.0, 2.0, 3.0, 3.0]), 2);
    }
}
