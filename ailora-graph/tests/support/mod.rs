//! Random tensors and a small transformer for the tests of the passes.
#![allow(dead_code, reason = "each test file uses its part")]

use ailora_graph::{
    AdaptConfig, Module, Visitor,
    adapter::Site,
    fuse::layout::Pack,
    ir::{Bindings, DType, Draw, Program, Tensor, Type},
    nn::{Cx, Embedding, LayerNorm, Linear, Tensor as Value},
};

/// Normal numbers fixed by a name.
pub fn normal(name: &str, shape: &[usize], scale: f64) -> Tensor {
    let key = Draw { seed: 7, step: 0 }.key(name);
    let len: usize = shape.iter().product();
    Tensor::new(
        shape,
        (0..len)
            .map(|i| scale * key.normal(i as u64))
            .collect::<Vec<_>>(),
    )
}

/// Integers below `limit` fixed by a name.
pub fn ids(name: &str, shape: &[usize], limit: usize) -> Tensor {
    let key = Draw { seed: 11, step: 0 }.key(name);
    let len: usize = shape.iter().product();
    let draw = |i: usize| (key.uniform(i as u64) * limit as f64).floor();
    Tensor::new(shape, (0..len).map(draw).collect::<Vec<_>>())
}

/// A value for every leaf of a program that has none in `bindings` yet.
pub fn bind(program: &Program, bindings: &mut Bindings) {
    let leaves = program
        .inputs()
        .chain(program.frozen_parameters())
        .chain(program.trained_parameters());
    for leaf in leaves {
        let Type { dtype, shape } = &leaf.ty;
        let value = match dtype {
            DType::I32 => ids(&leaf.name, shape, 2),
            _ => normal(&leaf.name, shape, 0.5),
        };
        bindings.entry(leaf.name.to_string()).or_insert(value);
    }
}

/// Values of packs from those of their parts.
pub fn fill(packs: &[Pack], bindings: &mut Bindings) {
    for pack in packs {
        let len = pack.shape.iter().product();
        let mut data = vec![None; len];
        for part in &pack.parts {
            let value = &bindings[&*part.parameter];
            assert_eq!(value.shape, part.shape);
            for row in 0..part.shape[0] {
                for column in 0..part.shape[1] {
                    let at = (part.at[0] + row) * pack.shape[1] + part.at[1] + column;
                    let old = data[at].replace(value.at(&[row, column]));
                    assert_eq!(old, None, "parts lie apart");
                }
            }
        }
        let data: Vec<f64> = data.into_iter().map(|x| x.unwrap_or(0.0)).collect();
        let whole = Tensor::new(pack.shape.to_vec(), data);
        bindings.insert(pack.name.to_string(), whole);
    }
}

/// Whether two tensors agree, relative to the larger of their norms, or to 0.01 where both are
/// smaller: some gradients, like that of a key's bias, are zero. NaN never agrees.
pub fn close(a: &Tensor, b: &Tensor, tolerance: f64) -> bool {
    let norm = |x: &Tensor| x.data.iter().map(|x| x * x).sum::<f64>().sqrt();
    let difference = a
        .data
        .iter()
        .zip(&b.data)
        .map(|(a, b)| (a - b).powi(2))
        .sum::<f64>()
        .sqrt();
    a.shape == b.shape && difference <= tolerance * norm(a).max(norm(b)).max(0.01)
}

/// A small post-norm encoder with a classifier, in our dialect.
pub struct Encoder {
    pub tokens: Embedding,
    pub layers: Vec<Layer>,
    pub classifier: Linear,
}

pub struct Layer {
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub output: Linear,
    pub norm: LayerNorm,
    pub up: Linear,
    pub down: Linear,
    pub last_norm: LayerNorm,
}

pub const WIDTH: usize = 8;
pub const BATCH: usize = 3;
pub const LENGTH: usize = 5;

impl Encoder {
    pub fn new(cx: &Cx, layers: usize) -> Self {
        let linear = |inputs, outputs| Linear::new(cx, inputs, outputs, true);
        Self {
            tokens: Embedding::new(cx, 13, WIDTH),
            layers: (0..layers)
                .map(|_| Layer {
                    query: linear(WIDTH, WIDTH),
                    key: linear(WIDTH, WIDTH),
                    value: linear(WIDTH, WIDTH),
                    output: linear(WIDTH, WIDTH),
                    norm: LayerNorm::new(cx, WIDTH, 1e-5),
                    up: linear(WIDTH, 2 * WIDTH),
                    down: linear(2 * WIDTH, WIDTH),
                    last_norm: LayerNorm::new(cx, WIDTH, 1e-5),
                })
                .collect(),
            classifier: linear(WIDTH, 2),
        }
    }

    pub fn forward<'g>(&self, ids: &Value<'g>, mask: &Value<'g>, dropout: f64) -> Value<'g> {
        let mut x = self.tokens.forward(ids).dropout(dropout);
        for layer in &self.layers {
            let [q, k, v] = [&layer.query, &layer.key, &layer.value].map(|l| l.forward(&x));
            let mixed = q.attention(&k, &v, mask, 2, dropout);
            let mixed = layer.output.forward(&mixed).dropout(dropout);
            x = layer.norm.forward(&(&x + &mixed));
            let inner = layer
                .down
                .forward(&layer.up.forward(&x).gelu())
                .dropout(dropout);
            x = layer.last_norm.forward(&(&x + &inner));
        }
        let first = x.slice(1, 0, 1).reshape([BATCH, WIDTH]);
        self.classifier.forward(&first.tanh())
    }
}

impl Module for Encoder {
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("tokens", &self.tokens);
        visitor.child("layers", &self.layers);
        visitor.child("classifier", &self.classifier);
    }
}

impl Module for Layer {
    fn visit(&self, v: &mut Visitor) {
        v.child("query", &self.query);
        v.child("key", &self.key);
        v.child("value", &self.value);
        v.child("output", &self.output);
        v.child("norm", &self.norm);
        v.child("up", &self.up);
        v.child("down", &self.down);
        v.child("last_norm", &self.last_norm);
    }
}

/// The encoder as a program with outputs `logits` and `loss`, and its projections with `config`.
pub fn encoder(layers: usize, dropout: f64, config: &str) -> (Program, Vec<Site>) {
    let cx = if dropout > 0.0 {
        Cx::training()
    } else {
        Cx::new()
    };
    let model = Encoder::new(&cx, layers);
    let ids = cx.input("ids", Type::i32([BATCH, LENGTH]));
    let mask = cx.input("mask", Type::f32([BATCH, LENGTH]));
    let labels = cx.input("labels", Type::i32([BATCH]));
    let logits = model.forward(&ids, &mask, dropout);
    let loss = logits.cross_entropy(&labels);
    let program = cx
        .program(&model, &[("logits", &logits), ("loss", &loss)])
        .unwrap();
    let (_, sites) = Visitor::inventory(&model);
    let config: AdaptConfig = serde_json::from_str(config).unwrap();
    (program, config.resolve(sites).unwrap())
}

/// Inputs of the encoder: random ids, padding at the ends of the second and third sequence.
pub fn encoder_inputs() -> Bindings {
    let mask = Tensor::from_fn(&[BATCH, LENGTH], |i| {
        f64::from(u8::from(i[1] < LENGTH - 2 * i[0]))
    });
    Bindings::from([
        ("ids".into(), ids("ids", &[BATCH, LENGTH], 13)),
        ("mask".into(), mask),
        ("labels".into(), ids("labels", &[BATCH], 2)),
    ])
}
