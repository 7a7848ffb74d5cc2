use std::{collections::HashMap, path::Path};

use thiserror::Error;

use super::Progress;
use crate::store::{self, Params, StoreError};

/// A checkpoint that cannot be used.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is of another run.
    #[error(
        "{path}: this checkpoint is of a run with other settings ({found}, expected {expected}); \
         resume with the settings it was started with, or choose another output folder"
    )]
    OtherRun {
        /// The file.
        path: String,
        /// The run's fingerprint.
        expected: String,
        /// The file's.
        found: String,
    },
    /// It is not a checkpoint of this program.
    #[error("{path}: not a checkpoint of ailora: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// A parameter is missing.
    #[error("the checkpoint has no tensor `{name}` of the model's size; it is of another model")]
    Tensor {
        /// The tensor.
        name: String,
    },
}

/// The state of a trainer between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Parameters, moments, and the parameters that were kept.
    pub tensors: Params,
    /// Updates made.
    pub step: u64,
    /// Forward passes made, which fix the next draws.
    pub draws: u64,
}

impl Checkpoint {
    /// Writes the state and the loop's progress as one safetensors file, whole or not at all.
    /// `fingerprint` stands for everything that fixes the run.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(
        &self,
        path: &Path,
        fingerprint: &str,
        progress: &Progress,
    ) -> Result<(), CheckpointError> {
        let progress = serde_json::to_string(progress).map_err(|error| malformed(path, error))?;
        let metadata = HashMap::from([
            ("step".into(), self.step.to_string()),
            ("draws".into(), self.draws.to_string()),
            ("fingerprint".into(), fingerprint.into()),
            ("progress".into(), progress),
        ]);
        Ok(store::save(path, &self.tensors, metadata)?)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// The file cannot be read, is no checkpoint, or is of another run.
    pub fn load(path: &Path, fingerprint: &str) -> Result<(Self, Progress), CheckpointError> {
        let (tensors, metadata) = store::load(path)?;
        let field = |name: &str| {
            metadata
                .get(name)
                .ok_or_else(|| malformed(path, format!("its metadata has no `{name}`")))
        };
        let number = |name: &str| -> Result<u64, CheckpointError> {
            field(name)?.parse().map_err(|error| malformed(path, error))
        };
        if field("fingerprint")? != fingerprint {
            return Err(CheckpointError::OtherRun {
                path: path.display().to_string(),
                expected: fingerprint.into(),
                found: field("fingerprint")?.clone(),
            });
        }
        let progress =
            serde_json::from_str(field("progress")?).map_err(|error| malformed(path, error))?;
        let checkpoint = Self {
            tensors,
            step: number("step")?,
            draws: number("draws")?,
        };
        Ok((checkpoint, progress))
    }
}

fn malformed(path: &Path, reason: impl std::fmt::Display) -> CheckpointError {
    CheckpointError::Malformed {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}
