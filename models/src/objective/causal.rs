use std::sync::Arc;

use ailora_graph::ir::Draw;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{BindError, Objective, written};
use crate::{
    batch::{Batch, BatchError, Encoded},
    chat::Learn,
    config::Config,
    data::{DataError, Example, Record},
    head::Head,
    metrics::Metric,
    tokenizer::{Tokenizer, TokenizerError},
};

/// An answer that a language model writes behind a prompt, by the cross-entropy of the answer's
/// tokens. Nothing is learned of the prompt.
///
/// A target is the answer's text. The score is the mean loss over the answers' tokens; with `metrics`, what
/// the model itself writes behind the prompts is scored too.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Causal {
    /// The column of the answer.
    pub answer: String,
    /// Whether white space around it is left out.
    #[serde(default = "yes")]
    pub trim: bool,
    /// What is learned: answers with their ends, or prompts too.
    #[serde(default)]
    pub learn: Learn,
    /// What the texts are scored with that the model writes.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// The column that these are scored against: a text, a number, or a list of texts that are equally
    /// right [default: `answer`].
    #[serde(default)]
    pub reference: Option<String>,
    /// The token that ends an answer: the model's.
    #[serde(skip)]
    end: Option<u32>,
}

const fn yes() -> bool {
    true
}

impl Causal {
    /// Answers that are in this column.
    pub fn new(answer: &str) -> Self {
        Self {
            answer: answer.to_owned(),
            trim: true,
            learn: Learn::Answers,
            metrics: Vec::new(),
            reference: None,
            end: None,
        }
    }

    /// This objective, if its options make sense.
    ///
    /// # Errors
    /// Metrics that are not of texts.
    pub(super) fn checked(self) -> Result<Self, String> {
        written::suit(&self.metrics)?;
        match (&self.reference, self.metrics.is_empty()) {
            (Some(reference), true) => Err(format!(
                "`reference` is `{reference}`, but there are no `metrics` that would read it"
            )),
            _ => Ok(self),
        }
    }
}

/// The names of a target's parts where it is scored against another column.
const ANSWER: &str = "answer";
const REFERENCE: &str = "reference";

impl Objective for Causal {
    fn head(&self) -> Head {
        Head::CausalLm
    }

    fn columns(&self) -> Vec<&str> {
        [&self.answer]
            .into_iter()
            .chain(&self.reference)
            .map(String::as_str)
            .collect()
    }

    fn target(&self, record: &Record<'_>) -> Result<Value, DataError> {
        let answer = |text: &str| if self.trim { text.trim() } else { text }.to_owned();
        let text = || record.text(&self.answer, "a text");
        let Some(column) = &self.reference else {
            return Ok(answer(text()?).into());
        };
        let reference = match record.get(column) {
            _ if record.is_blank(column) => Value::Null,
            Some(found @ Value::Array(texts)) if texts.iter().all(Value::is_string) => {
                found.clone()
            }
            Some(Value::Number(number)) => number.to_string().into(),
            _ => record
                .text(column, "a text, a number, or a list of texts")?
                .into(),
        };
        // What is written can be scored without an answer in words.
        let answer = match record.is_blank(&self.answer) && !reference.is_null() {
            true => Value::Null,
            false => answer(text()?).into(),
        };
        Ok(json!({ ANSWER: answer, REFERENCE: reference }))
    }

    fn bind(
        &self,
        config: &Config,
        _: &Tokenizer,
    ) -> Result<Option<Arc<dyn Objective>>, BindError> {
        let mut bound = self.clone();
        bound.end = config.end();
        Ok(Some(Arc::new(bound)))
    }

    /// Prompts, in segment 0, and answers with their end, in segment 1. Where both are longer than
    /// `max_len`, the prompt loses tokens from its start, behind the special tokens there. Where the
    /// prompt alone is that long, or the answer leaves no room for any of it, the answer is left out: the
    /// row has no targets.
    fn encode(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        let encode = |example: &Example| {
            let target = example.target.as_ref();
            let answer = target.and_then(|target| match target {
                Value::Object(parts) => parts.get(ANSWER)?.as_str(),
                answer => answer.as_str(),
            });
            let is_known = answer.is_some() || target.is_none();
            let end = self.end.filter(|_| is_known);
            let answer = answer.unwrap_or_default();
            let mut encoding = tokenizer.encode_answer(&example.text, answer, end, max_len)?;
            if self.learn == Learn::All && is_known {
                encoding.type_ids.fill(1);
            }
            let target = example.target.clone();
            Ok(Encoded {
                encoding,
                target,
                part: None,
            })
        };
        examples.par_iter().map(encode).collect()
    }

    fn prompts(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        _: usize,
    ) -> Result<Option<Vec<Vec<u32>>>, TokenizerError> {
        let texts = examples.iter().map(|example| example.text.as_str());
        tokenizer.prompts(texts).map(Some)
    }

    fn text_metrics(&self) -> &[Metric] {
        &self.metrics
    }

    fn reference(&self, target: &Value) -> Value {
        target.get(REFERENCE).unwrap_or(target).clone()
    }

    /// A row may be too long for its answer.
    fn has_row_each(&self) -> bool {
        false
    }

    fn has_targets(&self, row: &Encoded) -> bool {
        row.encoding.type_ids.contains(&1)
    }

    fn prepare(&self, batch: &mut Batch, _: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        batch.targets = batch.next_tokens();
        Ok(())
    }
}
