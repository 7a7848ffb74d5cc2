//! LLaMA (Touvron et al., 2023; Grattafiori et al., 2024), and what shares its graph: Mistral (Jiang
//! et al., 2023) and Qwen2 (Yang et al., 2024).
//!
//! One long file: it is read beside the one file that transformers has of this model.

use std::sync::Arc;

use ailora_graph::{
    Module, adapt,
    ir::Type,
    nn::{Cx, Embedding, Linear, RmsNorm, Tensor},
};

use super::{Architecture, Family, Network, encoder::Activation, rotary::Rotary};
use crate::{
    batch::{Batch, Inputs, Shape},
    closed::{Field, Table, Unknown, applied, inert},
    config::table::{DECODER, GENERATION, SHARED},
    fields::{FieldError, Fields},
    generate::{Cache, Step},
    head::Head,
};

pub(super) const LLAMA: Family = Family {
    model_type: "llama",
    base: "model",
    labels: 2,
    table: Table {
        file: "config.json of llama",
        fields: &[FIELDS, DECODER, SHARED, GENERATION],
        unknown: Unknown::Noted,
    },
    read: |fields| Llama::read(fields, Variant::Llama),
};

pub(super) const MISTRAL: Family = Family {
    model_type: "mistral",
    base: "model",
    labels: 2,
    table: Table {
        file: "config.json of mistral",
        fields: &[MISTRAL_FIELDS, DECODER, SHARED, GENERATION],
        unknown: Unknown::Noted,
    },
    read: |fields| Llama::read(fields, Variant::Mistral),
};

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    base: "model",
    labels: 2,
    table: Table {
        file: "config.json of qwen2",
        fields: &[QWEN2_FIELDS, DECODER, SHARED, GENERATION],
        unknown: Unknown::Noted,
    },
    read: |fields| Llama::read(fields, Variant::Qwen2),
};

const FIELDS: &[Field] = &[
    applied(
        "attention_bias",
        "whether the projections of attention have biases",
    ),
    applied("mlp_bias", "whether those of the feed-forward block have"),
    inert("pretraining_tp", "the same numbers, in parts"),
];

const MISTRAL_FIELDS: &[Field] = &[applied(
    "sliding_window",
    "must be null or no shorter than the longest text; 4096 where it is missing",
)];

const QWEN2_FIELDS: &[Field] = &[
    applied("use_sliding_window", "whether attention sees a window"),
    applied(
        "sliding_window",
        "must be no shorter than the longest text where it is used",
    ),
    applied("max_window_layers", "the first layer with a window"),
    applied(
        "layer_types",
        "must be full_attention where a window is used",
    ),
];

/// Which projections of an attention have biases, and whether windows are meant, is not said alike.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Variant {
    Llama,
    Mistral,
    Qwen2,
}

/// What `config.json` says of the model.
#[derive(Clone, Debug)]
struct Config {
    vocab_size: usize,
    pad_token_id: Option<i64>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: Activation,
    rms_norm_eps: f64,
    initializer_range: f64,
    mlp_bias: bool,
    attention_dropout: f64,
    tie_word_embeddings: bool,
}

#[derive(Clone, Debug)]
struct Llama {
    config: Config,
    kv_heads: usize,
    /// Width of a head.
    depth: usize,
    variant: Variant,
    /// Biases of queries, keys and values, and of the attention's output.
    biases: [bool; 2],
    rotary: Rotary,
}

impl Llama {
    fn read(fields: Fields<'_>, variant: Variant) -> Result<Box<dyn Architecture>, FieldError> {
        let config = Config {
            vocab_size: fields.size("vocab_size", 1 << 24)?,
            pad_token_id: fields.integer("pad_token_id")?,
            hidden_size: fields.size("hidden_size", 1 << 24)?,
            intermediate_size: fields.size("intermediate_size", 1 << 24)?,
            num_hidden_layers: fields.size("num_hidden_layers", 1 << 10)?,
            num_attention_heads: fields.size("num_attention_heads", 1 << 20)?,
            max_position_embeddings: fields.size("max_position_embeddings", 1 << 24)?,
            hidden_act: Activation::read(fields, "hidden_act", "silu")?,
            rms_norm_eps: fields.fraction_or("rms_norm_eps", 1e-6)?,
            initializer_range: fields.fraction_or("initializer_range", 0.02)?,
            mlp_bias: variant == Variant::Llama && fields.flag_or("mlp_bias", false)?,
            attention_dropout: fields.rate_or("attention_dropout", 0.0)?,
            tie_word_embeddings: fields.flag_or("tie_word_embeddings", false)?,
        };
        let causal = fields.flag_or("is_causal", !fields.has("is_causal"))?;
        FieldError::unless(causal, "is_causal", causal, || {
            "true; a decoder that sees what comes after is not supported".into()
        })?;
        let heads = config.num_attention_heads;
        let width = config.hidden_size;
        let depth = match fields.whole("head_dim", 1..=1 << 16)? {
            Some(depth) => depth,
            None => {
                FieldError::unless(width.is_multiple_of(heads), "hidden_size", width, || {
                    format!("a multiple of `num_attention_heads`, which is {heads}")
                })?;
                width / heads
            }
        };
        FieldError::unless(depth.is_multiple_of(2), "head_dim", depth, || {
            "an even number".into()
        })?;
        check_window(fields, variant, &config)?;
        let biases = match variant {
            Variant::Llama => [fields.flag_or("attention_bias", false)?; 2],
            Variant::Mistral => [false; 2],
            Variant::Qwen2 => [true, false],
        };
        Ok(Box::new(Self {
            kv_heads: kv_heads(fields, variant, heads)?,
            rotary: Rotary::read(fields, depth, config.max_position_embeddings)?,
            depth,
            variant,
            biases,
            config,
        }))
    }
}

