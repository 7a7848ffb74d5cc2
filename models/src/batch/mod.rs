//! Encoded examples to batches of a few fixed shapes.
//!
//! Every sequence length of a batch is one of a few [`Buckets`], so that each shape is compiled once
//! before training.

mod inputs;
mod plan;
mod targets;

pub use inputs::Inputs;
pub use plan::{Buckets, Order, Plan, evaluation, shuffle, training_epoch};
pub use targets::Targets;

use std::{ops::Range, sync::Arc};

use ailora_graph::ir::ops::loss::IGNORED;
use serde_json::Value;
use thiserror::Error;

#[cfg(doc)]
use crate::tokenizer::Window;
use crate::{data::Example, tokenizer::Encoding};

/// An example as the model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Token ids and segments.
    pub encoding: Encoding,
    /// What is to be predicted, where that is known, as the objective has it.
    pub target: Option<Value>,
    /// What the row is of, where several rows of an example are put together again.
    pub part: Option<Part>,
}

/// What a row is of, if an example takes several.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The number of the example among those that were encoded together.
    pub number: usize,
    /// The example.
    pub example: Arc<Example>,
    /// Where in the row the tokens of the example's second text begin.
    pub first: usize,
    /// The characters of that text that each of them is from, as [`Window::places`] has them.
    pub places: Vec<Range<usize>>,
}

impl Encoded {
    /// Number of tokens, special ones included.
    pub fn tokens(&self) -> usize {
        self.encoding.ids.len()
    }
}

/// Why batches could not be formed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BatchError {
    /// The batch size is zero.
    #[error("batch size is 0; expected at least 1")]
    ZeroBatchSize,
    /// A sequence is longer than the largest bucket.
    #[error("example {index} has {tokens} tokens, more than the limit of {limit}")]
    TooLong {
        /// The example, from 0.
        index: usize,
        /// Its number of tokens.
        tokens: usize,
        /// The largest length allowed.
        limit: usize,
    },
    /// An objective that draws targets does not know the model's tokens.
    #[error("the objective is not bound to a model; call `Objective::bind` first")]
    Unbound,
    /// Documents share a row whose tokens would see each other.
    #[error(
        "example {index}: {documents} documents share a row, which {head} cannot keep apart; \
         give each a row of its own"
    )]
    Packed {
        /// The example, from 0.
        index: usize,
        /// How many documents there are.
        documents: usize,
        /// What the model predicts.
        head: String,
    },
    /// A row does not have the target that the objective needs.
    #[error("example {index}: expected {expected}, found {found}")]
    Target {
        /// The example, from 0.
        index: usize,
        /// What it should have.
        expected: String,
        /// What it has.
        found: String,
    },
}

/// A padded batch, ready to be fed to a program.
///
/// # Shapes
/// `ids`, `type_ids` and `mask` are row-major `[rows, len]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Number of examples.
    pub rows: usize,
    /// Padded sequence length.
    pub len: usize,
    /// Token ids, the padding id behind each sequence.
    pub ids: Vec<i32>,
    /// Segment ids, 0 in the padding.
    pub type_ids: Vec<i32>,
    /// For each token the number of its document in the row, from 1; 0 for padding.
    pub mask: Vec<f32>,
    /// What the rows are to be predicted as.
    pub targets: Targets,
    /// Where each row's example is in the data.
    pub indices: Vec<usize>,
}

/// The sizes that a program is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// Number of examples.
    pub rows: usize,
    /// Padded sequence length.
    pub len: usize,
    /// Padded length of the texts to generate; 0 where none are.
    pub target_len: usize,
}

impl Shape {
    /// Sequences without texts to generate.
    pub const fn new(rows: usize, len: usize) -> Self {
        Self {
            rows,
            len,
            target_len: 0,
        }
    }
}

impl Batch {
    /// Its sizes.
    pub fn shape(&self) -> Shape {
        Shape {
            rows: self.rows,
            len: self.len,
            target_len: self.targets.text_len,
        }
    }

