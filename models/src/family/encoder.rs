//! The encoder that BERT and RoBERTa share (Devlin et al., 2019): learnt positions, post-norm layers.
//!
//! Fields are named, or renamed, so that module paths are the parameter names of Hugging Face.

use ailora_graph::{
    Module, adapt,
    nn::{Cx, Embedding, LayerNorm, Linear, Tensor},
};

use crate::{
    closed::{Field, applied},
    fields::{FieldError, Fields},
};

/// The fields of `config.json` that describe the encoder.
pub(super) const FIELDS: &[Field] = &[
    applied("vocab_size", "rows of the table of words"),
    applied("hidden_size", "width"),
    applied("num_hidden_layers", "layers"),
    applied("num_attention_heads", "heads"),
    applied(
        "intermediate_size",
        "width between the projections of a feed-forward block",
    ),
    applied("max_position_embeddings", "rows of the table of positions"),
    applied("type_vocab_size", "rows of the table of segments"),
    applied("pad_token_id", "where RoBERTa's positions begin"),
    applied(
        "hidden_act",
        "gelu, gelu_new, relu, silu, tanh and their other names",
    ),
    applied("hidden_dropout_prob", "while training"),
    applied("attention_probs_dropout_prob", "while training"),
    applied("classifier_dropout", "while training, before a head"),
    applied("layer_norm_eps", "added to the variance"),
    applied("initializer_range", "deviation of new weights"),
];

/// What [`FIELDS`] say.
#[derive(Clone, Debug)]
pub(super) struct EncoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub pad_token_id: Option<usize>,
    pub hidden_act: Activation,
    pub hidden_dropout_prob: f64,
    pub attention_probs_dropout_prob: f64,
    classifier_dropout: f64,
    pub layer_norm_eps: f64,
    pub initializer_range: f64,
}

impl EncoderConfig {
    /// Reads and checks the fields. Where one may be missing, it means what it does in transformers.
    pub fn read(fields: Fields<'_>) -> Result<Self, FieldError> {
        let hidden_dropout_prob = fields.rate_or("hidden_dropout_prob", 0.1)?;
        let config = Self {
            vocab_size: fields.size("vocab_size", 1 << 24)?,
            hidden_size: fields.size("hidden_size", 1 << 20)?,
            num_hidden_layers: fields.size("num_hidden_layers", 1 << 10)?,
            num_attention_heads: fields.size("num_attention_heads", 1 << 20)?,
            intermediate_size: fields.size("intermediate_size", 1 << 20)?,
            max_position_embeddings: fields.size("max_position_embeddings", 1 << 24)?,
            type_vocab_size: fields.size("type_vocab_size", 1 << 20)?,
            pad_token_id: fields.whole("pad_token_id", 0..=1 << 24)?,
            hidden_act: Activation::read(fields, "hidden_act", "gelu")?,
            hidden_dropout_prob,
            attention_probs_dropout_prob: fields.rate_or("attention_probs_dropout_prob", 0.1)?,
            classifier_dropout: fields.rate_or("classifier_dropout", hidden_dropout_prob)?,
            layer_norm_eps: fields.fraction_or("layer_norm_eps", 1e-12)?,
            initializer_range: fields.fraction_or("initializer_range", 0.02)?,
        };
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        FieldError::unless(width.is_multiple_of(heads), "hidden_size", width, || {
            format!("a multiple of `num_attention_heads`, which is {heads}")
        })?;
        Ok(config)
    }

    /// Dropout before a head's projections.
    pub fn head_dropout(&self) -> f64 {
        self.classifier_dropout
    }
}

/// The function between the two projections of a feed-forward block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Activation {
    Gelu,
    GeluTanh,
    Relu,
    Silu,
    Tanh,
}

impl Activation {
    /// The function that `field` of a `config.json` names, or `default` where it is missing.
    pub fn read(
        fields: Fields<'_>,
        field: &'static str,
        default: &str,
    ) -> Result<Self, FieldError> {
        Self::named(field, fields.text(field)?.unwrap_or(default))
    }

