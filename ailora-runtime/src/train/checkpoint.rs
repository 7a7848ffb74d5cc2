use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use crc32c::crc32c_append;
use thiserror::Error;

use super::Progress;
use crate::store::{self, Params, StoreError};

/// The field of a checkpoint's metadata that has the checksum of everything else in it.
const CHECKSUM: &str = "crc32c";

/// A checkpoint that cannot be used.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its bytes are not those that were written.
    #[error("{path}: this checkpoint is damaged: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that is known.
        reason: String,
    },
    /// It is of another run.
    #[error(
        "{path}: this checkpoint is of another run than run.json beside it (fingerprint {found}, \
         expected {expected}); put back the run.json that it was written with, or start anew in \
         another output folder", path = path.display()
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// The run's fingerprint.
        expected: String,
        /// The file's.
        found: String,
    },
    /// The one before cannot be kept beside a new one.
    #[error("{path}: cannot keep it as the checkpoint before the next: {source}", path = path.display())]
    Keep {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A parameter is missing.
    #[error("the checkpoint has no tensor `{name}` of the model's size; it is of another model")]
    Tensor {
        /// The tensor.
        name: String,
    },
    /// A parameter that is not trained.
    #[error(
        "the checkpoint has a tensor `{name}` that is not trained here; it is of another model"
    )]
    Unknown {
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
    /// Where the checkpoint that was at `path` before the last one is kept.
    pub fn before(path: &Path) -> PathBuf {
        path.with_extension("previous.safetensors")
    }

    /// Writes the state and the loop's progress as one safetensors file with a checksum, whole or not
    /// at all, and keeps the checkpoint that was there [beside it](Self::before). `fingerprint` stands
    /// for everything that fixes the run.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(
        &self,
        path: &Path,
        fingerprint: &str,
        progress: &Progress,
    ) -> Result<(), CheckpointError> {
        let progress =
            serde_json::to_string(progress).map_err(|error| damaged(path, error.to_string()))?;
        let mut metadata = HashMap::from([
            ("step".into(), self.step.to_string()),
            ("draws".into(), self.draws.to_string()),
            ("fingerprint".into(), fingerprint.into()),
            ("progress".into(), progress),
        ]);
        let checksum = checksum(&self.tensors, &metadata);
        metadata.insert(CHECKSUM.into(), checksum);
        keep(path).map_err(|source| CheckpointError::Keep {
            path: path.to_owned(),
            source,
        })?;
        Ok(store::save(path, &self.tensors, metadata)?)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is of another run.
    pub fn load(path: &Path, fingerprint: &str) -> Result<(Self, Progress), CheckpointError> {
        let (tensors, mut metadata) = store::load(path).map_err(|error| match error {
            StoreError::Io { .. } => CheckpointError::Store(error),
            StoreError::Format { found, .. } => {
                damaged(path, format!("it is no whole safetensors file ({found})"))
            }
            other => damaged(path, other.to_string()),
        })?;
        let written = metadata.remove(CHECKSUM);
        let found = checksum(&tensors, &metadata);
        if written.as_ref() != Some(&found) {
            let written = written.unwrap_or_else(|| "missing".into());
            let reason = format!("its checksum is {written}, and that of what is in it {found}");
            return Err(damaged(path, reason));
        }
        let field = |name: &str| {
            let missing = || damaged(path, format!("its metadata lacks `{name}`"));
            metadata.get(name).ok_or_else(missing)
        };
        let number = |name: &str| -> Result<u64, CheckpointError> {
            let text = field(name)?;
            let bad = |_| damaged(path, format!("`{name}` of its metadata is {text:?}"));
            text.parse().map_err(bad)
        };
        let found = field("fingerprint")?;
        if found != fingerprint {
            return Err(CheckpointError::OtherRun {
                path: path.to_owned(),
                expected: fingerprint.into(),
                found: found.clone(),
            });
        }
        let progress = serde_json::from_str(field("progress")?)
            .map_err(|error| damaged(path, format!("`progress` of its metadata: {error}")))?;
        let checkpoint = Self {
            tensors,
            step: number("step")?,
            draws: number("draws")?,
        };
        Ok((checkpoint, progress))
    }
}

