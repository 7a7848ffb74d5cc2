//! BART (Lewis et al., 2020): an encoder and a decoder that attends to it, post-norm layers, learnt
//! positions.
//!
//! Fields are named so that module paths are the parameter names of Hugging Face.

use ailora_graph::{
    Module, adapt,
    ir::Type,
    nn::{Cx, Embedding, LayerNorm, Linear, Param, Tensor},
};
use serde::Deserialize;

use super::{
    Architecture, Family, Inputs, Network, classification_head::ClassificationHead,
    encoder::Activation,
};
use crate::{
    batch::{Batch, Shape, Targets},
    config::FieldError,
    generate::{Cache, Step},
    head::Head,
};

pub(super) const FAMILY: Family = Family {
    model_type: "bart",
    base: "model",
    read,
};

/// Rows of the positions' table before position 0.
const OFFSET: usize = 2;

/// Added to the variance by the norms, which `config.json` does not say.
const EPS: f64 = 1e-5;

/// The fields of `config.json` that describe the model.
#[derive(Debug, Deserialize)]
struct Bart {
    vocab_size: usize,
    d_model: usize,
    encoder_layers: usize,
    decoder_layers: usize,
    encoder_attention_heads: usize,
    decoder_attention_heads: usize,
    encoder_ffn_dim: usize,
    decoder_ffn_dim: usize,
    max_position_embeddings: usize,
    activation_function: Activation,
    dropout: f64,
    attention_dropout: f64,
    activation_dropout: f64,
    // Where a field is missing, transformers takes these.
    #[serde(default)]
    classifier_dropout: f64,
    #[serde(default = "init_std")]
    init_std: f64,
    #[serde(default)]
    scale_embedding: bool,
    #[serde(default = "pad")]
    pad_token_id: usize,
    #[serde(default = "eos")]
    eos_token_id: usize,
    #[serde(default = "eos")]
    decoder_start_token_id: usize,
    #[serde(default = "tie")]
    tie_word_embeddings: bool,
}

fn init_std() -> f64 {
    0.02
}

fn pad() -> usize {
    1
}

fn eos() -> usize {
    2
}

fn tie() -> bool {
    true
}

fn read(json: &[u8]) -> Result<Box<dyn Architecture>, FieldError> {
    let config: Bart = serde_json::from_slice(json)?;
    config.check()?;
    Ok(Box::new(config))
}

