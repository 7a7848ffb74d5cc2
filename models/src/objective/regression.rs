use ailora_graph::ir::Draw;
use serde::Deserialize;
use serde_json::Value;

use super::{LabelColumns, Objective, targets};
use crate::{
    batch::{Batch, BatchError, Encoded, Targets},
    data::{DataError, Record},
    head::Head,
    metrics::{self, Metric},
};

/// A number for a text or a pair of texts, or several, by the squared error of a logit each.
///
/// Several numbers are in a column each, or in one column of lists. A target, and a prediction, is the
/// number, or the list of numbers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// The column of the number, or of lists, or the columns of several.
    pub label: LabelColumns,
    /// How many numbers the lists of one column have; without this field it holds a number.
    #[serde(default)]
    pub outputs: Option<usize>,
    /// The smallest and the largest number that may be there; any finite one without.
    #[serde(default)]
    pub range: Option<[f32; 2]>,
    /// What predictions are scored with; the first is the headline. Without this field, the correlations
    /// of Pearson and Spearman, and the root of the mean squared error.
    #[serde(default = "Regression::default_metrics")]
    pub metrics: Vec<Metric>,
}

impl Regression {
    /// This objective, if its options fit together.
    ///
    /// # Errors
    /// No columns or outputs, or different numbers of them; a metric that is not of numbers.
    pub fn checked(self) -> Result<Self, String> {
        self.label.check()?;
        let columns = self.label.names().len();
        match (&self.label, self.outputs) {
            (_, Some(0)) => return Err("`outputs` is 0; expected at least 1".into()),
            (LabelColumns::Several(_), Some(outputs)) if outputs != columns => {
                return Err(format!(
                    "`outputs` is {outputs}, and `label` has {columns} columns; leave it out"
                ));
            }
            _ => {}
        }
        let example = match self.width() {
            1 => Value::from(0.0),
            width => vec![0.0; width].into(),
        };
        metrics::suit(&self.metrics, &example)?;
        Ok(self)
    }

    /// What a description that names no metrics is scored with.
    fn default_metrics() -> Vec<Metric> {
        vec![metrics::PEARSON, metrics::SPEARMAN, metrics::RMSE]
    }

    /// How many numbers there are.
    fn width(&self) -> usize {
        match &self.label {
            LabelColumns::One(_) => self.outputs.unwrap_or(1),
            LabelColumns::Several(columns) => columns.len(),
        }
    }

    /// The number that a value is, if it may be there.
    fn number(&self, value: &Value) -> Option<f32> {
        let number: f32 = match value {
            Value::String(written) => written.parse().ok()?,
            value => value.to_string().parse().ok()?,
        };
        let [low, high] = self.range.unwrap_or([f32::MIN, f32::MAX]);
        (low..=high).contains(&number).then_some(number)
    }

    /// The list of numbers that a value is, as JSON or as its text.
    fn list(&self, value: &Value) -> Option<Vec<f32>> {
        let list = match value {
            Value::String(text) => serde_json::from_str(text).ok()?,
            value => value.clone(),
        };
        let list = list.as_array().filter(|list| list.len() == self.width())?;
        list.iter().map(|value| self.number(value)).collect()
    }

    /// What a column should hold: a number, or so many.
    fn expected(&self, count: usize) -> String {
        let each = match self.range {
            Some([low, high]) => format!("number from {low} to {high}"),
            None => "finite number".to_owned(),
        };
        match count {
            1 => format!("a {each}"),
            count => format!("a list of {count} numbers, each a {each}"),
        }
    }
}

impl Objective for Regression {
    fn head(&self) -> Head {
        Head::regression(self.width())
    }

    fn columns(&self) -> Vec<&str> {
        self.label.names().iter().map(String::as_str).collect()
    }

    fn target(&self, record: &Record<'_>) -> Result<Value, DataError> {
        let wrong = |column: &str, count| record.wrong(column, &self.expected(count));
        let number = |column: &String| {
            let found = record.get(column).and_then(|value| self.number(value));
            found.ok_or_else(|| wrong(column, 1))
        };
        match (&self.label, self.width()) {
            (LabelColumns::One(column), width) if width > 1 => {
                let found = record.get(column).and_then(|value| self.list(value));
                Ok(found.ok_or_else(|| wrong(column, width))?.into())
            }
            (label, width) => {
                let numbers: Vec<f32> =
                    label.names().iter().map(number).collect::<Result<_, _>>()?;
                Ok(match width {
                    1 => numbers.first().copied().into(),
                    _ => numbers.into(),
                })
            }
        }
    }

    fn prepare(&self, batch: &mut Batch, rows: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        let expected = match self.width() {
            1 => "a number".to_owned(),
            width => format!("{width} numbers"),
        };
        let number = |value: &Value| value.as_f64().map(|number| number as f32);
        let read = |target: &Value| {
            let numbers: Vec<f32> = match target {
                Value::Array(list) => list.iter().map(number).collect::<Option<_>>()?,
                value => vec![number(value)?],
            };
            (numbers.len() == self.width()).then_some(numbers)
        };
        batch.targets = Targets::scores(targets(batch, rows, &expected, read)?.concat());
        Ok(())
    }

    /// The columns, where there are several.
    fn output_names(&self) -> &[String] {
        match &self.label {
            LabelColumns::One(_) => &[],
            LabelColumns::Several(columns) => columns,
        }
    }

    fn predict(&self, logits: &[f32]) -> Value {
        match self.width() {
            1 => logits.first().copied().into(),
            _ => logits.into(),
        }
    }

    fn metrics(&self) -> &[Metric] {
        &self.metrics
    }
}
