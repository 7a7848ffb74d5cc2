//! DeBERTa, versions 2 and 3 (He et al., 2021, 2023): attention whose scores are those of contents
//! and of relative positions apart, and a head on a pooler of the first token.
//!
//! One long file: it is read beside the one file that transformers has of this model.

use std::ops::Range;

use ailora_graph::{
    Module, adapt,
    ir::Type,
    nn::{Conv1d, Cx, Embedding, LayerNorm, Linear, Tensor},
};
use serde_json::Value;

use super::{
    Architecture, Family, Network,
    encoder::{Activation, Output, first_token},
};
use crate::{
    batch::{Batch, Inputs, Shape},
    closed::{Field, Table, Unknown, applied, inert, shortened},
    config::table::{ENCODER, GENERATION, SHARED},
    fields::{FieldError, Fields},
    head::Head,
};

pub(super) const FAMILY: Family = Family {
    model_type: "deberta-v2",
    base: "deberta",
    labels: 2,
    table: Table {
        file: "config.json of deberta-v2",
        fields: &[FIELDS, ENCODER, SHARED, GENERATION],
        unknown: Unknown::Noted,
    },
    read,
};

/// The fields of `config.json` that describe the model.
const FIELDS: &[Field] = &[
    applied("vocab_size", "rows of the table of words"),
    applied("hidden_size", "width"),
    applied("num_hidden_layers", "layers"),
    applied("num_attention_heads", "heads"),
    applied(
        "intermediate_size",
        "width between the projections of a feed-forward block",
    ),
    applied(
        "max_position_embeddings",
        "rows of the table of positions, and the longest text",
    ),
    applied(
        "type_vocab_size",
        "rows of the table of segments; 0 for none",
    ),
    applied(
        "hidden_act",
        "gelu, gelu_new, relu, silu, tanh and their other names",
    ),
    applied("hidden_dropout_prob", "while training"),
    applied("attention_probs_dropout_prob", "while training"),
    applied("cls_dropout", "while training, before a head"),
    applied("layer_norm_eps", "added to the variance"),
    applied("initializer_range", "deviation of new weights"),
    applied("embedding_size", "width of the embeddings"),
    applied(
        "position_biased_input",
        "whether positions are added to the embeddings",
    ),
    applied(
        "relative_attention",
        "whether attention sees relative positions",
    ),
    applied("pos_att_type", "c2p and p2c"),
    applied(
        "share_att_key",
        "whether positions have projections of their own",
    ),
    applied("max_relative_positions", "the largest distance"),
    applied("position_buckets", "how many distances are told apart"),
    applied("norm_rel_ebd", "none or layer_norm"),
    applied(
        "attention_head_size",
        "must be `hidden_size` by `num_attention_heads`",
    ),
    applied("conv_kernel_size", "width of the convolution; 0 for none"),
    applied("conv_groups", "must be 1"),
    applied("conv_act", "as `hidden_act`"),
    applied("pooler_hidden_size", "must be `hidden_size`"),
    applied("pooler_hidden_act", "as `hidden_act`"),
    applied("pooler_dropout", "while training"),
    inert("pad_token_id", "padding is masked"),
    inert("legacy", "which head a masked language model has"),
];

/// What [`FIELDS`] say.
#[derive(Clone, Debug)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    hidden_act: Activation,
    hidden_dropout_prob: f64,
    attention_probs_dropout_prob: f64,
    cls_dropout: f64,
    layer_norm_eps: f64,
    initializer_range: f64,
    /// Width of the embeddings, where they are projected to that of the layers.
    embedding_size: usize,
    /// Whether absolute positions are added to the embeddings.
    position_biased_input: bool,
    relative_attention: bool,
    pos_att_type: ScoreTypes,
    share_att_key: bool,
    conv_kernel_size: usize,
    pooler_dropout: f64,
}

/// Which scores are added to those of contents with contents.
#[derive(Clone, Copy, Debug, Default)]
struct ScoreTypes {
    /// A query's content with a key's position.
    c2p: bool,
    /// A query's position with a key's content.
    p2c: bool,
}

