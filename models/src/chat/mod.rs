//! Chats: conversations as data files have them, the templates in which models write them, and
//! which part of the text is the model's.
//!
//! A [`Conversation`] is read of a record's values, whatever its form. A [`ChatTemplate`] is the
//! model's own, or one that the user gives. [`Compiled::write`] makes of both the text, byte for byte as
//! transformers does, and the places of the answers in it; [`Markup`](crate::tokenizer::Markup)
//! makes tokens of that.

mod clock;
mod conversation;
mod error;
pub(crate) mod files;
mod json;
mod marks;
mod methods;
mod python;
mod source;
mod spans;
mod template;

pub use clock::Date;
pub(crate) use conversation::message;
pub use conversation::{Conversation, Message, messages, tools};
pub use error::ChatError;
pub use marks::Written;
pub(crate) use marks::control_at;
pub use spans::{Controls, Learn};
pub use template::{BUILT_IN, ChatTemplate, Compiled};
