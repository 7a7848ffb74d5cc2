//! A loop that is stopped and goes on: the same rows, the same random numbers, the same bits.

#[path = "../../tests/device/mod.rs"]
mod device;
mod support;

use std::{cell::RefCell, convert::Infallible, path::Path, rc::Rc};

use ailora_graph::ir::{Draw, Program, Type};
use ailora_runtime::{
    engine::{Engine, PlanId},
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    passes::Fusion,
    store::Params,
    train::{
        Batches, Checkpoint, CheckpointError, Control, Event, Fit, Headline, Keep, MicroBatch,
        Outcome, Progress, Trainer, Workload, fit,
    },
};
use indexmap::IndexMap;
use support::{WIDTH, dropped, matrix, micro_batch, step, trained, values};

const ROWS: usize = 10;
const ACCUMULATE: usize = 3;
const EPOCHS: usize = 2;
/// Steps of an epoch: the last has one row of the ten.
const STEPS: usize = ROWS.div_ceil(ACCUMULATE);

/// A trainer of the parameters named, in this order, in the mean square of `dropout(x a) b - 1`.
fn trainer(names: [&str; 2]) -> (Trainer, PlanId) {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([1, WIDTH])).unwrap();
    let [a, b] = ["a", "b"].map(|name| trained(&mut p, name));
    let product = p.matmul(x, false, a, false).unwrap();
    let dropped = dropped(&mut p, product);
    let y = p.matmul(dropped, false, b, false).unwrap();
    let program = step(p, y);
    let params: Params = ["a", "b"].map(matrix).into();
    let mut engine = device::engine(params, Fusion::Elementwise);
    let plan = engine.compile(&program).unwrap();
    let groups = names.map(|name| Group {
        lr: if name == "a" { 1.0 } else { 2.0 },
        parameters: vec![name.into()],
    });
    let optimizer = AdamW::new(AdamWConfig::default(), groups.into(), engine.weights());
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        warmup: 2,
        total: (EPOCHS * STEPS) as u64,
    };
    let trainer = Trainer::new(engine, optimizer, 0.05, schedule, Some(1.0), 7);
    (trainer, plan)
}

/// Ten rows, three a step, that notes which were given out.
struct Rows {
    plan: PlanId,
    seen: Rc<RefCell<Vec<usize>>>,
}

struct Step {
    plan: PlanId,
    rows: Vec<Vec<f32>>,
}

impl Workload for Rows {
    type Batch = Step;
    type Error = Infallible;

    fn compile(&mut self, _: &mut Engine, _: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn headlines(&self) -> Vec<Headline> {
        vec![Headline::lower(SCORE)]
    }

    fn steps_per_epoch(&self) -> u64 {
        STEPS as u64
    }

    fn epoch(
        &mut self,
        epoch: usize,
        skip: u64,
    ) -> Result<Batches<'_, Step, Infallible>, Infallible> {
        let mut order: Vec<usize> = (0..ROWS).collect();
        let key = Draw::default().key(&format!("epoch {epoch}"));
        order.sort_by(|&a, &b| key.uniform(a as u64).total_cmp(&key.uniform(b as u64)));
        let steps: Vec<Vec<usize>> = order.chunks(ACCUMULATE).map(<[_]>::to_vec).collect();
        let (plan, seen) = (self.plan, self.seen.clone());
        Ok(Box::new(steps.into_iter().skip(skip as usize).map(
            move |step| {
                seen.borrow_mut().extend(&step);
                let rows = step.iter().map(|row| values(&format!("row {row}"), WIDTH));
                let rows = rows.collect();
                Ok(Step { plan, rows })
            },
        )))
    }

    fn micro_batches(batch: &Step) -> Vec<MicroBatch<'_>> {
        let rows = batch.rows.iter();
        rows.map(|row| micro_batch(batch.plan, row, 1)).collect()
    }

    /// A number that the parameters fix, and that goes up and down.
    fn evaluate(&mut self, engine: &mut Engine) -> Result<IndexMap<String, f64>, Infallible> {
        let a = engine.weights().get("a").unwrap();
        let score = (150.0 * f64::from(a.floats()[0])).sin();
        Ok([(SCORE.to_owned(), score)].into())
    }
}

