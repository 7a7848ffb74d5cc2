use std::path::PathBuf;

use thiserror::Error;

use crate::{chat::ChatError, data::DataError, task::TaskError};

/// Why data of one's own are not understood.
#[derive(Debug, Error)]
pub enum DatasetError {
    /// No training files are given.
    #[error("no files to train on; give some with --train")]
    NoFiles,
    /// A file cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// What is understood or asked for is no task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// What is learned is to be another than was.
    #[error(
        "task {0} says what is predicted; several --label, and --objective with another name, are for data of \
         which no task and no adapter says it: leave them out"
    )]
    Trained(String),
    /// A flag that what is learned has no use for.
    #[error(
        "--{flag} is for {what}, and {objective} is learned of these files; leave it out, or pass --objective"
    )]
    NoUse {
        /// The flag.
        flag: &'static str,
        /// What it is for.
        what: &'static str,
        /// What is learned.
        objective: String,
    },
    /// A chat template that cannot be used.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// A column that is asked for is not there.
    #[error("--{flag}: there is no column `{column}`; there are {found}{suggestion}")]
    NoColumn {
        /// The flag that names it.
        flag: &'static str,
        /// The name.
        column: String,
        /// The columns that there are.
        found: String,
        /// The nearest name as a question, or nothing.
        suggestion: String,
    },
    /// Which column is what cannot be told.
    #[error("{}: which column {what} cannot be told from their names ({found}); say so with --{flag} COLUMN{}", path.display(), match *flag {
        "label" => ", or pass --objective: text if there is none, seq2seq or causal if it is a text to write",
        _ => "",
    })]
    Unclear {
        /// The first file.
        path: PathBuf,
        /// What the column would be.
        what: &'static str,
        /// The columns that there are.
        found: String,
        /// The flag that names it.
        flag: &'static str,
    },
    /// A label's column holds what cannot be learned.
    #[error("{}, column `{column}`: expected {expected}, found {found}", path.display())]
    Label {
        /// The first file.
        path: PathBuf,
        /// The column's name.
        column: String,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// The share of rows to hold out is none.
    #[error(
        "the share of rows to hold out is {0}; expected a number above 0 and below 1, or 0 for none"
    )]
    Share(f64),
    /// So few rows are no two parts.
    #[error("{} has {rows} rows, too few to hold some out; give --valid, or --hold-out 0 for none", path.display())]
    FewRows {
        /// The first file.
        path: PathBuf,
        /// Its rows.
        rows: usize,
    },
}

impl DatasetError {
    /// That a second text is named where one is read.
    pub(super) fn no_pair(objective: &str) -> Self {
        Self::NoUse {
            flag: "pair",
            what: "pairs of texts, and for questions about texts",
            objective: objective.to_owned(),
        }
    }
}
