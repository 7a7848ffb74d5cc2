//! Data files: how one becomes records, and what of a record is text for a model.
//!
//! A format is one file, which reads bytes as [`Record`]s. Adding one takes that file and a line in
//! [`FORMATS`]; `docs/add-a-format.md` follows one from the start.

mod auto;
mod csv;
mod error;
mod example;
mod files;
mod json;
mod jsonl;
mod parquet;
mod plain;
mod record;
mod source;
pub mod squad;
mod story;
mod template;
mod tsv;

pub use auto::{Auto, ENDINGS};
pub use csv::Csv;
pub use error::{DataError, Place};
pub use example::Example;
pub use files::files;
pub use json::Json;
pub use jsonl::JsonLines;
pub use parquet::Parquet;
pub use plain::Plain;
pub use record::Record;
pub use source::{Lines, Source, without_end};
pub use squad::Squad;
pub use story::Story;
pub use template::{Template, Text};
pub use tsv::Tsv;

pub(crate) use error::quote;
pub(crate) use record::is_of;

use std::{fmt::Debug, path::Path, sync::Arc};

use crate::choice::{Kind, options};

/// Every format, by the name that a task's description has.
pub static FORMATS: &[Kind<dyn Format>] = &[
    Kind {
        name: "auto",
        about: "whichever of the others the file's name says",
        make: |value| Ok(Arc::new(options::<Auto>(value)?)),
    },
    Kind {
        name: "tsv",
        about: "tab-separated values as GLUE writes them: quotes are ordinary characters",
        make: |value| Ok(Arc::new(options::<Tsv>(value)?)),
    },
    Kind {
        name: "csv",
        about: "comma-separated values with quotes (RFC 4180)",
        make: |value| Ok(Arc::new(options::<Csv>(value)?)),
    },
    Kind {
        name: "json",
        about: "one JSON array of objects",
        make: |value| Ok(Arc::new(options::<Json>(value)?)),
    },
    Kind {
        name: "jsonl",
        about: "a JSON object a line",
        make: |value| Ok(Arc::new(options::<JsonLines>(value)?)),
    },
    Kind {
        name: "parquet",
        about: "Apache Parquet",
        make: |value| Ok(Arc::new(options::<Parquet>(value)?)),
    },
    Kind {
        name: "text",
        about: "running text, a document a line",
        make: |value| Ok(Arc::new(options::<Plain>(value)?)),
    },
    Kind {
        name: "squad",
        about: "questions about paragraphs, in SQuAD's own JSON",
        make: |value| Ok(Arc::new(options::<Squad>(value)?)),
    },
    Kind {
        name: "story",
        about: "a news story with its highlights, as CNN and Daily Mail's are published",
        make: |value| Ok(Arc::new(options::<Story>(value)?)),
    },
];

/// How a file becomes records.
pub trait Format: Debug + Send + Sync {
    /// Hands every record of a file to `sink`, in their order, as they are read. Nothing is skipped:
    /// a record that cannot be read is [`malformed`](Sink::malformed), by an error that names its
    /// place.
    ///
    /// # Errors
    /// Those of `sink`, and a file that cannot be read on.
    fn read(&self, source: &mut Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError>;
}

/// What takes the records of a file.
pub trait Sink {
    /// The names of a table's columns, before its first row. Formats whose records name their own
    /// fields do not call it.
    ///
    /// # Errors
    /// A column is missing.
    fn columns(&mut self, path: &Path, names: &[&str]) -> Result<(), DataError>;

    /// The next record.
    ///
    /// # Errors
    /// It cannot be used.
    fn record(&mut self, record: Record<'_>) -> Result<(), DataError>;

    /// A record that cannot be read, behind which the file goes on.
    ///
    /// # Errors
    /// The same one, unless such records are left out.
    fn malformed(&mut self, error: DataError) -> Result<(), DataError> {
        Err(error)
    }
}

/// Refuses a table whose header has a name twice.
///
/// # Errors
/// [`DataError::TwoColumns`].
pub fn unlike(path: &Path, names: &[&str]) -> Result<(), DataError> {
    match (1..names.len()).find(|&i| names[..i].contains(&names[i])) {
        None => Ok(()),
        Some(i) => Err(DataError::TwoColumns {
            path: path.to_owned(),
            column: names[i].to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