const SCORE: &str = "score";

fn options(checkpoint: &Path, evaluate_every: Option<u64>) -> Fit {
    Fit {
        epochs: EPOCHS,
        max_steps: None,
        patience: None,
        checkpoint: checkpoint.to_owned(),
        checkpoint_every: 1,
        evaluate_every,
        fingerprint: "run".into(),
        headline: Some(Headline::lower(SCORE)),
        keep: Keep::Best,
    }
}

/// What a run came to: its rows, its losses, its evaluations and its last state, with what was kept.
#[derive(Debug, PartialEq)]
struct Run {
    rows: Vec<usize>,
    losses: Vec<u64>,
    progress: Progress,
    state: Checkpoint,
}

/// Trains to the end, in a new trainer and workload after each of these steps. Evaluations are made at
/// each epoch's end and after so many steps: of the first part, and of the others.
fn run(stops: &[u64], every: [Option<u64>; 2]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let seen = Rc::new(RefCell::new(Vec::new()));
    let mut losses = Vec::new();
    let mut stops = stops.iter().copied();
    loop {
        let stop = stops.next();
        let every = every[usize::from(path.exists())];
        let (mut trainer, plan) = trainer(["a", "b"]);
        let mut progress = Progress::default();
        if path.exists() {
            let (checkpoint, saved) = Checkpoint::load(&path, "run").unwrap();
            trainer.restore(&checkpoint).unwrap();
            progress = saved;
        }
        let mut workload = Rows {
            plan,
            seen: seen.clone(),
        };
        let outcome = fit(
            &mut trainer,
            &mut workload,
            &options(&path, every),
            &mut progress,
            |event| {
                let Event::Step { report, .. } = event else {
                    return Ok::<_, Infallible>(Control::Continue);
                };
                losses.push(report.loss.to_bits());
                Ok(match Some(report.step) == stop {
                    true => Control::Stop,
                    false => Control::Continue,
                })
            },
        );
        if outcome.unwrap() == Outcome::Finished {
            let state = trainer.checkpoint().unwrap();
            let rows = seen.borrow().clone();
            return Run {
                rows,
                losses,
                progress,
                state,
            };
        }
    }
}

/// Wherever it is stopped, in the middle of an epoch and at its end: each row once an epoch, in the same
/// order, with the same dropout.
#[test]
fn rows_and_draws_go_on_where_they_were() {
    let none = [None; 2];
    let whole = run(&[], none);
    for epoch in whole.rows.chunks(ROWS) {
        let mut rows = epoch.to_vec();
        rows.sort_unstable();
        assert_eq!(rows, (0..ROWS).collect::<Vec<_>>());
    }
    assert_ne!(whole.rows[..ROWS], whole.rows[ROWS..]);
    for stop in 1..(EPOCHS * STEPS) as u64 {
        assert_eq!(run(&[stop], none), whole, "stopped after step {stop}");
    }
    let every: Vec<u64> = (1..(EPOCHS * STEPS) as u64).collect();
    assert_eq!(run(&every, none), whole, "stopped after every step");
}

/// Evaluations in the middle of an epoch change nothing of what is trained, and are the same ones, with the same
/// best parameters, wherever a run was stopped.
#[test]
fn evaluations_in_the_middle_of_an_epoch_survive_a_stop() {
    let plain = run(&[], [None; 2]);
    for every in [1, 3, 5] {
        let whole = run(&[], [Some(every); 2]);
        assert_eq!((&whole.rows, &whole.losses), (&plain.rows, &plain.losses));
        let due = |step: &u64| step.is_multiple_of(every) || step.is_multiple_of(STEPS as u64);
        let last = (EPOCHS * STEPS) as u64;
        let expected: Vec<u64> = (1..=last).filter(due).collect();
        let found = &whole.progress.evaluations;
        assert_eq!(found.iter().map(|e| e.step).collect::<Vec<_>>(), expected);
        let (mut before, mut losses) = (0, whole.losses.iter().map(|&loss| f64::from_bits(loss)));
        for evaluation in found {
            assert_eq!(
                evaluation.midway,
                !evaluation.step.is_multiple_of(STEPS as u64)
            );
            // The last step of an epoch has one row, the others three.
            let rows = |step| {
                if step % STEPS as u64 == 0 {
                    1.0
                } else {
                    ACCUMULATE as f64
                }
            };
            let (mut sum, mut count) = (0.0, 0.0);
            for step in before + 1..=evaluation.step {
                sum += rows(step) * losses.next().unwrap();
                count += rows(step);
            }
            let expected = sum / count;
            assert!(
                (evaluation.train_loss - expected).abs() <= 1e-12 * expected,
                "{evaluation:?}"
            );
            before = evaluation.step;
        }
        for stop in 1..last {
            assert_eq!(
                run(&[stop], [Some(every); 2]),
                whole,
                "every {every}, stopped at {stop}"
            );
        }
        let stops: Vec<u64> = (1..last).collect();
        assert_eq!(run(&stops, [Some(every); 2]), whole, "every {every}");
    }
    let often = run(&[], [Some(1); 2]).progress;
    let best = often.best(Some(&Headline::lower(SCORE))).unwrap();
    assert!(best.midway, "{often:?}");
    assert_eq!(often.kept, Some(best.step));
}