impl Bart {
    fn check(&self) -> Result<(), FieldError> {
        let heads = [
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ];
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("d_model", self.d_model, 1 << 20),
            ("encoder_layers", self.encoder_layers, 1 << 10),
            ("decoder_layers", self.decoder_layers, 1 << 10),
            ("encoder_ffn_dim", self.encoder_ffn_dim, 1 << 20),
            ("decoder_ffn_dim", self.decoder_ffn_dim, 1 << 20),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                1 << 24,
            ),
        ];
        let heads_are_sizes = heads.map(|(field, found)| (field, found, 1 << 20));
        for (field, found, most) in sizes.into_iter().chain(heads_are_sizes) {
            FieldError::unless((1..=most).contains(&found), field, found, || {
                format!("a whole number from 1 to {most}")
            })?;
        }
        for (field, heads) in heads {
            FieldError::unless(self.d_model.is_multiple_of(heads), field, heads, || {
                format!("a divisor of `d_model`, which is {}", self.d_model)
            })?;
        }
        let rates = [
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("activation_dropout", self.activation_dropout),
            ("classifier_dropout", self.classifier_dropout),
        ];
        for (field, found) in rates {
            FieldError::unless((0.0..1.0).contains(&found), field, found, || {
                "a probability from 0 to below 1".into()
            })?;
        }
        FieldError::unless(
            (0.0..=1.0).contains(&self.init_std),
            "init_std",
            self.init_std,
            || "a number from 0 to 1".into(),
        )?;
        let tokens = [
            ("pad_token_id", self.pad_token_id),
            ("eos_token_id", self.eos_token_id),
            ("decoder_start_token_id", self.decoder_start_token_id),
        ];
        for (field, found) in tokens {
            FieldError::unless(found < self.vocab_size, field, found, || {
                format!("an id below `vocab_size`, which is {}", self.vocab_size)
            })?;
        }
        let tied = self.tie_word_embeddings;
        FieldError::unless(tied, "tie_word_embeddings", tied, || {
            "true; tables of their own for encoder, decoder and head are not supported".into()
        })
    }

    fn projection(&self, cx: &Cx) -> Linear {
        Linear::new(cx, self.d_model, self.d_model, true)
    }

    fn norm(&self, cx: &Cx) -> LayerNorm {
        LayerNorm::new(cx, self.d_model, EPS)
    }

    fn between(&self) -> Between {
        Between {
            activation: self.activation_function,
            dropout: self.activation_dropout,
        }
    }

    /// What the decoder reads: the text it should give, one token later, after a start token.
    fn shifted_right(&self, ids: &[i32], len: usize) -> Vec<i32> {
        let start = self.decoder_start_token_id as i32;
        let known = |&id: &i32| if id < 0 { self.pad_token_id as i32 } else { id };
        ids.chunks(len.max(1))
            .flat_map(|row| {
                [start]
                    .into_iter()
                    .chain(row[..row.len() - 1].iter().map(known))
            })
            .collect()
    }

    /// Where each row's last `</s>` is, in the rows one after the other; its last token where it has
    /// none.
    fn ends(&self, batch: &Batch) -> Vec<i32> {
        let (len, eos) = (batch.len.max(1), self.eos_token_id as i32);
        let rows = batch.ids.chunks(len).zip(batch.mask.chunks(len));
        rows.enumerate()
            .map(|(i, (ids, mask))| {
                let end = ids.iter().rposition(|&id| id == eos);
                let last = || mask.iter().rposition(|&mask| mask != 0.0);
                (i * len + end.or_else(last).unwrap_or(0)) as i32
            })
            .collect()
    }
}

impl Architecture for Bart {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_len(&self) -> usize {
        self.max_position_embeddings
    }

    fn initializer_range(&self) -> f64 {
        self.init_std
    }

    fn tied(&self) -> &'static [(&'static str, &'static str)] {
        const SHARED: &str = "model.shared.weight";
        &[
            ("model.encoder.embed_tokens.weight", SHARED),
            ("model.decoder.embed_tokens.weight", SHARED),
            ("lm_head.weight", SHARED),
        ]
    }

    fn build(&self, cx: &Cx, head: Head) -> Option<Box<dyn Network>> {
        let model = BartModel::new(cx, self);
        Some(match head {
            Head::Seq2SeqLm { .. } => Box::new(BartForConditionalGeneration {
                model,
                final_logits_bias: cx.param([1, self.vocab_size]),
            }),
            Head::Sequence { outputs, .. } => Box::new(BartForSequenceClassification {
                model,
                classification_head: ClassificationHead::new(
                    cx,
                    self.d_model,
                    outputs,
                    self.classifier_dropout,
                ),
            }),
            Head::QuestionAnswering => Box::new(BartForQuestionAnswering {
                model,
                qa_outputs: Linear::new(cx, self.d_model, 2, true),
            }),
            Head::MaskedLm | Head::CausalLm => return None,
        })
    }

    /// Where no text is generated, the decoder reads the input itself.
    fn inputs(&self, head: Head, batch: &Batch) -> Inputs {
        let decoder_ids = match &batch.targets {
            Targets::Tokens(labels) => self.shifted_right(labels, batch.shape().target_len),
            _ => self.shifted_right(&batch.ids, batch.len),
        };
        let inputs = Inputs::default()
            .with_ids("input_ids", batch.ids.clone())
            .with_floats("attention_mask", batch.mask.clone())
            .with_floats("decoder_attention_mask", vec![1.0; decoder_ids.len()])
            .with_ids("decoder_input_ids", decoder_ids);
        match head {
            Head::Sequence { .. } => inputs.with_ids("ends", self.ends(batch)),
            _ => inputs,
        }
    }

    fn start_token(&self) -> Option<i32> {
        Some(self.decoder_start_token_id as i32)
    }

    fn step_inputs(&self, step: &Step) -> Inputs {
        let positions = step.positions.iter();
        Inputs::default()
            .with_floats("attention_mask", step.source_mask.clone())
            .with_ids("decoder_input_ids", step.ids.clone())
            .with_ids(
                "decoder_position_ids",
                positions.map(|at| at + OFFSET as i32).collect(),
            )
            .with_floats("decoder_attention_mask", step.mask.clone())
    }
}

