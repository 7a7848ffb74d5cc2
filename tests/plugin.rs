//! `ailora` as a luminal plugin: a transformer in luminal's own API, adapted, trained and executed.

use ailora::{
    AdaptConfig, Compiler, Visitor,
    adapt::{Mode, adapt as adapt_program},
    grad::gradients,
    ir::Type,
    lift::{Leaves, Output, lift},
    runtime::{
        engine::Engine,
        init::initialise,
        optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
        run::Value,
        spectrum::Options,
        store::{Array, Params},
        train::{MicroBatch, Trainer},
    },
};
use luminal::{nn::linear::Linear, prelude::*};

#[ailora::adapt(q = principal(2), v = minor(2), v_lr = 2.0, alpha = 3.0)]
struct Block {
    q: Linear<8, 8>,
    k: Linear<8, 8>,
    v: Linear<8, 8>,
    up: Linear<8, 16>,
    down: Linear<16, 8>,
}

#[derive(ailora::Module)]
struct Model {
    blocks: Vec<Block>,
}

type Sequence = GraphTensor<R3<2, 3, 8>>;

impl Block {
    fn new(cx: &mut Graph) -> Self {
        Self {
            q: InitModule::initialize(cx),
            k: InitModule::initialize(cx),
            v: InitModule::initialize(cx),
            up: InitModule::initialize(cx),
            down: InitModule::initialize(cx),
        }
    }

    fn forward(&self, x: Sequence) -> Sequence {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|linear| linear.forward(x));
        let scores = q.matmul(k.permute::<R3<2, 8, 3>, Axes3<0, 2, 1>>()) / 8.0;
        let x = (x + scores.softmax::<2>().matmul(v)).layer_norm::<2, _>(1e-5);
        (x + self.down.forward(self.up.forward(x).swish())).layer_norm::<2, _>(1e-5)
    }
}

/// Values fixed by a name.
fn values(name: &str, len: usize) -> Vec<f32> {
    let key = ailora::ir::Draw::default().key(name);
    (0..len as u64)
        .map(|i| 0.5 * key.normal(i) as f32)
        .collect()
}

/// Two blocks on a random input, with their output.
fn model(cx: &mut Graph) -> (Model, Sequence, Sequence) {
    let blocks: Vec<Block> = (0..2).map(|_| Block::new(cx)).collect();
    for (i, block) in blocks.iter().enumerate() {
        for (name, linear) in [
            ("q", block.q.weight),
            ("k", block.k.weight),
            ("v", block.v.weight),
        ] {
            linear.set(values(&format!("{name}{i}"), 64));
        }
        block.up.weight.set(values(&format!("up{i}"), 128));
        block.down.weight.set(values(&format!("down{i}"), 128));
    }
    let x = cx.named_tensor::<R3<2, 3, 8>>("x").set(values("x", 48));
    let y = blocks
        .iter()
        .fold(x, |x, block| block.forward(x))
        .retrieve();
    (Model { blocks }, x, y)
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |max, d| if d > max || d.is_nan() { d } else { max })
}

#[test]
fn a_compiled_graph_computes_the_adapted_outputs() {
    let mut cx = Box::new(Graph::new());
    let (model, _, mut y) = model(&mut cx);
    cx.execute();
    let pretrained = y.data();

    let compiler = Compiler::new(&model, &AdaptConfig::default()).unwrap();
    let adapters = compiler.adapters();
    cx.drop_tensors(y);
    cx.compile(compiler, &mut y);
    adapters.check().unwrap();
    cx.execute();
    assert!(
        apart(&y.data(), &pretrained) < 1e-5,
        "training starts at the pretrained model"
    );

    // Adapters that moved show, and as much as in luminal's own execution of the merged weights.
    let scale = 3.0 / 2.0;
    let mut merged = values("q0", 64);
    adapters.update(|weights| {
        let [a, b] = ["A", "B"].map(|part| format!("blocks.0.q.lora_{part}.weight"));
        let [a0, b0] = [&a, &b].map(|name| weights.get(name).unwrap().into_floats());
        let moved: Vec<f32> = values("moved", 16);
        assert!(weights.set(&b, &moved));
        for i in 0..8 {
            for o in 0..8 {
                let delta = |b: &[f32]| (0..2).map(|k| b[o * 2 + k] * a0[k * 8 + i]).sum::<f32>();
                merged[i * 8 + o] += scale * (delta(&moved) - delta(&b0));
            }
        }
    });
    cx.drop_tensors(y);
    cx.execute();
    let adapted = y.data();
    assert!(
        apart(&adapted, &pretrained) > 1e-2,
        "the moved adapter shows"
    );

    let mut own = Box::new(Graph::new());
    let (other, _, expected) = self::model(&mut own);
    other.blocks[0].q.weight.set(merged);
    own.execute();
    assert!(
        apart(&adapted, &expected.data()) < 1e-4,
        "adapted equals merged"
    );
}

