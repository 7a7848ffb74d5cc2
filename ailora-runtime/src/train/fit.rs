use std::{fmt, path::PathBuf, str::FromStr};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{CheckpointError, MicroBatch, StepReport, TrainError, Trainer};
use crate::engine::Engine;

/// The batches of an epoch, as they are prepared.
pub type Batches<'a, B, E> = Box<dyn Iterator<Item = Result<B, E>> + 'a>;

/// What is trained on and how it is judged.
pub trait Workload {
    /// The rows of one step, prepared.
    type Batch;
    /// Why a batch or an evaluation failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// How many steps an epoch has.
    fn steps_per_epoch(&self) -> u64;

    /// The batches of an epoch from step `skip` on, in an order that depends on the epoch alone.
    ///
    /// # Errors
    /// The rows cannot be read.
    fn epoch(
        &mut self,
        epoch: usize,
        skip: u64,
    ) -> Result<Batches<'_, Self::Batch, Self::Error>, Self::Error>;

    /// The inputs of a batch.
    fn micro_batches<'a>(batch: &'a Self::Batch) -> Vec<MicroBatch<'a>>;

    /// The metrics of the current parameters, by name.
    ///
    /// # Errors
    /// A held-out row does not fit.
    fn evaluate(&mut self, engine: &mut Engine) -> Result<IndexMap<String, f64>, Self::Error>;
}

/// How long a loop runs and what it leaves.
#[derive(Clone, Debug)]
pub struct Fit {
    /// How often the rows are gone through.
    pub epochs: usize,
    /// An end before that, for trials.
    pub max_steps: Option<u64>,
    /// Where checkpoints go.
    pub checkpoint: PathBuf,
    /// A checkpoint is written after this many steps, and after each epoch.
    pub checkpoint_every: u64,
    /// What stands for everything that fixes the run.
    pub fingerprint: String,
    /// The score that makes the best epoch; none if nothing is held out to measure.
    pub headline: Option<Headline>,
    /// Which epoch's parameters the trainer keeps.
    pub keep: Keep,
}

/// Which values of a score are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Larger ones, as of an accuracy.
    Higher,
    /// Smaller ones, as of a loss.
    Lower,
}

/// The score by which one epoch is better than another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headline {
    /// Its name among the metrics.
    pub name: String,
    /// Which values are better.
    pub better: Better,
}

impl Headline {
    /// A score that is better when it is larger.
    pub fn higher(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            better: Better::Higher,
        }
    }

    /// A score that is better when it is smaller.
    pub fn lower(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            better: Better::Lower,
        }
    }
}

/// Which epoch's parameters a run leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The best one's, by the headline metric.
    Best,
    /// The last one's.
    Last,
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            "last" => Ok(Self::Last),
            _ => Err(format!("expected best or last, found `{text}`")),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Best => "best",
            Self::Last => "last",
        })
    }
}

/// An epoch's end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The step after which it was made.
    pub step: u64,
    /// The mean loss over the epoch's targets.
    pub train_loss: f64,
    /// The metrics by name.
    pub metrics: IndexMap<String, f64>,
}

/// Where a loop stands: what a checkpoint adds to the trainer's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The evaluations so far.
    pub evaluations: Vec<Evaluation>,
    /// The sum of the losses of the current epoch's targets.
    pub loss_sum: f64,
    /// How many targets that are.
    pub targets: usize,
    /// The epoch whose parameters the trainer keeps.
    pub kept: Option<usize>,
}

impl Progress {
    /// Whether what there is after this step was evaluated.
    fn is_evaluated(&self, step: u64) -> bool {
        self.evaluations
            .last()
            .is_some_and(|last| last.step >= step)
    }

    /// The evaluation with the best headline score, the first of equals; none where that was never
    /// measured or never a number.
    pub fn best(&self, headline: Option<&Headline>) -> Option<&Evaluation> {
        let Headline { name, better } = headline?;
        let measured = |evaluation: &'_ Evaluation| -> Option<f64> {
            let value = *evaluation.metrics.get(name)?;
            (!value.is_nan()).then_some(match better {
                Better::Higher => value,
                Better::Lower => -value,
            })
        };
        let values = self
            .evaluations
            .iter()
            .filter_map(|evaluation| Some((evaluation, measured(evaluation)?)));
        let best = values.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map(|(evaluation, _)| evaluation)
    }
}

/// What a loop tells whoever watches.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step was made.
    Step {
        /// The epoch, from 1.
        epoch: usize,
        /// What happened.
        report: &'a StepReport,
    },
    /// An epoch ended.
    Evaluated {
        /// Its figures.
        evaluation: &'a Evaluation,
        /// Whether it is the best so far.
        best: bool,
        /// The trainer, whose parameters these are.
        trainer: &'a Trainer,
    },
    /// A checkpoint was written.
    Checkpointed {
        /// After this step.
        step: u64,
    },
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Write a checkpoint and stop.
    Stop,
}

/// How a loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were made.
    Finished,
    /// It was asked to stop.
    Stopped,
}

