//! GGUF files, written as llama.cpp's converter lays them out.

use std::path::Path;

use ailora_runtime::store::{self, Params};

/// A value of a file's metadata.
#[derive(Clone, Debug)]
pub enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    /// The number of a type, and what follows it.
    Raw(u32, Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::U32(number)
    }
}

impl From<f32> for Value {
    fn from(number: f32) -> Self {
        Self::F32(number)
    }
}

impl From<bool> for Value {
    fn from(set: bool) -> Self {
        Self::Bool(set)
    }
}

/// A tensor: dimensions as the file has them, innermost first, the number of its kind, and bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub kind: u32,
    pub bytes: Vec<u8>,
    /// Where it begins behind the head, if not behind the tensor before.
    pub start: Option<u64>,
}

/// What a file is made of.
#[derive(Clone, Debug)]
pub struct File {
    pub version: u32,
    pub fields: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
    pub alignment: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn list(kind: u32, len: usize, bytes: Vec<u8>) -> Vec<u8> {
    let head = [&kind.to_le_bytes()[..], &(len as u64).to_le_bytes()].concat();
    [head, bytes].concat()
}

impl Value {
    fn bytes(&self) -> Vec<u8> {
        let (kind, bytes) = match self {
            Self::U32(x) => (4, x.to_le_bytes().to_vec()),
            Self::F32(x) => (6, x.to_le_bytes().to_vec()),
            Self::Bool(x) => (7, vec![u8::from(*x)]),
            Self::Text(x) => (8, text(x)),
            Self::Texts(x) => {
                let bytes = x.iter().flat_map(|x| text(x)).collect();
                (9, list(8, x.len(), bytes))
            }
            Self::I32s(x) => {
                let bytes = x.iter().flat_map(|x| x.to_le_bytes()).collect();
                (9, list(5, x.len(), bytes))
            }
            Self::Raw(kind, bytes) => (*kind, bytes.clone()),
        };
        [&u32::to_le_bytes(kind)[..], &bytes].concat()
    }
}

impl File {
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        match self.fields.iter_mut().find(|field| field.0 == key) {
            Some(field) => field.1 = value,
            None => self.fields.push((key.into(), value)),
        }
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        let mut tensors = self.tensors.iter_mut();
        tensors.find(|tensor| tensor.name == name).unwrap()
    }

    pub fn add(&mut self, name: &str, dims: &[u64], data: &[f32]) -> &mut Tensor {
        self.tensors.push(Tensor {
            name: name.into(),
            dims: dims.to_vec(),
            kind: 0,
            bytes: data.iter().flat_map(|x| x.to_le_bytes()).collect(),
            start: None,
        });
        self.tensors.last_mut().unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.fields.len() as u64).to_le_bytes());
        for (key, value) in &self.fields {
            file.extend(text(key));
            file.extend(value.bytes());
        }
        let mut data: Vec<u8> = Vec::new();
        for tensor in &self.tensors {
            let start = tensor.start.unwrap_or(data.len() as u64);
            data.extend(&tensor.bytes);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            file.extend(text(&tensor.name));
            file.extend((tensor.dims.len() as u32).to_le_bytes());
            for dim in &tensor.dims {
                file.extend(dim.to_le_bytes());
            }
            file.extend(tensor.kind.to_le_bytes());
            file.extend(start.to_le_bytes());
        }
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        file.extend(data);
        file
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }

    /// The file of a folder's llama or qwen2, in float32, with a tokenizer of letters.
    pub fn of(folder: &Path) -> Self {
        let config = std::fs::read(folder.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let size = |field: &str| config[field].as_u64().unwrap() as u32;
        let kind = config["model_type"].as_str().unwrap().to_owned();
        let mut file = Self {
            version: 3,
            fields: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        };
        let own = |key: &str| format!("{kind}.{key}");
        file.set("general.architecture", &*kind);
        for (key, field) in [
            ("block_count", "num_hidden_layers"),
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
        ] {
            file.set(&own(key), size(field));
        }
        let head = config["head_dim"].as_u64().map(|size| size as u32);
        let head = head.unwrap_or(size("hidden_size") / size("num_attention_heads"));
        file.set(&own("attention.key_length"), head);
        file.set(&own("attention.value_length"), head);
        file.set(&own("rope.dimension_count"), head);
        let epsilon = config["rms_norm_eps"].as_f64().unwrap() as f32;
        file.set(&own("attention.layer_norm_rms_epsilon"), epsilon);
        let theta = config["rope_parameters"]["rope_theta"].as_f64().unwrap() as f32;
        file.set(&own("rope.freq_base"), theta);
        let weights = store::load(&folder.join("model.safetensors")).unwrap().0;
        file.weights(&weights, &kind, head as usize);
        file.tokenizer(size("vocab_size"));
        file
    }

    fn weights(&mut self, weights: &Params, kind: &str, head: usize) {
        for (name, array) in weights {
            let mut name = name.clone();
            for (from, to) in [
                ("model.embed_tokens", "token_embd"),
                ("model.norm", "output_norm"),
                ("lm_head", "output"),
                ("model.layers", "blk"),
                ("input_layernorm", "attn_norm"),
                ("post_attention_layernorm", "ffn_norm"),
                ("self_attn.q_proj", "attn_q"),
                ("self_attn.k_proj", "attn_k"),
                ("self_attn.v_proj", "attn_v"),
                ("self_attn.o_proj", "attn_output"),
                ("mlp.gate_proj", "ffn_gate"),
                ("mlp.up_proj", "ffn_up"),
                ("mlp.down_proj", "ffn_down"),
            ] {
                name = name.replace(from, to);
            }
            let width = array.len() / array.shape()[0];
            let floats = array.floats();
            let mut rows: Vec<&[f32]> = floats.chunks(width).collect();
            if kind == "llama" && (name.contains("attn_q.") || name.contains("attn_k.")) {
                // The two rows that are rotated together side by side: 0, n/2, 1, n/2 + 1, ...
                let paired = rows.chunks(head).flat_map(|rows| {
                    let (low, high) = rows.split_at(head / 2);
                    low.iter().zip(high).flat_map(|(low, high)| [*low, *high])
                });
                rows = paired.collect();
            }
            let mut dims: Vec<u64> = array.shape().iter().map(|&dim| dim as u64).collect();
            dims.reverse();
            self.add(&name, &dims, &rows.concat());
        }
    }

    /// A byte-level tokenizer of control tokens, letters, and one merge.
    fn tokenizer(&mut self, size: u32) {
        let mut tokens: Vec<String> = ["<pad>", "<s>", "</s>"].map(str::to_owned).into();
        tokens.extend(('a'..='z').map(String::from));
        tokens.extend(["\u{120}", "th"].map(str::to_owned));
        let normal = tokens.len();
        tokens.extend((normal as u32..size).map(|id| format!("tok{id}")));
        let types = (0..size).map(|id| if id < 3 { 3 } else { 1 }).collect();
        self.set("tokenizer.ggml.model", "gpt2")
            .set("tokenizer.ggml.pre", "gpt-2")
            .set("tokenizer.ggml.tokens", Value::Texts(tokens))
            .set("tokenizer.ggml.token_type", Value::I32s(types))
            .set("tokenizer.ggml.merges", Value::Texts(vec!["t h".into()]))
            .set("tokenizer.ggml.bos_token_id", 1)
            .set("tokenizer.ggml.eos_token_id", 2)
            .set("tokenizer.ggml.padding_token_id", 0)
            .set("tokenizer.ggml.add_bos_token", true);
    }
}