    /// Pads the examples of a plan; an [`Objective`](crate::objective::Objective) adds the targets.
    ///
    /// # Errors
    /// A plan made for longer sequences or other data ([`BatchError::TooLong`]).
    ///
    /// # Panics
    /// If the plan was made for more examples than there are.
    pub fn new(plan: &Plan, examples: &[Encoded], pad_id: u32) -> Result<Batch, BatchError> {
        let (rows, len) = (plan.indices.len(), plan.len);
        let mut batch = Batch {
            rows,
            len,
            ids: vec![pad_id as i32; rows * len],
            type_ids: vec![0; rows * len],
            mask: vec![0.0; rows * len],
            targets: Targets::default(),
            indices: plan.indices.clone(),
        };
        for (row, &index) in plan.indices.iter().enumerate() {
            let encoding = &examples[index].encoding;
            let Encoding { ids, type_ids, .. } = encoding;
            if ids.len() > len {
                let (tokens, limit) = (ids.len(), len);
                return Err(BatchError::TooLong {
                    index,
                    tokens,
                    limit,
                });
            }
            let at = row * len;
            for (i, (id, type_id)) in ids.iter().zip(type_ids).enumerate() {
                batch.ids[at + i] = *id as i32;
                batch.type_ids[at + i] = *type_id as i32;
                let begun = encoding.parts.partition_point(|&start| start <= i);
                batch.mask[at + i] = begun.max(1) as f32;
            }
        }
        Ok(batch)
    }

    /// The targets of a language model: the tokens in segment 1, each predicted from those before it in its
    /// document, so that the first token of a document is none.
    pub fn next_tokens(&self) -> Targets {
        let row = |i: usize| i / self.len.max(1);
        let label = |i: usize| {
            let follows = i > 0 && row(i) == row(i - 1) && self.mask[i] == self.mask[i - 1];
            match self.type_ids[i] == 1 && self.mask[i] != 0.0 && follows {
                true => self.ids[i],
                false => IGNORED,
            }
        };
        let tokens: Vec<i32> = (0..self.ids.len()).map(label).collect();
        Targets::next_tokens(&tokens, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[u32]) -> Encoded {
        let (ids, type_ids) = (ids.to_vec(), (0..ids.len() as u32).map(|i| i / 2).collect());
        let encoding = Encoding {
            ids,
            type_ids,
            ..Encoding::default()
        };
        Encoded {
            encoding,
            target: None,
            part: None,
        }
    }

    #[test]
    fn a_batch_is_padded_and_masked() {
        let examples = [example(&[5, 6, 7]), example(&[9]), example(&[4, 4])];
        let plan = Plan {
            len: 4,
            indices: vec![1, 0],
        };
        let batch = Batch::new(&plan, &examples, 11).unwrap();
        assert_eq!(batch.ids, [9, 11, 11, 11, 5, 6, 7, 11]);
        assert_eq!(batch.type_ids, [0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(batch.mask, [1., 0., 0., 0., 1., 1., 1., 0.]);
        assert_eq!(batch.targets, Targets::default());
        assert_eq!(
            (batch.rows, batch.len, &batch.indices),
            (2, 4, &plan.indices)
        );
        let short = Plan {
            len: 2,
            indices: vec![0],
        };
        assert!(matches!(
            Batch::new(&short, &examples, 0),
            Err(BatchError::TooLong { index: 0, .. })
        ));
    }
    #[test]
    fn documents_of_a_row_are_numbered_and_do_not_predict_each_other() {
        let packed = Encoding {
            ids: vec![1, 2, 3, 4, 5],
            type_ids: vec![1; 5],
            parts: vec![0, 2],
            ..Encoding::default()
        };
        let alone = Encoding {
            parts: Vec::new(),
            ..packed.clone()
        };
        let examples = [packed, alone].map(|encoding| Encoded {
            encoding,
            target: None,
            part: None,
        });
        let plan = Plan {
            len: 6,
            indices: vec![0, 1],
        };
        // The padding is a token that the rows have too.
        let batch = Batch::new(&plan, &examples, 5).unwrap();
        assert_eq!(batch.mask[..6], [1., 1., 2., 2., 2., 0.]);
        assert_eq!(batch.mask[6..], [1., 1., 1., 1., 1., 0.]);
        let targets = batch.next_tokens();
        let labels = targets.inputs.ids("labels").unwrap();
        assert_eq!(labels[..6], [2, IGNORED, 4, 5, IGNORED, IGNORED]);
        assert_eq!(labels[6..], [2, 3, 4, 5, IGNORED, IGNORED]);
        assert_eq!(targets.count, 3 + 4);
    }
}
