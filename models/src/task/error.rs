use std::path::PathBuf;

use thiserror::Error;

use crate::{closed::brief, data::DataError, fields::FieldError};

/// Why a task or its data could not be had.
#[derive(Debug, Error)]
pub enum TaskError {
    /// No task has this name.
    #[error("unknown task `{name}`; known tasks: {known}{suggestion}")]
    UnknownTask {
        /// The name asked for.
        name: String,
        /// All names.
        known: String,
        /// The nearest name as a question, or nothing.
        suggestion: String,
    },
    /// A description that is no task.
    #[error("not the description of a task: {}", brief(.0))]
    Description(String),
    /// The data folder lacks a split's file.
    #[error("{} has no file {file}, which holds the {split} split of task {task}", dir.display())]
    MissingFile {
        /// The data folder.
        dir: PathBuf,
        /// The task's name.
        task: String,
        /// The split's name.
        split: String,
        /// The file's name.
        file: String,
    },
    /// How texts are written, which is nothing that this model can.
    #[error("task {task}, `generation`: {source}")]
    Generation {
        /// The task's name.
        task: String,
        /// What is wrong.
        source: FieldError,
    },
    /// The data folder has none of the files that a task is evaluated on.
    #[error("{} has none of the files that task {task} is evaluated on: {files}", dir.display())]
    NoTests {
        /// The data folder.
        dir: PathBuf,
        /// The task's name.
        task: String,
        /// The files.
        files: String,
    },
    /// A folder has several files of one test set.
    #[error(
        "{} has several files of the test set {split} of task {task}: {files}; leave one there, or give the file \
         that is meant",
        dir.display()
    )]
    SeveralTests {
        /// The data folder.
        dir: PathBuf,
        /// The task's name.
        task: String,
        /// The test set's name.
        split: String,
        /// The files.
        files: String,
    },
    /// A file cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// A model whose labels are not those of the task.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`id2label` of the model's config.json has the labels {found}; those of task {task} are \
     {expected}; give a model with these, or correct `id2label` if it has them by other names"
)]
pub struct OtherLabels {
    /// The task.
    pub task: String,
    /// Its labels.
    pub expected: String,
    /// The model's.
    pub found: String,
}
