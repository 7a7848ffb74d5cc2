//! The head of a safetensors file: what its tensors are, and where.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use safetensors::Dtype;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::StoreError;

/// Bytes of a head at most, as in the format's own library.
const LIMIT: u64 = 100_000_000;
/// Bytes before the head: its length.
const LENGTH: u64 = 8;

/// A tensor as the head describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes begin and end behind the head.
    pub span: (u64, u64),
}

/// An open safetensors file, whose head was read and found to describe all of it.
#[derive(Debug)]
pub struct Safetensors {
    path: PathBuf,
    file: File,
    head: Head,
    /// Where the data begin.
    data: u64,
}

#[derive(Debug, Default)]
struct Head {
    metadata: HashMap<String, String>,
    tensors: IndexMap<String, Info>,
}

impl Safetensors {
    /// Opens a file, and checks that its tensors fill it without gaps and overlaps. What it has is
    /// not yet read.
    ///
    /// # Errors
    /// The file cannot be read, or is not a whole safetensors file with each name once.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = StoreError::io(path, "open it");
        let mut file = File::open(path).map_err(open)?;
        let read = StoreError::io(path, "read it");
        let len = match file.metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) => return Err(read(error)),
        };
        let wrong = |found: String| StoreError::Format {
            path: path.to_owned(),
            found,
        };
        let rest = len.checked_sub(LENGTH).ok_or_else(|| {
            wrong(format!(
                "it has {len} bytes, fewer than the length of a head"
            ))
        })?;
        let mut head_len = [0; LENGTH as usize];
        file.read_exact(&mut head_len)
            .map_err(StoreError::io(path, "read it"))?;
        let head_len = u64::from_le_bytes(head_len);
        if head_len > rest || head_len > LIMIT {
            return Err(wrong(format!(
                "its head would have {head_len} bytes, where {rest} follow"
            )));
        }
        let mut text = vec![0; head_len as usize];
        file.read_exact(&mut text)
            .map_err(StoreError::io(path, "read it"))?;
        let head: Head = serde_json::from_slice(&text)
            .map_err(|error| wrong(format!("its head is damaged: {error}")))?;
        head.check(rest - head_len).map_err(wrong)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            head,
            data: LENGTH + head_len,
        })
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.head.metadata
    }

    /// The tensors by name, in the order in which they are named.
    pub fn tensors(&self) -> &IndexMap<String, Info> {
        &self.head.tensors
    }

    /// The bytes of a tensor.
    ///
    /// # Errors
    /// The file cannot be read any more.
    pub fn bytes(&self, info: &Info) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; (info.span.1 - info.span.0) as usize];
        self.read(info, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a tensor's bytes to as many.
    pub(super) fn read(&self, info: &Info, bytes: &mut [u8]) -> Result<(), StoreError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.data + info.span.0))
            .and_then(|_| file.read_exact(bytes))
            .map_err(|error: io::Error| StoreError::io(&self.path, "read it")(error))
    }
}

impl Head {
    fn check(&self, len: u64) -> Result<(), String> {
        let mut spans = Vec::with_capacity(self.tensors.len());
        for (name, info) in &self.tensors {
            let (start, end) = info.span;
            let mut dims = info.shape.iter();
            let bits = dims.try_fold(info.dtype.bitsize(), |n: usize, &dim| n.checked_mul(dim));
            let found = end.checked_sub(start);
            let fits =
                bits.is_some_and(|bits| bits.is_multiple_of(8) && Some(bits as u64 / 8) == found);
            if !fits {
                return Err(format!(
                    "tensor `{name}` of {:?} {:?} cannot have the bytes from {start} to {end}",
                    info.dtype, info.shape
                ));
            }
            spans.push((start, end, name));
        }
        spans.sort_unstable();
        let mut at = 0;
        for (start, end, name) in spans {
            if start != at {
                return Err(format!(
                    "tensor `{name}` begins at {start}, where {at} is expected: tensors follow \
                     each other"
                ));
            }
            at = end;
        }
        match at == len {
            true => Ok(()),
            false => Err(format!(
                "its tensors have {at} bytes, where {len} are behind its head"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Head;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
                let mut head = Head::default();
                let mut has_metadata = false;
                while let Some(name) = map.next_key::<String>()? {
                    let twice = if name == "__metadata__" {
                        head.metadata = map.next_value()?;
                        std::mem::replace(&mut has_metadata, true)
                    } else if head.tensors.contains_key(&name) {
                        true
                    } else {
                        let entry: Entry = map.next_value()?;
                        let info = entry.info().map_err(|field| {
                            A::Error::custom(format!("tensor `{name}` has no {field}"))
                        })?;
                        head.tensors.insert(name.clone(), info);
                        false
                    };
                    if twice {
                        return Err(A::Error::custom(format!("`{name}` is there twice")));
                    }
                }
                Ok(head)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A tensor's description, as it is written.
#[derive(Deserialize)]
struct Entry {
    dtype: Option<Dtype>,
    shape: Option<Vec<usize>>,
    data_offsets: Option<(u64, u64)>,
}

impl Entry {
    fn info(self) -> Result<Info, &'static str> {
        Ok(Info {
            dtype: self.dtype.ok_or("dtype")?,
            shape: self.shape.ok_or("shape")?,
            span: self.data_offsets.ok_or("data_offsets")?,
        })
    }
}
