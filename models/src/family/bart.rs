//! BART (Lewis et al., 2020): an encoder and a decoder that attends to it, post-norm layers, learnt
//! positions.
//!
//! Fields are named so that module paths are the parameter names of Hugging Face.
//!
//! One long file: it is read beside the one file that transformers has of this model.

use ailora_graph::{
    Module, adapt,
    ir::Type,
    nn::{Cx, Embedding, LayerNorm, Linear, Param, Tensor},
};

use super::{
    Architecture, Family, Network, classification_head::ClassificationHead, encoder::Activation,
};
use crate::{
    batch::{Batch, Inputs, Shape},
    closed::{Field, Table, Unknown, applied, inert, only, unset},
    config::table::{GENERATION, SHARED},
    fields::{FieldError, Fields},
    generate::{Cache, Step},
    head::Head,
};

pub(super) const FAMILY: Family = Family {
    model_type: "bart",
    base: "model",
    labels: 3,
    table: Table {
        file: "config.json of bart",
        fields: &[FIELDS, SHARED, GENERATION],
        unknown: Unknown::Noted,
    },
    read,
};

/// Rows of the positions' table before position 0.
const OFFSET: usize = 2;

/// Added to the variance by the norms, which `config.json` does not say.
const EPS: f64 = 1e-5;

/// The fields of `config.json` that describe the model.
const FIELDS: &[Field] = &[
    applied("vocab_size", "rows of the table of words"),
    applied("d_model", "width"),
    applied("hidden_size", "another name of `d_model`"),
    applied("encoder_layers", "layers of the encoder"),
    applied("num_hidden_layers", "another name of `encoder_layers`"),
    applied("decoder_layers", "layers of the decoder"),
    applied("encoder_attention_heads", "heads of the encoder"),
    applied(
        "num_attention_heads",
        "another name of `encoder_attention_heads`",
    ),
    applied("decoder_attention_heads", "heads of the decoder"),
    applied(
        "encoder_ffn_dim",
        "width between the encoder's feed-forward projections",
    ),
    applied(
        "decoder_ffn_dim",
        "width between the decoder's feed-forward projections",
    ),
    applied(
        "max_position_embeddings",
        "rows of the tables of positions, less two",
    ),
    applied(
        "activation_function",
        "gelu, gelu_new, relu, silu, tanh and their other names",
    ),
    applied("dropout", "while training"),
    applied("attention_dropout", "while training"),
    applied("activation_dropout", "while training"),
    applied("classifier_dropout", "while training, in a head"),
    applied("init_std", "deviation of new weights"),
    applied("scale_embedding", "whether embeddings are scaled"),
    applied(
        "pad_token_id",
        "what the decoder reads for labels that do not count",
    ),
    applied(
        "eos_token_id",
        "the state that is classified; ends of a text",
    ),
    applied("decoder_start_token_id", "what the decoder begins with"),
    applied("tie_word_embeddings", "must be true"),
    only("is_encoder_decoder", &["true"], "a BART is one"),
    unset(
        "is_decoder",
        "a decoder without its encoder is not supported",
    ),
    unset(
        "add_cross_attention",
        "a decoder without its encoder is not supported",
    ),
    unset("is_causal", "it would change the encoder"),
    only(
        "encoder_layerdrop",
        &["0.0", "0"],
        "layers that are left out are not supported",
    ),
    only(
        "decoder_layerdrop",
        &["0.0", "0"],
        "layers that are left out are not supported",
    ),
    unset(
        "normalize_before",
        "norms before the blocks are not supported",
    ),
    unset(
        "static_position_embeddings",
        "positions that are computed are not supported",
    ),
    unset(
        "add_final_layer_norm",
        "a norm behind the layers is not supported",
    ),
    inert(
        "normalize_embedding",
        "the norm behind the embeddings is always there",
    ),
    inert("add_bias_logits", "the bias of the logits is always there"),
    only(
        "extra_pos_embeddings",
        &["2"],
        "other tables of positions are not supported",
    ),
    inert("rope_scaling", "positions are a table"),
    inert("rope_theta", "positions are a table"),
    inert("output_past", "keys and values are always kept"),
    inert(
        "classif_dropout",
        "an older name, which transformers does not read",
    ),
];

/// What [`FIELDS`] say.
#[derive(Debug)]
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
    classifier_dropout: f64,
    init_std: f64,
    scale_embedding: bool,
    pad_token_id: usize,
    eos_token_id: usize,
    decoder_start_token_id: usize,
}

fn read(fields: Fields<'_>) -> Result<Box<dyn Architecture>, FieldError> {
    Ok(Box::new(Bart::read(fields)?))
}

