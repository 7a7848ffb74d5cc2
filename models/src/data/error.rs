use std::{fmt, io, path::PathBuf};

use thiserror::Error;

use crate::closed::brief;

/// A data file that cannot be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is empty or has a header only.
    #[error("{} holds no examples", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The header lacks a column the task needs.
    #[error("{}, line 1: the header has no column `{column}`; found columns: {}", path.display(), brief(found))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column's name.
        column: String,
        /// The header's columns.
        found: String,
    },
    /// A row has too few or too many columns.
    #[error("{}, line {line}: expected {expected} {separated} columns ({}), found {found}", path.display(), brief(names))]
    Columns {
        /// The file.
        path: PathBuf,
        /// Line number from 1.
        line: usize,
        /// What separates columns, such as `tab-separated`.
        separated: &'static str,
        /// Number of columns of the file.
        expected: usize,
        /// Names of the file's columns.
        names: String,
        /// Number of columns of this row.
        found: usize,
    },
    /// A cell holds something else than it should.
    #[error("{}, {place}, column `{column}`: expected {expected}, found {}", path.display(), brief(found))]
    Cell {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: Place,
        /// The column's or field's name.
        column: String,
        /// What the cell should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// The file ends too early, or what is compressed in it is damaged.
    #[error("{}, behind {place}: it breaks off or is damaged: {source}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The last that could be read.
        place: Place,
        /// The cause.
        source: io::Error,
    },
    /// A table's header has a name twice.
    #[error("{}, line 1: the header has the column `{column}` twice; give each a name of its own", path.display())]
    TwoColumns {
        /// The file.
        path: PathBuf,
        /// The name.
        column: String,
    },
    /// No format is known by a file's name.
    #[error("{}: expected a file called *.{}, or with .gz or .zst behind that; rename it or say its format", path.display(), known.join(", *."))]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// The endings that are known.
        known: Vec<&'static str>,
    },
    /// A folder has nothing to read.
    #[error("{} holds no data files; expected files called *.{}", path.display(), known.join(", *."))]
    NoFiles {
        /// The folder.
        path: PathBuf,
        /// The endings that are known.
        known: Vec<&'static str>,
    },
    /// Whoever reads has had enough. A format hands it on like any other error.
    #[error("reading was stopped")]
    Stopped,
    /// The file is not what its format says.
    #[error("{}: expected {expected}: {}", path.display(), brief(cause))]
    Form {
        /// The file.
        path: PathBuf,
        /// What it should be, and where it is something else.
        expected: String,
        /// What is wrong.
        cause: String,
    },
}

/// Where in a file a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Line number from 1.
    Line(usize),
    /// Number of an array's element, from 1.
    Record(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(n) => write!(f, "line {n}"),
            Place::Record(n) => write!(f, "record {n}"),
        }
    }
}

/// A cell's text for an error message: quoted, escaped and cut to a readable length.
pub(crate) fn quote(cell: &str) -> String {
    match cell.char_indices().nth(120) {
        _ if cell.is_empty() => "nothing".to_owned(),
        Some((end, _)) => format!("{:?}...", &cell[..end]),
        None => format!("{cell:?}"),
    }
}
