//! BERT (Devlin et al., 2019).

use ailora_graph::{
    adapt,
    ir::Type,
    nn::{Cx, Linear, Tensor},
};

use super::{
    Architecture, Family, Inputs, Network,
    encoder::{Encoder, EncoderConfig, first_token},
};
use crate::{batch::Batch, config::FieldError};

pub(super) const FAMILY: Family = Family {
    model_type: "bert",
    base: "bert",
    classifier: "BertForSequenceClassification",
    read,
};

#[derive(Debug)]
struct Bert(EncoderConfig);

fn read(json: &[u8]) -> Result<Box<dyn Architecture>, FieldError> {
    Ok(Box::new(Bert(EncoderConfig::read(json)?)))
}

impl Architecture for Bert {
    fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    fn max_len(&self) -> usize {
        self.0.max_position_embeddings
    }

    fn initializer_range(&self) -> f64 {
        self.0.initializer_range
    }

    fn build(&self, cx: &Cx, outputs: usize) -> Box<dyn Network> {
        let config = &self.0;
        let width = config.hidden_size;
        Box::new(BertForSequenceClassification {
            bert: Encoder::new(cx, config),
            pooler: Linear::new(cx, width, width, true),
            classifier: Linear::new(cx, width, outputs, true),
            dropout: config.head_dropout(),
        })
    }

    fn inputs(&self, batch: &Batch) -> Inputs {
        Inputs::default()
            .with_ids("input_ids", batch.ids.clone())
            .with_ids("token_type_ids", batch.type_ids.clone())
            .with_floats("attention_mask", batch.mask.clone())
    }
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
    fn hidden<'g>(&self, cx: &'g Cx, batch: usize, len: usize) -> Tensor<'g> {
        let ids = cx.input("input_ids", Type::i32([batch, len]));
        let types = cx.input("token_type_ids", Type::i32([batch, len]));
        let mask = cx.input("attention_mask", Type::f32([batch, len]));
        // Positions count from 0 in every row: a view of the table, without ids.
        let positions = cx.value(&self.bert.positions().weight).slice(0, 0, len);
        let segments = self.bert.segments().forward(&types);
        self.bert.forward(&ids, &positions, &segments, &mask)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let pooled = self.pooler.forward(&first_token(hidden)).tanh();
        self.classifier.forward(&pooled.dropout(self.dropout))
    }
}
