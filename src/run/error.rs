use std::{
    io,
    path::{Path, PathBuf},
};

use ailora_graph::adapter::AdapterError;
use ailora_models::{
    closed::Unused, dataset::DatasetError, generate, hub::HubError, model::ModelError,
    objective::ObjectiveError, peft::PeftError, pretrained::PretrainedError, task::TaskError,
    tokenizer::TokenizerError,
};
use ailora_runtime::{
    collective::CollectiveError,
    engine::EngineError,
    init::InitError,
    store::StoreError,
    train::{BestError, CheckpointError, FitError, TrainError},
};
use thiserror::Error;

use super::{OwnError, SettingsError};
use crate::output::OutputError;

/// A run that cannot start or go on.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is the error it wraps")]
pub enum Error {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Hub(Box<HubError>),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Pretrained(#[from] PretrainedError),
    #[error(transparent)]
    Unused(#[from] Unused),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Task(#[from] TaskError),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    Generation(#[from] generate::SettingsError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    #[error(transparent)]
    Own(#[from] OwnError),
    #[error(transparent)]
    Ranks(#[from] CollectiveError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Best(#[from] BestError),
    #[error(transparent)]
    Peft(#[from] PeftError),
    /// An adapter does not fit a base that it was not trained on.
    #[error("{fault}; besides, {base}")]
    OtherBase { fault: Box<Self>, base: PeftError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    /// Prompts that leave no room for what is to be learned.
    #[error(
        "nothing is left to learn or to predict of any of {rows} rows: what comes before the answer, such as a \
         template with the row's instruction and input, fills --max-length, {limit} tokens, or there is no answer; \
         raise it (this model allows up to {longest}), or give rows with answers"
    )]
    NoAnswers {
        /// Training rows.
        rows: usize,
        /// The longest sequence, in tokens.
        limit: usize,
        /// The longest that the model has positions for.
        longest: usize,
    },
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A run is to go on with other settings or files.
    #[error(
        "{folder} holds a run that cannot go on like this: {}; go on with what it was started with \
         (settings that are not given are taken from its run.json), or choose another folder for a \
         new run", changes.join("; "), folder = folder.display()
    )]
    Changed {
        folder: PathBuf,
        changes: Vec<String>,
    },
    /// A run is to go on that has no whole checkpoint.
    #[error(
        "{0}; and there is no whole one before it: start anew with --force, or in another folder"
    )]
    Damaged(#[source] CheckpointError),
    /// The best evaluation's parameters are to be left, and are gone.
    #[error(
        "`keep` is best, and {0}, the best so far, was made with another `keep` or `headline`, so that its \
         adapter is gone; go on with those, or with --keep last"
    )]
    NotKept(String),
    /// A run is to go on to an end that lies behind it.
    #[error(
        "`epochs` is {epochs}, and {done} steps were made already, more than {epochs} epochs have; \
         give at least as many epochs as before"
    )]
    Behind { epochs: usize, done: u64 },
}

impl From<HubError> for Error {
    fn from(error: HubError) -> Self {
        Self::Hub(Box::new(error))
    }
}

impl Error {
    /// What does not fit, and the base that it does not fit, if that is another one.
    pub(crate) fn on<T>(fault: impl Into<Self>, based: Result<T, PeftError>) -> Self {
        let fault = fault.into();
        match based {
            Ok(_) => fault,
            Err(base) => Self::OtherBase {
                fault: Box::new(fault),
                base,
            },
        }
    }

    /// The error of a loop over a workload, which a run watched.
    pub(super) fn of_fit<W>(error: FitError<W, Self>) -> Self
    where
        W: std::error::Error + Into<Self> + 'static,
    {
        match error {
            FitError::Train(error) => error.into(),
            FitError::Checkpoint(error) => error.into(),
            FitError::Workload(error) => error.into(),
            FitError::Best(error) => error.into(),
            FitError::Watcher(error) => error,
        }
    }

    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }
}