/// Encoder and decoder over one table of words.
#[derive(Module)]
struct BartModel {
    shared: Embedding,
    encoder: Encoder,
    decoder: Decoder,
    /// What words' embeddings are multiplied with.
    scale: f64,
}

impl BartModel {
    fn new(cx: &Cx, config: &Bart) -> Self {
        let positions = || {
            let count = config.max_position_embeddings + OFFSET;
            Embedding::new(cx, count, config.d_model)
        };
        let scaled = config.scale_embedding;
        Self {
            shared: Embedding::new(cx, config.vocab_size, config.d_model),
            encoder: Encoder {
                embed_positions: positions(),
                layernorm_embedding: config.norm(cx),
                layers: (0..config.encoder_layers)
                    .map(|_| EncoderLayer::new(cx, config))
                    .collect(),
                dropout: config.dropout,
            },
            decoder: Decoder {
                embed_positions: positions(),
                layernorm_embedding: config.norm(cx),
                layers: (0..config.decoder_layers)
                    .map(|_| DecoderLayer::new(cx, config))
                    .collect(),
                dropout: config.dropout,
            },
            scale: if scaled {
                (config.d_model as f64).sqrt()
            } else {
                1.0
            },
        }
    }

    fn words<'g>(&self, ids: &Tensor<'g>) -> Tensor<'g> {
        let words = self.shared.forward(ids);
        if self.scale == 1.0 {
            words
        } else {
            words.scale(self.scale)
        }
    }

    /// The encoder's states, and the mask of its tokens.
    fn encode<'g>(&self, cx: &'g Cx, shape: Shape) -> (Tensor<'g>, Tensor<'g>) {
        let ids = cx.input("input_ids", Type::i32([shape.rows, shape.len]));
        let mask = cx.input("attention_mask", Type::f32([shape.rows, shape.len]));
        (self.encoder.forward(&self.words(&ids), &mask), mask)
    }

    /// The decoder's states over `len` tokens of its own, `[rows, len, width]`.
    fn forward<'g>(&self, cx: &'g Cx, shape: Shape, len: usize) -> Tensor<'g> {
        let (encoded, mask) = self.encode(cx, shape);
        let memory = self.decoder.memory(&encoded);
        let positions = &positions(cx, &self.decoder.embed_positions, len);
        let mut cache = Cache::empty(cx, shape.rows);
        self.decode(cx, positions, &memory, &mask, &mut cache)
    }

    /// The decoder's states over the tokens behind those of the cache, `[rows, len, width]`.
    fn step<'g>(&self, cx: &'g Cx, len: usize, cache: &mut Cache<'g>) -> Tensor<'g> {
        let ids = cx.input("decoder_position_ids", Type::i32([cache.rows(), len]));
        let positions = &self.decoder.embed_positions.forward(&ids);
        let mask = Type::f32([cache.rows(), cache.source()]);
        let mask = cx.input("attention_mask", mask);
        let width = positions.shape().last().copied().unwrap_or(1);
        let layers = self.decoder.layers.iter();
        let memory: Vec<[Tensor<'g>; 2]> = layers
            .map(|_| [cache.memory(width), cache.memory(width)])
            .collect();
        self.decode(cx, positions, &memory, &mask, cache)
    }

    /// # Shapes
    /// `positions`: `[rows, len, width]` or `[len, width]`; `memory`: `[rows, source, width]` each;
    /// `encoder_mask`: `[rows, source]`; result: `[rows, len, width]`
    fn decode<'g>(
        &self,
        cx: &'g Cx,
        positions: &Tensor<'g>,
        memory: &[[Tensor<'g>; 2]],
        encoder_mask: &Tensor<'g>,
        cache: &mut Cache<'g>,
    ) -> Tensor<'g> {
        let axes = positions.shape();
        let (rows, len) = (cache.rows(), axes[axes.len() - 2]);
        let ids = cx.input("decoder_input_ids", Type::i32([rows, len]));
        let mask = Type::f32([rows, cache.len() + len]);
        let mask = cx.input("decoder_attention_mask", mask);
        let x = &self.words(&ids) + positions;
        self.decoder.forward(&x, &mask, memory, encoder_mask, cache)
    }
}