/// Heads of keys and values. `null` means one for each query's; what a missing field means is not
/// alike.
fn kv_heads(fields: Fields<'_>, variant: Variant, heads: usize) -> Result<usize, FieldError> {
    const FIELD: &str = "num_key_value_heads";
    let found = fields.whole(FIELD, 1..=1 << 20)?;
    let missing = match variant {
        Variant::Llama => heads,
        Variant::Mistral => 8,
        Variant::Qwen2 => 32,
    };
    let count = found.unwrap_or(if fields.has(FIELD) { heads } else { missing });
    let divides = heads.is_multiple_of(count);
    let said = match found {
        None => format!("missing, which means {count}"),
        Some(count) => count.to_string(),
    };
    FieldError::unless(divides, FIELD, said, || {
        format!("a divisor of `num_attention_heads`, which is {heads}")
    })?;
    Ok(count)
}

/// Refuses attention that sees less than the longest text.
fn check_window(fields: Fields<'_>, variant: Variant, config: &Config) -> Result<(), FieldError> {
    const FIELD: &str = "sliding_window";
    let layers = config.num_hidden_layers;
    let window = fields.whole(FIELD, 0..=usize::MAX >> 1)?;
    let used = match variant {
        Variant::Llama => false,
        Variant::Mistral => true,
        Variant::Qwen2 => {
            let first = fields
                .whole("max_window_layers", 0..=1 << 20)?
                .unwrap_or(28);
            let kinds = fields
                .value("layer_types")
                .and_then(|kinds| kinds.as_array());
            let all_full = match kinds {
                Some(kinds) => kinds.iter().all(|kind| kind == "full_attention"),
                None => first >= layers,
            };
            fields.flag_or("use_sliding_window", false)? && !all_full
        }
    };
    let window = match window {
        None if fields.has(FIELD) => return Ok(()),
        window => window.unwrap_or(4096),
    };
    let longest = config.max_position_embeddings;
    let said = match fields.has(FIELD) {
        true => window.to_string(),
        false => format!("missing, which means {window}"),
    };
    FieldError::unless(!used || window >= longest, FIELD, said, || {
        format!(
            "null or at least `max_position_embeddings`, which is {longest}: attention in windows \
             is not supported; for texts of up to {window} tokens, lower \
             `max_position_embeddings` to that"
        )
    })
}

impl Architecture for Llama {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_len(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn layers(&self) -> Vec<(&'static str, usize)> {
        vec![("num_hidden_layers", self.config.num_hidden_layers)]
    }

    fn initializer_range(&self) -> f64 {
        self.config.initializer_range
    }

    fn tied(&self) -> &'static [(&'static str, &'static str)] {
        match self.config.tie_word_embeddings {
            true => &[("lm_head.weight", "model.embed_tokens.weight")],
            false => &[],
        }
    }

    fn untied(&self) -> Option<Arc<dyn Architecture>> {
        let mut untied = self.clone();
        untied.config.tie_word_embeddings = false;
        self.config
            .tie_word_embeddings
            .then(|| Arc::new(untied) as _)
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
        });
        if !matches!(head, Head::Sequence { .. }) {
            return inputs;
        }
        let ids = batch.ids.chunks(batch.len.max(1));
        let last = rows.iter().zip(ids).enumerate().map(|(row, (mask, ids))| {
            let last = last_token(mask, ids, self.config.pad_token_id);
            (row * batch.len + last) as i32
        });
        inputs.with_ids("last_tokens", last.collect())
    }

    fn step_inputs(&self, step: &Step) -> Inputs {
        let [cos, sin] = self.rotary.at(&step.positions);
        Inputs::default()
            .with_ids("input_ids", step.ids.clone())
            .with_floats("attention_mask", step.mask.clone())
            .with_floats("rotary_cos", cos)
            .with_floats("rotary_sin", sin)
    }
}

