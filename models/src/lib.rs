//! Pretrained models, their tokenizers, and the tasks they are fine-tuned for.
//!
//! From a name to a program:
//!
//! 1. [`hub::resolve`] finds a model's folder: the given one, one in Hugging Face's cache, or a download.
//! 2. [`Pretrained::open`](pretrained::Pretrained::open) reads its [`Config`](config::Config) and
//!    the weights of the model with a [`Head`](head::Head), and reports what was used.
//! 3. [`Model`](model::Model) is the configuration with that head: it makes a program for any batch size and
//!    length, lists the projections, and names a batch's inputs.
//!
//! From files to batches: a [`Task`](task::Task) reads files by a [`Format`](data::Format) as
//! examples, its [`Objective`](objective::Objective) makes rows and targets of them with a
//! [`Tokenizer`](tokenizer::Tokenizer), [`batch`] pads these, and [`Supervised`](supervised::Supervised)
//! trains on them and scores held-out rows with [`metrics`]. For a folder without `tokenizer.json` one is
//! made from its other files, by `tokenizer/convert.rs`.
//!
//! [`score`] has the scorers of texts and of answers, which know no model.
//!
//! [`chat`] has conversations, and the templates in which models write them.
//!
//! Only [`family`] depends on a model's family. Weights are matched to parameters by name: what the hidden
//! states need must be in the files, what only the head needs may be newly initialised.
//! `docs/add-a-family.md` describes how to add a family.

pub mod batch;
pub mod cache;
pub mod chat;
pub mod choice;
pub mod closed;
pub mod config;
pub mod data;
pub mod dataset;
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
pub mod score;
pub mod stream;
pub mod supervised;
pub mod task;
pub mod tokenizer;
pub mod weights;