/// Embeddings of positions that count from 0 in every row, `[len, width]`.
fn positions<'g>(cx: &'g Cx, table: &Embedding, len: usize) -> Tensor<'g> {
    cx.value(&table.weight).slice(0, OFFSET, OFFSET + len)
}

#[derive(Module)]
struct Encoder {
    embed_positions: Embedding,
    layernorm_embedding: LayerNorm,
    layers: Vec<EncoderLayer>,
    dropout: f64,
}

impl Encoder {
    /// # Shapes
    /// `words`: `[b, s, width]`; `mask`: `[b, s]`; result: `[b, s, width]`
    fn forward<'g>(&self, words: &Tensor<'g>, mask: &Tensor<'g>) -> Tensor<'g> {
        let len = words.shape().get(1).copied().unwrap_or(0);
        let x = words + &positions(words.cx(), &self.embed_positions, len);
        let x = self.layernorm_embedding.forward(&x).dropout(self.dropout);
        self.layers
            .iter()
            .fold(x, |x, layer| layer.forward(&x, mask))
    }
}

#[derive(Module)]
struct Decoder {
    embed_positions: Embedding,
    layernorm_embedding: LayerNorm,
    layers: Vec<DecoderLayer>,
    dropout: f64,
}

impl Decoder {
    /// Keys and values of the encoder's states, for each layer.
    fn memory<'g>(&self, encoded: &Tensor<'g>) -> Vec<[Tensor<'g>; 2]> {
        let layers = self.layers.iter();
        layers
            .map(|layer| layer.encoder_attn.memory(encoded))
            .collect()
    }

    /// # Shapes
    /// `x`: `[b, t, width]`, as the result; `mask`: `[b, cached + t]`; `memory`: `[b, s, width]` each;
    /// `encoder_mask`: `[b, s]`
    fn forward<'g>(
        &self,
        x: &Tensor<'g>,
        mask: &Tensor<'g>,
        memory: &[[Tensor<'g>; 2]],
        encoder_mask: &Tensor<'g>,
        cache: &mut Cache<'g>,
    ) -> Tensor<'g> {
        let x = self.layernorm_embedding.forward(x).dropout(self.dropout);
        let layers = self.layers.iter().zip(memory);
        layers.fold(x, |x, (layer, memory)| {
            layer.forward(&x, mask, memory, encoder_mask, cache)
        })
    }
}

#[derive(Module)]
struct EncoderLayer {
    self_attn: SelfAttention,
    self_attn_layer_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    between: Between,
    dropout: f64,
}

impl EncoderLayer {
    fn new(cx: &Cx, config: &Bart) -> Self {
        let (width, inner) = (config.d_model, config.encoder_ffn_dim);
        Self {
            self_attn: SelfAttention::new(cx, config, config.encoder_attention_heads),
            self_attn_layer_norm: config.norm(cx),
            fc1: Linear::new(cx, width, inner, true),
            fc2: Linear::new(cx, inner, width, true),
            final_layer_norm: config.norm(cx),
            between: config.between(),
            dropout: config.dropout,
        }
    }

