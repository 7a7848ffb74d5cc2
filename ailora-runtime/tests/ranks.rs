//! Ranks that train together: two threads with a part of every batch each come to what one rank comes to
//! with all of it.

#[path = "../../tests/device/mod.rs"]
mod device;
mod support;

use std::{convert::Infallible, path::Path, sync::Arc, thread};

use ailora_graph::ir::{Program, Type};
use ailora_runtime::{
    collective::{Collective, CollectiveError, Single, threads},
    engine::{Engine, PlanId},
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    passes::Fusion,
    store::Params,
    train::{
        Batches, Checkpoint, Control, Event, Fit, FitError, Headline, Keep, MicroBatch, Outcome,
        Progress, StepReport, TrainError, Trainer, Workload, fit,
    },
};
use indexmap::IndexMap;
use support::{WIDTH, dropped, matrix, micro_batch, step, trained, values};

/// Micro-batches of an epoch: the last step has one.
const BATCHES: usize = 7;
const STEP: usize = 2;

/// A trainer of `w` in the mean square of `dropout(x) w - 1`, clipping well below the norm.
fn trainer(ranks: Arc<dyn Collective>, lr: f64) -> (Trainer, PlanId) {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([1, WIDTH])).unwrap();
    let w = trained(&mut p, "w");
    let dropped = dropped(&mut p, x);
    let y = p.matmul(dropped, false, w, false).unwrap();
    let program = step(p, y);
    let params: Params = [matrix("w")].into();
    let mut engine = device::engine(params, Fusion::Elementwise).among(ranks);
    let plan = engine.compile(&program).unwrap();
    let group = Group {
        lr: 1.0,
        parameters: vec!["w".into()],
    };
    let optimizer = AdamW::new(AdamWConfig::default(), vec![group], engine.weights());
    let schedule = Schedule {
        kind: ScheduleKind::Linear,
        warmup: 0,
        total: 20,
    };
    let trainer = Trainer::new(engine, optimizer, lr, schedule, Some(0.3), 5);
    (trainer, plan)
}

/// Micro-batches of one row, which weigh differently many targets.
struct Rows {
    plan: PlanId,
    /// The step in which this rank's data cannot be read.
    broken: Option<usize>,
}

struct Step {
    plan: PlanId,
    rows: Vec<(Vec<f32>, usize)>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(&'static str);

impl Workload for Rows {
    type Batch = Step;
    type Error = Broken;

    fn compile(&mut self, _: &mut Engine, _: usize) -> Result<(), Broken> {
        Ok(())
    }

    fn headlines(&self) -> Vec<Headline> {
        Vec::new()
    }

    fn steps_per_epoch(&self) -> u64 {
        BATCHES.div_ceil(STEP) as u64
    }

    fn epoch(&mut self, epoch: usize, skip: u64) -> Result<Batches<'_, Step, Broken>, Broken> {
        let all: Vec<usize> = (0..BATCHES).collect();
        let steps: Vec<Vec<usize>> = all.chunks(STEP).map(<[_]>::to_vec).collect();
        let (plan, broken) = (self.plan, self.broken);
        let steps = steps.into_iter().enumerate().skip(skip as usize);
        Ok(Box::new(steps.map(move |(step, batches)| {
            if broken == Some(step) {
                return Err(Broken("the disk is gone"));
            }
            let row = |batch: usize| {
                let row = values(&format!("row {epoch} {batch}"), WIDTH);
                (row, [1, 3, 2][batch % 3])
            };
            let rows = batches.into_iter().map(row).collect();
            Ok(Step { plan, rows })
        })))
    }

    fn micro_batches(batch: &Step) -> Vec<MicroBatch<'_>> {
        let rows = batch.rows.iter();
        rows.map(|(row, targets)| micro_batch(batch.plan, row, *targets))
            .collect()
    }

    fn evaluate(&mut self, _: &mut Engine) -> Result<IndexMap<String, f64>, Broken> {
        Ok(IndexMap::new())
    }
}

/// What one rank came to.
type Ran = Result<(Outcome, Vec<StepReport>, Checkpoint), FitError<Broken, Infallible>>;

/// One rank's run of two epochs. `stop` is the step behind which it is told to stop.
fn run(
    ranks: Arc<dyn Collective>,
    checkpoint: &Path,
    stop: Option<u64>,
    broken: Option<usize>,
) -> Ran {
    let (mut trainer, plan) = trainer(ranks, 0.05);
    let options = Fit {
        epochs: 2,
        max_steps: None,
        patience: None,
        checkpoint: checkpoint.to_owned(),
        checkpoint_every: 3,
        evaluate_every: None,
        fingerprint: "run".into(),
        headline: None,
        keep: Keep::Last,
    };
    let mut reports = Vec::new();
    let mut workload = Rows { plan, broken };
    let mut progress = Progress::default();
    let outcome = fit(
        &mut trainer,
        &mut workload,
        &options,
        &mut progress,
        |event| {
            let Event::Step { report, .. } = event else {
                return Ok(Control::Continue);
            };
            reports.push(*report);
            Ok(match Some(report.step) == stop {
                true => Control::Stop,
                false => Control::Continue,
            })
        },
    )?;
    Ok((outcome, reports, trainer.checkpoint().unwrap()))
}

