use std::sync::Arc;

use ailora_graph::ir::{Draw, ops::loss::IGNORED};
use serde::Deserialize;
use serde_json::Value;

use super::{BindError, Objective, written};
use crate::{
    batch::{Batch, BatchError, Encoded, Shape, Targets},
    config::Config,
    data::{DataError, Example, Record},
    head::Head,
    metrics::Metric,
    tokenizer::{Encoding, Tokenizer, TokenizerError},
};

/// Programs are built for this many lengths of targets at most.
const LENGTHS: usize = 4;

/// A text that an encoder-decoder writes about one that it reads, such as its summary, by the
/// cross-entropy of the written text's tokens.
///
/// A target is a text, or several that are equally right. Of several the first is learned; what is
/// written is scored against all of them. Targets that are longer than `max_target_length` lose their last
/// tokens, and the end token stays; scores are of what the file says, whole.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seq2Seq {
    /// The column of the text to write, or several: the first that a record has.
    pub target: Columns,
    /// The longest text to write, in tokens, while training.
    #[serde(default = "max_target_length")]
    pub max_target_length: usize,
    /// How much of each label is spread over the whole vocabulary (Szegedy et al., 2016).
    #[serde(default)]
    pub label_smoothing: f64,
    /// What written texts are scored with.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// The token that ends a text: the model's.
    #[serde(skip)]
    end: Option<u32>,
}

/// The default of transformers' summarisation script.
const fn max_target_length() -> usize {
    128
}

/// A column, or several of which the first counts that a record has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Columns {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Columns {
    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

impl Seq2Seq {
    /// Texts that are in this column, without metrics.
    pub fn new(target: &str) -> Self {
        Self {
            target: Columns::One(target.to_owned()),
            max_target_length: max_target_length(),
            label_smoothing: 0.0,
            metrics: Vec::new(),
            end: None,
        }
    }

    /// This objective, if its options make sense.
    ///
    /// # Errors
    /// The first that does not.
    pub(super) fn checked(self) -> Result<Self, String> {
        if self.target.names().is_empty() {
            return Err("`target` names no column".to_owned());
        }
        // A token, and the special ones around it.
        if self.max_target_length < 4 {
            let found = self.max_target_length;
            return Err(format!(
                "`max_target_length` is {found}; expected at least 4 tokens"
            ));
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            let found = self.label_smoothing;
            return Err(format!(
                "`label_smoothing` is {found}; expected at least 0 and less than 1"
            ));
        }
        written::suit(&self.metrics)?;
        Ok(self)
    }

    /// The padded length of targets of up to so many tokens: one of [`LENGTHS`].
    fn padded(&self, longest: usize) -> usize {
        let most = self.max_target_length;
        longest
            .max(1)
            .next_multiple_of(most.div_ceil(LENGTHS))
            .min(most)
    }
}

impl Objective for Seq2Seq {
    fn head(&self) -> Head {
        Head::Seq2SeqLm {
            smoothing: self.label_smoothing,
        }
    }

    fn columns(&self) -> Vec<&str> {
        self.target.names().iter().map(String::as_str).collect()
    }

    /// A text, or a list of texts.
    fn target(&self, record: &Record<'_>) -> Result<Value, DataError> {
        let names = self.target.names();
        let found = names.iter().find(|name| !record.is_unset(name));
        let Some(column) = found.or(names.first()) else {
            return Ok(Value::Null);
        };
        let Some(Value::Array(texts)) = record.get(column) else {
            return Ok(record.text(column, "a text, or a list of texts")?.into());
        };
        let is_text = |value: &Value| {
            let text = value.as_str();
            text.is_some_and(|text| !text.trim().is_empty() && !text.contains('\0'))
        };
        match !texts.is_empty() && texts.iter().all(is_text) {
            true => Ok(texts.clone().into()),
            false => Err(record.wrong(column, "a text, or a list of texts")),
        }
    }

