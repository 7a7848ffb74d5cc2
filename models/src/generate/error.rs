//! What may go wrong while texts are written.

use ailora_runtime::{engine::EngineError, passes::PassError};
use thiserror::Error;

use super::Places;
use crate::{model::ModelError, objective::NotFinite};

/// Tokens that cannot be generated.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The model cannot be built, or is none that generates.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapters do not fit the model.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A program cannot be compiled or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A logit is infinite or not a number.
    #[error("a logit behind prompt {row} is {value}: {cause}")]
    NotFinite {
        /// The prompt, from 0.
        row: usize,
        /// The logit.
        value: f32,
        /// Where that may come from.
        cause: NotFinite,
    },
    /// There is nothing to go on from.
    #[error("prompt {0} is empty; expected at least one token")]
    EmptyPrompt(usize),
    /// A prompt that the model has no positions for.
    #[error("prompt {prompt} has {len} tokens, but the model has positions for {max}; shorten it")]
    LongPrompt {
        /// Which one, counted from 0.
        prompt: usize,
        /// Its length.
        len: usize,
        /// The model's limit.
        max: usize,
    },
    /// A step that does not go on from the sequences there are.
    #[error(
        "a step goes on from sequence {parent} of {rows} with {tokens} tokens for {parents} sequences; \
         expected one that is there, and a token for each"
    )]
    Step {
        /// The largest number of a sequence that is gone on from.
        parent: usize,
        /// How many sequences there are.
        rows: usize,
        /// How many tokens are given.
        tokens: usize,
        /// For how many sequences.
        parents: usize,
    },
    /// More tokens or sequences than the session was started for.
    #[error(
        "a session with room for {} tokens of each of {} sequences is full; start one with more",
        .0.len, .0.rows
    )]
    Full(Places),
}
