//! What is built into this crate: a small pretrained encoder, and a task's data.
//!
//! Both are folders like any others, so that everything that reads folders reads them. They are
//! written to the user's cache when they are first asked for.

use std::path::PathBuf;

use ailora_runtime::store::{StoreError, write_atomically};
use sha2::{Digest, Sha256};

/// What the model is called where a folder or an id of the hub is expected.
pub const MODEL: &str = "embedded";

type Files = &'static [(&'static str, &'static [u8])];

macro_rules! files {
    ($folder:literal, $($name:literal),*) => {
        &[$(($name, include_bytes!(concat!("../data/", $folder, "/", $name)))),*]
    };
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
/// It cannot be written.
pub fn model() -> Result<PathBuf, StoreError> {
    written(MODEL, MODEL_FILES)
}

/// The folder of a task's data, if they are built in.
///
/// # Errors
/// It cannot be written.
pub fn data(task: &str) -> Result<Option<PathBuf>, StoreError> {
    match task {
        "svamp" => written("svamp", SVAMP_FILES).map(Some),
        _ => Ok(None),
    }
}

/// Where is kept what takes long to compute or to fetch: `AILORA_CACHE`, or the user's cache folder.
pub fn cache_folder() -> Option<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("AILORA_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("ailora")))
        .or_else(|| Some(variable("HOME")?.join(".cache/ailora")))
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
    let temporary = std::env::temp_dir().join("ailora").join(&place);
    let Some(cache) = cache_folder() else {
        return fill(temporary, files);
    };
    fill(cache.join(place), files).or_else(|_| fill(temporary, files))
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
