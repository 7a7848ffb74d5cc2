use std::path::PathBuf;

use thiserror::Error;

use crate::closed::{brief, json::JsonError};

/// Why a conversation cannot be written in a template.
#[derive(Debug, Error)]
pub enum ChatError {
    /// Neither the model nor the user has a template.
    #[error(
        "the model has no chat template; give a Jinja file or `chatml` as `--chat-template`, or as the option \
         `template` of the objective `chat`"
    )]
    NoTemplate,
    /// The template writes the current date, and nobody says which.
    #[error("the chat template writes the current date; give the `date` of the run as YYYY-MM-DD")]
    NoDate,
    /// A template is not Jinja.
    #[error("the chat template of {origin} cannot be read: {}", brief(cause))]
    Syntax {
        /// Where it is from.
        origin: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A file has no template.
    #[error("{}: expected {expected}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: String,
    },
    /// A file cannot be read as JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The model has several templates, and none for this use.
    #[error("{origin} has the chat templates {}, and none named `default`; name one of them", names.join(", "))]
    Ambiguous {
        /// Where they are from.
        origin: String,
        /// Their names.
        names: Vec<String>,
    },
    /// The template refuses the conversation.
    #[error(
        "{place}: the chat template refuses the conversation: {}",
        brief(message)
    )]
    Raised {
        /// Where the conversation is.
        place: String,
        /// What the template says.
        message: String,
    },
    /// The template fails on the conversation.
    #[error(
        "{place}: the chat template fails on the conversation: {}",
        brief(message)
    )]
    Render {
        /// Where the conversation is.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// It cannot be said which part of the text an answer is.
    #[error(
        "{place}, message {message}: {why}, so it is not known which tokens are the answer; mark them \
         in a template of your own with `{{% generation %}}`, or learn all tokens (\"learn\": \"all\")"
    )]
    Answer {
        /// Where the conversation is.
        place: String,
        /// The message, from 1.
        message: usize,
        /// What the template does.
        why: &'static str,
    },
    /// The template writes nothing of what the conversation has.
    #[error(
        "{place}: the chat template writes nothing of the {what} `{name}`, which would be lost; give a template \
         that does, or leave {what}s out"
    )]
    Lost {
        /// Where the conversation is.
        place: String,
        /// What is lost.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// No date.
    #[error("`{found}` is not a date; expected YYYY-MM-DD")]
    Date {
        /// What was given.
        found: String,
    },
}
