use std::sync::Arc;

use ailora_graph::ir::Draw;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::{BindError, Objective};
use crate::{
    batch::{Batch, BatchError, Encoded},
    chat::Learn,
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
    /// Whether white space around it is left out.
    #[serde(default = "yes")]
    pub trim: bool,
    /// What is learned: answers with their ends, or prompts too.
    #[serde(default)]
    pub learn: Learn,
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
        let text = record.text(&self.answer, "a text")?;
        Ok(if self.trim { text.trim() } else { text }.into())
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
            let answer = example.target.as_ref().and_then(Value::as_str);
            let answer = answer.unwrap_or_default();
            let mut encoding = tokenizer.encode_answer(&example.text, answer, self.end, max_len)?;
            if self.learn == Learn::All {
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
    ) -> Result<Option<Vec<Vec<u32>>>, TokenizerError> {
        let texts = examples.iter().map(|example| example.text.as_str());
        tokenizer.prompts(texts).map(Some)
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
