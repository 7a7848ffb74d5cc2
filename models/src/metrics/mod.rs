//! Metrics: functions of predictions and references to a number, by name, computed in `f64`. Where one
//! is undefined (of a constant prediction, say) it is 0.
//!
//! A metric is a function in a file of its kind and a line in [`METRICS`].

mod classes;
mod correlation;

pub use classes::{accuracy, f1, matthews};
pub use correlation::{pearson, spearman};

use ailora_runtime::train::Better;
use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use thiserror::Error;

use crate::choice::did_you_mean;

/// Every metric, by the name that descriptions and result files have.
pub static METRICS: &[Metric] = &[
    Metric {
        name: "accuracy",
        better: Better::Higher,
        measure: |found, expected| Ok(accuracy(&indices(found)?, &indices(expected)?)),
    },
    Metric {
        name: "f1",
        better: Better::Higher,
        measure: |found, expected| Ok(f1(&indices(found)?, &indices(expected)?)),
    },
    Metric {
        name: "matthews",
        better: Better::Higher,
        measure: |found, expected| Ok(matthews(&indices(found)?, &indices(expected)?)),
    },
    Metric {
        name: "pearson",
        better: Better::Higher,
        measure: |found, expected| Ok(pearson(&numbers(found)?, &numbers(expected)?)),
    },
    Metric {
        name: "spearman",
        better: Better::Higher,
        measure: |found, expected| Ok(spearman(&numbers(found)?, &numbers(expected)?)),
    },
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

    #[test]
    fn the_first_of_equals_is_the_largest() {
        assert_eq!(argmax(&[0.5, 0.5, -1.0]), 0);
        assert_eq!(argmax(&[-1.0, 2.0, 3.0, 3.0]), 2);
    }
}
