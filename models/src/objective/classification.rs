use std::sync::Arc;

use ailora_graph::ir::Draw;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use super::{BindError, Objective, targets};
use crate::{
    batch::{Batch, BatchError, Encoded, Targets},
    choice::did_you_mean,
    config::Config,
    data::{DataError, Record},
    head::Head,
    metrics::{Metric, argmax},
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
    /// What predictions are scored with; the first is the headline.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// Where the head of a model has its classes in another order: its own.
    #[serde(skip)]
    own: Option<Own>,
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

/// The order of a model's head.
#[derive(Clone, Debug, PartialEq)]
struct Own {
    /// For each class, which output of the head it is.
    order: Vec<usize>,
    /// What the model's files call the outputs.
    names: Vec<String>,
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
            own: None,
        }
    }

    /// This objective, if there is something to choose from: of one class nothing can be learned.
    ///
    /// # Errors
    /// Fewer than two classes, or two of one name.
    pub fn checked(self) -> Result<Self, String> {
        let classes = &self.classes;
        let twice = (1..classes.len()).find(|&i| classes[..i].contains(&classes[i]));
        match (classes.len(), twice) {
            (0 | 1, _) => Err(format!(
                "`classes` has {} names; expected at least 2",
                classes.len()
            )),
            (_, Some(i)) => Err(format!("`classes` has `{}` twice", classes[i])),
            (_, None) => Ok(self),
        }
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

    /// The output of the head for a class.
    fn output(&self, class: usize) -> Option<i32> {
        let output = match &self.own {
            Some(own) => *own.order.get(class)?,
            None => class,
        };
        i32::try_from(output).ok()
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
            self.output(class).filter(|_| class < self.classes.len())
        };
        batch.targets = Targets::classes(targets(batch, rows, &expected, read)?);
        Ok(())
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Whichever output of the head `id2label` gives the name of a class, whatever the case, is its.
    /// The order is the objective's own where the model gives its labels no names, or has another
    /// number of them and so no head for these classes.
    fn bind(
        &self,
        config: &Config,
        _: &Tokenizer,
    ) -> Result<Option<Arc<dyn Objective>>, BindError> {
        let labels = config.labels();
        let Some(labels) = labels.filter(|labels| labels.len() == self.classes.len()) else {
            return Ok(None);
        };
        let plain = |name: &str| name.trim().to_lowercase().replace([' ', '-'], "_");
        let place = |name: &String| labels.iter().position(|label| plain(label) == plain(name));
        let order: Option<Vec<usize>> = self.classes.iter().map(place).collect();
        let Some(order) = order else {
            return Err(BindError::Labels {
                expected: self.classes.join(", "),
                found: labels.join(", "),
            });
        };
        if order.iter().copied().eq(0..order.len()) {
            return Ok(None);
        }
        let names = labels.into_iter().map(str::to_owned).collect();
        let mut bound = self.clone();
        bound.own = Some(Own { order, names });
        Ok(Some(Arc::new(bound)))
    }

    fn output_names(&self) -> &[String] {
        match &self.own {
            Some(own) => &own.names,
            None => &self.classes,
        }
    }

    fn predict(&self, logits: &[f32]) -> Value {
        let class = match &self.own {
            None => argmax(logits),
            Some(own) => {
                let ordered = own.order.iter().filter_map(|&output| logits.get(output));
                argmax(&ordered.copied().collect::<Vec<_>>())
            }
        };
        class.into()
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
