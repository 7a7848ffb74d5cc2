//! BERT (Devlin et al., 2019).

use ailora_graph::{
    Module, adapt,
    ir::Type,
    nn::{Cx, LayerNorm, Linear, Param, Tensor},
};

use super::{
    Architecture, Family, Network,
    encoder::{self, Activation, Encoder, EncoderConfig, first_token},
};
use crate::{
    batch::{Batch, Inputs, Shape},
    closed::{Table, Unknown},
    config::table::{ENCODER, GENERATION, SHARED},
    fields::{FieldError, Fields},
    head::Head,
};

pub(super) const FAMILY: Family = Family {
    model_type: "bert",
    base: "bert",
    labels: 2,
    table: Table {
        file: "config.json of bert",
        fields: &[encoder::FIELDS, ENCODER, SHARED, GENERATION],
        unknown: Unknown::Noted,
    },
    read,
};

#[derive(Debug)]
struct Bert(EncoderConfig);

fn read(fields: Fields<'_>) -> Result<Box<dyn Architecture>, FieldError> {
    Ok(Box::new(Bert(EncoderConfig::read(fields)?)))
}

impl Architecture for Bert {
    fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    fn segments(&self) -> Option<usize> {
        Some(self.0.type_vocab_size)
    }

    fn max_len(&self) -> usize {
        self.0.max_position_embeddings
    }

    fn layers(&self) -> Vec<(&'static str, usize)> {
        vec![("num_hidden_layers", self.0.num_hidden_layers)]
    }

    fn initializer_range(&self) -> f64 {
        self.0.initializer_range
    }

    fn tied(&self) -> &'static [(&'static str, &'static str)] {
        &[
            (
                "cls.predictions.decoder.weight",
                "bert.embeddings.word_embeddings.weight",
            ),
            ("cls.predictions.decoder.bias", "cls.predictions.bias"),
        ]
    }

    fn build(&self, cx: &Cx, head: Head) -> Option<Box<dyn Network>> {
        let config = &self.0;
        let width = config.hidden_size;
        let bert = Encoder::new(cx, config);
        Some(match head {
            Head::Sequence { outputs, .. } => Box::new(BertForSequenceClassification {
                bert,
                pooler: Linear::new(cx, width, width, true),
                classifier: Linear::new(cx, width, outputs, true),
                dropout: config.head_dropout(),
            }),
            Head::QuestionAnswering => Box::new(BertForQuestionAnswering {
                bert,
                qa_outputs: Linear::new(cx, width, 2, true),
            }),
            Head::MaskedLm => Box::new(BertForMaskedLM {
                bert,
                predictions: Predictions {
                    dense: Linear::new(cx, width, width, true),
                    norm: LayerNorm::new(cx, width, config.layer_norm_eps),
                    bias: cx.param([config.vocab_size]),
                    activation: config.hidden_act,
                },
            }),
            Head::CausalLm | Head::Seq2SeqLm { .. } => return None,
        })
    }

    fn inputs(&self, _: Head, batch: &Batch) -> Inputs {
        Inputs::default()
            .with_ids("input_ids", batch.ids.clone())
            .with_ids("token_type_ids", batch.type_ids.clone())
            .with_floats("attention_mask", batch.mask.clone())
    }
}

/// The hidden states of a batch.
fn encode<'g>(bert: &Encoder, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
    let Shape { rows, len, .. } = shape;
    let ids = cx.input("input_ids", Type::i32([rows, len]));
    let types = cx.input("token_type_ids", Type::i32([rows, len]));
    let mask = cx.input("attention_mask", Type::f32([rows, len]));
    // Positions count from 0 in every row: a view of the table, without ids.
    let positions = cx.value(&bert.positions().weight).slice(0, 0, len);
    let segments = bert.segments().forward(&types);
    bert.forward(&ids, &positions, &segments, &mask)
}

/// The first token's state goes through a pooler, which stays frozen as it does in PEFT.
#[adapt(classifier = full)]
struct BertForSequenceClassification {
    bert: Encoder,
    #[module(name = "bert.pooler.dense")]
    pooler: Linear,
    classifier: Linear,
    dropout: f64,
}

impl Network for BertForSequenceClassification {
    fn class(&self) -> &'static str {
        "BertForSequenceClassification"
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        encode(&self.bert, cx, shape)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let pooled = self.pooler.forward(&first_token(hidden)).tanh();
        self.classifier.forward(&pooled.dropout(self.dropout))
    }
}

#[adapt(qa_outputs = full)]
struct BertForQuestionAnswering {
    bert: Encoder,
    qa_outputs: Linear,
}

impl Network for BertForQuestionAnswering {
    fn class(&self) -> &'static str {
        "BertForQuestionAnswering"
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        encode(&self.bert, cx, shape)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        self.qa_outputs.forward(hidden)
    }
}

#[derive(Module)]
struct BertForMaskedLM {
    bert: Encoder,
    #[module(name = "cls.predictions")]
    predictions: Predictions,
}

/// A transformed state against every word's embedding: the decoder is the embeddings' table.
#[derive(Module)]
struct Predictions {
    #[module(name = "transform.dense")]
    dense: Linear,
    #[module(name = "transform.LayerNorm")]
    norm: LayerNorm,
    bias: Param,
    #[module(skip)]
    activation: Activation,
}

impl Network for BertForMaskedLM {
    fn class(&self) -> &'static str {
        "BertForMaskedLM"
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        encode(&self.bert, cx, shape)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let Predictions {
            dense,
            norm,
            bias,
            activation,
        } = &self.predictions;
        let transformed = norm.forward(&activation.apply(&dense.forward(hidden)));
        let words = hidden.cx().value(&self.bert.words().weight);
        &transformed.matmul_t(&words) + &hidden.cx().value(bias)
    }
}
