//! Running text: documents as rows of a language model, and windows over those that are too long.
//!
//! The rules are those of [`RawText`]; `rows` and `pieces` follow them on tokens alone.

use std::{ops::Range, sync::Arc};

use ailora_graph::ir::Draw;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use super::{BindError, HeldOut, Objective};
use crate::{
    batch::{Batch, BatchError, Encoded},
    config::Config,
    data::{DataError, Example, Record},
    head::Head,
    tokenizer::{Encoding, Tokenizer, TokenizerError},
};

/// How many of the last rows get more documents, as long as they have room.
const OPEN: usize = 8;

/// Running text that a language model goes on with, by the cross-entropy of all of its tokens.
///
/// An example is a document: its text with the model's special tokens, ended by the model's end token.
/// Every token of a document but its first is a target, once. There is no metric: the score is the mean
/// loss over the targets.
///
/// A document longer than a row becomes several pieces. To train, each begins with the last token of the
/// one before, which is nothing's target again. To evaluate, each begins `stride` tokens behind the one
/// before, and what both have is context: the smaller the stride, the more each token is predicted from,
/// and the more is computed. A stride of a row or more, as none, is as in training.
///
/// Pieces are packed in their order: each goes into the first of the last 8 rows that has room, else into a new
/// row. A token sees only those of its own document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawText {
    /// The tokens from one window over a long document to the next, in evaluation.
    #[serde(default)]
    pub stride: Option<usize>,
    /// The token that ends a document: the model's.
    #[serde(skip)]
    end: Option<u32>,
}

impl RawText {
    /// Windows that overlap by as much as this stride leaves, in evaluation.
    pub fn new(stride: Option<usize>) -> Self {
        Self { stride, end: None }
    }

    /// This objective, if its options make sense.
    ///
    /// # Errors
    /// A stride of 0.
    pub(super) fn checked(self) -> Result<Self, String> {
        match self.stride {
            Some(0) => Err("`stride` is 0; expected at least 1 token".to_owned()),
            _ => Ok(self),
        }
    }

    /// Documents in rows of at most `max_len` tokens, with windows at this stride over the longer ones.
    fn rows(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
        stride: Option<usize>,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        // A token, and one that it is predicted from.
        if max_len < 2 {
            let special = 1;
            return Err(TokenizerError::TooShort { max_len, special });
        }
        let texts = examples.iter().map(|example| (example.text.as_str(), None));
        let encodings = tokenizer.encode_batch(&texts.collect::<Vec<_>>(), usize::MAX)?;
        let ended = |mut encoding: Encoding| {
            if encoding.ids.last().copied() != self.end {
                encoding.ids.extend(self.end);
            }
            encoding.ids
        };
        Ok(rows(encodings.into_iter().map(ended), max_len, stride))
    }
}

impl Objective for RawText {
    fn head(&self) -> Head {
        Head::CausalLm
    }

    fn columns(&self) -> Vec<&str> {
        Vec::new()
    }

    fn target(&self, _: &Record<'_>) -> Result<Value, DataError> {
        Ok(Value::Null)
    }

    fn bind(
        &self,
        config: &Config,
        _: &Tokenizer,
    ) -> Result<Option<Arc<dyn Objective>>, BindError> {
        Ok(Some(Arc::new(Self {
            end: config.end(),
            ..self.clone()
        })))
    }

    /// Documents and parts of them, packed; targets are in segment 1.
    fn encode(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        self.rows(examples, tokenizer, max_len, None)
    }

    fn encode_held_out(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        self.rows(examples, tokenizer, max_len, self.stride)
    }

    fn has_row_each(&self) -> bool {
        false
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

    fn has_targets(&self, row: &Encoded) -> bool {
        row.encoding.type_ids.contains(&1)
    }

    fn prepare(&self, batch: &mut Batch, _: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        batch.targets = batch.next_tokens();
        Ok(())
    }

    /// `window`: the tokens of the longest row; `stride`: those from one window to the next.
    fn conditions(&self, split: &HeldOut) -> IndexMap<String, f64> {
        let window = split.rows.iter().map(Encoded::tokens).max().unwrap_or(0);
        let stride = step(window, self.stride);
        IndexMap::from(
            [("window", window), ("stride", stride)]
                .map(|(name, tokens)| (name.to_owned(), tokens as f64)),
        )
    }
}

/// The tokens from one window to the next: windows overlap by one at least, from which the next is
/// predicted.
fn step(window: usize, stride: Option<usize>) -> usize {
    let most = window.saturating_sub(1).max(1);
    stride.map_or(most, |stride| stride.clamp(1, most))
}

/// The windows over a document of so many tokens, and how many first tokens of each are context.
fn pieces(
    tokens: usize,
    max_len: usize,
    stride: Option<usize>,
) -> impl Iterator<Item = (Range<usize>, usize)> {
    let stride = step(max_len, stride);
    let behind = tokens.saturating_sub(max_len).div_ceil(stride);
    (0..=behind).map(move |i| {
        let start = i * stride;
        let end = (start + max_len).min(tokens);
        // The window before ended here.
        let context = if i == 0 { 1 } else { max_len - stride };
        (start..end, context)
    })
}

/// The tokens of documents in rows.
fn rows(
    documents: impl Iterator<Item = Vec<u32>>,
    max_len: usize,
    stride: Option<usize>,
) -> Vec<Encoded> {
    let mut rows: Vec<Encoding> = Vec::new();
    for document in documents.filter(|tokens| !tokens.is_empty()) {
        for (range, context) in pieces(document.len(), max_len, stride) {
            let first_open = rows.len().saturating_sub(OPEN);
            let fits = |row: &Encoding| row.ids.len() + range.len() <= max_len;
            let open = rows[first_open..].iter().position(fits);
            let at = open.map_or(rows.len(), |at| first_open + at);
            if open.is_none() {
                rows.push(Encoding::default());
            }
            let row = &mut rows[at];
            row.parts.push(row.ids.len());
            let target = |i| u32::from(i >= context);
            row.type_ids.extend((0..range.len()).map(target));
            row.ids.extend(&document[range]);
        }
    }
    let row = |mut encoding: Encoding| {
        if encoding.parts.len() == 1 {
            encoding.parts.clear();
        }
        Encoded {
            encoding,
            target: None,
            part: None,
        }
    };
    rows.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests;