/// Runs `work` on each of so many ranks, with a folder that all of them have.
fn on_all<T: Send>(
    world: usize,
    work: impl Fn(Arc<dyn Collective>, &Path) -> T + Sync,
) -> Vec<thread::Result<T>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    thread::scope(|scope| {
        let (work, path) = (&work, &path);
        let ranks = threads(world).into_iter();
        let running: Vec<_> = ranks
            .map(|rank| scope.spawn(move || work(Arc::new(rank), path)))
            .collect();
        running.into_iter().map(|thread| thread.join()).collect()
    })
}

fn close(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-6 * one.abs().max(1.0)
}

#[test]
fn two_ranks_come_to_what_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let alone = run(
        Arc::new(Single),
        &folder.path().join("alone.safetensors"),
        None,
        None,
    );
    let (_, expected, state) = alone.unwrap();
    assert_eq!(expected.len(), 8);
    assert!(
        expected.iter().all(|report| report.gradient_norm > 0.3),
        "nothing was clipped"
    );
    let ranks = on_all(2, |rank, path| {
        let ran = run(rank.clone(), path, None, None).unwrap();
        // The first rank's checkpoint is there when all are through.
        rank.barrier().unwrap();
        assert_eq!(Checkpoint::load(path, "run").unwrap().0.step, 8);
        ran
    });
    let ranks: Vec<_> = ranks.into_iter().map(Result::unwrap).collect();
    assert_eq!(ranks[0].1, ranks[1].1, "ranks report differently");
    assert_eq!(ranks[0].2, ranks[1].2, "ranks have other values");
    for (found, expected) in ranks[0].1.iter().zip(&expected) {
        assert!(close(found.loss, expected.loss), "{found:?} {expected:?}");
        assert!(close(found.gradient_norm, expected.gradient_norm));
        assert_eq!(
            (found.rows, found.targets),
            (expected.rows, expected.targets)
        );
    }
    for (name, array) in &state.tensors {
        for (found, expected) in ranks[0].2.tensors[name]
            .floats()
            .iter()
            .zip(array.floats().iter())
        {
            assert!(close(f64::from(*found), f64::from(*expected)), "{name}");
        }
    }
}

#[test]
fn all_stop_where_one_is_told_to() {
    let ranks = on_all(3, |rank, path| {
        let stop = (rank.rank() == 2).then_some(5);
        run(rank, path, stop, None).unwrap()
    });
    // A device has queued one more.
    let steps = 5 + usize::from(device::is_device());
    for rank in ranks {
        let (outcome, reports, state) = rank.unwrap();
        assert_eq!(
            (outcome, reports.len(), state.step),
            (Outcome::Stopped, steps, steps as u64)
        );
    }
}

#[test]
fn all_end_where_one_fails() {
    let ranks = on_all(2, |rank, path| {
        let broken = (rank.rank() == 1).then_some(2);
        run(rank, path, None, broken)
    });
    let errors: Vec<_> = ranks
        .into_iter()
        .map(|rank| rank.unwrap().unwrap_err())
        .collect();
    assert!(matches!(&errors[1], FitError::Workload(_)), "{}", errors[1]);
    match &errors[0] {
        FitError::Train(error) => assert_eq!(error.to_string(), "rank 1 failed: the disk is gone"),
        other => panic!("{other}"),
    }
    let ranks = on_all(2, |rank, path| {
        assert!(rank.rank() == 0, "rank 1 panics");
        run(rank, path, None, None)
    });
    let [first, second] = <[_; 2]>::try_from(ranks).ok().unwrap();
    assert!(second.is_err());
    let error = first.unwrap().unwrap_err().to_string();
    assert_eq!(error, "rank 1 failed: it panicked");
}

#[test]
fn ranks_that_begin_apart_are_told_so() {
    let ranks = on_all(2, |rank, _| {
        let apart = rank.rank() == 1;
        let (mut trainer, _) = trainer(rank, 0.05);
        let mut state = trainer.checkpoint().unwrap();
        if apart {
            state.tensors["param.w"].floats_mut()[7] += 1e-6;
        }
        trainer.restore(&state).unwrap();
        trainer.check_ranks()
    });
    for error in ranks {
        match error.unwrap().unwrap_err() {
            TrainError::Apart { step: 0, rank: 1 } => {}
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_rank_that_is_not_there_has_nothing_to_send() {
    for error in on_all(2, |rank, _| rank.broadcast(2, &mut [1.0])) {
        let error = error.unwrap().unwrap_err().to_string();
        assert_eq!(error, "rank 2 failed: it is none of the 2 that there are");
    }
}

#[test]
fn ranks_that_differ_in_their_settings_do_not_hang() {
    let ranks = on_all(2, |rank, _| {
        let count = 1 + rank.rank();
        rank.sum_f32(&mut vec![1.0; count])
    });
    for error in ranks {
        assert!(matches!(
            error.unwrap(),
            Err(CollectiveError::Mismatch { .. })
        ));
    }
}