#[test]
fn a_graph_that_cannot_be_compiled_says_why_and_stays() {
    let mut cx = Box::new(Graph::new());
    let block = Block::new(&mut cx);
    let x = cx.named_tensor::<R3<2, 3, 8>>("x").set(values("x", 48));
    let mut y = block.forward(x).retrieve();
    let before = y.id;
    let unrelated = Model {
        blocks: vec![Block::new(&mut cx)],
    };
    let compiler = Compiler::new(&unrelated, &AdaptConfig::default()).unwrap();
    let adapters = compiler.adapters();
    cx.compile(compiler, &mut y);
    let message = adapters.check().unwrap_err().to_string();
    assert!(
        message.contains("blocks.0.q") && message.contains("not used by the program"),
        "{message}"
    );
    assert_eq!(y.id, before);
    cx.execute();
    assert_eq!(y.data().len(), 48);
}

#[test]
fn a_lifted_transformer_trains() {
    let mut cx = Box::new(Graph::new());
    let (model, x, y) = model(&mut cx);
    let target = cx.named_tensor::<R3<2, 3, 8>>("target");
    let error = y - target;
    let loss = (error * error).sum_reduce::<_, Axes3<0, 1, 2>>();
    let mut leaves = Leaves::of(&model);
    leaves.input(x.id, "x", Type::f32([2, 3, 8]));
    let program = lift(&cx, &leaves, &[Output::of::<R0>("loss", &loss)]).unwrap();

    let (parameters, sites) = Visitor::inventory(&model);
    let sites = AdaptConfig::default().resolve(sites).unwrap();
    let mut params: Params = parameters
        .into_iter()
        .map(|parameter| {
            let len = parameter.shape.iter().product();
            let data = values(&parameter.name, len);
            (parameter.name, Array::new(parameter.shape, data))
        })
        .collect();
    initialise(&sites, &mut params, 0, &Options::default(), |_| {}).unwrap();
    let program = gradients(
        &adapt_program(&program, &sites, &ailora::Trainable::Adapters, Mode::Train).unwrap(),
        "loss",
    )
    .unwrap();
    let mut engine = Engine::new(params);
    let plan = engine.compile(&program).unwrap();
    let group = Group {
        lr: 1.0,
        parameters: program
            .trained_parameters()
            .map(|leaf| leaf.name.to_string())
            .collect(),
    };
    let optimizer = AdamW::new(AdamWConfig::default(), vec![group], engine.weights());
    let schedule = Schedule {
        kind: ScheduleKind::Constant,
        warmup: 0,
        total: 60,
    };
    let mut trainer = Trainer::new(engine, optimizer, 2e-2, schedule, None, 0);
    let (x, target) = (values("x", 48), values("target", 48));
    let mut losses = Vec::new();
    for _ in 0..60 {
        let inputs = vec![("x", Value::F32(&x)), ("target", Value::F32(&target))];
        losses.push(
            trainer
                .step(&[MicroBatch {
                    plan,
                    inputs,
                    rows: 2,
                    targets: 2,
                }])
                .unwrap()
                .loss,
        );
    }
    assert!(losses[59] < 0.8 * losses[0], "{losses:?}");
}