impl ScoreTypes {
    /// Reads a list of names, or one text of names with bars between them.
    fn read(fields: Fields<'_>) -> Result<Self, FieldError> {
        const FIELD: &str = "pos_att_type";
        let names: Option<Vec<&str>> = match fields.value(FIELD) {
            None => Some(Vec::new()),
            Some(Value::String(text)) => Some(text.split('|').collect()),
            Some(Value::Array(names)) => names.iter().map(Value::as_str).collect(),
            Some(_) => None,
        };
        let wrong = |found: String| FieldError::Value {
            field: FIELD,
            found,
            expected: "c2p and p2c, as a list or with a bar between them".into(),
        };
        let other = || shortened(fields.value(FIELD).unwrap_or(&Value::Null));
        let mut types = Self::default();
        for name in names.ok_or_else(|| wrong(other()))? {
            match &*name.trim().to_lowercase() {
                "" => {}
                "c2p" => types.c2p = true,
                "p2c" => types.p2c = true,
                name => return Err(wrong(name.into())),
            }
        }
        Ok(types)
    }

    /// How many scores are added up: theirs, and those of contents.
    fn count(self) -> usize {
        1 + usize::from(self.c2p) + usize::from(self.p2c)
    }
}

#[derive(Debug)]
struct Deberta {
    config: Config,
    norm_relative: bool,
    convolution: Activation,
    pooler: Activation,
    distances: Option<Distances>,
}

fn read(fields: Fields<'_>) -> Result<Box<dyn Architecture>, FieldError> {
    let config = Config::read(fields)?;
    Ok(Box::new(Deberta {
        norm_relative: norm_relative(fields)?,
        convolution: Activation::read(fields, "conv_act", "tanh")?,
        pooler: Activation::read(fields, "pooler_hidden_act", "gelu")?,
        distances: config.distances(fields)?,
        config,
    }))
}

impl Config {
    /// Reads and checks the fields. Where one may be missing, it means what it does in transformers.
    fn read(fields: Fields<'_>) -> Result<Self, FieldError> {
        let hidden_size = fields.size("hidden_size", 1 << 20)?;
        let hidden_dropout_prob = fields.rate_or("hidden_dropout_prob", 0.1)?;
        let embedding_size = fields.whole("embedding_size", 1..=1 << 20)?;
        let config = Self {
            vocab_size: fields.size("vocab_size", 1 << 24)?,
            hidden_size,
            num_hidden_layers: fields.size("num_hidden_layers", 1 << 10)?,
            num_attention_heads: fields.size("num_attention_heads", 1 << 20)?,
            intermediate_size: fields.size("intermediate_size", 1 << 20)?,
            max_position_embeddings: fields.size("max_position_embeddings", 1 << 24)?,
            type_vocab_size: fields.whole("type_vocab_size", 0..=1 << 20)?.unwrap_or(0),
            hidden_act: Activation::read(fields, "hidden_act", "gelu")?,
            hidden_dropout_prob,
            attention_probs_dropout_prob: fields.rate_or("attention_probs_dropout_prob", 0.1)?,
            cls_dropout: fields.rate_or("cls_dropout", hidden_dropout_prob)?,
            layer_norm_eps: fields.fraction_or("layer_norm_eps", 1e-7)?,
            initializer_range: fields.fraction_or("initializer_range", 0.02)?,
            embedding_size: embedding_size.unwrap_or(hidden_size),
            position_biased_input: fields.flag_or("position_biased_input", true)?,
            relative_attention: fields.flag_or("relative_attention", false)?,
            pos_att_type: ScoreTypes::read(fields)?,
            share_att_key: fields.flag_or("share_att_key", false)?,
            conv_kernel_size: fields.whole("conv_kernel_size", 0..=1 << 10)?.unwrap_or(0),
            pooler_dropout: fields.rate_or("pooler_dropout", 0.0)?,
        };
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        FieldError::unless(width.is_multiple_of(heads), "hidden_size", width, || {
            format!("a multiple of `num_attention_heads`, which is {heads}")
        })?;
        let depth = width / heads;
        let found = fields
            .whole("attention_head_size", 0..=1 << 20)?
            .unwrap_or(depth);
        FieldError::unless(depth == found, "attention_head_size", found, || {
            format!("{depth}, which is `hidden_size` by `num_attention_heads`")
        })?;
        let pooled = fields
            .whole("pooler_hidden_size", 0..=1 << 20)?
            .unwrap_or(width);
        FieldError::unless(pooled == width, "pooler_hidden_size", pooled, || {
            format!("`hidden_size`, which is {width}")
        })?;
        let kernel = config.conv_kernel_size;
        FieldError::unless(
            kernel == 0 || kernel % 2 == 1,
            "conv_kernel_size",
            kernel,
            || "0, for no convolution, or an odd number of tokens below 1024".into(),
        )?;
        let groups = fields.whole("conv_groups", 0..=1 << 20)?.unwrap_or(1);
        FieldError::unless(kernel == 0 || groups == 1, "conv_groups", groups, || {
            "1; convolutions of groups of channels are not supported".into()
        })?;
        Ok(config)
    }

