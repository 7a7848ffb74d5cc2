//! GGUF files of llama.cpp: configuration, weights and tokenizer of a model in one file.
//!
//! What a file holds is translated to what Hugging Face calls it. Quantised weights become float32.

use std::path::{Path, PathBuf};

use ailora_runtime::store::{Array, Params};
use half::{bf16, f16};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use thiserror::Error;

/// A GGUF file that cannot be used.
#[derive(Debug, Error)]
pub enum GgufError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
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
        "{}: tensor `{name}` is quantised as {found}; expected F32, F16, BF16, Q8_0, Q4_0 or Q4_1",
        path.display()
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
}

/// The only GGUF file of a folder.
pub(crate) fn find(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.filter_map(Result::ok);
    let mut paths = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "gguf"));
    let first = paths.next()?;
    paths.next().is_none().then_some(first)
}

/// A GGUF file in memory.
pub(crate) struct Gguf {
    path: PathBuf,
    bytes: Vec<u8>,
    metadata: IndexMap<String, Value>,
    tensors: Vec<Info>,
    /// Where the tensors' data begin.
    data: usize,
}

struct Info {
    name: String,
    /// Dimensions, outermost first, unlike in the file.
    shape: Vec<usize>,
    kind: u32,
    start: usize,
}

/// Appends the elements of a block.
type Decode = fn(&[u8], &mut Vec<f32>);

/// How elements are stored: in blocks of so many elements and bytes.
struct Kind {
    elements: usize,
    bytes: usize,
    decode: Decode,
}

impl Kind {
    fn of(kind: u32) -> Option<Self> {
        let (elements, bytes, decode): (_, _, Decode) = match kind {
            0 => (1, 4, |b, to| {
                to.push(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            }),
            1 => (1, 2, |b, to| to.push(half(b))),
            30 => (1, 2, |b, to| {
                to.push(bf16::from_le_bytes([b[0], b[1]]).to_f32());
            }),
            // A factor, then the low halves of all bytes before the high ones.
            2 => (32, 18, |b, to| {
                nibbles(&b[2..], to, half(b), -8.0 * half(b))
            }),
            // A factor and a minimum.
            3 => (32, 20, |b, to| nibbles(&b[4..], to, half(b), half(&b[2..]))),
            8 => (32, 34, |b, to| {
                let factor = half(b);
                to.extend(b[2..].iter().map(|&q| factor * f32::from(q as i8)));
            }),
            _ => return None,
        };
        Some(Self {
            elements,
            bytes,
            decode,
        })
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn nibbles(bytes: &[u8], to: &mut Vec<f32>, factor: f32, shift: f32) {
    let value = |q: u8| f32::from(q) * factor + shift;
    to.extend(bytes.iter().map(|b| value(b & 15)));
    to.extend(bytes.iter().map(|b| value(b >> 4)));
}

/// What llama.cpp calls a kind of elements.
fn kind_name(kind: u32) -> String {
    let name = match kind {
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        28 => "F64",
        other => return format!("number {other}, which has no known name"),
    };
    name.to_owned()
}

/// The bytes of a file that are not read yet.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let taken = rest.get(..len).ok_or_else(|| {
            let (at, left) = (self.at, rest.len());
            format!("{len} bytes are needed at {at}, where {left} are left: it is truncated")
        })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
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
        let bytes = self.take(len)?;
        String::from_utf8(bytes.to_vec()).map_err(|error| format!("a text is damaged: {error}"))
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            6 => f32::from_le_bytes(self.array()?).into(),
            7 => (self.array::<1>()? != [0]).into(),
            8 => self.string()?.into(),
            9 => {
                let (kind, len) = (self.u32()?, self.u64()?);
                if kind == 9 {
                    return Err("it has a list of lists".into());
                }
                let values = (0..len).map(|_| self.value(kind));
                Value::Array(values.collect::<Result<_, _>>()?)
            }
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => f64::from_le_bytes(self.array()?).into(),
            other => return Err(format!("it has a value of unknown type {other}")),
        })
    }

    fn info(&mut self) -> Result<Info, String> {
        let name = self.string()?;
        let rank = self.u32()?;
        if rank > 4 {
            return Err(format!("tensor `{name}` has {rank} dimensions"));
        }
        let dims = (0..rank).map(|_| self.u64());
        let mut dims = dims.collect::<Result<Vec<u64>, _>>()?;
        dims.reverse();
        let shape = dims.iter().map(|&dim| usize::try_from(dim).ok());
        let shape: Option<Vec<usize>> = shape.collect();
        let kind = self.u32()?;
        let start = usize::try_from(self.u64()?).ok();
        match (shape, start) {
            (Some(shape), Some(start)) => Ok(Info {
                name,
                shape,
                kind,
                start,
            }),
            _ => Err(format!("tensor `{name}` is too large")),
        }
    }
}

