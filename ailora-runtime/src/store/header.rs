//! A safetensors file: its head, which says what its tensors are and where, and their bytes.

use std::{collections::HashMap, fmt, fs::File, io::Read, path::Path};

use ailora_graph::ir::DType;

use indexmap::IndexMap;
use safetensors::Dtype;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::{Array, Map, StoreError};

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
    map: Map,
    head: Head,
    /// Where the data begin.
    data: usize,
}

#[derive(Debug, Default)]
struct Head {
    metadata: HashMap<String, String>,
    tensors: IndexMap<String, Info>,
}

impl Safetensors {
    /// Maps a file, and checks that its tensors fill it without gaps and overlaps. What it has is
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
        let map = Map::of(&file).map_err(StoreError::io(path, "map it"))?;
        let data = LENGTH + head_len;
        head.check((map.len() as u64).saturating_sub(data))
            .map_err(wrong)?;
        Ok(Self {
            map,
            head,
            data: data as usize,
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

    /// One of the tensors where it lies in the file, if it has floats.
    pub fn array(&self, info: &Info) -> Option<Array> {
        let (start, end) = info.span;
        let range = self.data + start as usize..self.data + end as usize;
        let dtype = float(info.dtype)?;
        Some(Array::mapped(dtype, info.shape.clone(), &self.map, range))
    }
}

/// The type of floats that a file calls this.
pub fn float(dtype: Dtype) -> Option<DType> {
    let name = dtype.to_string();
    let mut floats = DType::ALL.iter().filter(|dtype| dtype.is_float());
    floats.find(|dtype| dtype.file_name() == name).copied()
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
