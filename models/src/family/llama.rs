//! LLaMA (Touvron et al., 2023; Grattafiori et al., 2024), and what shares its graph: Mistral (Jiang
//! et al., 2023) and Qwen2 (Yang et al., 2024).

use std::borrow::Cow;

use ailora_graph::{
    Module, adapt,
    ir::Type,
    nn::{Cx, Embedding, Linear, RmsNorm, Tensor},
};
use serde::Deserialize;

use super::{Architecture, Family, Inputs, Network, encoder::Activation};
use crate::{
    batch::{Batch, Shape},
    config::FieldError,
    generate::{Cache, Step},
    head::Head,
};

pub(super) const LLAMA: Family = Family {
    model_type: "llama",
    base: "model",
    read: |json| Llama::read(json, Variant::Llama),
};

pub(super) const MISTRAL: Family = Family {
    model_type: "mistral",
    base: "model",
    read: |json| Llama::read(json, Variant::Mistral),
};

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    base: "model",
    read: |json| Llama::read(json, Variant::Qwen2),
};

/// Which projections of an attention have biases, and whether windows are meant, is not said alike.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Variant {
    Llama,
    Mistral,
    Qwen2,
}

/// The fields of `config.json` that describe the model.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    #[serde(default = "silu")]
    hidden_act: Activation,
    #[serde(default = "rms_norm_eps")]
    rms_norm_eps: f64,
    #[serde(default = "initializer_range")]
    initializer_range: f64,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    attention_dropout: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
}

fn silu() -> Activation {
    Activation::Silu
}

fn rms_norm_eps() -> f64 {
    1e-6
}

fn initializer_range() -> f64 {
    0.02
}

/// `rope_parameters`, or `rope_scaling` as it was called when `rope_theta` was beside it.
#[derive(Clone, Debug, Default, Deserialize)]
struct Rope {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

#[derive(Debug)]
struct Llama {
    config: Config,
    kv_heads: usize,
    /// Width of a head.
    depth: usize,
    variant: Variant,
    /// Biases of queries, keys and values, and of the attention's output.
    biases: [bool; 2],
    /// Angle by which each pair of a head turns from one position to the next.
    frequencies: Vec<f32>,
}

impl Llama {
    fn read(json: &[u8], variant: Variant) -> Result<Box<dyn Architecture>, FieldError> {
        let config: Config = serde_json::from_slice(json)?;
        let heads = config.num_attention_heads;
        let sizes = [
            ("vocab_size", config.vocab_size),
            ("hidden_size", config.hidden_size),
            ("intermediate_size", config.intermediate_size),
            ("num_hidden_layers", config.num_hidden_layers),
            ("num_attention_heads", heads),
            (
                "num_key_value_heads",
                config.num_key_value_heads.unwrap_or(1),
            ),
            ("head_dim", config.head_dim.unwrap_or(2)),
            ("max_position_embeddings", config.max_position_embeddings),
        ];
        for (field, found) in sizes {
            let most = 1 << 24;
            FieldError::unless((1..=most).contains(&found), field, found, || {
                format!("a whole number from 1 to {most}")
            })?;
        }
        let kv_heads = config.num_key_value_heads.unwrap_or(heads);
        FieldError::unless(
            heads.is_multiple_of(kv_heads),
            "num_key_value_heads",
            kv_heads,
            || format!("a divisor of `num_attention_heads`, which is {heads}"),
        )?;
        let width = config.hidden_size;
        FieldError::unless(
            config.head_dim.is_some() || width.is_multiple_of(heads),
            "hidden_size",
            width,
            || format!("a multiple of `num_attention_heads`, which is {heads}"),
        )?;
        let depth = config.head_dim.unwrap_or(width / heads);
        FieldError::unless(depth.is_multiple_of(2), "head_dim", depth, || {
            "an even number".into()
        })?;
        let rates = [
            ("attention_dropout", config.attention_dropout),
            ("rms_norm_eps", config.rms_norm_eps),
            ("initializer_range", config.initializer_range),
        ];
        for (field, found) in rates {
            FieldError::unless((0.0..1.0).contains(&found), field, found, || {
                "a number from 0 to below 1".into()
            })?;
        }
        if let Some(window) = config.sliding_window
            && config
                .use_sliding_window
                .unwrap_or(variant == Variant::Mistral)
        {
            let longest = config.max_position_embeddings;
            FieldError::unless(window >= longest, "sliding_window", window, || {
                format!(
                    "null or at least `max_position_embeddings`, which is {longest}: attention in \
                     windows is not supported; for texts of up to {window} tokens, lower \
                     `max_position_embeddings` to that"
                )
            })?;
        }
        let biases = match variant {
            Variant::Llama => [config.attention_bias; 2],
            Variant::Mistral => [false; 2],
            Variant::Qwen2 => [true, false],
        };
        let frequencies = config.frequencies(depth)?;
        Ok(Box::new(Self {
            config,
            kv_heads,
            depth,
            variant,
            biases,
            frequencies,
        }))
    }

