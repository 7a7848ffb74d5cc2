use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
};

use ailora_graph::ir::DType;
use safetensors::{Dtype, SafeTensorError, View};
use thiserror::Error;

use super::{
    Array, Params,
    header::{Info, Safetensors},
    write_atomically,
};

/// A file of parameters that cannot be read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Not a whole safetensors file.
    #[error(
        "{path}: not a valid safetensors file ({found}); it may be truncated or of another format: \
         download or save it again", path = path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// Elements that are not floats where floats are needed.
    #[error(
        "{path}: tensor `{name}` has element type {found:?}; expected F32, F16, BF16 or F64",
        path = path.display()
    )]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its element type.
        found: Dtype,
    },
}

impl StoreError {
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }

    fn format(path: &Path) -> impl FnOnce(SafeTensorError) -> Self {
        let path = path.to_owned();
        move |error| Self::Format {
            path,
            found: error.to_string(),
        }
    }
}

/// The float tensors of a safetensors file, each in its own type and where it lies in the file, which is
/// mapped; in the order of their names. And the file's metadata. Integer tensors, such as stored position
/// ids, are left out.
///
/// # Errors
/// The file cannot be read, is not a whole safetensors file, or has floats of an unknown kind.
pub fn load(path: &Path) -> Result<(Params, HashMap<String, String>), StoreError> {
    let file = Safetensors::open(path)?;
    let mut names: Vec<(&String, &Info)> = file.tensors().iter().collect();
    names.sort_unstable_by_key(|(name, _)| *name);
    let mut params = Params::new();
    for (name, info) in names {
        match (file.array(info), info.dtype) {
            (Some(array), _) => _ = params.insert(name.clone(), array),
            (
                None,
                Dtype::BOOL
                | Dtype::U8
                | Dtype::I8
                | Dtype::I16
                | Dtype::U16
                | Dtype::I32
                | Dtype::U32
                | Dtype::I64
                | Dtype::U64,
            ) => {}
            (None, found) => {
                return Err(StoreError::Dtype {
                    path: path.to_owned(),
                    name: name.clone(),
                    found,
                });
            }
        }
    }
    Ok((params, file.metadata().clone()))
}

/// A tensor to be written.
struct Row<'a> {
    array: &'a Array,
    /// The type of elements that it has in the file: F32 or F16.
    dtype: DType,
}

impl View for Row<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            DType::F16 => Dtype::F16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.array.dtype() == self.dtype {
            return self.array.bytes();
        }
        let mut bytes = vec![0; self.data_len()];
        self.dtype.encode(&self.array.floats(), &mut bytes);
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.dtype.bytes() * self.array.len()
    }
}

/// Writes tensors as float32 to a safetensors file, whole or not at all.
///
/// # Errors
/// The folder cannot be written, or the disk is full; a file that was there stays as it was.
pub fn save(
    path: &Path,
    params: &Params,
    metadata: HashMap<String, String>,
) -> Result<(), StoreError> {
    write(path, params, metadata, DType::F32)
}

/// Writes tensors rounded to float16, as [`save`].
///
/// # Errors
/// As [`save`].
pub fn save_half(
    path: &Path,
    params: &Params,
    metadata: HashMap<String, String>,
) -> Result<(), StoreError> {
    write(path, params, metadata, DType::F16)
}

fn write(
    path: &Path,
    params: &Params,
    metadata: HashMap<String, String>,
    dtype: DType,
) -> Result<(), StoreError> {
    let rows = params.iter();
    let rows = rows.map(|(name, array)| (name.as_str(), Row { array, dtype }));
    let bytes = safetensors::serialize(rows, Some(metadata)).map_err(StoreError::format(path))?;
    write_atomically(path, &bytes)
}
