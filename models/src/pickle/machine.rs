//! The machine that runs a pickled program: a stack, marks and a memo.
//!
//! Lists, tuples, dictionaries and what is rebuilt are numbers of the machine's, so that values are
//! small, and those that are deep, shared or cyclic cost no more than the operations that made them.

use std::collections::{HashMap, HashSet};

use safetensors::Dtype;

use super::{
    PROGRAM, PickleError, format,
    storage::Storage,
    view::{RANK, View},
};

/// How deep tuples may be in each other; PyTorch's are two deep.
const DEPTH: usize = 32;

/// A view of a storage, both numbers of the machine's.
#[derive(Debug)]
struct TensorRef {
    storage: usize,
    offset: usize,
    shape: usize,
    strides: usize,
}

/// What a pickle builds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    None,
    Bool,
    Number(i64),
    Float,
    /// An integer of more than 64 bits, as its bytes.
    Long(&'a [u8]),
    Text(&'a str),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Function(Function),
    StorageType(Dtype),
    Storage(usize),
    Tensor(usize),
}

/// The functions that rebuild tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
}

/// A name that a pickle may refer to.
fn global(module: &str, name: &str) -> Result<Value<'static>, PickleError> {
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

/// The bytes of a program that are not run yet.
pub(super) struct Program<'a> {
    rest: &'a [u8],
    /// How many of them the program may have.
    left: usize,
}

impl<'a> Program<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        let left = PROGRAM;
        Self { rest, left }
    }

    /// The bytes behind the programs that were run.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], PickleError> {
        let Some(left) = self.left.checked_sub(len) else {
            return format(format!(
                "its program has more than {PROGRAM} bytes, more than any file of tensors"
            ));
        };
        match self.rest.split_at_checked(len) {
            Some((bytes, more)) => {
                self.rest = more;
                self.left = left;
                Ok(bytes)
            }
            None => format("the file ends within a pickle"),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut chunk = [0; N];
        chunk.copy_from_slice(self.bytes(N)?);
        Ok(chunk)
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let known = &self.rest[..self.rest.len().min(self.left)];
        let Some(end) = known.iter().position(|&byte| byte == b'\n') else {
            return format("the file ends within a pickle");
        };
        let line = self.bytes(end)?;
        self.bytes(1)?;
        text(line)
    }
}

fn text(bytes: &[u8]) -> Result<&str, PickleError> {
    std::str::from_utf8(bytes).or_else(|error| format(error.to_string()))
}

/// The value that an operation brings with it, if it is one that does.
fn literal<'a>(op: u8, program: &mut Program<'a>) -> Result<Option<Value<'a>>, PickleError> {
    Ok(Some(match op {
        b'N' => Value::None,
        0x88 | 0x89 => Value::Bool,
        b'K' => {
            let [byte] = program.take()?;
            Value::Number(byte.into())
        }
        b'M' => Value::Number(u16::from_le_bytes(program.take()?).into()),
        b'J' => Value::Number(i32::from_le_bytes(program.take()?).into()),
        0x8a => {
            let [len] = program.take()?;
            number(program.bytes(len.into())?)
        }
        b'G' => {
            program.take::<8>()?;
            Value::Float
        }
        b'X' => {
            let len = u32::from_le_bytes(program.take()?);
            Value::Text(text(program.bytes(len as usize)?)?)
        }
        0x8c => {
            let [len] = program.take()?;
            Value::Text(text(program.bytes(len.into())?)?)
        }
        b'c' => {
            let (module, name) = (program.line()?, program.line()?);
            global(module, name)?
        }
        _ => return Ok(None),
    }))
}

/// An integer of any length, in two's complement from the lowest byte.
fn number(digits: &[u8]) -> Value<'_> {
    let mut number = [0; 8];
    let Some(low) = number.get_mut(..digits.len()) else {
        return Value::Long(digits);
    };
    low.copy_from_slice(digits);
    let negative = digits.last().is_some_and(|byte| byte & 0x80 != 0);
    number[digits.len()..].fill(if negative { 0xff } else { 0 });
    Value::Number(i64::from_le_bytes(number))
}

