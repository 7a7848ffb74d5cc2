//! Tensors of PyTorch's `pytorch_model.bin`, without running what is pickled.
//!
//! A pickle is a program for a stack machine, and calls any function it names. This reader knows the
//! few operations and the few functions that rebuild a dictionary of tensors; anything else is an
//! error, and nothing is ever called. It reads both of PyTorch's containers: the zip archive written
//! since version 1.6, and the sequence of pickles before.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    io::{BufReader, Read},
    path::Path,
    rc::Rc,
};

use ailora_runtime::store::{Array, Params, decode};
use indexmap::IndexMap;
use safetensors::Dtype;
use thiserror::Error;
use zip::ZipArchive;

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

/// The float tensors of a file in float32, in the order of their names, and the types of its other
/// tensors.
///
/// # Errors
/// The file is damaged, or holds more than tensors by name.
pub fn load(path: &Path) -> Result<(Params, IndexMap<String, Dtype>), PickleError> {
    let mut start = [0; 2];
    File::open(path)?.read_exact(&mut start)?;
    let (root, mut storages) = if start == *b"PK" {
        archive(path)?
    } else {
        sequence(path)?
    };
    let mut params = Params::new();
    let mut others = IndexMap::new();
    for (name, tensor) in root {
        let array = tensor.read(&name, &mut storages)?;
        match array {
            Some(array) => drop(params.insert(name, array)),
            None => drop(others.insert(name, tensor.storage.dtype)),
        }
    }
    params.sort_keys();
    Ok((params, others))
}

/// Where the bytes of storages are.
enum Storages {
    Archive {
        zip: ZipArchive<BufReader<File>>,
        folder: String,
        /// The one read last: tensors of one storage follow each other.
        last: (String, Vec<u8>),
    },
    Read(HashMap<String, Vec<u8>>),
}

impl Storages {
    fn bytes(&mut self, key: &str) -> Result<&[u8], PickleError> {
        match self {
            Self::Read(all) => match all.get(key) {
                Some(bytes) => Ok(bytes),
                None => format(format!("storage {key} is missing")),
            },
            Self::Archive { zip, folder, last } => {
                if last.0 != key {
                    let mut bytes = Vec::new();
                    zip.by_name(&format!("{folder}data/{key}"))?
                        .read_to_end(&mut bytes)?;
                    *last = (key.to_owned(), bytes);
                }
                Ok(&last.1)
            }
        }
    }
}

type Loaded = (Vec<(String, TensorRef)>, Storages);

/// The zip archive: `NAME/data.pkl`, and a file for each storage.
fn archive(path: &Path) -> Result<Loaded, PickleError> {
    let mut zip = ZipArchive::new(BufReader::new(File::open(path)?))?;
    let names = zip.file_names().filter_map(Result::ok);
    let names: Vec<String> = names.map(Cow::into_owned).collect();
    let Some(pickle) = names.iter().find(|name| name.ends_with("data.pkl")) else {
        return format("the archive has no data.pkl");
    };
    let folder = pickle[..pickle.len() - "data.pkl".len()].to_owned();
    let mut bytes = Vec::new();
    zip.by_name(pickle)?.read_to_end(&mut bytes)?;
    let order = format!("{folder}byteorder");
    if names.contains(&order) {
        let mut text = String::new();
        zip.by_name(&order)?.read_to_string(&mut text)?;
        if text != "little" {
            return format(format!("its byte order is {text}; expected little"));
        }
    }
    let mut machine = Machine::default();
    let root = machine.run(&mut &bytes[..])?;
    let last = (String::new(), Vec::new());
    Ok((
        machine.tensors(root)?,
        Storages::Archive { zip, folder, last },
    ))
}

/// Five pickles - a magic number, the format's version, the machine it was written on, the tensors,
/// the keys of storages - and then the storages, each after its length.
fn sequence(path: &Path) -> Result<Loaded, PickleError> {
    const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let mut rest = &bytes[..];
    let found = Machine::default().run(&mut rest)?;
    if !matches!(found, Value::Long(digits) if *digits == MAGIC) {
        return format("neither an archive nor an older file of PyTorch");
    }
    Machine::default().run(&mut rest)?;
    Machine::default().run(&mut rest)?;
    let mut machine = Machine::default();
    let root = machine.run(&mut rest)?;
    let root = machine.tensors(root)?;
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    for storage in machine.storages.iter() {
        sizes.insert(&storage.key, storage.dtype.bitsize() / 8);
    }
    let mut machine = Machine::default();
    let Value::List(keys) = machine.run(&mut rest)? else {
        return format("no list of storages");
    };
    let mut all = HashMap::new();
    for key in &machine.lists[keys] {
        let Value::Text(key) = key else {
            return format("a storage's key is no text");
        };
        let count = u64::from_le_bytes(take(&mut rest)?);
        // A storage that no tensor is in has no known size; PyTorch writes none.
        let Some(size) = sizes.get(&**key) else {
            return format(format!("storage {key} belongs to no tensor"));
        };
        let len = usize::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(*size));
        let Some((bytes, more)) = len.and_then(|len| rest.split_at_checked(len)) else {
            return format("the file ends within a storage");
        };
        all.insert(key.to_string(), bytes.to_vec());
        rest = more;
    }
    Ok((root, Storages::Read(all)))
}

