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
//! Data take the other way: a [`Task`](task::Task) reads files, a [`Tokenizer`](tokenizer::Tokenizer)
//! and [`batch`] make padded batches of them, [`metrics`] score the logits.
//!
//! # Adding a family
//!
//! What is particular to a `model_type` of Hugging Face is one file in [`family`] and a line in
//! [`FAMILIES`](family::FAMILIES). The file has:
//!
//! - the fields of `config.json` it needs, a struct that serde reads and that is checked there;
//! - the modules, structs of layers whose field names are the parameter names of Hugging Face
//!   (`#[module(name = "...")]` where a field cannot have that name), annotated with what is adapted
//!   and, for a new head, `full`;
//! - for each head that the family has, a [`Network`](family::Network) of two parts: hidden states
//!   of the inputs, logits of those;
//! - an [`Architecture`](family::Architecture) that builds the network of a head, says how long a
//!   sequence may be, and makes the inputs from a [`Batch`](batch::Batch).
//!
//! Nothing else asks what family a model is of: weights are matched to parameters by name, what the
//! hidden states need must be in the files, and what only the head needs may be initialised.

pub mod batch;
pub mod classification;
pub mod config;
pub mod family;
pub mod generate;
pub mod gguf;
pub mod head;
pub mod hub;
pub mod metrics;
pub mod model;
pub mod peft;
pub mod pretrained;
pub mod task;
pub mod tokenizer;
pub mod weights;