impl Gguf {
    /// Reads a file: all of its metadata, and where its tensors are.
    ///
    /// # Errors
    /// It cannot be read, or is no whole GGUF file of version 2 or 3.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let bytes = std::fs::read(path).map_err(|source| GgufError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, bytes).map_err(|cause| GgufError::Format {
            path: path.to_owned(),
            cause,
        })
    }

    fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, String> {
        let mut reader = Reader {
            bytes: &bytes,
            at: 0,
        };
        let magic = reader.array::<4>()?;
        if &magic != b"GGUF" {
            return Err(format!(
                "it begins with {:?} instead of \"GGUF\"",
                magic.escape_ascii().to_string()
            ));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("it is of version {version}; expected 2 or 3"));
        }
        let [tensor_count, count] = [reader.u64()?, reader.u64()?];
        let mut metadata = IndexMap::new();
        for _ in 0..count {
            let key = reader.string()?;
            let kind = reader.u32()?;
            metadata.insert(key, reader.value(kind)?);
        }
        let infos = (0..tensor_count).map(|_| reader.info());
        let tensors = infos.collect::<Result<Vec<_>, _>>()?;
        let alignment = metadata.get("general.alignment").and_then(Value::as_u64);
        let alignment = alignment.map_or(32, |a| a.clamp(1, 1 << 20) as usize);
        let data = reader.at.next_multiple_of(alignment);
        Ok(Self {
            path: path.to_owned(),
            metadata,
            tensors,
            data,
            bytes,
        })
    }

    /// The error that the value of a key is not what is expected.
    pub(crate) fn wrong(&self, key: &str, expected: &str) -> GgufError {
        GgufError::Metadata {
            path: self.path.clone(),
            key: key.to_owned(),
            found: self.metadata.get(key).map_or("missing".into(), |value| {
                let mut text = value.to_string();
                text.truncate(text.floor_char_boundary(60));
                text
            }),
            expected: expected.to_owned(),
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All metadata.
    pub(crate) fn metadata(&self) -> &IndexMap<String, Value> {
        &self.metadata
    }

    /// The value of a key.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The error that the file contradicts itself.
    pub(crate) fn damaged(&self, cause: String) -> GgufError {
        let path = self.path.clone();
        GgufError::Format { path, cause }
    }

    fn get(&self, key: &str, expected: &str) -> Result<&Value, GgufError> {
        let value = self.metadata.get(key);
        value.ok_or_else(|| self.wrong(key, expected))
    }

    fn architecture(&self) -> Result<&str, GgufError> {
        const KEY: &str = "general.architecture";
        let known = ["llama", "qwen2"];
        let found = self.metadata.get(KEY).and_then(Value::as_str);
        found
            .filter(|name| known.contains(name))
            .ok_or_else(|| self.wrong(KEY, "llama or qwen2"))
    }

    /// What would be in `config.json`.
    ///
    /// # Errors
    /// Metadata are missing, or the model is of no supported kind.
    pub fn config(&self) -> Result<Map<String, Value>, GgufError> {
        let architecture = self.architecture()?;
        let mut config = Map::new();
        config.insert("model_type".into(), architecture.into());
        let fields = [
            ("num_hidden_layers", "block_count"),
            ("max_position_embeddings", "context_length"),
            ("hidden_size", "embedding_length"),
            ("intermediate_size", "feed_forward_length"),
            ("num_attention_heads", "attention.head_count"),
            ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
        ];
        for (field, key) in fields {
            let value = self.get(&format!("{architecture}.{key}"), "a number")?;
            config.insert(field.into(), value.clone());
        }
        let optional = [
            ("num_key_value_heads", "attention.head_count_kv"),
            ("head_dim", "attention.key_length"),
            ("rope_theta", "rope.freq_base"),
        ];
        for (field, key) in optional {
            if let Some(value) = self.metadata.get(&format!("{architecture}.{key}")) {
                config.insert(field.into(), value.clone());
            }
        }
        let key = format!("{architecture}.rope.scaling.type");
        match self.metadata.get(&key).and_then(Value::as_str) {
            None | Some("none") => {}
            Some("linear") => {
                let factor = format!("{architecture}.rope.scaling.factor");
                let factor = self.get(&factor, "a number")?;
                let scaling = json!({"rope_type": "linear", "factor": factor});
                config.insert("rope_scaling".into(), scaling);
            }
            Some(_) => return Err(self.wrong(&key, "none or linear")),
        }
        let shape = |name: &str| Some(&self.tensors.iter().find(|t| t.name == name)?.shape);
        if let Some([vocabulary, _]) = shape("token_embd.weight").map(Vec::as_slice) {
            config.insert("vocab_size".into(), (*vocabulary).into());
        }
        let tied = shape("output.weight").is_none();
        config.insert("tie_word_embeddings".into(), tied.into());
        for (field, key) in [
            ("pad_token_id", "padding_token_id"),
            ("eos_token_id", "eos_token_id"),
            ("bos_token_id", "bos_token_id"),
        ] {
            if let Some(id) = self.metadata.get(&format!("tokenizer.ggml.{key}")) {
                config.insert(field.into(), id.clone());
            }
        }
        Ok(config)
    }

    /// The tensors in float32, named and ordered as Hugging Face has them.
    ///
    /// # Errors
    /// A tensor is truncated or quantised in a way that is not supported.
    pub fn tensors(&self) -> Result<Params, GgufError> {
        let architecture = self.architecture()?;
        let heads = |key: &str| {
            let key = format!("{architecture}.attention.{key}");
            let count = self.metadata.get(&key).and_then(Value::as_u64);
            count.map(|count| count as usize)
        };
        let queries = heads("head_count").ok_or_else(|| {
            self.wrong(&format!("{architecture}.attention.head_count"), "a number")
        })?;
        let keys = heads("head_count_kv").unwrap_or(queries);
        let mut params = Params::new();
        for info in &self.tensors {
            if info.name == "rope_freqs.weight" {
                return Err(GgufError::Format {
                    path: self.path.clone(),
                    cause: "it scales rotary angles by `rope_freqs.weight`, which is not \
                            supported; use the model's safetensors"
                        .into(),
                });
            }
            let mut array = self.array(info)?;
            let pairs = match (architecture, &info.name) {
                ("llama", name) if name.contains(".attn_q.") => Some(queries),
                ("llama", name) if name.contains(".attn_k.") => Some(keys),
                _ => None,
            };
            if let Some(heads) = pairs {
                array = halves(array, heads);
            }
            params.insert(name(&info.name), array);
        }
        Ok(params)
    }

    fn array(&self, info: &Info) -> Result<Array, GgufError> {
        let kind = Kind::of(info.kind).ok_or_else(|| GgufError::Quantisation {
            path: self.path.clone(),
            name: info.name.clone(),
            found: kind_name(info.kind),
        })?;
        let format = |cause: &str| GgufError::Format {
            path: self.path.clone(),
            cause: format!("tensor `{}` {cause}", info.name),
        };
        let count = info
            .shape
            .iter()
            .try_fold(1, |n: usize, &d| n.checked_mul(d));
        let count = count.filter(|count| count.is_multiple_of(kind.elements));
        let count = count.ok_or_else(|| format("is not made of whole blocks"))?;
        let len = (count / kind.elements).checked_mul(kind.bytes);
        let start = self.data.checked_add(info.start);
        let end = start
            .zip(len)
            .and_then(|(start, len)| start.checked_add(len));
        let bytes = start
            .zip(end)
            .and_then(|(start, end)| self.bytes.get(start..end));
        let bytes = bytes.ok_or_else(|| format("ends behind the file, which is truncated"))?;
        let mut data = Vec::with_capacity(count);
        for block in bytes.chunks_exact(kind.bytes) {
            (kind.decode)(block, &mut data);
        }
        let shape = info.shape.clone();
        Ok(Array { shape, data })
    }
}

/// What Hugging Face calls a tensor; its own name, if that is unknown.
fn name(gguf: &str) -> String {
    let outer = |name| match name {
        "token_embd" => Some("model.embed_tokens"),
        "output_norm" => Some("model.norm"),
        "output" => Some("lm_head"),
        _ => None,
    };
    let inner = |name| match name {
        "attn_norm" => Some("input_layernorm"),
        "attn_q" => Some("self_attn.q_proj"),
        "attn_k" => Some("self_attn.k_proj"),
        "attn_v" => Some("self_attn.v_proj"),
        "attn_output" => Some("self_attn.o_proj"),
        "ffn_norm" => Some("post_attention_layernorm"),
        "ffn_gate" => Some("mlp.gate_proj"),
        "ffn_up" => Some("mlp.up_proj"),
        "ffn_down" => Some("mlp.down_proj"),
        _ => None,
    };
    let parts: Vec<&str> = gguf.split('.').collect();
    let translated = match parts[..] {
        ["blk", layer, name, kind] => {
            inner(name).map(|name| format!("model.layers.{layer}.{name}.{kind}"))
        }
        [name, kind] => outer(name).map(|name| format!("{name}.{kind}")),
        _ => None,
    };
    translated.unwrap_or_else(|| gguf.to_owned())
}

/// The rows of each head in halves, as Hugging Face turns them, where the file has the two rows that
/// are turned together side by side.
fn halves(array: Array, heads: usize) -> Array {
    let Array { shape, data } = array;
    let rows = shape.first().copied().unwrap_or(0);
    let depth = rows / heads.max(1);
    let width = data.len() / rows.max(1);
    if depth * heads != rows || !depth.is_multiple_of(2) {
        return Array { shape, data };
    }
    let row = |to: usize| {
        let (head, at) = (to / depth, to % depth);
        let (half, pair) = (at / (depth / 2), at % (depth / 2));
        head * depth + 2 * pair + half
    };
    let rows = (0..rows).map(|to| &data[row(to) * width..][..width]);
    let data = rows.flatten().copied().collect();
    Array { shape, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A file of one tensor with one text among its metadata.
    fn file(kind: u32, elements: u64, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(text("general.architecture"));
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend(text("llama"));
        bytes.extend(text("x"));
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(elements.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(data);
        bytes
    }

    fn values(kind: u32, data: &[u8]) -> Vec<f32> {
        let count = if data.len() > 4 { 32 } else { 1 };
        let gguf = Gguf::parse(Path::new("m.gguf"), file(kind, count, data)).unwrap();
        gguf.array(&gguf.tensors[0]).unwrap().data
    }

    #[test]
    fn blocks_become_floats() {
        let [two, minus] = [2.0, -1.0].map(|x| f16::from_f32(x).to_le_bytes());
        assert_eq!(values(0, &1.5_f32.to_le_bytes()), [1.5]);
        assert_eq!(values(1, &two), [2.0]);
        let quants: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
        let found = values(2, &[&two[..], &quants].concat());
        assert_eq!(found[..3], [-16.0, -14.0, -12.0]);
        assert_eq!(found[16..19], [14.0, 12.0, 10.0]);
        let found = values(3, &[&two[..], &minus, &quants].concat());
        assert_eq!(found[..2], [-1.0, 1.0]);
        assert_eq!(found[16..18], [29.0, 27.0]);
        let quants: Vec<u8> = (0..32).map(|i: i8| (i - 16) as u8).collect();
        let found = values(8, &[&two[..], &quants].concat());
        assert_eq!(found[..2], [-32.0, -30.0]);
    }

    #[test]
    fn damaged_files_are_refused_wherever_they_end() {
        let whole = file(8, 32, &[0; 34]);
        for end in 0..whole.len() {
            let parsed = Gguf::parse(Path::new("m.gguf"), whole[..end].to_vec());
            let error = match parsed {
                Err(cause) => cause,
                Ok(gguf) => gguf.array(&gguf.tensors[0]).unwrap_err().to_string(),
            };
            assert!(error.contains("truncated"), "{end}: {error}");
        }
        let mut other = whole.clone();
        other[..4].copy_from_slice(b"PK\x03\x04");
        let cause = Gguf::parse(Path::new("m.gguf"), other).err().unwrap();
        assert!(cause.contains("instead of \"GGUF\""), "{cause}");
        // A count that no file has.
        let mut other = whole;
        other[8..16].fill(0xff);
        assert!(Gguf::parse(Path::new("m.gguf"), other).is_err());
        let gguf = Gguf::parse(Path::new("m.gguf"), file(14, 32, &[0; 34])).unwrap();
        let message = gguf.array(&gguf.tensors[0]).unwrap_err().to_string();
        assert!(message.contains("`x` is quantised as Q6_K"), "{message}");
    }

    #[test]
    fn heads_are_turned_back_to_halves() {
        let shape = vec![8, 1];
        let data = vec![0., 1., 2., 3., 4., 5., 6., 7.];
        let found = halves(Array { shape, data }, 2).data;
        assert_eq!(found, [0., 2., 1., 3., 4., 6., 5., 7.]);
        assert_eq!(
            name("blk.3.attn_q.weight"),
            "model.layers.3.self_attn.q_proj.weight"
        );
        assert_eq!(name("rope.weight"), "rope.weight");
    }
}
