//! A step over eight rows is one step, however the rows are cut into micro-batches: what counts is how many
//! targets a micro-batch has.

#[path = "../../tests/device/mod.rs"]
mod device;

use ailora_graph::{
    grad::gradients,
    ir::{
        Bindings, Draw, Program, Real, Tensor, Type,
        ops::loss::{CrossEntropy, IGNORED},
    },
};
use ailora_runtime::{
    engine::{Engine, PlanId},
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    passes::Fusion,
    run::Value,
    store::{Array, Params},
    train::{MicroBatch, StepReport, Trainer},
};

const ROWS: usize = 8;
const LEN: usize = 5;
const WIDTH: usize = 6;
const CLASSES: usize = 7;
/// Targets of each row; one has none.
const TARGETS: [usize; ROWS] = [1, 5, 2, 0, 4, 3, 1, 5];

fn values(name: &str, len: usize) -> Vec<f32> {
    let key = Draw::default().key(name);
    (0..len as u64).map(|i| key.normal(i) as f32).collect()
}

fn labels() -> Vec<i32> {
    let row = |(row, count): (usize, &usize)| {
        let label = move |i: usize| ((3 * row + 2 * i) % CLASSES) as i32;
        let count = *count;
        (0..LEN).map(move |i| if i < count { label(i) } else { IGNORED })
    };
    TARGETS.iter().enumerate().flat_map(row).collect()
}

/// The cross-entropy of `x w` over so many rows of tokens.
fn program(rows: usize) -> Program {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([rows * LEN, WIDTH])).unwrap();
    let labels = p.input("labels", Type::i32([rows * LEN])).unwrap();
    let w = p.trained("w", Type::f32([WIDTH, CLASSES])).unwrap();
    let logits = p.matmul(x, false, w, false).unwrap();
    let forward = CrossEntropy {
        smoothing: Real(0.0),
    };
    let loss = p.add(forward, &[logits, labels]).unwrap();
    p.set_output("loss", loss);
    gradients(&p, "loss").unwrap()
}

fn trainer(rows: usize) -> (Trainer, PlanId) {
    let array = Array::new([WIDTH, CLASSES], values("w", WIDTH * CLASSES));
    let params: Params = [("w".to_owned(), array)].into();
    let mut engine: Engine = device::engine(params, Fusion::Elementwise);
    let plan = engine.compile(&program(rows)).unwrap();
    let group = Group {
        lr: 1.0,
        parameters: vec!["w".into()],
    };
    let optimizer = AdamW::new(AdamWConfig::default(), vec![group], engine.weights());
    let schedule = Schedule::new(ScheduleKind::Constant, 0.0, 1);
    let trainer = Trainer::new(engine, optimizer, 0.1, schedule, None, 0);
    (trainer, plan)
}

/// One step over all rows, in micro-batches of `size`.
fn step(trainer: &mut Trainer, plan: PlanId, size: usize) -> StepReport {
    let (x, labels) = (values("x", ROWS * LEN * WIDTH), labels());
    let batch: Vec<MicroBatch<'_>> = (0..ROWS)
        .step_by(size)
        .map(|row| MicroBatch {
            plan,
            inputs: vec![
                (
                    "x",
                    Value::F32(&x[row * LEN * WIDTH..][..size * LEN * WIDTH]),
                ),
                ("labels", Value::I32(&labels[row * LEN..][..size * LEN])),
            ],
            rows: size,
            targets: TARGETS[row..row + size].iter().sum(),
        })
        .collect();
    trainer.step(&batch).unwrap()
}

