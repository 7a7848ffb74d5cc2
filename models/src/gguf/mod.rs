//! GGUF files of llama.cpp: configuration, weights and tokenizer of a model in one file.
//!
//! What a file holds is translated to what Hugging Face calls it. Quantised weights become float32; others stay
//! as they are, in the file, which is mapped.
//! Every key and tensor is applied, known to change nothing, or refused by name; a file is checked
//! whole when it is opened.

mod blocks;
mod config;
pub mod fields;
mod metadata;
mod rope;
mod tensors;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use ailora_runtime::store;
use serde_json::{Map, Value};
use thiserror::Error;

use self::metadata::{Entry, Head};
use crate::closed::{Note, Refused, Unknown};

/// A GGUF file that cannot be used.
#[derive(Debug, Error)]
pub enum GgufError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A folder has several files, of which any may be meant.
    #[error(
        "{} has several GGUF files: {}; give the path of one of them",
        dir.display(), names.join(", ")
    )]
    Several {
        /// The folder.
        dir: PathBuf,
        /// The files' names.
        names: Vec<String>,
    },
    /// The file is not a whole GGUF file, or of another version.
    #[error("{}: not a usable GGUF file: {cause}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A tensor is quantised in a way that is not supported.
    #[error(
        "{}: tensor `{name}` is quantised as {found}; expected one of {}",
        path.display(), blocks::KINDS.map(|kind| kind.name).join(", ")
    )]
    Quantisation {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// How it is quantised.
        found: String,
    },
    /// Metadata that are missing or not supported.
    #[error("{}: `{key}` is {found}; expected {expected}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A key that asks for something that is not done, or that nobody knows.
    #[error(transparent)]
    Key(#[from] Refused),
}

/// Elements of a list that is read: more than any vocabulary has.
const LONGEST: u64 = 1 << 22;

