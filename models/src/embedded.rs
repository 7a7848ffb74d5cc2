//! What the feature `embedded` builds into this crate: a small pretrained encoder, and a task's data.
//!
//! Both are folders like any others, so that everything that reads folders reads them. They are
//! written to the user's cache when they are first asked for.

use std::{io, path::PathBuf};

use ailora_runtime::store::{StoreError, write_atomically};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::cache;

/// What the model is called where a folder or an id of the hub is expected.
pub const MODEL: &str = "embedded";

type Files = &'static [(&'static str, &'static [u8])];

#[cfg(feature = "embedded")]
macro_rules! files {
    ($folder:literal, $($name:literal),*) => {
        &[$(($name, include_bytes!(concat!("../data/", $folder, "/", $name)))),*]
    };
}

/// Without the feature `embedded` nothing is built in.
#[cfg(not(feature = "embedded"))]
macro_rules! files {
    ($($text:literal),*) => {
        &[]
    };
}

/// What is built in cannot be had.
#[derive(Debug, Error)]
pub enum EmbeddedError {
    /// The library was built without it.
    #[error(
        "this build has no embedded model: give a model's folder or its id on the hub, or build with \
         the feature `embedded`"
    )]
    Absent,
    /// It cannot be written to a folder.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A RoBERTa encoder; how it was made, is in its `README.md`.
const MODEL_FILES: Files = files!(
    "embedded",
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json"
);
/// SVAMP (Patel et al., 2021) as published, with its licence.
const SVAMP_FILES: Files = files!("svamp", "SVAMP.json", "LICENSE");

/// The folder of the model.
///
/// # Errors
/// The library was built without it, or it cannot be written.
pub fn model() -> Result<PathBuf, EmbeddedError> {
    if MODEL_FILES.is_empty() {
        return Err(EmbeddedError::Absent);
    }
    Ok(written(MODEL, MODEL_FILES)?)
}

/// The folder of a task's data, if they are built in.
///
/// # Errors
/// It cannot be written.
pub fn data(task: &str) -> Result<Option<PathBuf>, StoreError> {
    match task {
        "svamp" if !SVAMP_FILES.is_empty() => written("svamp", SVAMP_FILES).map(Some),
        _ => Ok(None),
    }
}

/// A folder with these files, in the cache or, where that cannot be written, among temporary files.
fn written(name: &str, files: Files) -> Result<PathBuf, StoreError> {
    let mut hash = Sha256::new();
    files.iter().for_each(|(_, bytes)| hash.update(bytes));
    let hash: String = hash.finalize()[..6]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let place = format!("{name}-{hash}");
    if let Some(cache) = cache::folder()
        && let Ok(folder) = fill(cache.join(&place), files)
    {
        return Ok(folder);
    }
    // There everybody can make folders, and links to folders.
    let temporary = std::env::temp_dir().join("ailora");
    if temporary.is_symlink() {
        return Err(StoreError::Io {
            path: temporary,
            action: "use it as a cache",
            source: io::Error::other("it is a link; set AILORA_CACHE to a folder of your own"),
        });
    }
    cache::private(&temporary)?;
    fill(temporary.join(place), files)
}

fn fill(folder: PathBuf, files: Files) -> Result<PathBuf, StoreError> {
    for (name, bytes) in files {
        let path = folder.join(name);
        if std::fs::read(&path).ok().as_deref() != Some(*bytes) {
            write_atomically(&path, bytes)?;
        }
    }
    Ok(folder)
}
