use std::sync::Arc;

use ailora_graph::ir::{Draw, ops::loss::IGNORED};
use serde::Deserialize;
use serde_json::Value;

use super::{BindError, Objective};
use crate::{
    batch::{Batch, BatchError, Encoded, Targets},
    config::Config,
    data::{DataError, Example, Record},
    head::Head,
    tokenizer::{Tokenizer, TokenizerError},
};

/// An answer that a language model writes behind a prompt, by the cross-entropy of the answer's
/// tokens. Nothing is learned of the prompt.
///
/// A target is the answer's text. There is no metric: the score is the mean loss over the answers'
/// tokens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Causal {
    /// The column of the answer.
    pub answer: String,
    /// The token that ends an answer: the model's.
    #[serde(skip)]
    end: Option<u32>,
}

impl Causal {
    /// Answers that are in this column.
    pub fn new(answer: &str) -> Self {
        Self {
            answer: answer.to_owned(),
            end: None,
        }
    }
}

impl Objective for Causal {
    fn head(&self) -> Head {
        Head::CausalLm
    }

    fn columns(&self) -> Vec<&str> {
        vec![&self.answer]
    }

    fn target(&self, record: &Record<'_>) -> Result<Value, DataError> {
        Ok(record.text(&self.answer, "a text")?.trim().into())
    }

    fn bind(
        &self,
        config: &Config,
        _: &Tokenizer,
    ) -> Result<Option<Arc<dyn Objective>>, BindError> {
        let end = config.ends().first().copied();
        let mut bound = self.clone();
        bound.end = end.and_then(|end| u32::try_from(end).ok());
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
            let answer = example.target.as_ref().and_then(Value::as_str);
            let answer = answer.unwrap_or_default();
            let encoding = tokenizer.encode_answer(&example.text, answer, self.end, max_len)?;
            let target = example.target.clone();
            Ok(Encoded { encoding, target })
        };
        examples.iter().map(encode).collect()
    }

    fn has_targets(&self, row: &Encoded) -> bool {
        row.encoding.type_ids.contains(&1)
    }

    fn prepare(&self, batch: &mut Batch, _: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        learn_marked(batch);
        Ok(())
    }
}

/// Makes the tokens in segment 1 a batch's targets.
pub(super) fn learn_marked(batch: &mut Batch) {
    let tokens = batch.ids.iter().zip(&batch.type_ids);
    let learned = tokens.map(|(&id, &segment)| if segment == 1 { id } else { IGNORED });
    batch.targets = Targets::next_tokens(&learned.collect::<Vec<_>>(), batch.len);
}
