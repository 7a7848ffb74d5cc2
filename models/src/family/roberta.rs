//! RoBERTa (Liu et al., 2019): BERT's encoder without segments, positions that skip padding, and a
//! head of two projections.

use ailora_graph::{
    Module, adapt,
    ir::Type,
    nn::{Cx, Linear, Tensor},
};

use super::{
    Architecture, Family, Inputs, Network,
    encoder::{Encoder, EncoderConfig, first_token},
};
use crate::{batch::Batch, config::FieldError};

pub(super) const FAMILY: Family = Family {
    model_type: "roberta",
    base: "roberta",
    classifier: "RobertaForSequenceClassification",
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

fn read(json: &[u8]) -> Result<Box<dyn Architecture>, FieldError> {
    let config = EncoderConfig::read(json)?;
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

    fn max_len(&self) -> usize {
        self.config.max_position_embeddings - self.pad - 1
    }

    fn initializer_range(&self) -> f64 {
        self.config.initializer_range
    }

    fn build(&self, cx: &Cx, outputs: usize) -> Box<dyn Network> {
        let config = &self.config;
        let width = config.hidden_size;
        Box::new(RobertaForSequenceClassification {
            roberta: Encoder::new(cx, config),
            classifier: Head {
                dense: Linear::new(cx, width, width, true),
                out_proj: Linear::new(cx, width, outputs, true),
                dropout: config.head_dropout(),
            },
        })
    }

    fn inputs(&self, batch: &Batch) -> Inputs {
        let rows = batch.ids.chunks(batch.len.max(1));
        Inputs::default()
            .with_ids("input_ids", batch.ids.clone())
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

#[derive(Module)]
struct RobertaForSequenceClassification {
    roberta: Encoder,
    classifier: Head,
}

#[adapt(dense = full, out_proj = full)]
struct Head {
    dense: Linear,
    out_proj: Linear,
    dropout: f64,
}

impl Network for RobertaForSequenceClassification {
    fn hidden<'g>(&self, cx: &'g Cx, batch: usize, len: usize) -> Tensor<'g> {
        let ids = cx.input("input_ids", Type::i32([batch, len]));
        let positions = cx.input("position_ids", Type::i32([batch, len]));
        let mask = cx.input("attention_mask", Type::f32([batch, len]));
        let positions = self.roberta.positions().forward(&positions);
        // Every token is of segment 0.
        let segments = cx.value(&self.roberta.segments().weight).slice(0, 0, 1);
        self.roberta.forward(&ids, &positions, &segments, &mask)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let Head {
            dense,
            out_proj,
            dropout,
        } = &self.classifier;
        let first = first_token(hidden).dropout(*dropout);
        let inner = dense.forward(&first).tanh();
        out_proj.forward(&inner.dropout(*dropout))
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
