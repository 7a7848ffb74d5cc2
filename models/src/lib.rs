//! Pretrained models, their tokenizers, and the tasks they are fine-tuned for.
//!
//! From a name to a program:
//!
//! 1. [`hub::resolve`] finds a model's folder: given as such, in Hugging Face's cache, or downloaded.
//! 2. [`Pretrained::open`](pretrained::Pretrained::open) reads its [`Config`](config::Config) and
//!    the weights for it with a [`Head`](head::Head), and reports what was used.
//! 3. [`Model`](model::Model) is the configuration with that head: a program for any batch and
//!    length, the projections that carry adapters, and a batch's inputs by name.
//!
//! Data take the other way: a [`Task`](task::Task) reads files by a [`Format`](data::Format) as
//! examples, its [`Objective`](objective::Objective) makes rows and targets of them with a
//! [`Tokenizer`](tokenizer::Tokenizer), [`batch`] pads these, and [`Supervised`](supervised::Supervised)
//! trains on them and scores what is held out with [`metrics`]. A tokenizer that has no
//! `tokenizer.json` is made one of its other files, a function each in `tokenizer/convert.rs`.
//!
//! Nothing but [`family`] asks what family a model is of: weights are matched to parameters by name,
//! what the hidden states need must be in the files, and what only the head needs may be
//! initialised. How to add a family is in `docs/add-a-family.md`.

pub mod batch;
pub mod cache;
pub mod choice;
pub mod closed;
pub mod config;
pub mod data;
pub mod embedded;
pub mod family;
pub mod fields;
pub mod generate;
pub mod gguf;
pub mod head;
pub mod hub;
pub mod lengths;
pub mod metrics;
pub mod model;
pub mod objective;
pub mod peft;
pub mod pickle;
pub mod pretrained;
pub mod supervised;
pub mod task;
pub mod tokenizer;
pub mod weights;