    /// Targets are no longer than the model has positions for.
    fn bind(
        &self,
        config: &Config,
        _: &Tokenizer,
    ) -> Result<Option<Arc<dyn Objective>>, BindError> {
        let mut bound = self.clone();
        bound.end = config.end();
        let positions = config.architecture.max_len();
        bound.max_target_length = bound.max_target_length.min(positions);
        Ok(Some(Arc::new(bound)))
    }

    /// Texts, and the tokens of the first of each one's targets, ended once by the model's end token.
    fn encode(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        let texts: Vec<_> = examples.iter().map(|e| (e.text.as_str(), None)).collect();
        let first = |example: &Example| {
            first(example.target.as_ref())
                .unwrap_or_default()
                .to_owned()
        };
        let targets: Vec<String> = examples.iter().map(first).collect();
        let targets: Vec<_> = targets.iter().map(|text| (text.as_str(), None)).collect();
        let most = self.max_target_length;
        let encodings = tokenizer.encode_batch(&texts, max_len)?.into_iter();
        let targets = tokenizer.encode_batch(&targets, most)?.into_iter();
        let row = |((mut encoding, target), example): ((Encoding, Encoding), &Example)| {
            let Encoding { ids, cut, .. } = target;
            if example.target.is_some() {
                encoding.target = ids;
                encoding.target_cut = cut;
                if let Some(end) = self.end
                    && encoding.target.last() != Some(&end)
                {
                    encoding.target.truncate(most - 1);
                    encoding.target.push(end);
                }
            }
            Encoded {
                encoding,
                target: example.target.clone(),
                part: None,
            }
        };
        Ok(encodings.zip(targets).zip(examples).map(row).collect())
    }

    fn has_targets(&self, row: &Encoded) -> bool {
        !row.encoding.target.is_empty()
    }

    fn shape(&self, rows: &[&Encoded], len: usize) -> Shape {
        let longest = rows.iter().map(|row| row.encoding.target.len()).max();
        Shape {
            target_len: self.padded(longest.unwrap_or(0)),
            ..Shape::new(rows.len(), len)
        }
    }

    fn target_lengths(&self) -> Vec<usize> {
        let mut lengths: Vec<usize> = (1..=self.max_target_length)
            .map(|longest| self.padded(longest))
            .collect();
        lengths.dedup();
        lengths
    }

    /// The tokens of the texts to write. What is behind them is not learned, whatever it is filled with; the
    /// model's family makes of them what the decoder reads.
    fn prepare(&self, batch: &mut Batch, rows: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        let len = self.shape(rows, batch.len).target_len;
        let mut labels = vec![IGNORED; rows.len() * len];
        for ((labels, row), &index) in labels.chunks_mut(len).zip(rows).zip(&batch.indices) {
            let tokens = &row.encoding.target;
            if tokens.is_empty() || tokens.len() > len {
                return Err(BatchError::Target {
                    index,
                    expected: format!("a text to write of at most {len} tokens"),
                    found: format!("{} tokens", tokens.len()),
                });
            }
            for (label, &token) in labels.iter_mut().zip(tokens) {
                *label = token as i32;
            }
        }
        batch.targets = Targets::texts(labels, len);
        Ok(())
    }

    /// The texts that are read, cut as in training.
    fn prompts(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Option<Vec<Vec<u32>>>, TokenizerError> {
        let texts: Vec<_> = examples.iter().map(|e| (e.text.as_str(), None)).collect();
        let encodings = tokenizer.encode_batch(&texts, max_len)?;
        Ok(Some(encodings.into_iter().map(|e| e.ids).collect()))
    }

    fn end(&self, _: &Tokenizer) -> Option<u32> {
        self.end
    }

    fn text_metrics(&self) -> &[Metric] {
        &self.metrics
    }
}

/// The first text of a target.
fn first(target: Option<&Value>) -> Option<&str> {
    match target? {
        Value::Array(texts) => texts.first()?.as_str(),
        text => text.as_str(),
    }
}