fn damaged(path: &Path, reason: String) -> CheckpointError {
    CheckpointError::Damaged {
        path: path.to_owned(),
        reason,
    }
}

/// Keeps the checkpoint at `path`, if there is one, under the name of the one before. A second link to
/// the file leaves no moment without a checkpoint at `path`; not every file system has that.
fn keep(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let before = Checkpoint::before(path);
    match fs::remove_file(&before) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::hard_link(path, &before).or_else(|_| fs::rename(path, &before)),
    }
}

/// The CRC-32C of tensors and metadata, in the order of their names.
fn checksum(tensors: &Params, metadata: &HashMap<String, String>) -> String {
    let mut sum = 0;
    // With its length before it, so that no two lists of parts are the same bytes.
    let mut add = |part: &[u8]| {
        sum = crc32c_append(sum, &(part.len() as u64).to_le_bytes());
        sum = crc32c_append(sum, part);
    };
    let mut fields: Vec<_> = metadata.iter().collect();
    fields.sort_unstable();
    for (name, value) in fields {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    let mut tensors: Vec<_> = tensors.iter().collect();
    tensors.sort_unstable_by_key(|(name, _)| *name);
    for (name, array) in tensors {
        add(name.as_bytes());
        array
            .shape()
            .iter()
            .for_each(|size| add(&(*size as u64).to_le_bytes()));
        add(bytemuck::cast_slice(&array.floats()));
    }
    format!("{sum:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Array;

    fn checkpoint(step: u64) -> Checkpoint {
        let array = |data: &[f32]| Array::new([data.len()], data.to_vec());
        let tensors = [
            ("param.w", array(&[0.5, -1.25, step as f32])),
            ("adam.first.w", array(&[0.0, 3.0, -0.0])),
        ];
        Checkpoint {
            tensors: tensors.map(|(name, array)| (name.to_owned(), array)).into(),
            step,
            draws: 2 * step,
        }
    }

    #[test]
    fn whatever_bit_is_another_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let progress = Progress {
            loss_sum: 1.5,
            targets: 3,
            ..Progress::default()
        };
        checkpoint(7).save(&path, "run", &progress).unwrap();
        let whole = fs::read(&path).unwrap();
        let (mut found, read) = Checkpoint::load(&path, "run").unwrap();
        found.tensors.sort_unstable_keys();
        let mut expected = checkpoint(7);
        expected.tensors.sort_unstable_keys();
        assert_eq!((found, &read), (expected.clone(), &progress));
        for i in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[i / 8] ^= 1 << (i % 8);
            fs::write(&path, bytes).unwrap();
            match Checkpoint::load(&path, "run") {
                Err(CheckpointError::Damaged { .. }) => {}
                // Blanks of the header.
                Ok((found, read)) => {
                    let same = found.step == 7 && found.draws == 14 && read == progress;
                    assert!(same && found.tensors == expected.tensors, "bit {i}");
                }
                Err(error) => panic!("bit {i}: {error}"),
            }
        }
        for kept in [0, 4, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..kept]).unwrap();
            let error = Checkpoint::load(&path, "run").unwrap_err().to_string();
            assert!(error.contains("damaged"), "{error}");
        }
    }

    #[test]
    fn the_one_before_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let progress = Progress::default();
        let step = |path: &Path| Checkpoint::load(path, "run").map(|(found, _)| found.step);
        for last in 1..4 {
            checkpoint(last).save(&path, "run", &progress).unwrap();
            assert_eq!(step(&path).unwrap(), last);
            let before = Checkpoint::before(&path);
            assert_eq!(step(&before).ok(), (last > 1).then(|| last - 1));
        }
        let error = Checkpoint::load(&path, "other").unwrap_err().to_string();
        assert!(error.contains("another run"), "{error}");
    }
}
