use std::fmt;

use ailora_runtime::{engine::EngineError, passes::PassError, weights::Weights};
use serde_json::Value;
use thiserror::Error;

use crate::{
    batch::BatchError, generate::WriteError, metrics::MetricError, model::ModelError,
    score::squad::SquadError, task::TaskError, tokenizer::TokenizerError,
};

/// Rows that cannot be trained on or predicted.
#[derive(Debug, Error)]
pub enum ObjectiveError {
    /// The model cannot be built for a shape.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapters do not fit the model, or its loss cannot be differentiated.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A program cannot be compiled or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Rows cannot be batched.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Texts cannot be encoded, or are too few.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A shape that the workload was not compiled for.
    #[error("no program was compiled for {rows} rows of {len} tokens; compile every epoch first")]
    NotCompiled {
        /// Rows of the batch.
        rows: usize,
        /// Tokens of a row.
        len: usize,
    },
    /// A logit is infinite or not a number.
    #[error("a logit of row {row} is {value}: {cause}")]
    NotFinite {
        /// The row, from 0.
        row: usize,
        /// The logit.
        value: f32,
        /// Where that may come from.
        cause: NotFinite,
    },
    /// The loss of held-out rows is infinite or not a number.
    #[error("the loss of the held-out rows is {value}: {cause}")]
    Loss {
        /// The loss.
        value: f64,
        /// Where that may come from.
        cause: NotFinite,
    },
    /// Rows that are read as they are needed cannot be read.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Files that are read again are others than they were.
    #[error(
        "the training files have fewer rows than when they were first read; put them back, and go on with --resume"
    )]
    FewerRows,
    /// Texts cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A row has nothing that what is written about it can be scored against.
    #[error(
        "row {row} of {split}: expected {expected} to score what is written against, found {found}; correct or \
         remove the row, or score the loss alone"
    )]
    Reference {
        /// The row, from 1.
        row: usize,
        /// The split.
        split: String,
        /// What the metric needs.
        expected: &'static str,
        /// What there is.
        found: Value,
    },
    /// Predictions cannot be scored.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// Answers to questions cannot be scored.
    #[error(transparent)]
    Squad(#[from] SquadError),
}

/// An objective that does not fit a model.
#[derive(Debug, Error)]
pub enum BindError {
    /// The model's head has other labels.
    #[error("the model has the labels {found}; expected {expected}")]
    Labels {
        /// The objective's labels.
        expected: String,
        /// The model's.
        found: String,
    },
    /// Its tokenizer lacks a token.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Where logits that are not finite come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFinite(Option<String>);

impl NotFinite {
    /// In a model with these parameters.
    pub fn of(weights: &Weights) -> Self {
        Self(weights.not_finite())
    }
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(
                f,
                "the parameter `{name}` has values that are infinite or NaN; load other weights"
            ),
            None => f.write_str(
                "all parameters are finite, so that values overflow on the way; the model or the \
                 adapter has diverged",
            ),
        }
    }
}
