//! A model in luminal's own API, annotated and trained: queries start from their principal triplets,
//! values from their minor ones and learn twice as fast.

use ailora::{
    Tuner, Visitor, adapt, compiler,
    ir::Type,
    lift::{Leaves, Output, lift},
    runtime::run::Value,
};
use luminal::{nn::linear::Linear, prelude::*};

#[adapt(q = principal(4), v = minor(4), v_lr = 2.0)]
struct Attention {
    q: Linear<32, 32>,
    k: Linear<32, 32>,
    v: Linear<32, 32>,
}

impl Attention {
    fn forward(&self, x: GraphTensor<R3<8, 16, 32>>) -> GraphTensor<R3<8, 16, 32>> {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|linear| linear.forward(x));
        let scores = q.matmul(k.permute::<R3<8, 32, 16>, Axes3<0, 2, 1>>()) / 32_f32.sqrt();
        x + scores.softmax::<2>().matmul(v)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut cx = Graph::new();
    let init = |cx: &mut Graph| -> Linear<32, 32> { InitModule::initialize(cx) };
    let (q, k, v) = (init(&mut cx), init(&mut cx), init(&mut cx));
    let model = Attention { q, k, v };
    let [x, wanted] = ["x", "wanted"].map(|name| cx.named_tensor::<R3<8, 16, 32>>(name));
    let error = model.forward(x) - wanted;
    let loss = (error * error).mean_reduce::<_, Axes3<0, 1, 2>>();

    // luminal's graph becomes a program, the program a training step.
    let mut leaves = Leaves::of(&model);
    for (name, tensor) in [("x", x), ("wanted", wanted)] {
        leaves.input(tensor.id, name, Type::f32([8, 16, 32]));
    }
    let program = lift(&cx, &leaves, &[Output::of::<R0>("loss", &loss)])?;
    let (_, sites) = Visitor::inventory(&model);
    let weights = compiler::values(&model, &mut cx)?;
    let mut tuner = Tuner::new(&program, &sites, weights, 2e-2)?;

    let x: Vec<f32> = (0..8 * 16 * 32).map(|i| (i as f32).sin()).collect();
    let wanted: Vec<f32> = x.iter().map(|x| x.cos()).collect();
    for _ in 0..100 {
        let step = tuner.step(&[("x", Value::F32(&x)), ("wanted", Value::F32(&wanted))])?;
        if step.step % 20 == 0 {
            println!("step {:3}: loss {:.4}", step.step, step.loss);
        }
    }
    Ok(())
}
