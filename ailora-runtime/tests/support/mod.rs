//! What tests of training loops train: square matrices, on rows of random numbers.

use ailora_graph::{
    grad::gradients,
    ir::{Draw, Id, Program, Real, Type, ops::dropout::Dropout},
};
use ailora_runtime::{engine::PlanId, run::Value, store::Array, train::MicroBatch};

/// Numbers of a row, and the rows and columns of a matrix.
pub const WIDTH: usize = 6;

/// Normal numbers fixed by a name.
pub fn values(name: &str, len: usize) -> Vec<f32> {
    let key = Draw::default().key(name);
    (0..len as u64).map(|i| key.normal(i) as f32).collect()
}

/// A matrix with its first values.
pub fn matrix(name: &str) -> (String, Array) {
    let data = values(name, WIDTH * WIDTH);
    (name.into(), Array::new(vec![WIDTH, WIDTH], data))
}

/// A matrix that is trained.
pub fn trained(p: &mut Program, name: &str) -> Id {
    p.trained(name, Type::f32([WIDTH, WIDTH])).unwrap()
}

/// `dropout(x)`, which drops half.
#[allow(dead_code, reason = "not every test drops")]
pub fn dropped(p: &mut Program, x: Id) -> Id {
    let dropout = Dropout {
        rate: Real(0.5),
        stream: "dropout".into(),
    };
    p.add(dropout, &[x]).unwrap()
}

/// The step that brings the mean square of `y - 1` down.
pub fn step(mut p: Program, y: Id) -> Program {
    let minus_one = p.constant(-1.0);
    let apart = p.sum(y, minus_one).unwrap();
    let square = p.product(apart, apart).unwrap();
    let total = p.sum_to(square, &[]).unwrap();
    let loss = p.scale(total, 1.0 / WIDTH as f64).unwrap();
    p.set_output("loss", loss);
    gradients(&p, "loss").unwrap()
}

/// A row `x`, which counts as so many targets.
pub fn micro_batch(plan: PlanId, row: &[f32], targets: usize) -> MicroBatch<'_> {
    MicroBatch {
        plan,
        inputs: vec![("x", Value::F32(row))],
        rows: 1,
        targets,
    }
}