/// A size that has two names.
fn size(
    fields: Fields<'_>,
    [field, other]: [&'static str; 2],
    most: usize,
) -> Result<usize, FieldError> {
    let Some(alias) = fields.whole(other, 1..=most)? else {
        return fields.size(field, most);
    };
    let found = fields.whole(field, 1..=most)?.unwrap_or(alias);
    FieldError::unless(found == alias, other, alias, || {
        format!("what `{field}` is, of which it is another name: {found}; remove one of them")
    })?;
    Ok(found)
}

impl Bart {
    /// Reads and checks the fields. Where one may be missing, it means what it does in transformers.
    fn read(fields: Fields<'_>) -> Result<Self, FieldError> {
        let vocab_size = fields.size("vocab_size", 1 << 24)?;
        let token = |field, default| -> Result<usize, FieldError> {
            // Several ends: the first is the one that is classified by.
            let several = fields
                .value(field)
                .and_then(|ids| ids.as_array()?.first()?.as_u64());
            let found = match several {
                Some(id) => id as usize,
                None => fields.whole(field, 0..=1 << 24)?.unwrap_or(default),
            };
            FieldError::unless(found < vocab_size, field, found, || {
                format!("an id below `vocab_size`, which is {vocab_size}")
            })?;
            Ok(found)
        };
        let config = Self {
            vocab_size,
            d_model: size(fields, ["d_model", "hidden_size"], 1 << 20)?,
            encoder_layers: size(fields, ["encoder_layers", "num_hidden_layers"], 1 << 10)?,
            decoder_layers: fields.size("decoder_layers", 1 << 10)?,
            encoder_attention_heads: size(
                fields,
                ["encoder_attention_heads", "num_attention_heads"],
                1 << 20,
            )?,
            decoder_attention_heads: fields.size("decoder_attention_heads", 1 << 20)?,
            encoder_ffn_dim: fields.size("encoder_ffn_dim", 1 << 20)?,
            decoder_ffn_dim: fields.size("decoder_ffn_dim", 1 << 20)?,
            max_position_embeddings: fields.size("max_position_embeddings", 1 << 24)?,
            activation_function: Activation::read(fields, "activation_function", "gelu")?,
            dropout: fields.rate_or("dropout", 0.1)?,
            attention_dropout: fields.rate_or("attention_dropout", 0.0)?,
            activation_dropout: fields.rate_or("activation_dropout", 0.0)?,
            classifier_dropout: fields.rate_or("classifier_dropout", 0.0)?,
            init_std: fields.fraction_or("init_std", 0.02)?,
            scale_embedding: fields.flag_or("scale_embedding", false)?,
            pad_token_id: token("pad_token_id", 1)?,
            eos_token_id: token("eos_token_id", 2)?,
            decoder_start_token_id: token("decoder_start_token_id", 2)?,
        };
        for (field, heads) in [
            ("encoder_attention_heads", config.encoder_attention_heads),
            ("decoder_attention_heads", config.decoder_attention_heads),
        ] {
            let width = config.d_model;
            FieldError::unless(width.is_multiple_of(heads), field, heads, || {
                format!("a divisor of `d_model`, which is {width}")
            })?;
        }
        let tied = fields.flag_or("tie_word_embeddings", true)?;
        FieldError::unless(tied, "tie_word_embeddings", tied, || {
            "true; tables of their own for encoder, decoder and head are not supported".into()
        })?;
        Ok(config)
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

    fn layers(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("encoder_layers", self.encoder_layers),
            ("decoder_layers", self.decoder_layers),
        ]
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
        let labels = batch.targets.inputs.ids("labels");
        let decoder_ids = match (head, labels) {
            (Head::Seq2SeqLm { .. }, Some(labels)) => {
                self.shifted_right(labels, batch.targets.text_len)
            }
            _ => self.shifted_right(&batch.ids, batch.len),
        };
        let inputs = Inputs::default()
            .with_ids("input_ids", batch.ids.clone())
            .with_floats("attention_mask", batch.mask.clone())
            .with_floats(DECODER_MASK, vec![1.0; decoder_ids.len()])
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
            .with_ids("decoder_input_ids", step.ids.clone())
            .with_ids(
                "decoder_position_ids",
                positions.map(|at| at + OFFSET as i32).collect(),
            )
            .with_floats(DECODER_MASK, step.mask.clone())
    }
}

/// The input that says which of the decoder's tokens are padding.
const DECODER_MASK: &str = "decoder_attention_mask";

/// Keys and values of the encoder's states, and the mask of its tokens.
type Memory<'a, 'g, T> = (&'a T, &'a Tensor<'g>);

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
        let mut cache = Cache::absent(cx, shape.rows);
        self.decode(cx, positions, Some((&memory, &mask)), &mut cache)
    }

    /// The decoder's states over the tokens behind those of the cache, `[rows, len, width]`.
    fn step<'g>(&self, cx: &'g Cx, len: usize, cache: &mut Cache<'g>) -> Tensor<'g> {
        let ids = cx.input("decoder_position_ids", Type::i32([cache.rows(), len]));
        let positions = &self.decoder.embed_positions.forward(&ids);
        self.decode(cx, positions, None, cache)
    }

    /// # Shapes
    /// `positions`: `[rows, len, width]` or `[len, width]`; `memory`: `[rows, source, width]` each, and a
    /// mask `[rows, source]`, where the cache has none; result: `[rows, len, width]`
    fn decode<'g>(
        &self,
        cx: &'g Cx,
        positions: &Tensor<'g>,
        memory: Option<Memory<'_, 'g, [[Tensor<'g>; 2]]>>,
        cache: &mut Cache<'g>,
    ) -> Tensor<'g> {
        let axes = positions.shape();
        let (rows, len) = (cache.rows(), axes[axes.len() - 2]);
        let ids = cx.input("decoder_input_ids", Type::i32([rows, len]));
        let x = &self.words(&ids) + positions;
        self.decoder.forward(&x, memory, cache)
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
    /// `x`: `[b, t, width]`, as the result; `memory`: `[b, s, width]` each, and a mask `[b, s]`
    fn forward<'g>(
        &self,
        x: &Tensor<'g>,
        memory: Option<Memory<'_, 'g, [[Tensor<'g>; 2]]>>,
        cache: &mut Cache<'g>,
    ) -> Tensor<'g> {
        let x = self.layernorm_embedding.forward(x).dropout(self.dropout);
        let layers = self.layers.iter().enumerate();
        layers.fold(x, |x, (i, layer)| {
            let memory = memory.and_then(|(all, mask)| Some((all.get(i)?, mask)));
            layer.forward(&x, memory, cache)
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
        let mixed = self.self_attn.forward(x, mask).dropout(self.dropout);
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
        memory: Option<Memory<'_, 'g, [Tensor<'g>; 2]>>,
        cache: &mut Cache<'g>,
    ) -> Tensor<'g> {
        let mixed = self.self_attn.after(x, cache).dropout(self.dropout);
        let x = &self.self_attn_layer_norm.forward(&(x + &mixed));
        let read = self.encoder_attn.forward(x, memory, cache);
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

    fn project<'g>(&self, x: &Tensor<'g>) -> [Tensor<'g>; 3] {
        [&self.q_proj, &self.k_proj, &self.v_proj].map(|p| p.forward(x))
    }

    /// Over all of a text.
    fn forward<'g>(&self, x: &Tensor<'g>, mask: &Tensor<'g>) -> Tensor<'g> {
        let [q, k, v] = self.project(x);
        let mixed = q.attention(&k, &v, mask, self.heads, self.dropout);
        self.out_proj.forward(&mixed)
    }

    /// Over what came before each token.
    fn after<'g>(&self, x: &Tensor<'g>, cache: &mut Cache<'g>) -> Tensor<'g> {
        let [q, k, v] = &self.project(x);
        let mixed = cache.attention([q, k, v], DECODER_MASK, self.heads, self.dropout);
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
        memory: Option<Memory<'_, 'g, [Tensor<'g>; 2]>>,
        cache: &mut Cache<'g>,
    ) -> Tensor<'g> {
        let q = self.q_proj.forward(x);
        let width = q.shape().last().copied().unwrap_or(1);
        let mixed = match memory {
            Some(([k, v], mask)) => q.attention(k, v, mask, self.heads, self.dropout),
            None => cache.cross_attention(&q, width, self.heads),
        };
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
    use crate::batch::Targets;

    fn small() -> Bart {
        let json = r#"{"vocab_size": 9, "d_model": 4, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 1, "decoder_attention_heads": 1, "encoder_ffn_dim": 4,
            "decoder_ffn_dim": 4, "max_position_embeddings": 8, "activation_function": "gelu",
            "dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0}"#;
        Bart::read(Fields::new(&serde_json::from_str(json).unwrap())).unwrap()
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
            targets: Targets::default(),
            indices: vec![0, 1, 2],
        };
        assert_eq!(small().ends(&batch), [3, 5, 9]);
    }
}
