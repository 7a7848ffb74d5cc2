//! The head of a file: its metadata, and what its tensors are.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
};

use indexmap::IndexMap;
use serde_json::Value;

/// What a key has.
#[derive(Debug)]
pub(super) enum Entry {
    Value(Value),
    List(List),
}

/// A list that stays in the file until it is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    kind: u32,
    pub len: u64,
    start: u64,
    bytes: u64,
}

/// A tensor as the head describes it.
#[derive(Debug)]
pub(super) struct Info {
    pub name: String,
    /// Dimensions, outermost first, unlike in the file.
    pub shape: Vec<usize>,
    /// Number of the kind of its elements.
    pub kind: u32,
    /// Where it begins behind the head.
    pub start: u64,
}

#[derive(Debug)]
pub(super) struct Head {
    pub metadata: IndexMap<String, Entry>,
    pub tensors: Vec<Info>,
    /// Bytes of the head without the padding behind it.
    pub len: u64,
    /// Bytes of the file.
    pub file_len: u64,
}

/// Bytes of a key, of a tensor's name and of a list's element, which llama.cpp limits alike.
const NAME: u64 = 1 << 16;
/// Dimensions of a tensor.
const RANK: u32 = 4;

/// A file that is read from its start. Nothing is allocated before the file is known to be that long.
struct Reader<'a> {
    file: BufReader<&'a File>,
    at: u64,
    len: u64,
}

impl<'a> Reader<'a> {
    fn new(file: &'a File, at: u64) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let len = file.metadata().map_err(text)?.len();
        let mut file = BufReader::new(file);
        file.seek(SeekFrom::Start(at)).map_err(text)?;
        Ok(Self { file, at, len })
    }

    fn left(&self, len: u64) -> Result<(), String> {
        let (at, left) = (self.at, self.len.saturating_sub(self.at));
        if len <= left {
            return Ok(());
        }
        Err(format!(
            "{len} bytes are needed at {at}, where {left} are left: it is truncated"
        ))
    }

    fn bytes(&mut self, len: u64) -> Result<Vec<u8>, String> {
        self.left(len)?;
        let mut bytes = vec![0; usize::try_from(len).map_err(|error| error.to_string())?];
        self.exact(&mut bytes)?;
        Ok(bytes)
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.left(bytes.len() as u64)?;
        self.file
            .read_exact(bytes)
            .map_err(|error| error.to_string())?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<(), String> {
        self.left(len)?;
        let offset = i64::try_from(len).map_err(|error| error.to_string())?;
        self.file
            .seek_relative(offset)
            .map_err(|error| error.to_string())?;
        self.at += len;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        self.exact(&mut array)?;
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Result<String, String> {
        let len = self.u64()?;
        let bytes = self.bytes(len)?;
        String::from_utf8(bytes).map_err(|error| format!("a text is damaged: {error}"))
    }

    fn name(&mut self, of: &str) -> Result<String, String> {
        let len = self.u64()?;
        self.left(len)?;
        if len > NAME {
            return Err(format!("the name of a {of} has {len} bytes"));
        }
        let bytes = self.bytes(len)?;
        String::from_utf8(bytes).map_err(|error| format!("the name of a {of} is damaged: {error}"))
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            6 => number(f32::from_le_bytes(self.array()?).into())?,
            7 => (self.array::<1>()? != [0]).into(),
            8 => self.string()?.into(),
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => number(f64::from_le_bytes(self.array()?))?,
            other => return Err(format!("it is of unknown type {other}")),
        })
    }

    fn entry(&mut self) -> Result<Entry, String> {
        let kind = self.u32()?;
        if kind != LIST {
            return self.value(kind).map(Entry::Value);
        }
        let (kind, len) = (self.u32()?, self.u64()?);
        let start = self.at;
        match size(kind) {
            Some(size) => {
                let bytes = len.checked_mul(size).ok_or_else(|| {
                    format!("it is a list of {len} elements: the file is truncated")
                })?;
                self.skip(bytes)?;
            }
            None if kind == TEXT => {
                // Each has its length in front.
                self.left(len.saturating_mul(8))?;
                for _ in 0..len {
                    let len = self.u64()?;
                    self.skip(len)?;
                }
            }
            None if kind == LIST => return Err("it is a list of lists".into()),
            None => return Err(format!("it is a list of elements of unknown type {kind}")),
        }
        let bytes = self.at - start;
        Ok(Entry::List(List {
            kind,
            len,
            start,
            bytes,
        }))
    }

    fn info(&mut self) -> Result<Info, String> {
        let name = self.name("tensor")?;
        let rank = self.u32()?;
        if !(1..=RANK).contains(&rank) {
            return Err(format!(
                "tensor `{name}` has {rank} dimensions; expected 1 to {RANK}"
            ));
        }
        let dims = (0..rank).map(|_| self.u64());
        let mut dims = dims.collect::<Result<Vec<u64>, _>>()?;
        dims.reverse();
        let shape = dims.iter().map(|&dim| usize::try_from(dim));
        let shape: Result<Vec<usize>, _> = shape.collect();
        let shape = shape.map_err(|_| format!("tensor `{name}` has {dims:?} elements"))?;
        Ok(Info {
            name,
            shape,
            kind: self.u32()?,
            start: self.u64()?,
        })
    }
}

const TEXT: u32 = 8;
const LIST: u32 = 9;

/// Bytes of a value, where all of its type have as many.
fn size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn number(number: f64) -> Result<Value, String> {
    match number.is_finite() {
        true => Ok(number.into()),
        false => Err(format!("it is {number}, which is no number")),
    }
}

impl Head {
    /// Reads the head of a file, which is as long as the file says.
    ///
    /// # Errors
    /// What is wrong with it, with the key or tensor where one is at fault.
    pub fn read(file: &File) -> Result<Self, String> {
        let mut reader = Reader::new(file, 0)?;
        let magic = reader.array::<4>()?;
        if &magic != b"GGUF" {
            return Err(format!(
                "it begins with {:?} instead of \"GGUF\"",
                magic.escape_ascii().to_string()
            ));
        }
        match reader.u32()? {
            2 | 3 => {}
            version if (1..=3).contains(&version.swap_bytes()) => {
                return Err("its numbers are big-endian; expected little-endian".into());
            }
            version => return Err(format!("it is of version {version}; expected 2 or 3")),
        }
        let [tensor_count, count] = [reader.u64()?, reader.u64()?];
        let mut metadata = IndexMap::new();
        for _ in 0..count {
            let key = reader.name("key")?;
            let entry = reader.entry();
            let entry = entry.map_err(|cause| format!("key `{key}`: {cause}"))?;
            if metadata.contains_key(&key) {
                return Err(format!("key `{key}` is there twice"));
            }
            metadata.insert(key, entry);
        }
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            let info = reader.info()?;
            if !names.insert(info.name.clone()) {
                return Err(format!("tensor `{}` is there twice", info.name));
            }
            tensors.push(info);
        }
        Ok(Self {
            metadata,
            tensors,
            len: reader.at,
            file_len: reader.len,
        })
    }
}

impl List {
    /// Its elements, once read from its file.
    ///
    /// # Errors
    /// The file is no longer what it was, or has a damaged text or a number that is none.
    pub fn read(&self, file: &File) -> Result<Vec<Value>, String> {
        let mut reader = Reader::new(file, self.start)?;
        reader.left(self.bytes)?;
        (0..self.len).map(|_| reader.value(self.kind)).collect()
    }
}