/// Whether a path is called a GGUF file.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The GGUF file that a model's path is, or that is the only one in its folder.
///
/// # Errors
/// The folder has several.
pub(crate) fn find(model: &Path) -> Result<Option<PathBuf>, GgufError> {
    if is_gguf(model) && !model.is_dir() {
        return Ok(Some(model.to_owned()));
    }
    let Ok(entries) = std::fs::read_dir(model) else {
        return Ok(None);
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = paths.filter(|path| is_gguf(path)).collect();
    paths.sort();
    match paths.len() {
        0 | 1 => Ok(paths.pop()),
        _ => Err(GgufError::Several {
            dir: model.to_owned(),
            names: paths
                .iter()
                .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
                .collect(),
        }),
    }
}

/// A GGUF file whose head was read, and found to be all right.
#[derive(Debug)]
pub(crate) struct Gguf {
    path: PathBuf,
    file: File,
    map: store::Map,
    head: Head,
    /// At what multiples of bytes tensors begin.
    alignment: u64,
    /// Where the tensors' data begin.
    data: u64,
    notes: Vec<Note>,
}

impl Gguf {
    /// Reads a file: its metadata, and where its tensors are.
    ///
    /// # Errors
    /// It cannot be read, is no whole GGUF file of version 2 or 3, or has keys or tensors that are
    /// not supported.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let read = |source| GgufError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        let head = Head::read(&file).map_err(|cause| GgufError::Format {
            path: path.to_owned(),
            cause,
        })?;
        let mut gguf = Self {
            path: path.to_owned(),
            map: store::Map::of(&file).map_err(read)?,
            file,
            head,
            alignment: 32,
            data: 0,
            notes: Vec::new(),
        };
        gguf.check_keys()?;
        const ALIGNMENT: &str = "general.alignment";
        if gguf.has(ALIGNMENT) {
            let found = gguf.get(ALIGNMENT).and_then(Value::as_u64);
            let fits = found.filter(|a| a.is_power_of_two() && *a <= 1 << 31);
            gguf.alignment = fits.ok_or_else(|| gguf.wrong(ALIGNMENT, "a power of two"))?;
        }
        gguf.data = gguf.head.len.next_multiple_of(gguf.alignment);
        gguf.check_tensors()?;
        Ok(gguf)
    }

    /// What of the file is not used.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Checks every key but the tokenizer's.
    fn check_keys(&mut self) -> Result<(), GgufError> {
        let architecture = format!("{}.", self.architecture()?);
        let mut unknown = Vec::new();
        for (key, value) in self.values("") {
            if key.starts_with("tokenizer.") {
                continue;
            }
            let (table, name) = match key.strip_prefix(&architecture) {
                Some(own) => (&fields::ARCHITECTURE, format!("{{arch}}.{own}")),
                None => (&fields::GENERAL, template(key)),
            };
            if table.unknown == Unknown::Noted && table.get(&name).is_none() {
                unknown.push(format!("`{key}`"));
                continue;
            }
            let field = Map::from_iter([(name, value)]);
            table.check(&self.path, &field).map_err(|refused| Refused {
                field: key.to_owned(),
                ..refused
            })?;
        }
        if !unknown.is_empty() {
            self.notes.push(Note {
                path: self.path.clone(),
                text: format!(
                    "keys that are not known are not used: {}",
                    unknown.join(", ")
                ),
            });
        }
        Ok(())
    }

    /// The error that the file contradicts itself.
    pub(crate) fn damaged(&self, cause: String) -> GgufError {
        GgufError::Format {
            path: self.path.clone(),
            cause,
        }
    }

    /// The error that the value of a key is not what is expected.
    pub(crate) fn wrong(&self, key: &str, expected: &str) -> GgufError {
        GgufError::Metadata {
            path: self.path.clone(),
            key: key.to_owned(),
            found: match self.head.metadata.get(key) {
                None => "missing".into(),
                Some(Entry::Value(value)) => crate::closed::shortened(value),
                Some(Entry::List(list)) => format!("a list of {}", list.len),
            },
            expected: expected.to_owned(),
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What keys that start like this have; lists, by how long they are.
    pub(crate) fn values(&self, prefix: &str) -> impl Iterator<Item = (&str, Value)> {
        let entries = self.head.metadata.iter();
        let own = entries.filter(move |(key, _)| key.starts_with(prefix));
        own.map(|(key, entry)| {
            let value = match entry {
                Entry::Value(value) => value.clone(),
                Entry::List(list) if list.len == 0 => Value::Null,
                Entry::List(list) => format!("a list of {}", list.len).into(),
            };
            (&**key, value)
        })
    }

    /// Whether a key is there.
    fn has(&self, key: &str) -> bool {
        self.head.metadata.contains_key(key)
    }

    /// The value of a key, if it is there and no list.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        match self.head.metadata.get(key)? {
            Entry::Value(value) => Some(value),
            Entry::List(_) => None,
        }
    }

    /// The elements of a list.
    ///
    /// # Errors
    /// There is no list of that key, or a damaged one.
    pub(crate) fn list(&self, key: &str) -> Result<Vec<Value>, GgufError> {
        match self.head.metadata.get(key) {
            Some(Entry::List(list)) if list.len > LONGEST => {
                Err(self.wrong(key, &format!("a list of at most {LONGEST}")))
            }
            Some(Entry::List(list)) => list
                .read(&self.file)
                .map_err(|cause| self.damaged(format!("key `{key}`: {cause}"))),
            _ => Err(self.wrong(key, "a list")),
        }
    }

    fn architecture(&self) -> Result<&str, GgufError> {
        const KEY: &str = "general.architecture";
        let known = ["llama", "qwen2"];
        let found = self.get(KEY).and_then(Value::as_str);
        found
            .filter(|name| known.contains(name))
            .ok_or_else(|| self.wrong(KEY, "llama or qwen2"))
    }
}

/// The name that tables have for a key: numbers within it are `{id}`.
fn template(key: &str) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts = key.split('.');
    let parts = parts.map(|part| if number(part) { "{id}" } else { part });
    parts.collect::<Vec<_>>().join(".")
}