    /// How distances are told apart, if attention sees any.
    fn distances(&self, fields: Fields<'_>) -> Result<Option<Distances>, FieldError> {
        if !self.relative_attention {
            return Ok(None);
        }
        let most = given(fields, "max_relative_positions")?;
        let most = most.unwrap_or(self.max_position_embeddings);
        let buckets = given(fields, "position_buckets")?;
        if let Some(buckets) = buckets {
            // The logarithm's scale: the largest distance by the smallest that shares a bucket.
            let fits = buckets >= 2 && buckets / 2 < most - 1;
            FieldError::unless(fits, "position_buckets", buckets, || {
                format!(
                    "-1, or from 2 to less than twice the largest distance, which is {}",
                    most - 1
                )
            })?;
        }
        Ok(Some(Distances { most, buckets }))
    }
}

/// Whether the embeddings of relative positions are normalised.
fn norm_relative(fields: Fields<'_>) -> Result<bool, FieldError> {
    const FIELD: &str = "norm_rel_ebd";
    let names = fields.text(FIELD)?.unwrap_or("none");
    let mut norm = false;
    for name in names.to_lowercase().split('|').map(str::trim) {
        let known = ["none", "layer_norm"].contains(&name);
        FieldError::unless(known, FIELD, names, || "none or layer_norm".into())?;
        norm |= name == "layer_norm";
    }
    Ok(norm)
}

/// A size, or none where a field says so by a number below 1.
fn given(fields: Fields<'_>, field: &'static str) -> Result<Option<usize>, FieldError> {
    match fields.integer(field)? {
        Some(1..) => Ok(Some(fields.size(field, 1 << 24)?)),
        _ => Ok(None),
    }
}

/// The relative positions that have an embedding: `span` before a token and as many after.
#[derive(Clone, Copy, Debug)]
struct Distances {
    /// One more than the largest distance.
    most: usize,
    /// How many of each sign, if far ones share an embedding by their logarithm.
    buckets: Option<usize>,
}

impl Distances {
    fn span(self) -> usize {
        self.buckets.unwrap_or(self.most)
    }

    /// The row of the embedding of distance `i - j`, of a query `i` and a key `j`; equation (3) of
    /// DeBERTa.
    fn row(self, distance: i64) -> usize {
        let span = self.span() as i64;
        (self.bucket(distance) + span).clamp(0, 2 * span - 1) as usize
    }

    /// Distances up to half of the buckets are their own. Beyond, a bucket covers a range that is
    /// even in the logarithm. In float32 as in transformers, so that the same ones share a bucket.
    fn bucket(self, distance: i64) -> i64 {
        let Some(buckets) = self.buckets else {
            return distance;
        };
        let near = (buckets / 2) as i64;
        if distance.abs() <= near {
            return distance;
        }
        let log = (distance.abs() as f32 / near as f32).ln();
        let longest = (((self.most - 1) as f64 / near as f64) as f32).ln();
        let beyond = (log / longest * (near - 1) as f32).ceil() as i64;
        distance.signum() * (near + beyond)
    }

    /// The rows that sequences of `len` tokens use.
    fn rows(self, len: usize) -> Range<usize> {
        let far = len.max(1) as i64 - 1;
        self.row(-far)..self.row(far) + 1
    }

    /// For each query and key of `len` tokens, which of these rows is theirs.
    fn ids(self, len: usize) -> Vec<i32> {
        let first = self.rows(len).start;
        let tokens = 0..len as i64;
        tokens
            .clone()
            .flat_map(|i| tokens.clone().map(move |j| i - j))
            .map(|distance| (self.row(distance) - first) as i32)
            .collect()
    }
}

impl Architecture for Deberta {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn segments(&self) -> Option<usize> {
        Some(self.config.type_vocab_size).filter(|&known| known > 0)
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