    /// Cosines and sines of the angles at positions, `[positions, d/2]` each, in float32 throughout
    /// as transformers has them.
    fn rotary(&self, positions: &[i32]) -> [Vec<f32>; 2] {
        let angles = positions.iter().flat_map(|&position| {
            let turn = move |frequency: &f32| position as f32 * frequency;
            self.frequencies.iter().map(turn)
        });
        let angles: Vec<f32> = angles.collect();
        [f32::cos, f32::sin].map(|f| angles.iter().map(|&angle| f(angle)).collect())
    }
}

impl Config {
    fn frequencies(&self, depth: usize) -> Result<Vec<f32>, FieldError> {
        let rope = match (&self.rope_parameters, &self.rope_scaling) {
            (Some(rope), _) | (None, Some(rope)) => Cow::Borrowed(rope),
            (None, None) => Cow::Owned(Rope::default()),
        };
        let theta = rope.rope_theta.or(self.rope_theta).unwrap_or(10_000.0);
        let positive = |field, value: f64| {
            let fits = value.is_finite() && value > 0.0;
            FieldError::unless(fits, field, value, || "a number above 0".into())
        };
        positive("rope_theta", theta)?;
        let part = rope.partial_rotary_factor.unwrap_or(1.0);
        FieldError::unless(part == 1.0, "partial_rotary_factor", part, || {
            "1; heads that are turned in part are not supported".into()
        })?;
        let needed = |field, value: Option<f64>| match value {
            Some(value) => positive(field, value).map(|()| value),
            None => Err(FieldError::Value {
                field,
                found: "missing".into(),
                expected: "a number, which this rope_type needs".into(),
            }),
        };
        let powers = (0..depth / 2).map(|i| theta.powf(-(2.0 * i as f64) / depth as f64));
        let kind = rope.rope_type.as_deref().or(rope.old_type.as_deref());
        let frequencies: Vec<f64> = match kind.unwrap_or("default") {
            "default" => powers.collect(),
            "linear" => {
                let factor = needed("factor", rope.factor)?;
                powers.map(|frequency| frequency / factor).collect()
            }
            // Slow turns are slowed down more, and what lies between is interpolated.
            "llama3" => {
                let factor = needed("factor", rope.factor)?;
                let low = needed("low_freq_factor", rope.low_freq_factor)?;
                let high = needed("high_freq_factor", rope.high_freq_factor)?;
                let original = needed(
                    "original_max_position_embeddings",
                    rope.original_max_position_embeddings,
                )?;
                FieldError::unless(high > low, "high_freq_factor", high, || {
                    format!("more than `low_freq_factor`, which is {low}")
                })?;
                let scaled = |frequency: f64| {
                    let turns = original * frequency / std::f64::consts::TAU;
                    let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                };
                powers.map(scaled).collect()
            }
            other => {
                return Err(FieldError::Value {
                    field: "rope_type",
                    found: other.to_owned(),
                    expected: "default, linear or llama3".into(),
                });
            }
        };
        Ok(frequencies.into_iter().map(|f| f as f32).collect())
    }
}

impl Architecture for Llama {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_len(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn initializer_range(&self) -> f64 {
        self.config.initializer_range
    }

    fn build(&self, cx: &Cx, head: Head) -> Option<Box<dyn Network>> {
        let Config {
            hidden_size: width,
            vocab_size,
            tie_word_embeddings: tied,
            ..
        } = self.config;
        let model = LlamaModel::new(cx, self);
        Some(match head {
            Head::CausalLm => Box::new(LlamaForCausalLM {
                class: match self.variant {
                    Variant::Llama => "LlamaForCausalLM",
                    Variant::Mistral => "MistralForCausalLM",
                    Variant::Qwen2 => "Qwen2ForCausalLM",
                },
                model,
                lm_head: (!tied).then(|| Linear::new(cx, width, vocab_size, false)),
            }),
            Head::Sequence { outputs, .. } => Box::new(LlamaForSequenceClassification {
                class: match self.variant {
                    Variant::Llama => "LlamaForSequenceClassification",
                    Variant::Mistral => "MistralForSequenceClassification",
                    Variant::Qwen2 => "Qwen2ForSequenceClassification",
                },
                model,
                score: Linear::new(cx, width, outputs, false),
            }),
            Head::QuestionAnswering | Head::MaskedLm | Head::Seq2SeqLm { .. } => return None,
        })
    }

    fn inputs(&self, head: Head, batch: &Batch) -> Inputs {
        let rows: Vec<&[f32]> = batch.mask.chunks(batch.len.max(1)).collect();
        let inputs = self.step_inputs(&Step {
            ids: batch.ids.clone(),
            positions: rows.iter().flat_map(|mask| positions(mask)).collect(),
            mask: batch.mask.clone(),
            source_mask: Vec::new(),
        });
        if !matches!(head, Head::Sequence { .. }) {
            return inputs;
        }
        let last = rows.iter().enumerate().map(|(row, mask)| {
            let last = mask.iter().rposition(|&m| m != 0.0).unwrap_or(0);
            (row * batch.len + last) as i32
        });
        inputs.with_ids("last_tokens", last.collect())
    }

    fn step_inputs(&self, step: &Step) -> Inputs {
        let [cos, sin] = self.rotary(&step.positions);
        Inputs::default()
            .with_ids("input_ids", step.ids.clone())
            .with_floats("attention_mask", step.mask.clone())
            .with_floats("rotary_cos", cos)
            .with_floats("rotary_sin", sin)
    }
}

/// Positions of a row's tokens, which count from the first that is not padding.
fn positions(mask: &[f32]) -> impl Iterator<Item = i32> {
    let first = mask.iter().position(|&m| m != 0.0).unwrap_or(0);
    (0..mask.len()).map(move |i| i.saturating_sub(first) as i32)
}

/// What every layer reads beside its tokens' states.
struct Shared<'g> {
    mask: Tensor<'g>,
    cos: Tensor<'g>,
    sin: Tensor<'g>,
}

#[derive(Module)]
struct LlamaModel {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// Half the width of a head.
    pairs: usize,
}

impl LlamaModel {
    fn new(cx: &Cx, llama: &Llama) -> Self {
        let Config {
            vocab_size,
            hidden_size,
            num_hidden_layers,
            rms_norm_eps,
            ..
        } = llama.config;
        Self {
            embed_tokens: Embedding::new(cx, vocab_size, hidden_size),
            layers: (0..num_hidden_layers)
                .map(|_| Layer::new(cx, llama))
                .collect(),
            norm: RmsNorm::new(cx, hidden_size, rms_norm_eps),
            pairs: llama.depth / 2,
        }
    }

