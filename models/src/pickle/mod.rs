//! Tensors of PyTorch's `pytorch_model.bin`, without running what is pickled.
//!
//! A pickle is a program for a stack machine, and calls any function it names. This reader knows the
//! few operations and the few functions that rebuild a dictionary of tensors; anything else is an
//! error, and nothing is ever called. It reads both of PyTorch's containers: the zip archive written
//! since version 1.6, and the sequence of pickles before.
//!
//! What a file costs is bounded by its length: programs are short, storages are within the file, each
//! is read once, and as many tensors may share one as models do.

mod machine;
mod storage;
mod view;

use std::{
    borrow::Cow,
    cmp::Ordering,
    collections::HashMap,
    fs::File,
    io::{self, Cursor, Read},
    ops::Range,
    path::Path,
};

use ailora_runtime::store::{Map, Params};
use indexmap::IndexMap;
use safetensors::Dtype;
use thiserror::Error;
use zip::{CompressionMethod, ZipArchive, read::ZipFile};

use self::{
    machine::{Machine, Program, Value},
    storage::Storage,
    view::View,
};
use crate::closed::wall;

/// What keeps a file from being read as tensors.
#[derive(Debug, Error)]
pub enum PickleError {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] std::io::Error),
    /// The archive is damaged.
    #[error("not a whole zip archive: {0}")]
    Zip(#[from] zip::result::ZipError),
    /// The pickle would call a function.
    #[error(
        "it would run `{0}` when loaded, which weights do not need; it was not run. Do not load this \
         file with other programs, and ask its author for safetensors"
    )]
    Code(String),
    /// The pickle is damaged, or holds something else than tensors by name.
    #[error("not a dictionary of tensors: {0}")]
    Format(String),
}

fn format<T>(what: impl Into<String>) -> Result<T, PickleError> {
    Err(PickleError::Format(what.into()))
}

/// Bytes of a pickled program at most: those of 30 000 tensors.
const PROGRAM: usize = 8 << 20;
/// How often the elements of a storage may be read, as several names share them.
const SHARED: usize = 8;

/// The float tensors of a file, each in its own type and, where it lies there in order, in its place in
/// the file, which is mapped; in the order of their names. And the types of the other tensors.
///
/// # Errors
/// The file is damaged, or holds more than tensors by name.
pub fn load(path: &Path) -> Result<(Params, IndexMap<String, Dtype>), PickleError> {
    wall::behind(|| read(path)).unwrap_or_else(format)
}

fn read(path: &Path) -> Result<(Params, IndexMap<String, Dtype>), PickleError> {
    let file = Map::of(&File::open(path)?)?;
    let (mut views, mut storages) = if file.starts_with(b"PK") {
        archive(&file)?
    } else {
        sequence(&file)?
    };
    views.sort_by(|a, b| a.storage.key.cmp(&b.storage.key));
    let mut params = Params::new();
    let mut others = IndexMap::new();
    for group in views.chunk_by(|a, b| a.storage.key == b.storage.key) {
        let Some(storage) = group.first().map(|view| &view.storage) else {
            continue;
        };
        let span = storages.find(storage)?;
        let mut used = 0_usize;
        for view in group {
            if view.storage != *storage {
                return format(format!("storage {} has two types or lengths", storage.key));
            }
            used = used.saturating_add(view.count()?);
            if used > storage.len.saturating_mul(SHARED) {
                return format(format!(
                    "tensor `{}` and others share storage {}, which is read more than {SHARED} \
                     times",
                    view.name, storage.key
                ));
            }
            match view.read(&file, span.clone())? {
                Some(array) => drop(params.insert(view.name.clone(), array)),
                None => drop(others.insert(view.name.clone(), storage.dtype)),
            }
        }
    }
    params.sort_keys();
    others.sort_keys();
    Ok((params, others))
}

/// Where the bytes of storages are.
enum Storages {
    Archive {
        zip: ZipArchive<Cursor<Map>>,
        folder: String,
        /// Bytes of the file that no storage was read from.
        left: u64,
    },
    /// One after the other.
    Sequence(HashMap<String, Range<usize>>),
}

impl Storages {
    /// Where in the file a storage is, which is asked for once.
    fn find(&mut self, storage: &Storage) -> Result<Range<usize>, PickleError> {
        let key = &storage.key;
        let expected = storage.bytes()?;
        let wrong = |found: u64| {
            format(format!(
                "storage {key} has {found} bytes, and should have {expected}"
            ))
        };
        match self {
            Self::Sequence(spans) => match spans.get(key) {
                None => format(format!("storage {key} is missing")),
                Some(span) if span.len() != expected => wrong(span.len() as u64),
                Some(span) => Ok(span.clone()),
            },
            Self::Archive { zip, folder, left } => {
                let entry = zip.by_name(&format!("{folder}data/{key}"))?;
                let size = entry.size();
                if size != expected as u64 {
                    return wrong(size);
                }
                *left = match left.checked_sub(size) {
                    Some(left) => left,
                    None => {
                        return format(format!(
                            "storage {key} and others have more bytes than the file"
                        ));
                    }
                };
                span(entry, expected)
            }
        }
    }
}