    fn named(field: &'static str, name: &str) -> Result<Self, FieldError> {
        match name {
            "gelu" | "gelu_python" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            "silu" | "swish" => Ok(Self::Silu),
            "tanh" => Ok(Self::Tanh),
            _ => Err(FieldError::Value {
                field,
                found: name.into(),
                expected: "gelu, gelu_python, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, silu, swish or tanh"
                    .into(),
            }),
        }
    }

    pub fn apply<'g>(self, x: &Tensor<'g>) -> Tensor<'g> {
        match self {
            Self::Gelu => x.gelu(),
            Self::GeluTanh => x.gelu_tanh(),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
            Self::Tanh => x.tanh(),
        }
    }
}

/// Embeddings and layers: token ids to hidden states.
#[derive(Module)]
pub(super) struct Encoder {
    embeddings: Embeddings,
    #[module(name = "encoder.layer")]
    layers: Vec<Layer>,
}

impl Encoder {
    pub fn new(cx: &Cx, config: &EncoderConfig) -> Self {
        Self {
            embeddings: Embeddings::new(cx, config),
            layers: (0..config.num_hidden_layers)
                .map(|_| Layer::new(cx, config))
                .collect(),
        }
    }

    /// # Shapes
    /// `ids`, `mask`: `[b, s]`; `positions`, `segments`: rows of their tables, as
    /// [`Embeddings::forward`] takes them; result: `[b, s, width]`
    pub fn forward<'g>(
        &self,
        ids: &Tensor<'g>,
        positions: &Tensor<'g>,
        segments: &Tensor<'g>,
        mask: &Tensor<'g>,
    ) -> Tensor<'g> {
        let embedded = self.embeddings.forward(ids, positions, segments);
        self.layers
            .iter()
            .fold(embedded, |x, layer| layer.forward(&x, mask))
    }

    /// The table of word embeddings.
    pub fn words(&self) -> &Embedding {
        &self.embeddings.word_embeddings
    }

    /// The table of position embeddings.
    pub fn positions(&self) -> &Embedding {
        &self.embeddings.position_embeddings
    }

    /// The table of segment embeddings.
    pub fn segments(&self) -> &Embedding {
        &self.embeddings.token_type_embeddings
    }
}

#[derive(Module)]
struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    #[module(name = "LayerNorm")]
    norm: LayerNorm,
    dropout: f64,
}

impl Embeddings {
    fn new(cx: &Cx, config: &EncoderConfig) -> Self {
        let width = config.hidden_size;
        Self {
            word_embeddings: Embedding::new(cx, config.vocab_size, width),
            position_embeddings: Embedding::new(cx, config.max_position_embeddings, width),
            token_type_embeddings: Embedding::new(cx, config.type_vocab_size, width),
            norm: LayerNorm::new(cx, width, config.layer_norm_eps),
            dropout: config.hidden_dropout_prob,
        }
    }

    /// # Shapes
    /// `ids`: `[b, s]`; `positions`, `segments`: `[b, s, width]` or what broadcasts to it
    fn forward<'g>(
        &self,
        ids: &Tensor<'g>,
        positions: &Tensor<'g>,
        segments: &Tensor<'g>,
    ) -> Tensor<'g> {
        let sum = &(&self.word_embeddings.forward(ids) + segments) + positions;
        self.norm.forward(&sum).dropout(self.dropout)
    }
}

#[derive(Module)]
struct Layer {
    #[module(name = "attention.self")]
    attention: SelfAttention,
    #[module(name = "attention.output")]
    attention_output: Output,
    #[module(name = "intermediate.dense")]
    intermediate: Linear,
    #[module(skip)]
    activation: Activation,
    output: Output,
}

