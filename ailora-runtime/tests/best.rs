//! Which evaluation is the best, and when training stops because none is any more.

#[path = "../../tests/device/mod.rs"]
mod device;
mod support;

use std::convert::Infallible;

use ailora_graph::ir::{Program, Type};
use ailora_runtime::{
    engine::{Engine, PlanId},
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    passes::Fusion,
    store::Params,
    train::{
        Batches, BestError, Checkpoint, Control, Event, Fit, FitError, Headline, Keep, MicroBatch,
        Outcome, Progress, Trainer, Workload, fit,
    },
};
use indexmap::IndexMap;
use support::{WIDTH, matrix, micro_batch, step, trained, values};

/// One row a step, two steps an epoch, and evaluations that say what was written down.
struct Script {
    plan: PlanId,
    row: Vec<f32>,
    scores: Vec<f64>,
}

impl Workload for Script {
    type Batch = (PlanId, Vec<f32>);
    type Error = Infallible;

    fn compile(&mut self, _: &mut Engine, _: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn headlines(&self) -> Vec<Headline> {
        vec![Headline::lower("loss"), Headline::higher("accuracy")]
    }

    fn steps_per_epoch(&self) -> u64 {
        2
    }

    fn epoch(
        &mut self,
        _: usize,
        skip: u64,
    ) -> Result<Batches<'_, Self::Batch, Infallible>, Infallible> {
        let step = (self.plan, self.row.clone());
        Ok(Box::new((skip..2).map(move |_| Ok(step.clone()))))
    }

    fn micro_batches((plan, row): &Self::Batch) -> Vec<MicroBatch<'_>> {
        vec![micro_batch(*plan, row, 1)]
    }

    fn evaluate(&mut self, _: &mut Engine) -> Result<IndexMap<String, f64>, Infallible> {
        let score = self.scores.remove(0);
        let accuracy = 1.0 - score;
        Ok([
            ("loss".to_owned(), score),
            ("accuracy".to_owned(), accuracy),
        ]
        .into())
    }
}

/// What a run came to: the steps of its evaluations, which the best is, and what was kept.
#[derive(Debug)]
struct Ran {
    evaluations: usize,
    best: Option<u64>,
    kept: Option<Params>,
    /// What was trained at each evaluation.
    trained: Vec<Params>,
}

/// A run with these scores, one after each step, and no end of its own before the last.
fn run(
    scores: &[f64],
    headline: Headline,
    keep: Keep,
    patience: Option<usize>,
) -> Result<Ran, FitError<Infallible, Infallible>> {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([1, WIDTH])).unwrap();
    let w = trained(&mut p, "w");
    let y = p.matmul(x, false, w, false).unwrap();
    let params: Params = [matrix("w")].into();
    let mut engine = device::engine(params, Fusion::Elementwise);
    let plan = engine.compile(&step(p, y)).unwrap();
    let group = Group {
        lr: 1.0,
        parameters: vec!["w".into()],
    };
    let optimizer = AdamW::new(AdamWConfig::default(), vec![group], engine.weights());
    let schedule = Schedule::new(ScheduleKind::Constant, 0.0, 1);
    let mut trainer = Trainer::new(engine, optimizer, 0.05, schedule, None, 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let options = Fit {
        epochs: scores.len().div_ceil(2),
        max_steps: Some(scores.len() as u64),
        patience,
        checkpoint: path.clone(),
        checkpoint_every: 100,
        evaluate_every: Some(1),
        fingerprint: "run".into(),
        headline: Some(headline.clone()),
        keep,
    };
    let mut progress = Progress::default();
    let mut workload = Script {
        plan,
        row: values("row", WIDTH),
        scores: scores.to_vec(),
    };
    let mut trained = Vec::new();
    let outcome = fit(
        &mut trainer,
        &mut workload,
        &options,
        &mut progress,
        |event| {
            if let Event::Evaluated { trainer, .. } = event {
                trained.push(trainer.trained().unwrap());
            }
            Ok(Control::Continue)
        },
    )?;
    assert_eq!(outcome, Outcome::Finished);
    // Where it ended, in the middle of an epoch too, it goes on to nothing.
    let (checkpoint, mut saved) = Checkpoint::load(&path, "run").unwrap();
    assert_eq!(checkpoint.step, trainer.steps_done());
    trainer.restore(&checkpoint).unwrap();
    let nothing = |event: Event<'_>| -> Result<Control, Infallible> { panic!("{event:?}") };
    let again = fit(&mut trainer, &mut workload, &options, &mut saved, nothing)?;
    assert_eq!(again, Outcome::Finished);
    assert_eq!(saved.evaluations.len(), progress.evaluations.len());
    Ok(Ran {
        evaluations: progress.evaluations.len(),
        best: progress.best(Some(&headline)).map(|best| best.step),
        kept: progress.kept.map(|_| trainer.kept().unwrap()),
        trained,
    })
}

fn loss() -> Headline {
    Headline::lower("loss")
}

#[test]
fn neither_nan_nor_an_equal_score_is_better() {
    let nan = f64::NAN;
    for (scores, patience, evaluations, best) in [
        (&[2.0, nan, nan, 1.0][..], 2, 3, 1),
        (&[2.0, 2.0, 2.0, 1.0], 2, 3, 1),
        (&[2.0, nan, 1.0, 1.0, nan, 0.0], 2, 5, 3),
        (&[nan, 2.0, 3.0], 2, 3, 2),
        (&[3.0, 2.0, 1.0], 1, 3, 3),
    ] {
        let ran = run(scores, loss(), Keep::Best, Some(patience)).unwrap();
        assert_eq!(
            (ran.evaluations, ran.best),
            (evaluations, Some(best)),
            "{scores:?}"
        );
        assert_eq!(ran.kept.as_ref(), Some(&ran.trained[best as usize - 1]));
    }
}

/// The second of four is the best, by a score that is to be low and one that is to be high.
#[test]
fn what_is_kept_is_of_the_best_evaluation() {
    for headline in [loss(), Headline::higher("accuracy")] {
        let ran = run(&[2.0, 1.0, 3.0, 1.5], headline, Keep::Best, None).unwrap();
        assert_eq!((ran.evaluations, ran.best), (4, Some(2)));
        assert_eq!(ran.kept.as_ref(), Some(&ran.trained[1]));
        assert_ne!(ran.trained[1], ran.trained[3]);
    }
}

#[test]
fn a_score_that_never_is_a_number_makes_no_best() {
    let nan = f64::NAN;
    for patience in [None, Some(2)] {
        let error = run(&[nan; 4], loss(), Keep::Best, patience).unwrap_err();
        let count = patience.unwrap_or(4);
        let expected = BestError::NeverANumber {
            name: "loss".into(),
            count,
        };
        assert!(
            matches!(&error, FitError::Best(found) if *found == expected),
            "{error}"
        );
    }
    // The last one's parameters are what was asked for.
    let ran = run(&[nan; 3], loss(), Keep::Last, None).unwrap();
    assert_eq!((ran.evaluations, ran.best, ran.kept), (3, None, None));
}

#[test]
fn a_score_that_is_not_reported_is_an_error_before_the_first_step() {
    let error = run(&[1.0; 2], Headline::higher("f1"), Keep::Best, None).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("`f1`") && message.ends_with("one of loss, accuracy"),
        "{message}"
    );
}
