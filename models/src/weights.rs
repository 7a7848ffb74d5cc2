//! The files that hold a model's weights: one, or shards with an index, as safetensors or as
//! PyTorch's pickles.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use ailora_runtime::store::{self, Params, Safetensors, StoreError};
use indexmap::IndexMap;
use safetensors::Dtype;
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    closed::{
        Note,
        json::{self, JsonError},
        shortened,
    },
    gguf::{self, Gguf, GgufError},
    pickle::{self, PickleError},
};

/// The names of an only file and of an index of shards, in the order in which they are looked for.
pub(crate) const NAMES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Weights that cannot be found or read.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The folder has no weights.
    #[error("{} has no weights; expected one of {}, or one GGUF file", dir.display(), NAMES.join(", "))]
    None {
        /// The folder.
        dir: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The index of shards is not what it should be.
    #[error("{}: not an index of shards: {cause}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The index of shards is no JSON object, or too large.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Two files have a tensor of one name.
    #[error("tensor `{name}` is both in {} and in {}; remove one of them", first.display(), second.display())]
    Twice {
        /// The tensor.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A shard that the index names is not there.
    #[error("{} is missing, which the index names; download the folder again", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
    },
    /// A file is not a whole safetensors file of floats.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A GGUF file cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file of PyTorch that cannot be read as tensors.
    #[error("{}: {source}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: PickleError,
    },
}

impl WeightsError {
    fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }
}

/// The weight files of a model's folder, in the order of their names.
///
/// # Errors
/// There is none, the index cannot be used, or a shard is missing.
pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let found = NAMES.map(|name| dir.join(name));
    let found = match found.into_iter().find(|path| path.is_file()) {
        Some(found) => Some(found),
        None => gguf::find(dir)?,
    };
    let Some(found) = found else {
        return Err(WeightsError::None {
            dir: dir.to_owned(),
        });
    };
    if !is_index(&found) {
        return Ok(vec![found]);
    }
    let shards = shards(&found)?.into_iter().map(|name| dir.join(name));
    shards
        .map(|path| match path.is_file() {
            true => Ok(path),
            false => Err(WeightsError::Shard { path }),
        })
        .collect()
}

/// Whether a file of [`NAMES`] is an index.
pub(crate) fn is_index(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "json")
}

fn is_pickle(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bin")
}

/// The shards that an index names, in the order of their names.
///
/// # Errors
/// The file cannot be read, is no index, or names what is no file name.
pub(crate) fn shards(index: &Path) -> Result<BTreeSet<String>, WeightsError> {
    let object = json::object(index, json::LIMIT)?;
    let invalid = |cause: String| WeightsError::Index {
        path: index.to_owned(),
        cause,
    };
    let Some(Value::Object(map)) = object.get("weight_map") else {
        return Err(invalid("it has no `weight_map` of names and files".into()));
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_file_name(name));
        let Some(name) = name else {
            let found = shortened(file);
            return Err(invalid(format!(
                "`weight_map` says that `{tensor}` is in {found}, which is not the name of a file"
            )));
        };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
    }
    if names.is_empty() {
        return Err(invalid("its `weight_map` is empty".into()));
    }
    Ok(names)
}

/// Shards beside these files that no index names, which are not read.
pub(crate) fn unnamed(files: &[PathBuf]) -> Option<Note> {
    let first = files.first()?;
    let dir = first.parent()?;
    let is_shard = |path: &PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let ends = stem.and_then(|stem| stem.rsplit_once("-of-"));
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let count = |start: &str| start.rsplit('-').next().is_some_and(number);
        path.extension() == first.extension()
            && ends.is_some_and(|(start, end)| number(end) && count(start))
    };
    let entries = std::fs::read_dir(dir).ok()?.filter_map(Result::ok);
    let paths = entries.map(|entry| entry.path());
    let mut names: Vec<String> = paths
        .filter(|path| is_shard(path) && !files.contains(path))
        .filter_map(|path| Some(format!("`{}`", path.file_name()?.to_str()?)))
        .collect();
    names.sort();
    (!names.is_empty()).then(|| Note {
        path: dir.to_owned(),
        text: format!(
            "shards that no index names are not read: {}",
            names.join(", ")
        ),
    })
}

/// Whether a name is of a file in the folder where it is named.
pub(crate) fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let only = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(part)), None) if part == name
    );
    only && !name.contains(['\\', '\0'])
}

/// The float tensors of all files, by the names they have there and in the types they have there.
///
/// # Errors
/// A file is damaged, or a pickle that does more than hold tensors; two files have a tensor of one
/// name.
pub(crate) fn load(files: &[PathBuf]) -> Result<Params, WeightsError> {
    let mut params = Params::new();
    // Where the tensors of each file end.
    let mut ends = Vec::new();
    for path in files {
        let tensors = if gguf::is_gguf(path) {
            Gguf::open(path)?.tensors()?
        } else if is_pickle(path) {
            pickled(path)?.0
        } else {
            store::load(path)?.0
        };
        if params.is_empty() {
            params = tensors;
        } else {
            for (name, array) in tensors {
                if let Some(at) = params.get_index_of(&name) {
                    let file = ends.iter().position(|&end| at < end).unwrap_or(0);
                    return Err(WeightsError::Twice {
                        name,
                        first: files[file].clone(),
                        second: path.clone(),
                    });
                }
                params.insert(name, array);
            }
        }
        ends.push(params.len());
    }
    Ok(params)
}

fn pickled(path: &Path) -> Result<(Params, IndexMap<String, Dtype>), WeightsError> {
    pickle::load(path).map_err(|source| WeightsError::Pickle {
        path: path.to_owned(),
        source,
    })
}

/// The tensors that [`load`] leaves out because they hold integers, with their element types.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn integers(files: &[PathBuf]) -> Result<IndexMap<String, Dtype>, WeightsError> {
    let mut found = IndexMap::new();
    for path in files.iter().filter(|path| !gguf::is_gguf(path)) {
        if is_pickle(path) {
            found.extend(pickled(path)?.1);
            continue;
        }
        for (name, info) in Safetensors::open(path)?.tensors() {
            if store::float(info.dtype).is_none() {
                found.insert(name.clone(), info.dtype);
            }
        }
    }
    Ok(found)
}

/// The SHA-256, in hexadecimal, of the files one after the other.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn sha256(files: &[PathBuf]) -> Result<String, WeightsError> {
    const BLOCK: usize = 1 << 20;
    let mut digest = Sha256::new();
    let mut block = Vec::with_capacity(BLOCK);
    for path in files {
        let mut file = File::open(path).map_err(WeightsError::read(path))?;
        loop {
            block.clear();
            let part = file.by_ref().take(BLOCK as u64).read_to_end(&mut block);
            if part.map_err(WeightsError::read(path))? == 0 {
                break;
            }
            digest.update(&block);
        }
    }
    Ok(digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