    /// The states of `len` tokens behind those of the cache.
    ///
    /// # Shapes
    /// `[rows, len, width]`
    fn forward<'g>(&self, cx: &'g Cx, len: usize, cache: &mut Cache<'g>) -> Tensor<'g> {
        let rows = cache.rows();
        let ids = cx.input("input_ids", Type::i32([rows, len]));
        let mask = Type::f32([rows, cache.len() + len]);
        let angles = Type::f32([rows, len, self.pairs]);
        let shared = Shared {
            mask: cx.input("attention_mask", mask),
            cos: cx.input("rotary_cos", angles.clone()),
            sin: cx.input("rotary_sin", angles),
        };
        let embedded = self.embed_tokens.forward(&ids);
        let hidden = self
            .layers
            .iter()
            .fold(embedded, |x, layer| layer.forward(&x, &shared, cache));
        self.norm.forward(&hidden)
    }
}

#[derive(Module)]
struct Layer {
    input_layernorm: RmsNorm,
    self_attn: SelfAttention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl Layer {
    fn new(cx: &Cx, llama: &Llama) -> Self {
        let norm = || RmsNorm::new(cx, llama.config.hidden_size, llama.config.rms_norm_eps);
        Self {
            input_layernorm: norm(),
            self_attn: SelfAttention::new(cx, llama),
            post_attention_layernorm: norm(),
            mlp: Mlp::new(cx, &llama.config),
        }
    }

    fn forward<'g>(
        &self,
        x: &Tensor<'g>,
        shared: &Shared<'g>,
        cache: &mut Cache<'g>,
    ) -> Tensor<'g> {
        let normed = self.input_layernorm.forward(x);
        let x = x + &self.self_attn.forward(&normed, shared, cache);
        &x + &self.mlp.forward(&self.post_attention_layernorm.forward(&x))
    }
}

