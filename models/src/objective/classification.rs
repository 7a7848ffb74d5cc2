use std::sync::Arc;

use ailora_graph::ir::Draw;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use super::{
    BindError, Objective,
    outputs::{self, Outputs},
    targets,
};
use crate::{
    batch::{Batch, BatchError, Encoded, Targets},
    choice::did_you_mean,
    config::Config,
    data::{DataError, Record},
    head::Head,
    metrics::{self, Metric, argmax},
    tokenizer::Tokenizer,
};

/// One of several classes of a text or a pair of texts, by the cross-entropy of the logits.
///
/// A target, and a prediction, is the index of the class in `classes`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classification {
    /// The column of the label.
    pub label: String,
    /// The names of the classes, in the order of the head's outputs.
    pub classes: Vec<String>,
    /// How the column names a class.
    #[serde(default)]
    pub written: Written,
    /// Other spellings in the column, with the label that each stands for.
    #[serde(default)]
    pub misspelt: IndexMap<String, String>,
    /// What predictions are scored with; the first is the headline. Without this field, accuracy and
    /// macro F1.
    #[serde(default = "Classification::default_metrics")]
    pub metrics: Vec<Metric>,
    /// Where the head of a model has its classes in another order: its own.
    #[serde(skip)]
    outputs: Option<Outputs>,
}

/// How a class is written in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Written {
    /// By its name.
    #[default]
    Name,
    /// By its index: `0`, `1`, ...
    Index,
}

impl Classification {
    /// Classes that a column names, scored with `metrics`.
    pub fn new<S: Into<String>>(
        label: &str,
        classes: impl IntoIterator<Item = S>,
        metrics: &[Metric],
    ) -> Self {
        Self {
            label: label.to_owned(),
            classes: classes.into_iter().map(Into::into).collect(),
            written: Written::Name,
            misspelt: IndexMap::new(),
            metrics: metrics.to_vec(),
            outputs: None,
        }
    }

    /// This objective, if there is something to choose from: of one class nothing can be learned.
    ///
    /// # Errors
    /// Fewer than two classes, or two of one name; a metric that is not of classes.
    pub fn checked(self) -> Result<Self, String> {
        outputs::check(&self.classes, 2)?;
        metrics::suit(&self.metrics, &0.into())?;
        Ok(self)
    }

    /// What a description that names no metrics is scored with.
    fn default_metrics() -> Vec<Metric> {
        vec![metrics::ACCURACY, metrics::MACRO_F1]
    }

    fn class(&self, written: &str) -> Option<usize> {
        let written = self.misspelt.get(written).map_or(written, String::as_str);
        match self.written {
            Written::Index => (0..self.classes.len()).find(|class| class.to_string() == written),
            Written::Name => self.classes.iter().position(|name| name == written),
        }
    }

    /// What the column should hold, given what it holds.
    fn expected(&self, found: &str) -> String {
        match self.written {
            Written::Index => {
                let classes = self.classes.iter().enumerate();
                let classes = classes.map(|(i, name)| format!("{i} ({name})"));
                format!("one of {}", classes.collect::<Vec<_>>().join(", "))
            }
            Written::Name => {
                let names = self.classes.iter().map(String::as_str);
                let suggestion = did_you_mean(found, names);
                format!("one of {}{suggestion}", self.classes.join(", "))
            }
        }
    }
}

impl Objective for Classification {
    fn head(&self) -> Head {
        Head::classification(self.classes.len())
    }

    fn columns(&self) -> Vec<&str> {
        vec![&self.label]
    }

    fn target(&self, record: &Record<'_>) -> Result<Value, DataError> {
        let written = record.written(&self.label).unwrap_or_default();
        let class = self.class(&written);
        class
            .map(Value::from)
            .ok_or_else(|| record.wrong(&self.label, &self.expected(&written)))
    }

    fn prepare(&self, batch: &mut Batch, rows: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        let expected = format!("a class below {}", self.classes.len());
        let read = |class: &Value| {
            let class = usize::try_from(class.as_u64()?).ok()?;
            let output = Outputs::output(self.outputs.as_ref(), class);
            let output = output.filter(|_| class < self.classes.len())?;
            i32::try_from(output).ok()
        };
        batch.targets = Targets::classes(targets(batch, rows, &expected, read)?);
        Ok(())
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    /// With the outputs of the model's head in the order that its `id2label` says.
    fn bind(
        &self,
        config: &Config,
        _: &Tokenizer,
    ) -> Result<Option<Arc<dyn Objective>>, BindError> {
        let outputs = Outputs::of(&self.classes, config)?;
        Ok(outputs.map(|outputs| -> Arc<dyn Objective> {
            Arc::new(Self {
                outputs: Some(outputs),
                ..self.clone()
            })
        }))
    }

    fn output_names(&self) -> &[String] {
        let outputs = self.outputs.as_ref();
        outputs.map_or(&self.classes, |outputs| &outputs.names)
    }

    fn predict(&self, logits: &[f32]) -> Value {
        argmax(&Outputs::of_classes(self.outputs.as_ref(), logits)).into()
    }

    fn describe(&self, prediction: &Value) -> Value {
        let class = prediction
            .as_u64()
            .and_then(|class| usize::try_from(class).ok());
        let name = class.and_then(|class| self.classes.get(class));
        name.map_or(Value::Null, |name| name.as_str().into())
    }

    fn metrics(&self) -> &[Metric] {
        &self.metrics
    }
}