/// A loop that could not go on.
#[derive(Debug, Error)]
pub enum FitError<E: std::error::Error + 'static, C: std::error::Error + 'static> {
    /// A step failed.
    #[error(transparent)]
    Train(TrainError),
    /// A checkpoint could not be written.
    #[error(transparent)]
    Checkpoint(CheckpointError),
    /// The rows or an evaluation failed.
    #[error(transparent)]
    Workload(E),
    /// Whoever watches failed.
    #[error(transparent)]
    Watcher(C),
}

/// Trains until the epochs are done or `watch` says stop, from where `progress` and the trainer
/// stand. The losses are those of an uninterrupted run, bit for bit, wherever it was stopped.
///
/// # Errors
/// A step, an evaluation, a checkpoint or `watch` failed; the last checkpoint is intact.
pub fn fit<W: Workload, C: std::error::Error + 'static>(
    trainer: &mut Trainer,
    workload: &mut W,
    options: &Fit,
    progress: &mut Progress,
    mut watch: impl FnMut(Event<'_>) -> Result<Control, C>,
) -> Result<Outcome, FitError<W::Error, C>> {
    let per_epoch = workload.steps_per_epoch();
    let total = per_epoch * options.epochs as u64;
    let total = options.max_steps.map_or(total, |max| max.min(total));
    let save = |trainer: &Trainer, progress: &Progress| {
        trainer
            .checkpoint()
            .map_err(|error| FitError::Train(error.into()))?
            .save(&options.checkpoint, &options.fingerprint, progress)
            .map_err(FitError::Checkpoint)
    };
    while trainer.steps_done() < total || !progress.is_evaluated(trainer.steps_done()) {
        let epoch = (trainer.steps_done() / per_epoch.max(1)) as usize;
        let skip = trainer.steps_done() % per_epoch.max(1);
        let epoch_end = total.min((epoch as u64 + 1) * per_epoch);
        let mut batches = workload.epoch(epoch, skip).map_err(FitError::Workload)?;
        let mut stop = false;
        while trainer.steps_done() < epoch_end {
            // Steps follow each other to the next checkpoint, which all of them have to be done for.
            let every = options.checkpoint_every.max(1);
            let done = trainer.steps_done();
            let count = epoch_end.min((done / every + 1) * every) - done;
            let mut observe = |report: StepReport, progress: &mut Progress| {
                progress.loss_sum += report.loss * report.targets as f64;
                progress.targets += report.targets;
                let event = Event::Step {
                    epoch: epoch + 1,
                    report: &report,
                };
                watch(event).map_err(FitError::Watcher)
            };
            let mut steps = trainer.steps();
            for batch in batches.by_ref().take(count as usize) {
                let batch = batch.map_err(FitError::Workload)?;
                let report = steps.submit(&W::micro_batches(&batch));
                if let Some(report) = report.map_err(FitError::Train)? {
                    stop |= observe(report, progress)? == Control::Stop;
                }
                if stop {
                    break;
                }
            }
            if let Some(report) = steps.finish().map_err(FitError::Train)? {
                stop |= observe(report, progress)? == Control::Stop;
            }
            drop(steps);
            let step = trainer.steps_done();
            if step == done {
                break;
            }
            if step < epoch_end {
                save(trainer, progress)?;
                watch(Event::Checkpointed { step }).map_err(FitError::Watcher)?;
                if stop {
                    return Ok(Outcome::Stopped);
                }
            }
        }
        drop(batches);
        // An epoch that `max_steps` cuts short goes on where that is more: its checkpoint is of before its
        // evaluation, which a whole epoch has not.
        let whole = trainer.steps_done().is_multiple_of(per_epoch.max(1));
        if !whole {
            save(trainer, progress)?;
        }
        let engine = trainer.engine();
        let engine = engine.map_err(|error| FitError::Train(error.into()))?;
        let metrics = workload.evaluate(engine).map_err(FitError::Workload)?;
        let evaluation = Evaluation {
            epoch: epoch + 1,
            step: trainer.steps_done(),
            train_loss: progress.loss_sum / progress.targets.max(1) as f64,
            metrics,
        };
        (progress.loss_sum, progress.targets) = (0.0, 0);
        progress.evaluations.push(evaluation);
        let best = progress.best(options.headline.as_ref());
        let best = best.is_some_and(|best| best.epoch == epoch + 1);
        if best && options.keep == Keep::Best {
            trainer
                .keep()
                .map_err(|error| FitError::Train(error.into()))?;
            progress.kept = Some(epoch + 1);
        }
        if let Some(evaluation) = progress.evaluations.last() {
            let event = Event::Evaluated {
                evaluation,
                best,
                trainer,
            };
            stop |= watch(event).map_err(FitError::Watcher)? == Control::Stop;
        }
        if whole {
            save(trainer, progress)?;
        }
        let event = Event::Checkpointed {
            step: trainer.steps_done(),
        };
        watch(event).map_err(FitError::Watcher)?;
        if stop && trainer.steps_done() < total {
            return Ok(Outcome::Stopped);
        }
    }
    Ok(Outcome::Finished)
}
