//! Steps one behind the other, which a device makes without being waited for, are those that are waited
//! for one by one.

#[path = "../../tests/device/mod.rs"]
mod device;

use ailora_graph::{
    grad::gradients,
    ir::{Draw, Program, Real, Type, ops::dropout::Dropout},
};
use ailora_runtime::{
    engine::PlanId,
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    passes::Fusion,
    run::Value,
    store::{Array, Params},
    train::{MicroBatch, StepReport, TrainError, Trainer},
};

const ROWS: usize = 6;
const WIDTH: usize = 8;

fn values(name: &str, len: usize) -> Vec<f32> {
    let key = Draw::default().key(name);
    (0..len as u64).map(|i| key.normal(i) as f32).collect()
}

/// A trainer of `w` and `b` in the mean of `(dropout(x w) + b - y)^2`, whose rate falls.
fn trainer() -> (Trainer, PlanId) {
    let mut p = Program::new();
    let [x, y] = ["x", "y"].map(|name| p.input(name, Type::f32([ROWS, WIDTH])).unwrap());
    let w = p.trained("w", Type::f32([WIDTH, WIDTH])).unwrap();
    let b = p.trained("b", Type::f32([WIDTH])).unwrap();
    let product = p.matmul(x, false, w, false).unwrap();
    let dropout = Dropout {
        rate: Real(0.25),
        stream: "dropout".into(),
    };
    let dropped = p.add(dropout, &[product]).unwrap();
    let sum = p.sum(dropped, b).unwrap();
    let minus = p.scale(y, -1.0).unwrap();
    let apart = p.sum(sum, minus).unwrap();
    let square = p.product(apart, apart).unwrap();
    let total = p.sum_to(square, &[]).unwrap();
    let loss = p.scale(total, 1.0 / (ROWS * WIDTH) as f64).unwrap();
    p.set_output("loss", loss);
    let program = gradients(&p, "loss").unwrap();
    let params: Params = [("w", vec![WIDTH, WIDTH]), ("b", vec![WIDTH])]
        .map(|(name, shape)| {
            let data = values(name, shape.iter().product());
            (name.to_owned(), Array::new(shape, data))
        })
        .into();
    let mut engine = device::engine(params, Fusion::Elementwise);
    let plan = engine.compile(&program).unwrap();
    let group = Group {
        lr: 1.0,
        parameters: vec!["w".into(), "b".into()],
    };
    let optimizer = AdamW::new(AdamWConfig::default(), vec![group], engine.weights());
    let schedule = Schedule {
        kind: ScheduleKind::Linear,
        warmup: 2,
        total: 9,
    };
    let trainer = Trainer::new(engine, optimizer, 0.1, schedule, Some(0.5), 7);
    (trainer, plan)
}

/// Inputs of step `i`, of one or of three micro-batches: `x` and `y` of each.
fn batch(i: usize) -> Vec<[Vec<f32>; 2]> {
    let count = if i % 3 == 2 { 3 } else { 1 };
    (0..count)
        .map(|j| ["x", "y"].map(|name| values(&format!("{name}{i}.{j}"), ROWS * WIDTH)))
        .collect()
}

fn micro_batches(batch: &[[Vec<f32>; 2]], plan: PlanId) -> Vec<MicroBatch<'_>> {
    let batch = batch.iter().enumerate();
    batch
        .map(|(j, [x, y])| MicroBatch {
            plan,
            inputs: vec![("x", Value::F32(x)), ("y", Value::F32(y))],
            rows: 1,
            targets: 1 + j,
        })
        .collect()
}

fn bits(trainer: &Trainer) -> Vec<u32> {
    let checkpoint = trainer.checkpoint().unwrap();
    let tensors = checkpoint.tensors.values();
    tensors
        .flat_map(|array| array.as_f32().unwrap().iter().map(|x| x.to_bits()))
        .collect()
}

#[test]
fn the_same_steps_waited_for_or_not() {
    const STEPS: usize = 7;
    let (mut waiting, plan) = trainer();
    let one_by_one: Vec<StepReport> = (0..STEPS)
        .map(|i| waiting.step(&micro_batches(&batch(i), plan)).unwrap())
        .collect();
    let (mut trainer, plan) = trainer();
    let mut reports = Vec::new();
    // Twice, with everything done in between.
    for part in [0..4, 4..STEPS] {
        let mut steps = trainer.steps();
        for i in part {
            reports.extend(steps.submit(&micro_batches(&batch(i), plan)).unwrap());
        }
        reports.extend(steps.finish().unwrap());
        assert_eq!(steps.finish().unwrap(), None);
    }
    assert_eq!(reports, one_by_one);
    assert!(reports.iter().all(|report| report.gradient_norm > 0.5));
    assert_eq!(bits(&trainer), bits(&waiting));
    assert_eq!(trainer.steps_done(), STEPS as u64);
    // What nobody waited for is made all the same.
    drop(trainer.steps().submit(&micro_batches(&batch(STEPS), plan)));
    waiting.step(&micro_batches(&batch(STEPS), plan)).unwrap();
    assert_eq!(bits(&trainer), bits(&waiting));
}

/// A step whose loss is no number updates nothing, nor does the one behind it that is on its way.
#[test]
fn nothing_is_updated_behind_a_step_that_diverges() {
    let (mut before, plan) = trainer();
    for i in 0..2 {
        before.step(&micro_batches(&batch(i), plan)).unwrap();
    }
    let (mut trainer, plan) = trainer();
    let mut steps = trainer.steps();
    let mut failed = None;
    for i in 0..4 {
        let mut batch = batch(i);
        if i == 2 {
            batch[1][1][3] = f32::NAN;
        }
        if let Err(error) = steps.submit(&micro_batches(&batch, plan)) {
            failed = Some(error);
            break;
        }
    }
    drop(steps);
    let error = failed.unwrap();
    assert!(
        matches!(
            error,
            TrainError::NotFinite {
                step: 3,
                what: "loss",
                ..
            }
        ),
        "{error}"
    );
    let updated = |trainer: &Trainer| {
        let trained = trainer.trained().unwrap();
        let values = trained
            .values()
            .flat_map(|array| array.floats().into_owned());
        values.map(f32::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(updated(&trainer), updated(&before));
    assert_eq!(trainer.steps_done(), 2);
    // It can go on.
    assert_eq!(
        trainer.step(&micro_batches(&batch(0), plan)).unwrap().step,
        3
    );
}

/// What the trainer's engine shows are the weights that were trained, wherever that was; and what is written
/// there is trained on.
#[test]
fn the_engine_has_the_weights_that_are_trained() {
    let (mut trainer, plan) = trainer();
    for i in 0..3 {
        trainer.step(&micro_batches(&batch(i), plan)).unwrap();
        let trained = trainer.trained().unwrap();
        let weights = trainer.engine().unwrap().weights();
        for (name, array) in &trained {
            assert_eq!(weights.get(name).as_ref(), Some(array), "step {i}: {name}");
        }
    }
    let given = values("other", WIDTH);
    let weights = trainer.engine().unwrap().weights_mut();
    assert!(weights.set("b", &given));
    trainer.step(&micro_batches(&batch(3), plan)).unwrap();
    let trained = trainer.trained().unwrap();
    for (found, given) in trained["b"].floats().iter().zip(&given) {
        // A step moves a parameter by at most about its rate.
        let apart = (found - given).abs();
        assert!(apart > 0.0 && apart < 0.2, "{found} from {given}");
    }
}
