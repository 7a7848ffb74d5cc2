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
mod interval;
pub mod texts;

pub use classes::{accuracy, exact_match, f1, macro_f1, matthews, micro_f1};
pub use correlation::{pearson, spearman};
pub use errors::{mae, mse, r2, rmse};
pub use interval::wilson;

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

/// Share of texts that give the right answer, a number or a letter, by the rule `llm-adapters`.
pub const ANSWER_ACCURACY: Metric = Metric {
    name: "answer_accuracy",
    better: Better::Higher,
    measure: |found, expected| texts::answer_accuracy(found, expected, &LLM_ADAPTERS),
};

/// Metrics of texts that are shares of the rows.
pub const SHARES: [Metric; 5] = [
    ANSWER_ACCURACY,
    NUMBER_ACCURACY,
    STRICT_NUMBER_ACCURACY,
    LETTER_ACCURACY,
    STRICT_LETTER_ACCURACY,
];

/// Metrics of texts.
pub const TEXTS: [Metric; 9] = [
    ROUGE_1,
    ROUGE_2,
    ROUGE_L,
    ROUGE_LSUM,
    ANSWER_ACCURACY,
    NUMBER_ACCURACY,
    STRICT_NUMBER_ACCURACY,
    LETTER_ACCURACY,
    STRICT_LETTER_ACCURACY,
];

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
    ANSWER_ACCURACY,
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
mod tests;