/// A run may go on with evaluations at other steps: what it trains is the same.
#[test]
fn a_run_goes_on_with_other_evaluations() {
    let plain = run(&[], [None; 2]);
    for stop in 1..(EPOCHS * STEPS) as u64 {
        for every in [[None, Some(1)], [Some(1), None], [Some(3), Some(2)]] {
            let found = run(&[stop], every);
            assert_eq!((&found.rows, &found.losses), (&plain.rows, &plain.losses));
            let trained = |run: &Run| {
                let tensors = run.state.tensors.clone().into_iter();
                tensors
                    .filter(|(name, _)| !name.starts_with("kept."))
                    .collect::<Params>()
            };
            assert_eq!(
                trained(&found),
                trained(&plain),
                "{every:?}, stopped at {stop}"
            );
            let steps = found.progress.evaluations.iter().map(|e| e.step);
            assert!(steps.is_sorted_by(|a, b| a < b), "{:?}", found.progress);
        }
    }
}

/// Moments belong to names: parameters that are registered in another order take up their own.
#[test]
fn moments_are_found_by_name() {
    let [row, next] = ["row", "next"].map(|name| values(name, WIDTH));
    let step = |(trainer, plan): &mut (Trainer, PlanId), row: &[f32]| {
        trainer.step(&[micro_batch(*plan, row, 1)]).unwrap()
    };
    let mut straight = trainer(["a", "b"]);
    for _ in 0..3 {
        step(&mut straight, &row);
    }
    let saved = straight.0.checkpoint().unwrap();
    let mut reordered = trainer(["b", "a"]);
    reordered.0.restore(&saved).unwrap();
    // The gradients' norm is summed in another order.
    let [one, other] = [&mut straight, &mut reordered].map(|trainer| step(trainer, &next));
    assert_eq!(one.loss, other.loss);
    let [one, other] = [straight, reordered].map(|(trainer, _)| trainer.checkpoint().unwrap());
    for (name, array) in &one.tensors {
        for (x, y) in array
            .floats()
            .iter()
            .zip(other.tensors[name].floats().iter())
        {
            assert!((x - y).abs() <= 1e-6 * x.abs().max(1e-3), "{name}: {x} {y}");
        }
    }
}

/// A checkpoint of a model that has more or less than this one is refused by the tensor's name.
#[test]
fn checkpoints_fit_exactly() {
    let (mut trainer, _) = trainer(["a", "b"]);
    let whole = trainer.checkpoint().unwrap();
    let refused = |trainer: &mut Trainer, checkpoint: &Checkpoint| match trainer
        .restore(checkpoint)
        .unwrap_err()
    {
        CheckpointError::Tensor { name } | CheckpointError::Unknown { name } => name,
        other => panic!("{other}"),
    };
    let mut less = whole.clone();
    less.tensors.swap_remove("adam.second.b");
    assert_eq!(refused(&mut trainer, &less), "adam.second.b");
    let mut more = whole.clone();
    let extra = more.tensors["param.a"].clone();
    more.tensors.insert("param.c".into(), extra);
    assert_eq!(refused(&mut trainer, &more), "param.c");
    trainer.restore(&whole).unwrap();
}
