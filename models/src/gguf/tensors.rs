//! The tensors of a file: their names, where they are, and their elements.

use ailora_runtime::store::{Array, Params};

use super::{
    Gguf, GgufError,
    blocks::{self, Form, Kind},
    metadata::Info,
};

/// What the angles of rotary embeddings are divided by, which is no weight.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// A tensor's place in a model.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    /// What Hugging Face calls it.
    pub name: String,
    pub layer: Option<usize>,
    /// What llama.cpp calls its module within the layer, such as `attn_q`.
    pub module: &'static str,
    pub bias: bool,
}

const OUTER: [(&str, &str); 3] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

/// Modules of a layer, and whether they may have biases.
const INNER: [(&str, &str, bool); 9] = [
    ("attn_norm", "input_layernorm", false),
    ("attn_q", "self_attn.q_proj", true),
    ("attn_k", "self_attn.k_proj", true),
    ("attn_v", "self_attn.v_proj", true),
    ("attn_output", "self_attn.o_proj", true),
    ("ffn_norm", "post_attention_layernorm", false),
    ("ffn_gate", "mlp.gate_proj", true),
    ("ffn_up", "mlp.up_proj", true),
    ("ffn_down", "mlp.down_proj", true),
];

/// The place of a tensor, if it is one of these models'.
pub(super) fn place(tensor: &str) -> Option<Place> {
    let parts: Vec<&str> = tensor.split('.').collect();
    match parts[..] {
        [module, "weight"] => {
            let (module, name) = OUTER.into_iter().find(|(known, _)| *known == module)?;
            Some(Place {
                name: format!("{name}.weight"),
                layer: None,
                module,
                bias: false,
            })
        }
        ["blk", layer, module, kind @ ("weight" | "bias")] => {
            let number: usize = layer.parse().ok()?;
            let known = INNER.into_iter().find(|(known, _, _)| *known == module);
            let (module, name, biased) = known?;
            let bias = kind == "bias";
            (number.to_string() == layer && (biased || !bias)).then(|| Place {
                name: format!("model.layers.{number}.{name}.{kind}"),
                layer: Some(number),
                module,
                bias,
            })
        }
        _ => None,
    }
}

impl Gguf {
    fn tensor(&self, name: &str, cause: &str) -> GgufError {
        self.damaged(format!("tensor `{name}` {cause}"))
    }

    /// Checks that every tensor is known, and that they fill the file one after the other, as
    /// llama.cpp demands.
    pub(super) fn check_tensors(&self) -> Result<(), GgufError> {
        let mut spans = Vec::new();
        for info in &self.head.tensors {
            if info.name != ROPE_FACTORS && place(&info.name).is_none() {
                return Err(self.tensor(
                    &info.name,
                    "is not known, and what it does would be lost; use the model's safetensors",
                ));
            }
            let (_, len) = self.size(info)?;
            if !info.start.is_multiple_of(self.alignment) {
                let cause = format!(
                    "begins at {}, which is no multiple of the alignment, {}",
                    info.start, self.alignment
                );
                return Err(self.tensor(&info.name, &cause));
            }
            let end = info.start.checked_add(len);
            let fits = end.is_some_and(|end| end <= self.head.file_len.saturating_sub(self.data));
            let Some(end) = end.filter(|_| fits) else {
                return Err(self.tensor(
                    &info.name,
                    "ends behind the file, which is truncated or damaged",
                ));
            };
            spans.push((info.start, end, &info.name));
        }
        spans.sort_unstable();
        let mut expected = 0;
        for (start, end, name) in spans {
            if start != expected {
                let cause = format!(
                    "begins at {start}, where {expected} is expected: tensors follow each other \
                     without gaps"
                );
                return Err(self.tensor(name, &cause));
            }
            expected = end.next_multiple_of(self.alignment);
        }
        // The last may lack the padding behind it.
        let found = self.head.file_len.saturating_sub(self.data);
        if found > expected {
            return Err(self.damaged(format!(
                "{} bytes are behind the last tensor",
                found - expected
            )));
        }
        Ok(())
    }

    /// The kind of a tensor's elements, and its bytes.
    fn size(&self, info: &Info) -> Result<(Kind, u64), GgufError> {
        let kind = Kind::of(info.kind).ok_or_else(|| GgufError::Quantisation {
            path: self.path.clone(),
            name: info.name.clone(),
            found: blocks::name(info.kind),
        })?;
        let row = info.shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(kind.elements) {
            let cause = format!(
                "has rows of {row} elements, which are not made of whole blocks of {}: {} each",
                kind.name, kind.elements
            );
            return Err(self.tensor(&info.name, &cause));
        }
        let mut dims = info.shape.iter();
        let count = dims.try_fold(1_usize, |count, &dim| count.checked_mul(dim));
        let len = count.and_then(|count| (count / kind.elements).checked_mul(kind.bytes));
        match len {
            Some(len) => Ok((kind, len as u64)),
            None => Err(self.tensor(&info.name, "ends behind the file: its shape is damaged")),
        }
    }

