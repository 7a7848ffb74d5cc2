//! Text generation with a causal language model or an encoder-decoder: token by token, over the keys
//! and values of those before.
//!
//! A [`Generator`] compiles the model's step for a number of rows, tokens and cached tokens; a
//! [`Session`] is one run of it over a batch of prompts; [`search()`] chooses the tokens. A search
//! knows a model as [`Decode`] only: a step that gives logits, and rows that can be reordered.
//! [`Settings`] are what a model's folder says of all this. A [`Writer`] puts them together: it reads
//! prompts and gives texts.

mod cache;
mod rules;
mod search;
mod session;
mod settings;
mod stream;
mod writer;

pub use cache::{Cache, Step};
pub(crate) use cache::{entry, memory};
pub use rules::Rules;
pub use search::{Decode, Options, Strategy, search};
pub use session::{GenerateError, Generator, Session};
pub use settings::{MOST_BEAMS, Settings, SettingsError, TABLE};
pub use stream::{Stops, TextStream};
pub use writer::{NEW_TOKENS, WriteError, WriteOptions, Writer};