    fn build(&self, cx: &Cx, head: Head) -> Option<Box<dyn Network>> {
        let config = &self.config;
        let width = config.hidden_size;
        let deberta = DebertaModel {
            embeddings: Embeddings::new(cx, config),
            encoder: Encoder::new(cx, self),
        };
        Some(match head {
            Head::Sequence { outputs, .. } => Box::new(DebertaForSequenceClassification {
                deberta,
                pooler: ContextPooler {
                    dense: Linear::new(cx, width, width, true),
                    activation: self.pooler,
                    dropout: config.pooler_dropout,
                },
                classifier: Linear::new(cx, width, outputs, true),
                dropout: config.cls_dropout,
            }),
            Head::QuestionAnswering => Box::new(DebertaForQuestionAnswering {
                deberta,
                qa_outputs: Linear::new(cx, width, 2, true),
            }),
            Head::MaskedLm | Head::CausalLm | Head::Seq2SeqLm { .. } => return None,
        })
    }

    fn inputs(&self, _: Head, batch: &Batch) -> Inputs {
        let mut inputs = Inputs::default().with_ids("input_ids", batch.ids.clone());
        if self.config.type_vocab_size > 0 {
            inputs = inputs.with_ids("token_type_ids", batch.type_ids.clone());
        }
        inputs = inputs.with_floats("attention_mask", batch.mask.clone());
        match self.distances {
            Some(distances) => inputs.with_ids("relative_positions", distances.ids(batch.len)),
            None => inputs,
        }
    }
}

/// A head that is new but for its name: pooler and classifier are both trained.
#[adapt(classifier = full)]
struct DebertaForSequenceClassification {
    deberta: DebertaModel,
    pooler: ContextPooler,
    classifier: Linear,
    dropout: f64,
}

impl Network for DebertaForSequenceClassification {
    fn class(&self) -> &'static str {
        "DebertaV2ForSequenceClassification"
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        self.deberta.forward(cx, shape)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let pooled = self.pooler.forward(hidden);
        self.classifier.forward(&pooled.dropout(self.dropout))
    }
}

#[adapt(qa_outputs = full)]
struct DebertaForQuestionAnswering {
    deberta: DebertaModel,
    qa_outputs: Linear,
}

impl Network for DebertaForQuestionAnswering {
    fn class(&self) -> &'static str {
        "DebertaV2ForQuestionAnswering"
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        self.deberta.forward(cx, shape)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        self.qa_outputs.forward(hidden)
    }
}

/// A projection of the first token's state.
#[adapt(dense = full)]
struct ContextPooler {
    dense: Linear,
    #[module(skip)]
    activation: Activation,
    dropout: f64,
}

impl ContextPooler {
    fn forward<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let first = first_token(hidden).dropout(self.dropout);
        self.activation.apply(&self.dense.forward(&first))
    }
}

/// Embeddings and layers: token ids to hidden states.
#[derive(Module)]
struct DebertaModel {
    embeddings: Embeddings,
    encoder: Encoder,
}

impl DebertaModel {
    /// The hidden states `[rows, len, width]` of inputs that it adds to the graph.
    fn forward<'g>(&self, cx: &'g Cx, Shape { rows, len, .. }: Shape) -> Tensor<'g> {
        let ids = cx.input("input_ids", Type::i32([rows, len]));
        let mask = cx.input("attention_mask", Type::f32([rows, len]));
        let mask = mask.reshape([rows, len, 1]);
        self.encoder
            .forward(&self.embeddings.forward(&ids, &mask), &mask)
    }
}

#[derive(Module)]
struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Option<Embedding>,
    token_type_embeddings: Option<Embedding>,
    embed_proj: Option<Linear>,
    #[module(name = "LayerNorm")]
    norm: LayerNorm,
    dropout: f64,
}

impl Embeddings {
    fn new(cx: &Cx, config: &Config) -> Self {
        let (own, width) = (config.embedding_size, config.hidden_size);
        let table = |rows| Embedding::new(cx, rows, own);
        let positions = config.max_position_embeddings;
        let types = config.type_vocab_size;
        Self {
            word_embeddings: table(config.vocab_size),
            position_embeddings: config.position_biased_input.then(|| table(positions)),
            token_type_embeddings: (types > 0).then(|| table(types)),
            embed_proj: (own != width).then(|| Linear::new(cx, own, width, false)),
            norm: LayerNorm::new(cx, width, config.layer_norm_eps),
            dropout: config.hidden_dropout_prob,
        }
    }