/// Grouped-query attention, and what AILoRA adapts: principal queries, minor values.
#[adapt(q_proj = principal(8), v_proj = minor(8), v_proj_lr = 2.0)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    heads: usize,
    dropout: f64,
}

impl SelfAttention {
    fn new(cx: &Cx, llama: &Llama) -> Self {
        let width = llama.config.hidden_size;
        let heads = llama.config.num_attention_heads;
        let [biased, output_biased] = llama.biases;
        let project = |heads| Linear::new(cx, width, heads * llama.depth, biased);
        Self {
            q_proj: project(heads),
            k_proj: project(llama.kv_heads),
            v_proj: project(llama.kv_heads),
            o_proj: Linear::new(cx, heads * llama.depth, width, output_biased),
            heads,
            dropout: llama.config.attention_dropout,
        }
    }

    fn forward<'g>(
        &self,
        x: &Tensor<'g>,
        shared: &Shared<'g>,
        cache: &mut Cache<'g>,
    ) -> Tensor<'g> {
        let Shared { mask, cos, sin } = shared;
        let q = self.q_proj.forward(x).rotary(cos, sin);
        let k = cache.extend(&self.k_proj.forward(x).rotary(cos, sin));
        let v = cache.extend(&self.v_proj.forward(x));
        let mixed = q.causal_attention(&k, &v, mask, self.heads, self.dropout);
        self.o_proj.forward(&mixed)
    }
}

/// SwiGLU (Shazeer, 2020).
#[derive(Module)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    fn new(cx: &Cx, config: &Config) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let linear = |inputs, outputs| Linear::new(cx, inputs, outputs, config.mlp_bias);
        Self {
            gate_proj: linear(width, inner),
            up_proj: linear(width, inner),
            down_proj: linear(inner, width),
            activation: config.hidden_act,
        }
    }

    fn forward<'g>(&self, x: &Tensor<'g>) -> Tensor<'g> {
        let gate = self.activation.apply(&self.gate_proj.forward(x));
        self.down_proj.forward(&(&gate * &self.up_proj.forward(x)))
    }
}

/// The head is the embeddings' table where there is none of its own.
#[derive(Module)]
struct LlamaForCausalLM {
    #[module(skip)]
    class: &'static str,
    model: LlamaModel,
    lm_head: Option<Linear>,
}

