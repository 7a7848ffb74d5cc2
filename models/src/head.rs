//! What a pretrained model is made to predict: its head.

use std::fmt;

use ailora_graph::{
    ir::{Type, ops::loss::IGNORED},
    nn::Tensor,
};

use crate::{
    batch::{Batch, Shape, Targets},
    family::Inputs,
};

/// What a model predicts, and so which head it has and what its loss is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Head {
    /// A class or a score of a sequence.
    Sequence {
        /// How many logits: the classes; 1 for a score.
        outputs: usize,
        /// Whether the first logit is a score, whose loss is the squared error.
        regression: bool,
    },
    /// The span of a text that answers a question: its first and last token.
    QuestionAnswering,
    /// Tokens that are masked in the input.
    MaskedLm,
    /// The next token.
    CausalLm,
    /// The next token of a target text, given an input text.
    Seq2SeqLm {
        /// How much of each label is spread over the whole vocabulary.
        smoothing: f64,
    },
}

impl Head {
    /// One of each kind.
    pub const ALL: [Self; 5] = [
        Self::classification(2),
        Self::QuestionAnswering,
        Self::MaskedLm,
        Self::CausalLm,
        Self::Seq2SeqLm { smoothing: 0.0 },
    ];

    /// One of `classes` classes of a sequence.
    pub const fn classification(classes: usize) -> Self {
        Self::Sequence {
            outputs: classes,
            regression: false,
        }
    }

    /// A score of a sequence.
    pub const fn regression() -> Self {
        Self::Sequence {
            outputs: 1,
            regression: true,
        }
    }

    /// What PEFT calls the task, if it has a name for it.
    pub fn peft_task(self) -> Option<&'static str> {
        match self {
            Self::Sequence { .. } => Some("SEQ_CLS"),
            Self::QuestionAnswering => Some("QUESTION_ANS"),
            Self::MaskedLm => None,
            Self::CausalLm => Some("CAUSAL_LM"),
            Self::Seq2SeqLm { .. } => Some("SEQ_2_SEQ_LM"),
        }
    }

    /// What a program gives, by name, of the logits that a network's head makes.
    pub(crate) fn outputs<'g>(self, logits: &Tensor<'g>) -> Vec<(&'static str, Tensor<'g>)> {
        match self {
            Self::QuestionAnswering => vec![
                ("start_logits", column(logits, 0)),
                ("end_logits", column(logits, 1)),
            ],
            _ => vec![("logits", logits.clone())],
        }
    }

    /// The mean loss of a batch, whose targets it adds to the graph as inputs.
    pub(crate) fn loss<'g>(self, logits: &Tensor<'g>, shape: Shape) -> Tensor<'g> {
        let Shape { rows, len, .. } = shape;
        let ids = |name, count| logits.cx().input(name, Type::i32([count]));
        match self {
            Self::Sequence {
                regression: true, ..
            } => {
                let scores = logits.cx().input("scores", Type::f32([rows]));
                let error = &logits.slice(1, 0, 1).reshape([rows]) - &scores;
                (&error * &error).mean([0]).reshape([])
            }
            Self::Sequence { .. } => logits.cross_entropy(&ids("labels", rows)),
            Self::QuestionAnswering => {
                let start = column(logits, 0).cross_entropy(&ids("start_positions", rows));
                let end = column(logits, 1).cross_entropy(&ids("end_positions", rows));
                (&start + &end).scale(0.5)
            }
            Self::MaskedLm | Self::CausalLm => {
                tokens(logits).cross_entropy(&ids("labels", rows * len))
            }
            Self::Seq2SeqLm { smoothing } => {
                let labels = ids("labels", rows * shape.target_len);
                tokens(logits).smoothed_cross_entropy(&labels, smoothing)
            }
        }
    }

    /// How many targets of a batch its mean loss is over: rows, or tokens that are to be predicted.
    pub(crate) fn targets(self, batch: &Batch) -> usize {
        let counted = |labels: &[i32]| labels.iter().filter(|&&label| label != IGNORED).count();
        match &batch.targets {
            Targets::Unlabelled => 0,
            Targets::Classes(labels) => counted(labels),
            Targets::Scores(scores) => scores.len(),
            Targets::Spans { starts, .. } => counted(&within(starts, batch.len)),
            // The first of each row is predicted from nothing.
            Targets::Tokens(labels) if self == Self::CausalLm => {
                let rows = labels.chunks(batch.len.max(1));
                rows.map(|row| counted(row.get(1..).unwrap_or_default()))
                    .sum()
            }
            Targets::Tokens(labels) => counted(labels),
        }
    }

    /// These inputs and a batch's targets, where it has them.
    pub(crate) fn with_targets(self, inputs: Inputs, batch: &Batch) -> Inputs {
        match &batch.targets {
            Targets::Unlabelled => inputs,
            Targets::Classes(labels) => inputs.with_ids("labels", labels.clone()),
            Targets::Scores(scores) => inputs.with_floats("scores", scores.clone()),
            Targets::Spans { starts, ends } => inputs
                .with_ids("start_positions", within(starts, batch.len))
                .with_ids("end_positions", within(ends, batch.len)),
            Targets::Tokens(labels) if self == Self::CausalLm => {
                inputs.with_ids("labels", next_tokens(labels, batch.len))
            }
            Targets::Tokens(labels) => inputs.with_ids("labels", labels.clone()),
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sequence { .. } => "sequence classification",
            Self::QuestionAnswering => "question answering",
            Self::MaskedLm => "masked language modelling",
            Self::CausalLm => "causal language modelling",
            Self::Seq2SeqLm { .. } => "sequence-to-sequence language modelling",
        })
    }
}

/// `[b, s, 2]` gives `[b, s]`.
fn column<'g>(logits: &Tensor<'g>, i: usize) -> Tensor<'g> {
    let shape = logits.shape();
    let shape = shape[..shape.len().saturating_sub(1)].to_vec();
    logits.slice(2, i, i + 1).reshape(shape)
}

/// `[b, s, c]` gives `[b s, c]`.
fn tokens<'g>(logits: &Tensor<'g>) -> Tensor<'g> {
    let classes = logits.shape().last().copied().unwrap_or(1);
    let rows = logits.shape().iter().product::<usize>() / classes.max(1);
    logits.reshape([rows, classes])
}

/// Positions past the end do not count, as in transformers.
fn within(positions: &[i32], len: usize) -> Vec<i32> {
    let inside = |&&position: &&i32| usize::try_from(position).is_ok_and(|at| at < len);
    let positions = positions.iter();
    positions
        .map(|position| Some(position).filter(inside).copied().unwrap_or(IGNORED))
        .collect()
}

/// Each token's label is the one after it in its row; the last has none.
fn next_tokens(labels: &[i32], len: usize) -> Vec<i32> {
    let rows = labels.chunks(len.max(1));
    rows.flat_map(|row| row.iter().skip(1).copied().chain([IGNORED]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_causal_model_are_the_next_tokens_of_the_row() {
        let labels = next_tokens(&[1, 2, 3, -100, 5, 6], 3);
        assert_eq!(labels, [2, 3, IGNORED, 5, 6, IGNORED]);
    }
}