    /// # Shapes
    /// `ids`: `[b, s]`; `mask`: `[b, s, 1]`; result: `[b, s, width]`
    fn forward<'g>(&self, ids: &Tensor<'g>, mask: &Tensor<'g>) -> Tensor<'g> {
        let (cx, len) = (ids.cx(), ids.shape()[1]);
        let mut sum = self.word_embeddings.forward(ids);
        if let Some(positions) = &self.position_embeddings {
            // Positions count from 0 in every row: a view of the table, without ids.
            sum = &sum + &cx.value(&positions.weight).slice(0, 0, len);
        }
        if let Some(types) = &self.token_type_embeddings {
            let ids = cx.input("token_type_ids", ids.ty().clone());
            sum = &sum + &types.forward(&ids);
        }
        if let Some(projection) = &self.embed_proj {
            sum = projection.forward(&sum);
        }
        (&self.norm.forward(&sum) * mask).dropout(self.dropout)
    }
}

#[derive(Module)]
struct Encoder {
    #[module(name = "layer")]
    layers: Vec<Layer>,
    #[module(flatten)]
    relative: Option<RelativeEmbeddings>,
    conv: Option<Convolution>,
}

impl Encoder {
    fn new(cx: &Cx, deberta: &Deberta) -> Self {
        let config = &deberta.config;
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let norm = || LayerNorm::new(cx, width, eps);
        Self {
            layers: (0..config.num_hidden_layers)
                .map(|_| Layer::new(cx, config))
                .collect(),
            relative: deberta.distances.map(|distances| RelativeEmbeddings {
                rel_embeddings: Embedding::new(cx, 2 * distances.span(), width),
                norm: deberta.norm_relative.then(norm),
                distances,
            }),
            conv: (config.conv_kernel_size > 0).then(|| Convolution {
                conv: Conv1d::new(cx, width, width, config.conv_kernel_size),
                norm: norm(),
                activation: deberta.convolution,
                dropout: config.hidden_dropout_prob,
            }),
        }
    }

    /// # Shapes
    /// `embedded`: `[b, s, width]`; `mask`: `[b, s, 1]`; result: `[b, s, width]`
    fn forward<'g>(&self, embedded: &Tensor<'g>, mask: &Tensor<'g>) -> Tensor<'g> {
        let (cx, len) = (embedded.cx(), embedded.shape()[1]);
        let pairs = Pairs::of(mask);
        let positions = self.relative.as_ref().map(|table| table.of(cx, len));
        let mut x = embedded.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, &pairs, positions.as_ref());
            if let (0, Some(conv)) = (i, &self.conv) {
                x = conv.forward(embedded, &x, mask);
            }
        }
        x
    }
}

/// What is learnt of relative positions, the same for all layers.
#[derive(Module)]
struct RelativeEmbeddings {
    rel_embeddings: Embedding,
    #[module(name = "LayerNorm")]
    norm: Option<LayerNorm>,
    #[module(skip)]
    distances: Distances,
}

/// The relative positions of the tokens of a sequence.
struct RelativePositions<'g> {
    /// Their embeddings, `[n, width]`.
    table: Tensor<'g>,
    /// Which one is whose, of query and key, `[s, s]`.
    ids: Tensor<'g>,
}

impl RelativeEmbeddings {
    /// Those of sequences of `len` tokens, which is an input.
    fn of<'g>(&self, cx: &'g Cx, len: usize) -> RelativePositions<'g> {
        let rows = self.distances.rows(len);
        let table = cx.value(&self.rel_embeddings.weight);
        let table = table.slice(0, rows.start, rows.end);
        RelativePositions {
            table: self
                .norm
                .as_ref()
                .map_or(table.clone(), |norm| norm.forward(&table)),
            ids: cx.input("relative_positions", Type::i32([len, len])),
        }
    }
}

/// A convolution beside the first layer, and its norm.
#[derive(Module)]
struct Convolution {
    conv: Conv1d,
    #[module(name = "LayerNorm")]
    norm: LayerNorm,
    #[module(skip)]
    activation: Activation,
    dropout: f64,
}

