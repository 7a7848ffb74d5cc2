//! Data files: how one becomes records, and what of a record is text for a model.
//!
//! A format is one file, which reads bytes as [`Record`]s. Adding one takes that file and a line in
//! [`FORMATS`]; `docs/add-a-format.md` follows one from the start.

mod csv;
mod error;
mod example;
mod json;
mod jsonl;
mod record;
mod template;
mod tsv;

pub use csv::Csv;
pub use error::{DataError, Place};
pub use example::Example;
pub use json::Json;
pub use jsonl::JsonLines;
pub use record::Record;
pub use template::{Template, Text};
pub use tsv::Tsv;

pub(crate) use error::quote;

use std::{fmt::Debug, path::Path, sync::Arc};

use crate::choice::{Kind, options};

/// Every format, by the name that a task's description has.
pub static FORMATS: &[Kind<dyn Format>] = &[
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
];

/// How a file becomes records.
pub trait Format: Debug + Send + Sync {
    /// What a record is made of, as notes to the user say it.
    fn parts(&self) -> &'static str {
        "fields"
    }

    /// Hands every record of a file to `sink`, in their order. Nothing is skipped: what cannot be
    /// read is an error that names its place.
    ///
    /// # Errors
    /// The first record that is malformed, or that `sink` refuses.
    fn read(&self, source: &Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError>;
}

/// A file that is read.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its path, for errors.
    pub path: &'a Path,
    /// Its bytes, without a byte-order mark.
    pub bytes: &'a [u8],
    /// The columns that are read of it, that of the text first.
    pub columns: &'a [&'a str],
}

impl<'a> Source<'a> {
    /// A file's bytes, of which these columns are read. A byte-order mark is left out.
    pub fn new(path: &'a Path, bytes: &'a [u8], columns: &'a [&'a str]) -> Self {
        Self {
            path,
            bytes: bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes),
            columns,
        }
    }

    /// Whether a column is read; a table may leave others out of its records.
    pub fn reads(&self, column: &str) -> bool {
        self.columns.contains(&column)
    }
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
}

#[cfg(test)]
mod tests;