/// The stack machine, for the operations that PyTorch's pickles are made of.
#[derive(Debug, Default)]
pub(super) struct Machine<'a> {
    stack: Vec<Value<'a>>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    /// Elements, and how deep other tuples are in them.
    tuples: Vec<(Vec<Value<'a>>, usize)>,
    lists: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<Storage>,
    tensors: Vec<TensorRef>,
}

impl<'a> Machine<'a> {
    /// Runs one pickle from the start of a program, which moves behind it.
    pub fn run(&mut self, program: &mut Program<'a>) -> Result<Value<'a>, PickleError> {
        loop {
            let [op] = program.take()?;
            if let Some(value) = literal(op, program)? {
                self.push(value);
                continue;
            }
            match op {
                0x80 => drop(program.take::<1>()?),
                0x95 => drop(program.take::<8>()?),
                b'(' => self.marks.push(self.stack.len()),
                0x93 => match (self.pop()?, self.pop()?) {
                    (Value::Text(name), Value::Text(module)) => self.push(global(module, name)?),
                    _ => return format("a name that is no text"),
                },
                b'q' => {
                    let [at] = program.take()?;
                    self.remember(at.into())?;
                }
                b'r' => {
                    let at = u32::from_le_bytes(program.take()?);
                    self.remember(at)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let [at] = program.take()?;
                    self.recall(at.into())?;
                }
                b'j' => {
                    let at = u32::from_le_bytes(program.take()?);
                    self.recall(at)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.storages.push(storage);
                    self.push(Value::Storage(self.storages.len() - 1));
                }
                b'R' => {
                    let (args, function) = (self.pop()?, self.pop()?);
                    let value = self.rebuild(function, args)?;
                    self.push(value);
                }
                // Attributes of a dictionary, such as versions of modules.
                b'b' => {
                    self.pop()?;
                }
                b'.' => return self.pop(),
                _ => self.collect(op)?,
            }
        }
    }

    /// Runs an operation on a list, a tuple or a dictionary.
    fn collect(&mut self, op: u8) -> Result<(), PickleError> {
        match op {
            b'}' => {
                self.dicts.push(Vec::new());
                self.push(Value::Dict(self.dicts.len() - 1));
            }
            b']' => {
                self.lists.push(Vec::new());
                self.push(Value::List(self.lists.len() - 1));
            }
            b')' => self.tuple(Vec::new())?,
            b't' => {
                let values = self.pop_to_mark()?;
                self.tuple(values)?;
            }
            0x85..=0x87 => {
                let at = self.stack.len().checked_sub(usize::from(op - 0x84));
                let Some(at) = at else {
                    return format("the stack is empty");
                };
                let values = self.stack.split_off(at);
                self.tuple(values)?;
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
            _ => return format(format!("operation {op:#04x} of pickles is not expected")),
        }
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value<'a>, PickleError> {
        match self.stack.pop() {
            Some(value) => Ok(value),
            None => format("the stack is empty"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, PickleError> {
        match self.marks.pop() {
            Some(at) if at <= self.stack.len() => Ok(self.stack.split_off(at)),
            _ => format("a mark is missing"),
        }
    }

    fn tuple(&mut self, values: Vec<Value<'a>>) -> Result<(), PickleError> {
        let depth = |value: &Value| match value {
            Value::Tuple(inner) => self.tuples[*inner].1 + 1,
            _ => 0,
        };
        let depth = values.iter().map(depth).max().unwrap_or(0);
        if depth > DEPTH {
            return format(format!("tuples are more than {DEPTH} deep in each other"));
        }
        self.tuples.push((values, depth));
        self.push(Value::Tuple(self.tuples.len() - 1));
        Ok(())
    }

    fn remember(&mut self, at: u32) -> Result<(), PickleError> {
        let value = self.pop()?;
        self.memo.insert(at, value);
        self.push(value);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<(), PickleError> {
        match self.memo.get(&at).copied() {
            Some(value) => {
                self.push(value);
                Ok(())
            }
            None => format(format!("nothing is remembered as {at}")),
        }
    }

    fn set(&mut self, items: Vec<Value<'a>>) -> Result<(), PickleError> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return format("an entry of something that is no dictionary");
        };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return format("a key without a value");
        }
        let pairs = pairs.iter().map(|[key, value]| (*key, *value));
        self.dicts[*dict].extend(pairs);
        Ok(())
    }

    fn append(&mut self, values: Vec<Value<'a>>) -> Result<(), PickleError> {
        match self.stack.last() {
            Some(Value::List(list)) => {
                self.lists[*list].extend(values);
                Ok(())
            }
            _ => format("an element of something that is no list"),
        }
    }

    /// What one of the known functions would give.
    fn rebuild(&mut self, function: Value<'a>, args: Value<'a>) -> Result<Value<'a>, PickleError> {
        let Value::Tuple(args) = args else {
            return format("arguments that are no tuple");
        };
        match (function, &self.tuples[args].0[..]) {
            (Value::Function(Function::OrderedDict), []) => {
                self.dicts.push(Vec::new());
                Ok(Value::Dict(self.dicts.len() - 1))
            }
            (
                Value::Function(Function::RebuildTensor),
                [
                    Value::Storage(storage),
                    Value::Number(offset),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    ..,
                ],
            ) => {
                self.tensors.push(TensorRef {
                    storage: *storage,
                    offset: size(*offset)?,
                    shape: *shape,
                    strides: *strides,
                });
                Ok(Value::Tensor(self.tensors.len() - 1))
            }
            (Value::Function(Function::RebuildParameter), [tensor @ Value::Tensor(_), ..]) => {
                Ok(*tensor)
            }
            _ => format("a call with unexpected arguments"),
        }
    }

    /// The tensors of a dictionary, or of the dictionary that it has as `state_dict`.
    pub fn tensors(&self, root: Value<'a>) -> Result<Vec<View>, PickleError> {
        let Value::Dict(dict) = root else {
            return format("its outermost value is no dictionary");
        };
        let entries = &self.dicts[dict];
        let nested = entries.iter().find_map(|entry| match entry {
            (Value::Text("state_dict"), Value::Dict(dict)) => Some(*dict),
            _ => None,
        });
        let entries = nested.map_or(entries, |dict| &self.dicts[dict]);
        let mut names = HashSet::new();
        let mut views = Vec::new();
        for entry in entries {
            let (Value::Text(name), Value::Tensor(tensor)) = entry else {
                continue;
            };
            if !names.insert(name) {
                return format(format!("tensor `{name}` is there twice"));
            }
            let tensor = &self.tensors[*tensor];
            views.push(View {
                name: (*name).to_owned(),
                storage: self.storages[tensor.storage].clone(),
                offset: tensor.offset,
                shape: self.sizes(tensor.shape)?,
                strides: self.sizes(tensor.strides)?,
            });
        }
        Ok(views)
    }

    /// What a persistent id names: `("storage", TYPE, KEY, DEVICE, LENGTH)`.
    fn storage(&self, id: Value<'a>) -> Result<Storage, PickleError> {
        if let Value::Tuple(fields) = id
            && let [
                Value::Text("storage"),
                Value::StorageType(dtype),
                Value::Text(key),
                _,
                Value::Number(len),
                ..,
            ] = &self.tuples[fields].0[..]
        {
            return Ok(Storage {
                dtype: *dtype,
                key: (*key).to_owned(),
                len: size(*len)?,
            });
        }
        format("a reference to something that is no storage")
    }

    fn sizes(&self, tuple: usize) -> Result<Vec<usize>, PickleError> {
        let values = &self.tuples[tuple].0;
        if values.len() > RANK {
            return format(format!("a tensor of {} dimensions", values.len()));
        }
        let sizes = values.iter().map(|value| match value {
            Value::Number(number) => size(*number),
            _ => format("a size that is no number"),
        });
        sizes.collect()
    }

    /// The elements of a list.
    pub fn list(&self, value: Value<'a>) -> Result<&[Value<'a>], PickleError> {
        match value {
            Value::List(list) => Ok(&self.lists[list]),
            _ => format("a value that is no list"),
        }
    }

    /// The storages that the program names.
    pub fn storages(&self) -> &[Storage] {
        &self.storages
    }
}

fn size(number: i64) -> Result<usize, PickleError> {
    usize::try_from(number).or_else(|_| format(format!("a size of {number}")))
}
