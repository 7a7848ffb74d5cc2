//! Pretrained models, their tokenizers, and the tasks they are fine-tuned for.
//!
//! From a name to a program:
//!
//! 1. [`hub::resolve`] finds a model's folder: given as such, in Hugging Face's cache, or downloaded.
//! 2. [`Pretrained::open`](pretrained::Pretrained::open) reads its [`Config`](config::Config) and
//!    weights, and reports what was used.
//! 3. [`Classifier`](classifier::Classifier) is that model with a head: a program for any batch and
//!    length, the projections that carry adapters, and a batch's inputs by name.
//!
//! Data take the other way: a [`Task`](task::Task) reads files, a [`Tokenizer`](tokenizer::Tokenizer)
//! and [`batch`] make padded batches of them, [`metrics`] score the logits. A tokenizer that has no
//! `tokenizer.json` is made one of its other files, a function each in `tokenizer/convert.rs`.
//!
//! # Adding a family
//!
//! What is particular to a `model_type` of Hugging Face is one file in [`family`] and a line in
//! [`FAMILIES`](family::FAMILIES). The file has:
//!
//! - the fields of `config.json` it needs, a struct that serde reads and that is checked there;
//! - the modules, structs of layers whose field names are the parameter names of Hugging Face
//!   (`#[module(name = "...")]` where a field cannot have that name), annotated with what is adapted
//!   and, for the head, `full`;
//! - an [`Architecture`](family::Architecture) that builds them, says how long a sequence may be,
//!   and makes their inputs from a [`Batch`](batch::Batch); also those that depend on its length
//!   alone, such as which relative position each pair of tokens has;
//! - a [`Network`](family::Network) of two parts: hidden states of the inputs, logits of those.
//!
//! Nothing else asks what family a model is of: weights are matched to parameters by name, what the
//! hidden states need must be in the files, and what only the head needs may be initialised.

pub mod batch;
pub mod classification;
pub mod classifier;
pub mod config;
pub mod family;
pub mod hub;
pub mod metrics;
pub mod peft;
pub mod pretrained;
pub mod task;
pub mod tokenizer;
pub mod weights;