/// A stretch of numbers in the file.
#[derive(Debug)]
struct Storage {
    dtype: Dtype,
    key: Rc<str>,
    len: usize,
}

/// A view of a storage.
#[derive(Clone, Debug)]
struct TensorRef {
    storage: Rc<Storage>,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl TensorRef {
    /// The elements in float32, row-major; nothing if they are no floats.
    fn read(&self, name: &str, storages: &mut Storages) -> Result<Option<Array>, PickleError> {
        let wrong = || PickleError::Format(format!("tensor `{name}` is not within its storage"));
        let shape = self.shape.clone();
        let count = shape
            .iter()
            .try_fold(1, |n: usize, &dim| n.checked_mul(dim));
        let count = count.filter(|&n| n <= self.storage.len).ok_or_else(wrong)?;
        // The offset of the last element.
        let steps = shape.iter().zip(&self.strides);
        let last = steps.clone().try_fold(0, |at: usize, (&dim, &stride)| {
            at.checked_add(dim.saturating_sub(1).checked_mul(stride)?)
        });
        let len = last
            .filter(|_| count > 0)
            .map_or(Some(0), |last| last.checked_add(1));
        let len = len.ok_or_else(wrong)?;
        if last.is_none() || self.strides.len() != shape.len() {
            return Err(wrong());
        }
        let size = self.storage.dtype.bitsize() / 8;
        let bytes = storages.bytes(&self.storage.key)?;
        let stored = self.storage.len.checked_mul(size);
        stored.filter(|&n| n <= bytes.len()).ok_or_else(wrong)?;
        let span = self.offset.checked_mul(size).zip(len.checked_mul(size));
        let span = span
            .and_then(|(start, len)| bytes.get(start..start.checked_add(len)?))
            .ok_or_else(wrong)?;
        let Some(data) = decode(self.storage.dtype, span) else {
            return Ok(None);
        };
        let mut inner = 1;
        let contiguous = count == 0
            || steps.rev().all(|(&dim, &stride)| {
                let fits = dim == 1 || stride == inner;
                inner *= dim;
                fits
            });
        if contiguous {
            return Ok(Some(Array { shape, data }));
        }
        let mut index = vec![0; shape.len()];
        let gathered = (0..count).map(|_| {
            let at: usize = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
            for (i, &dim) in index.iter_mut().zip(&shape).rev() {
                *i += 1;
                if *i < dim {
                    break;
                }
                *i = 0;
            }
            data[at]
        });
        let data = gathered.collect();
        Ok(Some(Array { shape, data }))
    }
}

/// What a pickle builds. Dictionaries and lists, which change, are numbers of the machine's.
#[derive(Clone, Debug)]
enum Value {
    None,
    Bool,
    Number(i64),
    Float,
    /// An integer of more than 64 bits, as its bytes.
    Long(Rc<[u8]>),
    Text(Rc<str>),
    Tuple(Rc<[Value]>),
    List(usize),
    Dict(usize),
    Function(Function),
    StorageType(Dtype),
    Storage(Rc<Storage>),
    Tensor(Rc<TensorRef>),
}

/// The functions that rebuild tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
}

/// A name that a pickle may refer to.
fn global(module: &str, name: &str) -> Result<Value, PickleError> {
    let dtype = |dtype| Ok(Value::StorageType(dtype));
    match (module, name) {
        ("collections", "OrderedDict") => Ok(Value::Function(Function::OrderedDict)),
        ("torch._utils", "_rebuild_tensor_v2") => Ok(Value::Function(Function::RebuildTensor)),
        ("torch._utils", "_rebuild_parameter") => Ok(Value::Function(Function::RebuildParameter)),
        ("torch", "FloatStorage") => dtype(Dtype::F32),
        ("torch", "DoubleStorage") => dtype(Dtype::F64),
        ("torch", "HalfStorage") => dtype(Dtype::F16),
        ("torch", "BFloat16Storage") => dtype(Dtype::BF16),
        ("torch", "LongStorage") => dtype(Dtype::I64),
        ("torch", "IntStorage") => dtype(Dtype::I32),
        ("torch", "ShortStorage") => dtype(Dtype::I16),
        ("torch", "CharStorage") => dtype(Dtype::I8),
        ("torch", "ByteStorage") => dtype(Dtype::U8),
        ("torch", "BoolStorage") => dtype(Dtype::BOOL),
        _ => Err(PickleError::Code(format!("{module}.{name}"))),
    }
}

