use std::sync::Arc;

use ailora_graph::ir::Draw;
use serde::Deserialize;
use serde_json::Value;

use super::{
    BindError, LabelColumns, Objective,
    outputs::{self, Outputs},
    targets,
};
use crate::{
    batch::{Batch, BatchError, Encoded, Targets},
    config::Config,
    data::{DataError, Record},
    head::Head,
    metrics::{self, Metric},
    tokenizer::Tokenizer,
};

/// Any of several classes of a text or a pair of texts, none or all of them too, by the binary
/// cross-entropy of each class's logit.
///
/// The classes of a row are in one column, which holds a list or a text, or there is a column of 0 and 1
/// for each. A class is written by its name, or else by its index.
///
/// A target, and a prediction, is a list of 0 and 1, one for each class. A class is predicted where its
/// probability, the logit's sigmoid, is above 0.5.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiLabel {
    /// The column of the classes, or those of 0 and 1, whose names are the classes.
    pub label: LabelColumns,
    /// The names of the classes, in the order of the head's outputs.
    #[serde(default)]
    pub classes: Vec<String>,
    /// What separates the classes of a column of texts; without it, such a text is one class or a JSON
    /// list.
    #[serde(default)]
    pub separator: Option<String>,
    /// What predictions are scored with; the first is the headline. Without this field, micro F1, macro F1
    /// and exact match.
    #[serde(default = "MultiLabel::default_metrics")]
    pub metrics: Vec<Metric>,
    /// Where the head of a model has its classes in another order: its own.
    #[serde(skip)]
    outputs: Option<Outputs>,
}

impl MultiLabel {
    /// This objective with the classes that its columns name, if there are any.
    ///
    /// # Errors
    /// No classes, or two of one name; options that contradict each other; a metric that is not of such
    /// classes.
    pub fn checked(mut self) -> Result<Self, String> {
        self.label.check()?;
        if let LabelColumns::Several(columns) = &self.label {
            if !self.classes.is_empty() && self.classes != *columns {
                return Err("`classes` are not the columns of `label`; leave them out".into());
            }
            if self.separator.is_some() {
                return Err(
                    "`separator` is for classes in one column, and `label` has several".into(),
                );
            }
            self.classes = columns.clone();
        }
        outputs::check(&self.classes, 1)?;
        if let Some(separator) = &self.separator {
            if separator.is_empty() {
                return Err("`separator` is empty".into());
            }
            if let Some(class) = self.classes.iter().find(|class| class.contains(separator)) {
                return Err(format!(
                    "the class `{class}` has the `separator` in its name"
                ));
            }
        }
        metrics::suit(&self.metrics, &vec![0; self.classes.len()].into())?;
        Ok(self)
    }

    /// What a description that names no metrics is scored with.
    fn default_metrics() -> Vec<Metric> {
        vec![metrics::MICRO_F1, metrics::MACRO_F1, metrics::EXACT_MATCH]
    }

    /// The classes that a column holds, not looked up yet.
    fn listed(&self, value: &Value) -> Option<Vec<Value>> {
        let text = match value {
            Value::Array(list) => return Some(list.clone()),
            Value::String(text) => text.trim(),
            _ => return None,
        };
        if text.starts_with('[')
            && let Ok(list) = serde_json::from_str(text)
        {
            return Some(list);
        }
        let names = match &self.separator {
            Some(separator) => text.split(&**separator).collect(),
            None => vec![text],
        };
        let names = names.into_iter().map(str::trim);
        Some(
            names
                .filter(|name| !name.is_empty())
                .map(Value::from)
                .collect(),
        )
    }

    fn class(&self, written: &Value) -> Option<usize> {
        let name = match written {
            Value::String(name) => name.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        let named = self.classes.iter().position(|class| *class == name);
        named.or_else(|| {
            name.parse()
                .ok()
                .filter(|&class| class < self.classes.len())
        })
    }

    /// Which classes a column names; nothing if there is one that is not known.
    fn named(&self, value: &Value) -> Option<Vec<u8>> {
        let mut flags = vec![0; self.classes.len()];
        for written in self.listed(value)? {
            flags[self.class(&written)?] = 1;
        }
        Some(flags)
    }
}

/// What a column of one class says.
fn flag(record: &Record<'_>, column: &str) -> Result<u8, DataError> {
    match record.written(column).as_deref().map(str::trim) {
        Some("0" | "0.0" | "false" | "False") => Ok(0),
        Some("1" | "1.0" | "true" | "True") => Ok(1),
        _ => Err(record.wrong(column, "0 or 1")),
    }
}

/// The 0 and 1 of a target or a prediction.
fn flags(value: &Value) -> Option<Vec<f32>> {
    let flag = |flag: &Value| {
        flag.as_u64()
            .filter(|flag| *flag <= 1)
            .map(|flag| flag as f32)
    };
    value.as_array()?.iter().map(flag).collect()
}

impl Objective for MultiLabel {
    fn head(&self) -> Head {
        Head::multi_label(self.classes.len())
    }

    fn columns(&self) -> Vec<&str> {
        self.label.names().iter().map(String::as_str).collect()
    }

    fn target(&self, record: &Record<'_>) -> Result<Value, DataError> {
        match &self.label {
            LabelColumns::One(column) => {
                let named = record.get(column).and_then(|value| self.named(value));
                let expected = || format!("a list of some of {}", self.classes.join(", "));
                let named = named.ok_or_else(|| record.wrong(column, &expected()))?;
                Ok(named.into())
            }
            LabelColumns::Several(columns) => {
                columns.iter().map(|column| flag(record, column)).collect()
            }
        }
    }

    fn prepare(&self, batch: &mut Batch, rows: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        let expected = format!("0 or 1 for each of {} classes", self.classes.len());
        let read = |target: &Value| {
            let flags = flags(target).filter(|flags| flags.len() == self.classes.len())?;
            let mut ordered = vec![0.0; flags.len()];
            for (class, flag) in flags.into_iter().enumerate() {
                ordered[Outputs::output(self.outputs.as_ref(), class)?] = flag;
            }
            Some(ordered)
        };
        batch.targets = Targets::flags(targets(batch, rows, &expected, read)?.concat());
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
        let logits = Outputs::of_classes(self.outputs.as_ref(), logits);
        logits.iter().map(|&logit| u8::from(logit > 0.0)).collect()
    }

    /// The names of the classes.
    fn describe(&self, prediction: &Value) -> Value {
        let flags = flags(prediction).unwrap_or_default();
        let there = self
            .classes
            .iter()
            .zip(flags)
            .filter(|(_, flag)| *flag > 0.0);
        there.map(|(name, _)| name.as_str()).collect()
    }

    fn metrics(&self) -> &[Metric] {
        &self.metrics
    }
}