impl Convolution {
    /// # Shapes
    /// `embedded` and the layer's `states`: `[b, s, width]`; `mask`: `[b, s, 1]`; result:
    /// `[b, s, width]`
    fn forward<'g>(
        &self,
        embedded: &Tensor<'g>,
        states: &Tensor<'g>,
        mask: &Tensor<'g>,
    ) -> Tensor<'g> {
        let out = (&self.conv.forward(embedded) * mask).dropout(self.dropout);
        let out = self.activation.apply(&out);
        &self.norm.forward(&(states + &out)) * mask
    }
}

#[derive(Module)]
struct Layer {
    #[module(name = "attention.self")]
    attention: DisentangledAttention,
    #[module(name = "attention.output")]
    attention_output: Output,
    #[module(name = "intermediate.dense")]
    intermediate: Linear,
    #[module(skip)]
    activation: Activation,
    output: Output,
}

impl Layer {
    fn new(cx: &Cx, config: &Config) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (eps, dropout) = (config.layer_norm_eps, config.hidden_dropout_prob);
        Self {
            attention: DisentangledAttention::new(cx, config),
            attention_output: Output::new(cx, [width, width], eps, dropout),
            intermediate: Linear::new(cx, width, inner, true),
            activation: config.hidden_act,
            output: Output::new(cx, [inner, width], eps, dropout),
        }
    }

    fn forward<'g>(
        &self,
        x: &Tensor<'g>,
        pairs: &Pairs<'g>,
        positions: Option<&RelativePositions<'g>>,
    ) -> Tensor<'g> {
        let mixed = self.attention.forward(x, pairs, positions);
        let x = self.attention_output.forward(&mixed, x);
        let inner = self.activation.apply(&self.intermediate.forward(&x));
        self.output.forward(&inner, &x)
    }
}

/// Which queries see which keys.
struct Pairs<'g> {
    /// 1 where neither is padding, else 0; `[b, s, s]`.
    count: Tensor<'g>,
    /// 0 where neither is padding, else far below every score; `[b, s, s]`.
    hide: Tensor<'g>,
}

impl<'g> Pairs<'g> {
    /// # Shapes
    /// `mask`: `[b, s, 1]`
    fn of(mask: &Tensor<'g>) -> Self {
        let (batch, len) = (mask.shape()[0], mask.shape()[1]);
        let count = mask * &mask.reshape([batch, 1, len]);
        let hide = count.shift(-1.0).scale(1e30);
        Self { count, hide }
    }

    /// The probabilities of scores `[heads, b, s, s]`. A query of padding sees every token alike, as
    /// in transformers.
    fn softmax(&self, scores: &Tensor<'g>) -> Tensor<'g> {
        (&(scores * &self.count) + &self.hide).softmax()
    }
}

/// Attention by contents and relative positions; equation (4) of DeBERTa:
/// `softmax((q_i k_j + q_i kr_ij + k_j qr_ij) / sqrt(3 d)) v`, of whose three scores the last two
/// are optional. The projections of positions, `kr` and `qr`, are those of contents or their own.
/// AILoRA adapts principal queries and minor values; a shared query projection, that of positions
/// too.
#[adapt(query_proj = principal(8), value_proj = minor(8), value_proj_lr = 2.0)]
struct DisentangledAttention {
    query_proj: Linear,
    key_proj: Linear,
    value_proj: Linear,
    pos_key_proj: Option<Linear>,
    pos_query_proj: Option<Linear>,
    #[module(skip)]
    types: ScoreTypes,
    heads: usize,
    /// Dropout of embeddings of positions.
    position_dropout: f64,
    /// Dropout of probabilities.
    dropout: f64,
}

impl DisentangledAttention {
    fn new(cx: &Cx, config: &Config) -> Self {
        let width = config.hidden_size;
        let projection = || Linear::new(cx, width, width, true);
        let own = config.relative_attention && !config.share_att_key;
        let types = config.pos_att_type;
        Self {
            query_proj: projection(),
            key_proj: projection(),
            value_proj: projection(),
            pos_key_proj: (own && types.c2p).then(projection),
            pos_query_proj: (own && types.p2c).then(projection),
            types,
            heads: config.num_attention_heads,
            position_dropout: config.hidden_dropout_prob,
            dropout: config.attention_probs_dropout_prob,
        }
    }