/// The stack machine, for the operations that PyTorch's pickles are made of.
#[derive(Debug, Default)]
struct Machine {
    stack: Vec<Value>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<Rc<Storage>>,
}

impl Machine {
    /// Runs one pickle from the start of `rest`, which moves behind it.
    fn run(&mut self, rest: &mut &[u8]) -> Result<Value, PickleError> {
        loop {
            let [op] = take(rest)?;
            match op {
                0x80 => drop(take::<1>(rest)?),
                0x95 => drop(take::<8>(rest)?),
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.push(Value::None),
                0x88 | 0x89 => self.push(Value::Bool),
                b'K' => {
                    let [byte] = take(rest)?;
                    self.push(Value::Number(byte.into()));
                }
                b'M' => {
                    let number = u16::from_le_bytes(take(rest)?);
                    self.push(Value::Number(number.into()));
                }
                b'J' => {
                    let number = i32::from_le_bytes(take(rest)?);
                    self.push(Value::Number(number.into()));
                }
                0x8a => {
                    let [len] = take(rest)?;
                    let digits = bytes(rest, len.into())?;
                    let mut number = [0; 8];
                    let value = match number.get_mut(..digits.len()) {
                        Some(low) => {
                            low.copy_from_slice(digits);
                            let negative = digits.last().is_some_and(|byte| byte & 0x80 != 0);
                            let fill = if negative { 0xff } else { 0 };
                            number[digits.len()..].fill(fill);
                            Value::Number(i64::from_le_bytes(number))
                        }
                        None => Value::Long(digits.into()),
                    };
                    self.push(value);
                }
                b'G' => {
                    take::<8>(rest)?;
                    self.push(Value::Float);
                }
                b'X' => {
                    let len = u32::from_le_bytes(take(rest)?);
                    self.text(bytes(rest, len as usize)?)?;
                }
                0x8c => {
                    let [len] = take(rest)?;
                    self.text(bytes(rest, len.into())?)?;
                }
                b'c' => {
                    let (module, name) = (line(rest)?, line(rest)?);
                    self.push(global(module, name)?);
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Value::Text(name), Value::Text(module)) => self.push(global(&module, &name)?),
                    _ => return format("a name that is no text"),
                },
                b'}' => {
                    self.dicts.push(Vec::new());
                    self.push(Value::Dict(self.dicts.len() - 1));
                }
                b']' => {
                    self.lists.push(Vec::new());
                    self.push(Value::List(self.lists.len() - 1));
                }
                b')' => self.push(Value::Tuple([].into())),
                b't' => {
                    let values = self.pop_to_mark()?;
                    self.push(Value::Tuple(values.into()));
                }
                0x85..=0x87 => {
                    let at = self.stack.len().checked_sub(usize::from(op - 0x84));
                    let Some(at) = at else {
                        return format("the stack is empty");
                    };
                    let values = self.stack.split_off(at);
                    self.push(Value::Tuple(values.into()));
                }
                b'q' => {
                    let [at] = take(rest)?;
                    self.remember(at.into())?;
                }
                b'r' => {
                    let at = u32::from_le_bytes(take(rest)?);
                    self.remember(at)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let [at] = take(rest)?;
                    self.recall(at.into())?;
                }
                b'j' => {
                    let at = u32::from_le_bytes(take(rest)?);
                    self.recall(at)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set(items)?;
                }
                b'a' => {
                    let value = self.pop()?;
                    self.append(vec![value])?;
                }
                b'e' => {
                    let values = self.pop_to_mark()?;
                    self.append(values)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = Rc::new(storage(&id)?);
                    self.storages.push(storage.clone());
                    self.push(Value::Storage(storage));
                }
                b'R' => {
                    let (args, function) = (self.pop()?, self.pop()?);
                    let value = self.rebuild(&function, &args)?;
                    self.push(value);
                }
                // Attributes of a dictionary, such as versions of modules.
                b'b' => {
                    self.pop()?;
                }
                b'.' => return self.pop(),
                _ => return format(format!("operation {op:#04x} of pickles is not expected")),
            }
        }
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        match self.stack.pop() {
            Some(value) => Ok(value),
            None => format("the stack is empty"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, PickleError> {
        match self.marks.pop() {
            Some(at) if at <= self.stack.len() => Ok(self.stack.split_off(at)),
            _ => format("a mark is missing"),
        }
    }

    fn text(&mut self, bytes: &[u8]) -> Result<(), PickleError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                self.push(Value::Text(text.into()));
                Ok(())
            }
            Err(error) => format(error.to_string()),
        }
    }

    fn remember(&mut self, at: u32) -> Result<(), PickleError> {
        let value = self.pop()?;
        self.memo.insert(at, value.clone());
        self.push(value);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<(), PickleError> {
        match self.memo.get(&at).cloned() {
            Some(value) => {
                self.push(value);
                Ok(())
            }
            None => format(format!("nothing is remembered as {at}")),
        }
    }

    fn set(&mut self, items: Vec<Value>) -> Result<(), PickleError> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return format("an entry of something that is no dictionary");
        };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return format("a key without a value");
        }
        let pairs = pairs
            .iter()
            .map(|[key, value]| (key.clone(), value.clone()));
        self.dicts[*dict].extend(pairs);
        Ok(())
    }

    fn append(&mut self, values: Vec<Value>) -> Result<(), PickleError> {
        match self.stack.last() {
            Some(Value::List(list)) => {
                self.lists[*list].extend(values);
                Ok(())
            }
            _ => format("an element of something that is no list"),
        }
    }

    /// What one of the known functions would give.
    fn rebuild(&mut self, function: &Value, args: &Value) -> Result<Value, PickleError> {
        let Value::Tuple(args) = args else {
            return format("arguments that are no tuple");
        };
        match (function, &args[..]) {
            (Value::Function(Function::OrderedDict), []) => {
                self.dicts.push(Vec::new());
                Ok(Value::Dict(self.dicts.len() - 1))
            }
            (
                Value::Function(Function::RebuildTensor),
                [
                    Value::Storage(storage),
                    Value::Number(offset),
                    shape,
                    strides,
                    ..,
                ],
            ) => Ok(Value::Tensor(Rc::new(TensorRef {
                storage: storage.clone(),
                offset: size(*offset)?,
                shape: sizes(shape)?,
                strides: sizes(strides)?,
            }))),
            (Value::Function(Function::RebuildParameter), [tensor @ Value::Tensor(_), ..]) => {
                Ok(tensor.clone())
            }
            _ => format("a call with unexpected arguments"),
        }
    }

    /// The tensors of a dictionary, or of the dictionary that it has as `state_dict`.
    fn tensors(&self, root: Value) -> Result<Vec<(String, TensorRef)>, PickleError> {
        let Value::Dict(dict) = root else {
            return format("its outermost value is no dictionary");
        };
        let entries = &self.dicts[dict];
        let nested = entries.iter().find_map(|entry| match entry {
            (Value::Text(name), Value::Dict(dict)) if &**name == "state_dict" => Some(*dict),
            _ => None,
        });
        let entries = nested.map_or(entries, |dict| &self.dicts[dict]);
        let tensors = entries.iter().filter_map(|entry| match entry {
            (Value::Text(name), Value::Tensor(tensor)) => {
                Some((name.to_string(), TensorRef::clone(tensor)))
            }
            _ => None,
        });
        Ok(tensors.collect())
    }
}