    fn forward<'g>(&self, x: &Tensor<'g>, mask: &Tensor<'g>) -> Tensor<'g> {
        let mixed = self.self_attn.forward(x, mask, None).dropout(self.dropout);
        let x = &self.self_attn_layer_norm.forward(&(x + &mixed));
        let inner = self.between.apply(&self.fc1.forward(x));
        let outer = self.fc2.forward(&inner).dropout(self.dropout);
        self.final_layer_norm.forward(&(x + &outer))
    }
}

#[derive(Module)]
struct DecoderLayer {
    self_attn: SelfAttention,
    self_attn_layer_norm: LayerNorm,
    encoder_attn: CrossAttention,
    encoder_attn_layer_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    between: Between,
    dropout: f64,
}

impl DecoderLayer {
    fn new(cx: &Cx, config: &Bart) -> Self {
        let (width, inner) = (config.d_model, config.decoder_ffn_dim);
        Self {
            self_attn: SelfAttention::new(cx, config, config.decoder_attention_heads),
            self_attn_layer_norm: config.norm(cx),
            encoder_attn: CrossAttention::new(cx, config),
            encoder_attn_layer_norm: config.norm(cx),
            fc1: Linear::new(cx, width, inner, true),
            fc2: Linear::new(cx, inner, width, true),
            final_layer_norm: config.norm(cx),
            between: config.between(),
            dropout: config.dropout,
        }
    }

    fn forward<'g>(
        &self,
        x: &Tensor<'g>,
        mask: &Tensor<'g>,
        memory: &[Tensor<'g>; 2],
        encoder_mask: &Tensor<'g>,
        cache: &mut Cache<'g>,
    ) -> Tensor<'g> {
        let mixed = self
            .self_attn
            .forward(x, mask, Some(cache))
            .dropout(self.dropout);
        let x = &self.self_attn_layer_norm.forward(&(x + &mixed));
        let read = self.encoder_attn.forward(x, memory, encoder_mask);
        let x = &self
            .encoder_attn_layer_norm
            .forward(&(x + &read.dropout(self.dropout)));
        let inner = self.between.apply(&self.fc1.forward(x));
        let outer = self.fc2.forward(&inner).dropout(self.dropout);
        self.final_layer_norm.forward(&(x + &outer))
    }
}

/// What is between the two projections of a feed-forward block.
struct Between {
    activation: Activation,
    dropout: f64,
}

impl Between {
    fn apply<'g>(&self, x: &Tensor<'g>) -> Tensor<'g> {
        self.activation.apply(x).dropout(self.dropout)
    }
}

/// A text's attention to itself, in the decoder to what comes before: principal queries, minor
/// values.
#[adapt(q_proj = principal(8), v_proj = minor(8), v_proj_lr = 2.0)]
struct SelfAttention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    heads: usize,
    dropout: f64,
}

impl SelfAttention {
    fn new(cx: &Cx, config: &Bart, heads: usize) -> Self {
        Self {
            k_proj: config.projection(cx),
            v_proj: config.projection(cx),
            q_proj: config.projection(cx),
            out_proj: config.projection(cx),
            heads,
            dropout: config.attention_dropout,
        }
    }

    /// Over all of a text or, with a cache, over what came before each token.
    fn forward<'g>(
        &self,
        x: &Tensor<'g>,
        mask: &Tensor<'g>,
        cache: Option<&mut Cache<'g>>,
    ) -> Tensor<'g> {
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj].map(|p| p.forward(x));
        let mixed = match cache {
            None => q.attention(&k, &v, mask, self.heads, self.dropout),
            Some(cache) => {
                let (k, v) = (cache.extend(&k), cache.extend(&v));
                q.causal_attention(&k, &v, mask, self.heads, self.dropout)
            }
        };
        self.out_proj.forward(&mixed)
    }
}

/// The decoder's attention to the encoder, adapted like the others. Where it should stay as it is,
/// an override of `encoder_attn` freezes it.
#[adapt(q_proj = principal(8), v_proj = minor(8), v_proj_lr = 2.0)]
struct CrossAttention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    heads: usize,
    dropout: f64,
}

