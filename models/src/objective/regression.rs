use ailora_graph::ir::Draw;
use serde::Deserialize;
use serde_json::Value;

use super::{Objective, targets};
use crate::{
    batch::{Batch, BatchError, Encoded, Targets},
    data::{DataError, Record},
    head::Head,
    metrics::Metric,
};

/// A number for a text or a pair of texts, by the squared error of the only logit.
///
/// A target, and a prediction, is the number.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// The column of the number.
    pub label: String,
    /// The smallest and the largest number that the column may hold; any finite one without.
    #[serde(default)]
    pub range: Option<[f32; 2]>,
    /// What predictions are scored with; the first is the headline.
    #[serde(default)]
    pub metrics: Vec<Metric>,
}

impl Regression {
    fn number(&self, written: &str) -> Option<f32> {
        let number: f32 = written.parse().ok()?;
        let [low, high] = self.range.unwrap_or([f32::MIN, f32::MAX]);
        (low..=high).contains(&number).then_some(number)
    }
}

impl Objective for Regression {
    fn head(&self) -> Head {
        Head::regression()
    }

    fn columns(&self) -> Vec<&str> {
        vec![&self.label]
    }

    fn target(&self, record: &Record<'_>) -> Result<Value, DataError> {
        let written = record.written(&self.label).unwrap_or_default();
        let number = self.number(&written).map(Value::from);
        number.ok_or_else(|| {
            let expected = match self.range {
                Some([low, high]) => format!("a number from {low} to {high}"),
                None => "a finite number".to_owned(),
            };
            record.wrong(&self.label, &expected)
        })
    }

    fn prepare(&self, batch: &mut Batch, rows: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        let read = |score: &Value| score.as_f64().map(|score| score as f32);
        batch.targets = Targets::scores(targets(batch, rows, "a number", read)?);
        Ok(())
    }

    fn predict(&self, logits: &[f32]) -> Value {
        logits.first().copied().into()
    }

    fn metrics(&self) -> &[Metric] {
        &self.metrics
    }
}
