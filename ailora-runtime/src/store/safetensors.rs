use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
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

/// The float tensors of a safetensors file, converted to float32, in the order of their names, and
/// the file's metadata. Integer tensors, such as stored position ids, are left out.
///
/// # Errors
/// The file cannot be read, is not a whole safetensors file, or has floats of an unknown kind.
pub fn load(path: &Path) -> Result<(Params, HashMap<String, String>), StoreError> {
    let file = Safetensors::open(path)?;
    let mut names: Vec<(&String, &Info)> = file.tensors().iter().collect();
    names.sort_unstable_by_key(|(name, _)| *name);
    let mut params = Params::new();
    for (name, info) in names {
        let data = match info.dtype {
            Dtype::F32 if cfg!(target_endian = "little") => {
                let mut data = vec![0.0_f32; info.shape.iter().product()];
                file.read(info, bytemuck::cast_slice_mut(&mut data))?;
                data
            }
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64 => {
                decode(info.dtype, &file.bytes(info)?).unwrap_or_default()
            }
            Dtype::BOOL
            | Dtype::U8
            | Dtype::I8
            | Dtype::I16
            | Dtype::U16
            | Dtype::I32
            | Dtype::U32
            | Dtype::I64
            | Dtype::U64 => continue,
            found => {
                return Err(StoreError::Dtype {
                    path: path.to_owned(),
                    name: name.clone(),
                    found,
                });
            }
        };
        let shape = info.shape.clone();
        params.insert(name.clone(), Array::new(shape, data));
    }
    Ok((params, file.metadata().clone()))
}

/// Little-endian elements in float32; nothing if they are not F32, F16, BF16 or F64.
pub fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => elements(bytes, f32::from_le_bytes),
        Dtype::F16 => elements(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => elements(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F64 => elements(bytes, |b| f64::from_le_bytes(b) as f32),
        _ => return None,
    })
}

fn elements<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|&chunk| f(chunk))
        .collect()
}

/// A tensor to be written.
struct Row<'a> {
    array: &'a Array,
    half: bool,
}

impl View for Row<'_> {
    fn dtype(&self) -> Dtype {
        if self.half { Dtype::F16 } else { Dtype::F32 }
    }

    fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let data = self.array.floats();
        if self.half {
            let halves = data.iter().map(|&x| f16::from_f32(x));
            halves.flat_map(f16::to_le_bytes).collect()
        } else if cfg!(target_endian = "little") {
            match data {
                Cow::Borrowed(data) => Cow::Borrowed(bytemuck::cast_slice(data)),
                Cow::Owned(data) => Cow::Owned(bytemuck::cast_slice(&data).to_vec()),
            }
        } else {
            data.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
    }

    fn data_len(&self) -> usize {
        let bytes = if self.half { 2 } else { 4 };
        bytes * self.array.len()
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
    write(path, params, metadata, false)
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
    write(path, params, metadata, true)
}

fn write(
    path: &Path,
    params: &Params,
    metadata: HashMap<String, String>,
    half: bool,
) -> Result<(), StoreError> {
    let rows = params.iter();
    let rows = rows.map(|(name, array)| (name.as_str(), Row { array, half }));
    let bytes = safetensors::serialize(rows, Some(metadata)).map_err(StoreError::format(path))?;
    write_atomically(path, &bytes)
}
