//! Text generation with a causal language model or an encoder-decoder: token by token, over the keys
//! and values of those before.
//!
//! A [`Generator`] compiles the model's steps; a [`Session`] is one run of them over a batch of prompts,
//! whose keys and values stay where the engine computes; [`search()`] chooses the tokens. A search knows a
//! model as [`Decode`] only: a step for rows that go on from earlier ones, which gives the likeliest tokens
//! and, where these do not decide it, all logits.
//! [`Settings`] are what a model's folder says of all this. A [`Writer`] puts them together: it reads
//! prompts and gives texts.

mod beams;
mod cache;
mod candidates;
mod error;
mod fields;
mod rules;
mod search;
mod session;
mod settings;
mod stream;
mod writer;

pub(crate) use cache::kept;
pub use cache::{Cache, Places, Step};
pub use error::GenerateError;
pub use fields::TABLE;
pub use rules::Rules;
pub use search::{Decode, Next, Options, Strategy, search};
pub use session::{Generator, Session};
pub use settings::{MOST_BEAMS, Settings, SettingsError};
pub use stream::{Stops, TextStream};
pub use writer::{NEW_TOKENS, WriteError, WriteOptions, Writer};