    fn forward<'g>(
        &self,
        x: &Tensor<'g>,
        pairs: &Pairs<'g>,
        positions: Option<&RelativePositions<'g>>,
    ) -> Tensor<'g> {
        let [q, k, v] = [&self.query_proj, &self.key_proj, &self.value_proj]
            .map(|projection| self.split(&projection.forward(x)));
        let mut scores = q.matmul_t(&k);
        if let Some(RelativePositions { table, ids }) = positions {
            let table = table.dropout(self.position_dropout);
            if self.types.c2p {
                let projection = self.pos_key_proj.as_ref().unwrap_or(&self.key_proj);
                let keys = self.split(&projection.forward(&table));
                scores = &scores + &products(&q, &keys).take_along(ids);
            }
            if self.types.p2c {
                let projection = self.pos_query_proj.as_ref().unwrap_or(&self.query_proj);
                let queries = self.split(&projection.forward(&table));
                scores = &scores + &products(&k, &queries).take_along_t(ids);
            }
        }
        let depth = x.shape()[2] / self.heads;
        let scale = 1.0 / ((self.types.count() * depth) as f64).sqrt();
        let probabilities = pairs.softmax(&scores.scale(scale)).dropout(self.dropout);
        join(&probabilities.matmul(&v))
    }

    /// The heads apart, before all other axes.
    ///
    /// # Shapes
    /// `[..., s, heads * d]` gives `[heads, ..., s, d]`.
    fn split<'g>(&self, x: &Tensor<'g>) -> Tensor<'g> {
        let (last, rest) = (x.shape().len() - 1, &x.shape()[..x.shape().len() - 1]);
        let shape = [rest, &[self.heads, x.shape()[last] / self.heads]].concat();
        let axes = std::iter::once(last).chain(0..last).chain([last + 1]);
        x.reshape(shape).permute(axes.collect::<Vec<_>>())
    }
}

/// The heads side by side.
///
/// # Shapes
/// `[heads, b, s, d]` gives `[b, s, heads * d]`.
fn join<'g>(x: &Tensor<'g>) -> Tensor<'g> {
    let [heads, batch, len, depth] = x.shape()[..] else {
        return x.clone();
    };
    x.permute([1, 2, 0, 3]).reshape([batch, len, heads * depth])
}

/// Contents times positions, for all sequences at once.
///
/// # Shapes
/// `contents`: `[heads, b, s, d]`; `positions`: `[heads, n, d]`; result: `[heads, b, s, n]`
fn products<'g>(contents: &Tensor<'g>, positions: &Tensor<'g>) -> Tensor<'g> {
    let ([heads, batch, len, depth], [_, n, _]) = (contents.shape(), positions.shape()) else {
        return contents.clone();
    };
    contents
        .reshape([*heads, batch * len, *depth])
        .matmul_t(positions)
        .reshape([*heads, *batch, *len, *n])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What transformers' `make_log_bucket_position` gives.
    #[test]
    fn distances_share_buckets_as_in_transformers() {
        let golden = include_str!("../../../tests/fixtures/deberta_buckets.json");
        let golden: Vec<(usize, usize, Vec<i64>)> = serde_json::from_str(golden).unwrap();
        assert!(golden.len() >= 5);
        for (buckets, most, expected) in golden {
            let distances = Distances {
                most,
                buckets: Some(buckets),
            };
            for (distance, expected) in (0..).zip(expected) {
                let context = format!("{buckets} buckets, {most} positions, distance {distance}");
                assert_eq!(distances.bucket(distance), expected, "{context}");
                assert_eq!(distances.bucket(-distance), -expected, "{context}");
            }
        }
    }

    #[test]
    fn sequences_use_the_rows_that_their_distances_have() {
        let distances = Distances {
            most: 3,
            buckets: None,
        };
        assert_eq!(distances.rows(1), 3..4);
        assert_eq!(distances.ids(2), [1, 0, 2, 1]);
        assert_eq!(distances.rows(2), 2..5);
        // Distances of 3 and more are no further than 2 on one side and 3 on the other.
        assert_eq!(distances.rows(9), 0..6);
        assert_eq!(distances.ids(5)[..5], [3, 2, 1, 0, 0]);
        assert_eq!(distances.ids(5)[20..], [5, 5, 5, 4, 3]);
    }
}