/// What a persistent id names: `("storage", TYPE, KEY, DEVICE, LENGTH)`.
fn storage(id: &Value) -> Result<Storage, PickleError> {
    if let Value::Tuple(fields) = id
        && let [
            Value::Text(kind),
            Value::StorageType(dtype),
            Value::Text(key),
            _,
            Value::Number(len),
            ..,
        ] = &fields[..]
        && &**kind == "storage"
    {
        return Ok(Storage {
            dtype: *dtype,
            key: key.clone(),
            len: size(*len)?,
        });
    }
    format("a reference to something that is no storage")
}

fn size(number: i64) -> Result<usize, PickleError> {
    usize::try_from(number).or_else(|_| format(format!("a size of {number}")))
}

fn sizes(value: &Value) -> Result<Vec<usize>, PickleError> {
    let Value::Tuple(values) = value else {
        return format("a shape that is no tuple");
    };
    let sizes = values.iter().map(|value| match value {
        Value::Number(number) => size(*number),
        _ => format("a size that is no number"),
    });
    sizes.collect()
}

fn bytes<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], PickleError> {
    match rest.split_at_checked(len) {
        Some((bytes, more)) => {
            *rest = more;
            Ok(bytes)
        }
        None => format("the file ends within a pickle"),
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PickleError> {
    match rest.split_first_chunk::<N>() {
        Some((chunk, more)) => {
            *rest = more;
            Ok(*chunk)
        }
        None => format("the file ends within a pickle"),
    }
}

fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a str, PickleError> {
    let end = rest.iter().position(|&byte| byte == b'\n');
    let line = bytes(rest, end.unwrap_or(rest.len() + 1))?;
    *rest = &rest[1..];
    std::str::from_utf8(line).or_else(|error| format(error.to_string()))
}
