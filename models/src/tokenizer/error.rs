//! Why a tokenizer cannot be used.

use std::path::PathBuf;

use thiserror::Error;

use super::train;
use crate::{
    chat::ChatError,
    closed::{Refused, brief, json::JsonError},
    gguf::GgufError,
};

/// Why a tokenizer could not be loaded or used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The folder has no file of a tokenizer.
    #[error("{} has no tokenizer.json, nor spm.model, tokenizer.model, vocab.txt, or vocab.json with merges.txt; another tokenizer is converted by transformers' `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`", dir.display())]
    Missing {
        /// The model's folder.
        dir: PathBuf,
    },
    /// A file is there but cannot be read or understood.
    #[error("{} is not a usable tokenizer file: {}", path.display(), brief(cause))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// No file names a padding token.
    #[error("no padding token in {}; set `pad_token` in tokenizer_config.json", dir.display())]
    NoPadding {
        /// The model's folder.
        dir: PathBuf,
    },
    /// The tokenizer belongs to another model.
    #[error("the tokenizer has token ids up to {max_id}{}, the model has embeddings for {vocab_size} tokens (ids 0 to {}); use the tokenizer the model was trained with", token.as_ref().map_or(String::new(), |token| format!(" ({token:?})")), vocab_size.saturating_sub(1))]
    Vocabulary {
        /// Largest id the tokenizer can produce.
        max_id: u32,
        /// The token of this id, if there is one.
        token: Option<String>,
        /// The model's vocabulary.
        vocab_size: usize,
    },
    /// The tokenizer tells texts apart that the model does not.
    #[error(
        "the tokenizer gives tokens segment {segment} (`token_type_ids`), but the model's `type_vocab_size` is {limit}; use the tokenizer the model was trained with, or, if it was trained without segments, set `model_input_names` in tokenizer_config.json to [\"input_ids\", \"attention_mask\"]"
    )]
    Segment {
        /// The segment.
        segment: u32,
        /// How many the model knows.
        limit: usize,
    },
    /// The length limit leaves no room for text.
    #[error("maximum length {max_len} is too short: the special tokens alone are {special}, so at least {} is needed", special + 1)]
    TooShort {
        /// The limit.
        max_len: usize,
        /// Number of special tokens.
        special: usize,
    },
    /// A question that leaves no room for windows over the text.
    #[error(
        "the question {question:?} has {tokens} tokens and leaves room for {room} tokens of the text in rows of \
         {max_len}, which is no more than the windows over the text overlap by {overlap}; give longer rows \
         (--max-length), or windows that overlap by less (the objective's `stride`)"
    )]
    NoRoom {
        /// The question, shortened.
        question: String,
        /// Its tokens.
        tokens: usize,
        /// Tokens of the text that fit beside it.
        room: usize,
        /// Tokens that windows share.
        overlap: usize,
        /// The longest row.
        max_len: usize,
    },
    /// A GGUF file cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file cannot be read as a JSON object.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A field asks for something that is not done.
    #[error(transparent)]
    Field(#[from] Refused),
    /// An objective that needs to know a model's tokenizer does not.
    #[error("the objective is not bound to a model; call `Objective::bind` first")]
    Unbound,
    /// A conversation cannot be written.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// Texts that make no tokenizer.
    #[error("cannot train a tokenizer: {0}")]
    Train(String),
    /// A tokenizer that can hide no tokens.
    #[error(
        "the tokenizer has no token `{}`, which masked language modelling needs",
        train::MASK
    )]
    NoMask,
    /// Too little text for a batch.
    #[error(
        "the texts fill {rows} rows of {len} tokens, less than a batch of {expected}; give more text, shorter rows or smaller batches"
    )]
    TooFewTexts {
        /// Rows that are filled.
        rows: usize,
        /// Tokens of a row.
        len: usize,
        /// Rows of a batch.
        expected: usize,
    },
    /// The tokenizer failed on ids.
    #[error("cannot make text of tokens: {0}")]
    Decode(String),
    /// The tokenizer failed on a text.
    #[error("cannot tokenize: {0}")]
    Encode(String),
}