    /// A tensor: floats where they lie in the file, which is mapped, and blocks in float32.
    pub(super) fn array(&self, info: &Info) -> Result<Array, GgufError> {
        let (kind, len) = self.size(info)?;
        let start = (self.data + info.start) as usize;
        let range = start..start + len as usize;
        let Some(bytes) = self.map.get(range.clone()) else {
            return Err(self.tensor(&info.name, "ends behind the file, which was shortened"));
        };
        let shape = info.shape.clone();
        Ok(match kind.form {
            Form::Floats(dtype) => Array::mapped(dtype, shape, &self.map, range),
            Form::Blocks(decode) => {
                let mut data = Vec::with_capacity(bytes.len() / kind.bytes * kind.elements);
                for block in bytes.chunks_exact(kind.bytes) {
                    decode(block, &mut data);
                }
                Array::new(shape, data)
            }
        })
    }

    /// The weights, named and ordered as Hugging Face has them.
    ///
    /// # Errors
    /// The file was shortened, or has numbers of heads that do not fit its tensors.
    pub fn tensors(&self) -> Result<Params, GgufError> {
        let (queries, keys) = self.heads()?;
        let mut params = Params::new();
        for info in &self.head.tensors {
            let Some(place) = place(&info.name) else {
                continue;
            };
            let array = self.array(info)?;
            let heads = match (self.architecture()?, place.module) {
                ("llama", "attn_q") => Some(queries),
                ("llama", "attn_k") => Some(keys),
                _ => None,
            };
            let array = match heads {
                None => array,
                Some(heads) => halves(&array, heads).ok_or_else(|| {
                    let rows = info.shape.first().copied().unwrap_or(0);
                    let cause = format!("has {rows} rows, which do not make {heads} heads");
                    self.tensor(&info.name, &cause)
                })?,
            };
            params.insert(place.name, array);
        }
        Ok(params)
    }
}

/// The rows of each head in halves, as Hugging Face rotates them, where the file has the two rows that
/// are rotated together side by side; nothing, if there are no such heads.
fn halves(array: &Array, heads: usize) -> Option<Array> {
    let rows = array.shape().first().copied()?;
    let depth = rows.checked_div(heads)?;
    if depth * heads != rows || !depth.is_multiple_of(2) {
        return None;
    }
    let bytes = array.bytes();
    let width = bytes.len().checked_div(rows)?;
    let row = |to: usize| {
        let (head, at) = (to / depth, to % depth);
        let (half, pair) = (at / (depth / 2), at % (depth / 2));
        head * depth + 2 * pair + half
    };
    let rows = (0..rows).map(|to| &bytes[row(to) * width..][..width]);
    let turned = rows.collect::<Vec<_>>().concat();
    Some(Array::from_bytes(array.dtype(), array.shape(), turned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_put_back_into_halves() {
        let shape = vec![16, 1];
        let data: Vec<f32> = (0..16_u8).map(f32::from).collect();
        let found = halves(&Array::new(shape, data), 2).unwrap().into_floats();
        let head = [0., 2., 4., 6., 1., 3., 5., 7.];
        assert_eq!(found[..8], head);
        assert_eq!(found[8..], head.map(|row| row + 8.0));
        assert!(halves(&Array::zeros([6, 1]), 4).is_none());
        assert!(halves(&Array::zeros([9, 1]), 3).is_none());
    }

    #[test]
    fn tensors_have_places() {
        let name = |tensor| place(tensor).map(|place| place.name);
        for (tensor, expected) in [
            ("output.weight", "lm_head.weight"),
            (
                "blk.3.attn_q.weight",
                "model.layers.3.self_attn.q_proj.weight",
            ),
            ("blk.12.ffn_down.bias", "model.layers.12.mlp.down_proj.bias"),
        ] {
            assert_eq!(name(tensor).as_deref(), Some(expected));
        }
        for unknown in [
            "output.bias",
            "rope.weight",
            "blk.0.attn_norm.bias",
            "blk.00.attn_q.weight",
            "blk.0.attn_q.weight.lora_a",
            "blk.0.attn_q.scale",
            "blk.0.ffn_gate_exps.weight",
            "v.blk.0.attn_q.weight",
        ] {
            assert_eq!(name(unknown), None, "{unknown}");
        }
    }
}