impl Network for LlamaForCausalLM {
    fn class(&self) -> &'static str {
        self.class
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        let mut cache = Cache::empty(cx, shape.rows);
        self.model.forward(cx, shape.len, &mut cache)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => hidden.matmul_t(&hidden.cx().value(&self.model.embed_tokens.weight)),
        }
    }

    fn step<'g>(&self, cx: &'g Cx, len: usize, cache: &mut Cache<'g>) -> Option<Tensor<'g>> {
        Some(self.model.forward(cx, len, cache))
    }
}

/// The last token of a sequence has seen all of it.
#[adapt(score = full)]
struct LlamaForSequenceClassification {
    #[module(skip)]
    class: &'static str,
    model: LlamaModel,
    score: Linear,
}

impl Network for LlamaForSequenceClassification {
    fn class(&self) -> &'static str {
        self.class
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        let mut cache = Cache::empty(cx, shape.rows);
        self.model.forward(cx, shape.len, &mut cache)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let [rows, len, width] = [0, 1, 2].map(|axis| hidden.shape()[axis]);
        let last = hidden.cx().input("last_tokens", Type::i32([rows]));
        let states = hidden.reshape([rows * len, width]);
        self.score.forward(&states.rows(&last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variant: Variant, fields: &str) -> Result<Box<dyn Architecture>, FieldError> {
        let json = format!(
            r#"{{"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64,
                 "num_hidden_layers": 1, "num_attention_heads": 4,
                 "max_position_embeddings": 40 {fields}}}"#
        );
        Llama::read(json.as_bytes(), variant)
    }

    fn frequencies(fields: &str) -> Result<Vec<f32>, FieldError> {
        let json = format!(
            r#"{{"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64,
                 "num_hidden_layers": 1, "num_attention_heads": 4,
                 "max_position_embeddings": 40 {fields}}}"#
        );
        let config: Config = serde_json::from_str(&json)?;
        config.frequencies(8)
    }

    #[test]
    fn three_spellings_of_one_scaling() {
        let expected = [0.5, 0.5 / 20_f32.sqrt(), 0.025, 0.025 / 20_f32.sqrt()];
        for fields in [
            r#", "rope_theta": 400, "rope_scaling": {"type": "linear", "factor": 2.0}"#,
            r#", "rope_theta": 400, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2}"#,
            r#", "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 400}"#,
        ] {
            let found = frequencies(fields).unwrap();
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
        assert_eq!(frequencies("").unwrap()[0], 1.0);
    }

    /// Expected: transformers' `_compute_llama3_parameters`.
    #[test]
    fn llama3_keeps_fast_turns_and_slows_down_the_others() {
        let found = frequencies(
            r#", "rope_theta": 10000, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128}"#,
        );
        let expected = [1.0, 0.042_751_2, 0.00125, 0.000_125];
        for (found, expected) in found.unwrap().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let message = |variant, fields: &str| read(variant, fields).unwrap_err().to_string();
        let yarn = message(
            Variant::Llama,
            r#", "rope_scaling": {"rope_type": "yarn", "factor": 2}"#,
        );
        assert_eq!(
            yarn,
            "`rope_type` is yarn; expected default, linear or llama3"
        );
        let factor = message(Variant::Llama, r#", "rope_scaling": {"type": "linear"}"#);
        assert!(factor.starts_with("`factor` is missing"), "{factor}");
        let heads = message(Variant::Llama, r#", "num_key_value_heads": 3"#);
        assert!(heads.contains("a divisor of `num_attention_heads`"));
        let window = message(Variant::Mistral, r#", "sliding_window": 16"#);
        assert!(window.starts_with("`sliding_window` is 16; expected null"));
        assert!(read(Variant::Mistral, r#", "sliding_window": null"#).is_ok());
        assert!(read(Variant::Qwen2, r#", "sliding_window": 16"#).is_ok());
        let used = r#", "sliding_window": 16, "use_sliding_window": true"#;
        assert!(read(Variant::Qwen2, used).is_err());
    }

    #[test]
    fn positions_count_from_the_first_token() {
        let found: Vec<i32> = positions(&[0.0, 0.0, 1.0, 1.0, 0.0]).collect();
        assert_eq!(found, [0, 0, 0, 1, 2]);
    }
}