/// Where all of an entry of so many bytes is, which is stored as it is.
fn span(entry: ZipFile<'_, Cursor<Map>>, len: usize) -> Result<Range<usize>, PickleError> {
    let start = entry.data_start();
    let start = start.and_then(|start| usize::try_from(start).ok());
    let (CompressionMethod::Stored, Some(start)) = (entry.compression(), start) else {
        return format("the archive is compressed, which PyTorch's files are not");
    };
    // At its end the checksum is compared.
    match io::copy(&mut entry.take(len as u64 + 1), &mut io::sink())?.cmp(&(len as u64)) {
        Ordering::Equal => Ok(start..start + len),
        Ordering::Greater => format("an entry of the archive is longer than it says"),
        Ordering::Less => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

type Loaded = (Vec<View>, Storages);

/// The zip archive: `NAME/data.pkl`, and a file for each storage.
fn archive(file: &Map) -> Result<Loaded, PickleError> {
    let left = file.len() as u64;
    let mut zip = ZipArchive::new(Cursor::new(file.clone()))?;
    let names = zip.file_names().filter_map(Result::ok);
    let names: Vec<String> = names.map(Cow::into_owned).collect();
    let Some(pickle) = names.iter().find(|name| name.ends_with("data.pkl")) else {
        return format("the archive has no data.pkl");
    };
    let folder = pickle[..pickle.len() - "data.pkl".len()].to_owned();
    let mut small = |name: &str| -> Result<&[u8], PickleError> {
        let entry = zip.by_name(name)?;
        let size = entry.size();
        match usize::try_from(size) {
            Ok(len) if len <= PROGRAM && size <= left => Ok(&file[span(entry, len)?]),
            _ => format(format!("{name} has {size} bytes, more than any such entry")),
        }
    };
    let order = format!("{folder}byteorder");
    if names.contains(&order) {
        let text = small(&order)?;
        if text != b"little" {
            return format(format!(
                "its byte order is {}; expected little",
                text.escape_ascii()
            ));
        }
    }
    let bytes = small(pickle)?;
    let mut machine = Machine::default();
    let root = machine.run(&mut Program::new(bytes))?;
    let views = machine.tensors(root)?;
    Ok((views, Storages::Archive { zip, folder, left }))
}

/// Five pickles - a magic number, the format's version, the machine it was written on, the tensors,
/// the keys of storages - and then the storages, each after its length.
fn sequence(file: &[u8]) -> Result<Loaded, PickleError> {
    const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
    let mut program = Program::new(file);
    let found = Machine::default().run(&mut program)?;
    if !matches!(found, Value::Long(digits) if *digits == MAGIC) {
        return format("neither an archive nor an older file of PyTorch");
    }
    Machine::default().run(&mut program)?;
    Machine::default().run(&mut program)?;
    let mut machine = Machine::default();
    let root = machine.run(&mut program)?;
    let views = machine.tensors(root)?;
    let storages = machine.storages().iter();
    let sizes: HashMap<&str, usize> = storages
        .map(|storage| (&*storage.key, storage.dtype.bitsize() / 8))
        .collect();
    let mut keys = Machine::default();
    let list = keys.run(&mut program)?;
    let mut spans = HashMap::new();
    let mut rest = program.rest();
    for key in keys.list(list)? {
        let Value::Text(key) = key else {
            return format("a storage's key is no text");
        };
        // A storage that no tensor is in has no known size; PyTorch writes none.
        let Some(size) = sizes.get(key) else {
            return format(format!("storage {key} belongs to no tensor"));
        };
        let span = rest.split_first_chunk().and_then(|(count, more)| {
            let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
            let len = count.checked_mul(*size)?;
            Some((len, more.split_at_checked(len)?.1))
        });
        let Some((len, more)) = span else {
            return format("the file ends within a storage");
        };
        let end = file.len() - more.len();
        if spans.insert((*key).to_owned(), end - len..end).is_some() {
            return format(format!("storage {key} is there twice"));
        }
        rest = more;
    }
    if !rest.is_empty() {
        return format(format!("{} bytes are behind the last storage", rest.len()));
    }
    Ok((views, Storages::Sequence(spans)))
}