impl CrossAttention {
    fn new(cx: &Cx, config: &Bart) -> Self {
        Self {
            k_proj: config.projection(cx),
            v_proj: config.projection(cx),
            q_proj: config.projection(cx),
            out_proj: config.projection(cx),
            heads: config.decoder_attention_heads,
            dropout: config.attention_dropout,
        }
    }

    /// Keys and values of the encoder's states.
    fn memory<'g>(&self, encoded: &Tensor<'g>) -> [Tensor<'g>; 2] {
        [&self.k_proj, &self.v_proj].map(|p| p.forward(encoded))
    }

    fn forward<'g>(
        &self,
        x: &Tensor<'g>,
        [k, v]: &[Tensor<'g>; 2],
        encoder_mask: &Tensor<'g>,
    ) -> Tensor<'g> {
        let q = self.q_proj.forward(x);
        let mixed = q.attention(k, v, encoder_mask, self.heads, self.dropout);
        self.out_proj.forward(&mixed)
    }
}

/// The head is the table of words, and a bias that is no projection's.
#[derive(Module)]
struct BartForConditionalGeneration {
    model: BartModel,
    final_logits_bias: Param,
}

impl Network for BartForConditionalGeneration {
    fn class(&self) -> &'static str {
        "BartForConditionalGeneration"
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        self.model.forward(cx, shape, shape.target_len)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let cx = hidden.cx();
        let words = cx.value(&self.model.shared.weight);
        &hidden.matmul_t(&words) + &cx.value(&self.final_logits_bias)
    }

    fn memory<'g>(&self, cx: &'g Cx, shape: Shape) -> Vec<Tensor<'g>> {
        let (encoded, _) = self.model.encode(cx, shape);
        self.model.decoder.memory(&encoded).concat()
    }

    fn step<'g>(&self, cx: &'g Cx, len: usize, cache: &mut Cache<'g>) -> Option<Tensor<'g>> {
        Some(self.model.step(cx, len, cache))
    }
}

/// Classifies by the decoder's state at the text's last `</s>`.
#[derive(Module)]
struct BartForSequenceClassification {
    model: BartModel,
    classification_head: ClassificationHead,
}

impl Network for BartForSequenceClassification {
    fn class(&self) -> &'static str {
        "BartForSequenceClassification"
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        self.model.forward(cx, shape, shape.len)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let [rows, len, width] = hidden.shape()[..] else {
            return hidden.clone();
        };
        let ends = hidden.cx().input("ends", Type::i32([rows]));
        let states = hidden.reshape([rows * len, width]).rows(&ends);
        self.classification_head.forward(&states)
    }
}

#[adapt(qa_outputs = full)]
struct BartForQuestionAnswering {
    model: BartModel,
    qa_outputs: Linear,
}

impl Network for BartForQuestionAnswering {
    fn class(&self) -> &'static str {
        "BartForQuestionAnswering"
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        self.model.forward(cx, shape, shape.len)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        self.qa_outputs.forward(hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Bart {
        let json = r#"{"vocab_size": 9, "d_model": 4, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 1, "decoder_attention_heads": 1, "encoder_ffn_dim": 4,
            "decoder_ffn_dim": 4, "max_position_embeddings": 8, "activation_function": "gelu",
            "dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0}"#;
        serde_json::from_str(json).unwrap()
    }

    /// What transformers' `shift_tokens_right` gives with padding id 1 and start id 2.
    #[test]
    fn the_decoder_reads_one_token_late() {
        let shifted = small().shifted_right(&[5, 6, -100, 7, -100, -100], 3);
        assert_eq!(shifted, [2, 5, 6, 2, 7, 1]);
    }

    #[test]
    fn a_row_ends_with_its_last_end_token() {
        let batch = Batch {
            rows: 3,
            len: 4,
            ids: vec![0, 2, 5, 2, 0, 2, 1, 1, 0, 5, 1, 1],
            type_ids: vec![0; 12],
            mask: vec![1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0],
            targets: Targets::Unlabelled,
            indices: vec![0, 1, 2],
        };
        assert_eq!(small().ends(&batch), [3, 5, 9]);
    }
}
