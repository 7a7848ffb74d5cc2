//! RoBERTa (Liu et al., 2019): BERT's encoder, mostly without segments, positions that skip padding, and a
//! classification head of two projections.

use ailora_graph::{
    Module, adapt,
    ir::Type,
    nn::{Cx, LayerNorm, Linear, Param, Tensor},
};

use super::{
    Architecture, Family, Network,
    classification_head::ClassificationHead,
    encoder::{self, Encoder, EncoderConfig, first_token},
};
use crate::{
    batch::{Batch, Inputs, Shape},
    closed::{Table, Unknown},
    config::table::{ENCODER, GENERATION, SHARED},
    fields::{FieldError, Fields},
    head::Head,
};

pub(super) const FAMILY: Family = Family {
    model_type: "roberta",
    base: "roberta",
    labels: 2,
    table: Table {
        file: "config.json of roberta",
        fields: &[encoder::FIELDS, ENCODER, SHARED, GENERATION],
        unknown: Unknown::Noted,
    },
    read,
};

/// The padding token's id where `config.json` gives none, as in transformers.
const PAD: usize = 1;

#[derive(Debug)]
struct Roberta {
    config: EncoderConfig,
    /// Id of the padding token. Positions count from the next number on.
    pad: usize,
}

fn read(fields: Fields<'_>) -> Result<Box<dyn Architecture>, FieldError> {
    let config = EncoderConfig::read(fields)?;
    let pad = config.pad_token_id.unwrap_or(PAD);
    let positions = config.max_position_embeddings;
    FieldError::unless(
        positions > pad + 1,
        "max_position_embeddings",
        positions,
        || {
            format!(
                "more than {}, since positions start after `pad_token_id`",
                pad + 1
            )
        },
    )?;
    Ok(Box::new(Roberta { config, pad }))
}

impl Architecture for Roberta {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn segments(&self) -> Option<usize> {
        Some(self.config.type_vocab_size)
    }

    fn max_len(&self) -> usize {
        self.config.max_position_embeddings - self.pad - 1
    }

    fn layers(&self) -> Vec<(&'static str, usize)> {
        vec![("num_hidden_layers", self.config.num_hidden_layers)]
    }

    fn initializer_range(&self) -> f64 {
        self.config.initializer_range
    }

    fn tied(&self) -> &'static [(&'static str, &'static str)] {
        &[
            (
                "lm_head.decoder.weight",
                "roberta.embeddings.word_embeddings.weight",
            ),
            ("lm_head.decoder.bias", "lm_head.bias"),
        ]
    }

    fn build(&self, cx: &Cx, head: Head) -> Option<Box<dyn Network>> {
        let config = &self.config;
        let width = config.hidden_size;
        let roberta = Encoder::new(cx, config);
        Some(match head {
            Head::Sequence { outputs, .. } => Box::new(RobertaForSequenceClassification {
                roberta,
                classifier: ClassificationHead::new(cx, width, outputs, config.head_dropout()),
            }),
            Head::QuestionAnswering => Box::new(RobertaForQuestionAnswering {
                roberta,
                qa_outputs: Linear::new(cx, width, 2, true),
            }),
            Head::MaskedLm => Box::new(RobertaForMaskedLM {
                roberta,
                lm_head: LmHead {
                    dense: Linear::new(cx, width, width, true),
                    layer_norm: LayerNorm::new(cx, width, config.layer_norm_eps),
                    bias: cx.param([config.vocab_size]),
                },
            }),
            Head::CausalLm | Head::Seq2SeqLm { .. } => return None,
        })
    }

    fn inputs(&self, _: Head, batch: &Batch) -> Inputs {
        let rows = batch.ids.chunks(batch.len.max(1));
        let mut inputs = Inputs::default().with_ids("input_ids", batch.ids.clone());
        if self.config.type_vocab_size > 1 {
            inputs = inputs.with_ids("token_type_ids", batch.type_ids.clone());
        }
        inputs
            .with_ids(
                "position_ids",
                rows.flat_map(|row| positions(row, self.pad)).collect(),
            )
            .with_floats("attention_mask", batch.mask.clone())
    }
}

/// The padding id for padding, and from the next number on for the other tokens.
fn positions(ids: &[i32], pad: usize) -> impl Iterator<Item = i32> {
    let pad = pad as i32;
    ids.iter().scan(pad, move |last, &id| {
        if id == pad {
            return Some(pad);
        }
        *last += 1;
        Some(*last)
    })
}

/// The hidden states of a batch.
fn encode<'g>(roberta: &Encoder, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
    let Shape { rows, len, .. } = shape;
    let ids = cx.input("input_ids", Type::i32([rows, len]));
    let positions = cx.input("position_ids", Type::i32([rows, len]));
    let mask = cx.input("attention_mask", Type::f32([rows, len]));
    let positions = roberta.positions().forward(&positions);
    let table = cx.value(&roberta.segments().weight);
    let segments = match table.shape()[0] {
        // Every token is of segment 0.
        1 => table.slice(0, 0, 1),
        _ => {
            let types = cx.input("token_type_ids", Type::i32([rows, len]));
            roberta.segments().forward(&types)
        }
    };
    roberta.forward(&ids, &positions, &segments, &mask)
}

#[derive(Module)]
struct RobertaForSequenceClassification {
    roberta: Encoder,
    classifier: ClassificationHead,
}

impl Network for RobertaForSequenceClassification {
    fn class(&self) -> &'static str {
        "RobertaForSequenceClassification"
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        encode(&self.roberta, cx, shape)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        self.classifier.forward(&first_token(hidden))
    }
}

#[adapt(qa_outputs = full)]
struct RobertaForQuestionAnswering {
    roberta: Encoder,
    qa_outputs: Linear,
}

impl Network for RobertaForQuestionAnswering {
    fn class(&self) -> &'static str {
        "RobertaForQuestionAnswering"
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        encode(&self.roberta, cx, shape)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        self.qa_outputs.forward(hidden)
    }
}

#[derive(Module)]
struct RobertaForMaskedLM {
    roberta: Encoder,
    lm_head: LmHead,
}

/// A transformed state against every word's embedding: the decoder is the embeddings' table.
#[derive(Module)]
struct LmHead {
    dense: Linear,
    layer_norm: LayerNorm,
    bias: Param,
}

impl Network for RobertaForMaskedLM {
    fn class(&self) -> &'static str {
        "RobertaForMaskedLM"
    }

    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g> {
        encode(&self.roberta, cx, shape)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let LmHead {
            dense,
            layer_norm,
            bias,
        } = &self.lm_head;
        let transformed = layer_norm.forward(&dense.forward(hidden).gelu());
        let words = hidden.cx().value(&self.roberta.words().weight);
        &transformed.matmul_t(&words) + &hidden.cx().value(bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What transformers' `create_position_ids_from_input_ids` gives with padding id 1.
    #[test]
    fn positions_skip_padding_wherever_it_is() {
        let found: Vec<i32> = positions(&[0, 7, 1, 9, 2, 1, 1], 1).collect();
        assert_eq!(found, [2, 3, 1, 4, 5, 1, 1]);
    }
}
