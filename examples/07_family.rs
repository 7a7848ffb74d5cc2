//! A model family of your own: one layer of attention over word embeddings, whose mean is classified.
//! In the library a family is such a file and a line in `FAMILIES`; here it is made by hand.

use std::sync::Arc;

use ailora::{
    Tuner, adapt,
    ir::{Draw, Type},
    models::{
        batch::{Batch, Inputs, Shape, Targets},
        closed::{Table, Unknown, applied},
        config::Config,
        family::{Architecture, Family, Network},
        fields::Fields,
        head::Head,
        model::Model,
    },
    nn::{Cx, Embedding, Linear, Tensor},
    runtime::store::{Array, Params},
};
static FAMILY: Family = Family {
    model_type: "one-layer",
    base: "encoder",
    labels: 2,
    table: Table {
        file: "config.json of one-layer",
        fields: &[&[
            applied("vocab_size", "rows of the table of words"),
            applied("width", "of every state"),
            applied("heads", "of the attention"),
        ]],
        unknown: Unknown::Noted,
    },
    read: |fields| {
        Ok(Box::new(OneLayer {
            vocab_size: fields.size("vocab_size", 1 << 24)?,
            width: fields.size("width", 1 << 20)?,
            heads: fields.size("heads", 1 << 20)?,
        }))
    },
};

/// What this family's `config.json` says.
#[derive(Debug)]
struct OneLayer {
    vocab_size: usize,
    width: usize,
    heads: usize,
}

impl Architecture for OneLayer {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_len(&self) -> usize {
        512
    }

    fn layers(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }

    fn initializer_range(&self) -> f64 {
        0.1
    }

    fn build(&self, cx: &Cx, head: Head) -> Option<Box<dyn Network>> {
        let Head::Sequence { outputs, .. } = head else {
            return None;
        };
        let linear = || Linear::new(cx, self.width, self.width, true);
        let encoder = Encoder {
            words: Embedding::new(cx, self.vocab_size, self.width),
            query: linear(),
            key: linear(),
            value: linear(),
            heads: self.heads,
        };
        let classifier = Linear::new(cx, self.width, outputs, true);
        Some(Box::new(Classifier {
            encoder,
            classifier,
        }))
    }

    fn inputs(&self, _: Head, batch: &Batch) -> Inputs {
        Inputs::default()
            .with_ids("ids", batch.ids.clone())
            .with_floats("mask", batch.mask.clone())
    }
}

#[adapt(query = principal(4), value = minor(4), value_lr = 2.0)]
struct Encoder {
    words: Embedding,
    query: Linear,
    key: Linear,
    value: Linear,
    heads: usize,
}

#[adapt(classifier = full)]
struct Classifier {
    encoder: Encoder,
    classifier: Linear,
}

impl Network for Classifier {
    fn class(&self) -> &'static str {
        "OneLayerForSequenceClassification"
    }

    fn hidden<'g>(&self, cx: &'g Cx, Shape { rows, len, .. }: Shape) -> Tensor<'g> {
        let Encoder {
            words,
            query,
            key,
            value,
            heads,
        } = &self.encoder;
        let x = words.forward(&cx.input("ids", Type::i32([rows, len])));
        let mask = cx.input("mask", Type::f32([rows, len]));
        let [q, k, v] = [query, key, value].map(|linear| linear.forward(&x));
        &x + &q.attention(&k, &v, &mask, *heads, 0.0)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let [rows, _, width] = hidden.shape()[..] else {
            return hidden.clone();
        };
        self.classifier
            .forward(&hidden.mean([1]).reshape([rows, width]))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let json = serde_json::json!({"vocab_size": 100, "width": 32, "heads": 4});
    let json = json.as_object().cloned().unwrap_or_default();
    let config = Config {
        family: &FAMILY,
        architecture: Arc::from((FAMILY.read)(Fields::new(&json))?),
        notes: Vec::new(),
        json,
    };
    let model = Model::new(config, Head::classification(2))?;
    let random = |name: &str, shape: &[usize]| {
        let key = Draw::default().key(name);
        let n: usize = shape.iter().product();
        let data = (0..n as u64).map(|i| 0.2 * key.normal(i) as f32).collect();
        let shape = shape.to_vec();
        Array::new(shape, data)
    };
    let params: Params = model
        .parameters()
        .iter()
        .map(|p| (p.name.clone(), random(&p.name, &p.shape)))
        .collect();

    // Is the first word one of the first fifty?
    let (rows, len) = (16, 8);
    let ids: Vec<i32> = (0..rows * len).map(|i| (i * 37 % 100) as i32).collect();
    let labels = ids.chunks(len).map(|row| i32::from(row[0] < 50)).collect();
    let batch = Batch {
        rows,
        len,
        type_ids: vec![0; rows * len],
        mask: vec![1.0; rows * len],
        ids,
        targets: Targets::classes(labels),
        indices: (0..rows).collect(),
    };
    let program = model.program(batch.shape(), true, true)?;
    let mut tuner = Tuner::new(&program, &model.sites(), params, 1e-2)?;
    let inputs = model.inputs(&batch);
    for _ in 0..100 {
        let step = tuner.step(&inputs.values())?;
        if step.step % 20 == 0 {
            println!("step {:3}: loss {:.4}", step.step, step.loss);
        }
    }
    Ok(())
}