impl Layer {
    fn new(cx: &Cx, config: &EncoderConfig) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (eps, dropout) = (config.layer_norm_eps, config.hidden_dropout_prob);
        Self {
            attention: SelfAttention::new(cx, config),
            attention_output: Output::new(cx, [width, width], eps, dropout),
            intermediate: Linear::new(cx, width, inner, true),
            activation: config.hidden_act,
            output: Output::new(cx, [inner, width], eps, dropout),
        }
    }

    fn forward<'g>(&self, x: &Tensor<'g>, mask: &Tensor<'g>) -> Tensor<'g> {
        let mixed = self.attention.forward(x, mask);
        let x = self.attention_output.forward(&mixed, x);
        let inner = self.activation.apply(&self.intermediate.forward(&x));
        self.output.forward(&inner, &x)
    }
}

/// Multi-head attention, and what AILoRA adapts: principal queries, minor values.
#[adapt(query = principal(8), value = minor(8), value_lr = 2.0)]
struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    heads: usize,
    dropout: f64,
}

impl SelfAttention {
    fn new(cx: &Cx, config: &EncoderConfig) -> Self {
        let projection = || Linear::new(cx, config.hidden_size, config.hidden_size, true);
        Self {
            query: projection(),
            key: projection(),
            value: projection(),
            heads: config.num_attention_heads,
            dropout: config.attention_probs_dropout_prob,
        }
    }

    fn forward<'g>(&self, x: &Tensor<'g>, mask: &Tensor<'g>) -> Tensor<'g> {
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|linear| linear.forward(x));
        q.attention(&k, &v, mask, self.heads, self.dropout)
    }
}

/// The end of a block: a projection, the residual, the norm.
#[derive(Module)]
pub(super) struct Output {
    dense: Linear,
    #[module(name = "LayerNorm")]
    norm: LayerNorm,
    dropout: f64,
}

impl Output {
    pub fn new(cx: &Cx, [inputs, width]: [usize; 2], eps: f64, dropout: f64) -> Self {
        Self {
            dense: Linear::new(cx, inputs, width, true),
            norm: LayerNorm::new(cx, width, eps),
            dropout,
        }
    }

    pub fn forward<'g>(&self, x: &Tensor<'g>, residual: &Tensor<'g>) -> Tensor<'g> {
        let projected = self.dense.forward(x).dropout(self.dropout);
        self.norm.forward(&(&projected + residual))
    }
}

/// The hidden state of each sequence's first token.
///
/// # Shapes
/// `[b, s, width]` gives `[b, width]`.
pub(super) fn first_token<'g>(hidden: &Tensor<'g>) -> Tensor<'g> {
    let [batch, _, width] = hidden.shape()[..] else {
        return hidden.clone();
    };
    hidden.slice(1, 0, 1).reshape([batch, width])
}

#[cfg(test)]
mod tests {
    use ailora_graph::ir::{Bindings, Draw, Tensor, Type};

    use super::*;

    /// Values of torch's `gelu`, `gelu(approximate="tanh")`, `relu` and `silu` at -1 and 2.
    #[test]
    fn activations_go_by_the_names_of_transformers() {
        let gelu_tanh = [-0.158_808, 1.954_597_7];
        for (name, expected) in [
            ("gelu", [-0.158_655_3, 1.954_499_7]),
            ("gelu_new", gelu_tanh),
            ("gelu_pytorch_tanh", gelu_tanh),
            ("gelu_fast", gelu_tanh),
            ("relu", [0.0, 2.0]),
            ("silu", [-0.268_941_4, 1.761_594_2]),
            ("swish", [-0.268_941_4, 1.761_594_2]),
        ] {
            let activation = Activation::named("hidden_act", name).unwrap();
            let cx = Cx::new();
            let y = activation.apply(&cx.input("x", Type::f32([2])));
            let program = cx.program(&(), &[("y", &y)]).unwrap();
            let bindings = Bindings::from([("x".to_owned(), Tensor::new([2], [-1.0, 2.0]))]);
            let found = &program.eval(&bindings, Draw::default()).unwrap()["y"].data;
            for (x, y) in found.iter().zip(expected) {
                assert!((x - y).abs() < 1e-6, "{name}: {found:?}");
            }
        }
    }
}