/// The last of a row's tokens that is not the padding token, even if a text has it, as transformers
/// looks at it.
fn last_token(mask: &[f32], ids: &[i32], pad: Option<i64>) -> usize {
    let mut tokens = mask.iter().zip(ids);
    let last = tokens.rposition(|(&m, &id)| m != 0.0 && Some(i64::from(id)) != pad);
    last.unwrap_or(0)
}

/// Positions of a row's tokens, which count from the first that is not padding.
fn positions(mask: &[f32]) -> impl Iterator<Item = i32> {
    let first = mask.iter().position(|&m| m != 0.0).unwrap_or(0);
    (0..mask.len()).map(move |i| i.saturating_sub(first) as i32)
}

/// What every layer reads beside its tokens' states.
struct Shared<'g> {
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
        let angles = Type::f32([rows, len, self.pairs]);
        let shared = Shared {
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
        let Shared { cos, sin } = shared;
        let q = self.q_proj.forward(x).rotary(cos, sin);
        let k = self.k_proj.forward(x).rotary(cos, sin);
        let v = self.v_proj.forward(x);
        let mixed = cache.attention([&q, &k, &v], "attention_mask", self.heads, self.dropout);
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
        let mut cache = Cache::absent(cx, shape.rows);
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
        let mut cache = Cache::absent(cx, shape.rows);
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

    /// Where `(token_indices * (ids != pad)).argmax(-1)` points, as transformers has it.
    #[test]
    fn a_classifier_looks_at_the_last_token_that_does_not_pad() {
        let mask = [1.0, 1.0, 1.0, 1.0, 0.0];
        for (ids, pad, expected) in [
            ([5, 7, 9, 2, 2], None, 3),
            ([5, 7, 9, 2, 2], Some(2), 2),
            ([5, 2, 9, 8, 2], Some(2), 3),
            ([2, 2, 2, 2, 2], Some(2), 0),
            ([5, 7, 9, 2, 3], Some(-1), 3),
        ] {
            assert_eq!(last_token(&mask, &ids, pad), expected, "{ids:?} {pad:?}");
        }
    }

    fn read(variant: Variant, fields: &str) -> Result<Box<dyn Architecture>, FieldError> {
        let json = format!(
            r#"{{"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64,
                 "num_hidden_layers": 1, "num_attention_heads": 4,
                 "max_position_embeddings": 40 {fields}}}"#
        );
        Llama::read(Fields::new(&serde_json::from_str(&json).unwrap()), variant)
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let message = |variant, fields: &str| read(variant, fields).unwrap_err().to_string();
        let heads = message(Variant::Llama, r#", "num_key_value_heads": 3"#);
        assert!(heads.contains("a divisor of `num_attention_heads`"));
        let window = message(Variant::Mistral, r#", "sliding_window": 16"#);
        assert!(
            window.starts_with("`sliding_window` is 16; expected null"),
            "{window}"
        );
        let missing = message(Variant::Mistral, "");
        assert!(
            missing
                .starts_with("`num_key_value_heads` is missing, which means 8; expected a divisor"),
            "{missing}"
        );
        let bidirectional = message(Variant::Llama, r#", "is_causal": false"#);
        assert!(
            bidirectional.starts_with("`is_causal` is false"),
            "{bidirectional}"
        );
        assert!(read(Variant::Llama, r#", "is_causal": null"#).is_err());
        let mistral = |fields: &str| {
            read(
                Variant::Mistral,
                &format!(r#", "num_key_value_heads": 2{fields}"#),
            )
        };
        assert!(mistral(r#", "sliding_window": null"#).is_ok());
        // A missing window is 4096 tokens, and the longest text here has 40.
        assert!(mistral("").is_ok());
        let qwen2 = |fields: &str| {
            read(
                Variant::Qwen2,
                &format!(r#", "num_key_value_heads": 4, "sliding_window": 16{fields}"#),
            )
        };
        assert!(qwen2("").is_ok());
        // Windows begin at layer 28 where the file does not say it, and there is one layer.
        let used = r#", "use_sliding_window": true"#;
        assert!(qwen2(used).is_ok());
        assert!(qwen2(&format!(r#"{used}, "max_window_layers": 0"#)).is_err());
        let kinds = |kind: &str| format!(r#"{used}, "layer_types": ["{kind}"]"#);
        assert!(qwen2(&kinds("full_attention")).is_ok());
        assert!(qwen2(&kinds("sliding_attention")).is_err());
    }

    #[test]
    fn positions_count_from_the_first_token() {
        let found: Vec<i32> = positions(&[0.0, 0.0, 1.0, 1.0, 0.0]).collect();
        assert_eq!(found, [0, 0, 0, 1, 2]);
    }
}