#[test]
fn micro_batches_make_the_step_of_the_whole_batch() {
    // In float64, over all rows at once.
    let floats = |data: Vec<f32>| data.into_iter().map(f64::from).collect::<Vec<_>>();
    let labels: Vec<f64> = labels().into_iter().map(f64::from).collect();
    let x = floats(values("x", ROWS * LEN * WIDTH));
    let w = floats(values("w", WIDTH * CLASSES));
    let bindings: Bindings = [
        ("x".into(), Tensor::new([ROWS * LEN, WIDTH], x)),
        ("labels".into(), Tensor::new([ROWS * LEN], labels)),
        ("w".into(), Tensor::new([WIDTH, CLASSES], w)),
    ]
    .into();
    let expected = program(ROWS).eval(&bindings, Draw::default()).unwrap();
    let loss = expected["loss"].data[0];
    let norm = expected["grad.w"].data.iter().map(|g| g * g).sum::<f64>();
    let norm = norm.sqrt();
    for size in [8, 4, 2, 1] {
        let (mut trainer, plan) = trainer(size);
        let report = step(&mut trainer, plan, size);
        let close = |found: f64, expected: f64| (found - expected).abs() <= device::tolerance(1e-6);
        assert!(
            close(report.loss, loss),
            "{size}: {} is not {loss}",
            report.loss
        );
        let found = report.gradient_norm;
        assert!(close(found, norm), "{size}: norm {found} is not {norm}");
        assert_eq!((report.rows, report.targets), (8, 21));
    }
}

/// A step over nothing has no loss and no gradient, and leaves values and moments as they are.
#[test]
fn without_targets_there_is_no_gradient() {
    let (mut trainer, plan) = trainer(1);
    let (x, labels) = (values("x", LEN * WIDTH), [IGNORED; LEN]);
    let nothing = || MicroBatch {
        plan,
        inputs: vec![("x", Value::F32(&x)), ("labels", Value::I32(&labels))],
        rows: 1,
        targets: 0,
    };
    step(&mut trainer, plan, 1);
    let before = trainer.checkpoint().unwrap().tensors;
    assert!(before.len() > 1, "{:?}", before.keys());
    let report = trainer.step(&[nothing(), nothing()]).unwrap();
    let found = (report.loss, report.gradient_norm, report.targets);
    assert_eq!(found, (0.0, 0.0, 0));
    assert_eq!(trainer.checkpoint().unwrap().tensors, before);
    assert_eq!(trainer.steps_done(), 2);
}

/// One token of loss 6 and four of loss 2, whose gradients are as large: the mean over five tokens is 2.8, and not
/// 4, that of the two means. A single last micro-batch is its own mean.
#[test]
fn a_step_is_the_mean_over_tokens_and_not_over_micro_batches() {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([1])).unwrap();
    let w = p.trained("w", Type::f32([1])).unwrap();
    let product = p.product(x, w).unwrap();
    let loss = p.sum_to(product, &[]).unwrap();
    p.set_output("loss", loss);
    let params: Params = [("w".to_owned(), Array::new([1], vec![1.0]))].into();
    let mut engine: Engine = device::engine(params, Fusion::Elementwise);
    let plan = engine.compile(&gradients(&p, "loss").unwrap()).unwrap();
    let group = Group {
        lr: 1.0,
        parameters: vec!["w".into()],
    };
    let optimizer = AdamW::new(AdamWConfig::default(), vec![group], engine.weights());
    let schedule = Schedule::new(ScheduleKind::Constant, 0.0, 1);
    // A rate at which nothing moves.
    let mut trainer = Trainer::new(engine, optimizer, 1e-30, schedule, None, 0);
    let micro = |x: &'static [f32], targets| MicroBatch {
        plan,
        inputs: vec![("x", Value::F32(x))],
        rows: 1,
        targets,
    };
    for (batch, expected) in [
        (vec![micro(&[6.0], 1), micro(&[2.0], 4)], 2.8),
        (vec![micro(&[6.0], 1)], 6.0),
    ] {
        let report = trainer.step(&batch).unwrap();
        assert!((report.loss - expected).abs() < 1e-6, "{report:?}");
        assert!((report.gradient_norm - expected).abs() < 1e-6, "{report:?}");
    }
}
