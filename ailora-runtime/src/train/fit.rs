use std::{fmt, marker::PhantomData, path::PathBuf, str::FromStr};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{CheckpointError, MicroBatch, StepReport, TrainError, Trainer};
use crate::{collective::Collective, engine::Engine};

/// The batches of an epoch, as they are prepared.
pub type Batches<'a, B, E> = Box<dyn Iterator<Item = Result<B, E>> + 'a>;

/// What is trained on and how it is judged.
pub trait Workload {
    /// The rows of one step, prepared.
    type Batch;
    /// Why a batch or an evaluation failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Compiles every program that so many epochs and their evaluations need. A training step decides
    /// where parameters lie ([`Engine::lay_out`]).
    ///
    /// # Errors
    /// A program cannot be built.
    fn compile(&mut self, engine: &mut Engine, epochs: usize) -> Result<(), Self::Error>;

    /// The score by which one epoch is better than another; none if nothing is held out.
    fn headline(&self) -> Option<Headline>;

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
    /// Ends training after this many epochs in a row that are not the best so far.
    pub patience: Option<usize>,
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

    /// Whether `patience` epochs were evaluated since the best one.
    fn is_out_of_patience(&self, headline: Option<&Headline>, patience: Option<usize>) -> bool {
        let (Some(patience), Some(best)) = (patience, self.best(headline)) else {
            return false;
        };
        let mut since = self.evaluations.iter().rev();
        since.position(|evaluation| evaluation == best) >= Some(patience)
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
    Train(#[from] TrainError),
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
/// Of several [ranks](crate::collective) each makes the same calls; the first writes checkpoints. They
/// stop where one is told to, and where one fails all do, with its reason.
///
/// # Errors
/// A step, an evaluation, a checkpoint or `watch` failed; the last checkpoint is intact.
pub fn fit<W: Workload, C: std::error::Error + 'static>(
    trainer: &mut Trainer,
    workload: &mut W,
    options: &Fit,
    progress: &mut Progress,
    watch: impl FnMut(Event<'_>) -> Result<Control, C>,
) -> Result<Outcome, FitError<W::Error, C>> {
    let ranks = trainer.ranks().clone();
    let per_epoch = workload.steps_per_epoch();
    let total = per_epoch * options.epochs as u64;
    let mut running = Running {
        trainer,
        options,
        progress,
        watch,
        ranks: &*ranks,
        per_epoch: per_epoch.max(1),
        total: options.max_steps.map_or(total, |max| max.min(total)),
        stop: false,
        errors: PhantomData,
    };
    let outcome = running.run(workload);
    if let Err(error) = &outcome {
        ranks.fail(&error.to_string());
    }
    outcome
}

/// Whether it is so on any rank.
fn any(ranks: &dyn Collective, here: bool) -> Result<bool, TrainError> {
    let mut count = [f64::from(u8::from(here))];
    ranks.sum_f64(&mut count)?;
    Ok(count[0] > 0.0)
}

/// A loop that is going on.
struct Running<'a, F, E, C> {
    trainer: &'a mut Trainer,
    options: &'a Fit,
    progress: &'a mut Progress,
    watch: F,
    ranks: &'a dyn Collective,
    per_epoch: u64,
    /// Steps of the run.
    total: u64,
    /// Whether this rank was told to stop.
    stop: bool,
    errors: PhantomData<(E, C)>,
}

impl<F, E, C> Running<'_, F, E, C>
where
    F: FnMut(Event<'_>) -> Result<Control, C>,
    E: std::error::Error + 'static,
    C: std::error::Error + 'static,
{
    fn run<W: Workload<Error = E>>(&mut self, workload: &mut W) -> Result<Outcome, FitError<E, C>> {
        self.trainer.check_ranks()?;
        while !self.is_at_end() {
            let epoch = (self.done() / self.per_epoch) as usize;
            let skip = self.done() % self.per_epoch;
            let end = self.total.min((epoch as u64 + 1) * self.per_epoch);
            let mut batches = workload.epoch(epoch, skip).map_err(FitError::Workload)?;
            while self.done() < end {
                let before = self.done();
                self.steps::<W>(&mut batches, epoch, end)?;
                let step = self.done();
                if step == before {
                    break;
                }
                if step < end {
                    self.save()?;
                    self.tell(Event::Checkpointed { step })?;
                    if self.stop {
                        return Ok(Outcome::Stopped);
                    }
                }
            }
            drop(batches);
            self.end_epoch(workload, epoch)?;
            self.stop = any(self.ranks, self.stop)?;
            if self.stop && !self.is_at_end() {
                return Ok(Outcome::Stopped);
            }
        }
        Ok(Outcome::Finished)
    }

    fn done(&self) -> u64 {
        self.trainer.steps_done()
    }

    /// Whether all steps are made and evaluated, or none of the last epochs was the best.
    fn is_at_end(&self) -> bool {
        let headline = self.options.headline.as_ref();
        let progress = &self.progress;
        progress.is_out_of_patience(headline, self.options.patience)
            || (self.done() >= self.total && progress.is_evaluated(self.done()))
    }

    fn tell(&mut self, event: Event<'_>) -> Result<(), FitError<E, C>> {
        let control = (self.watch)(event).map_err(FitError::Watcher)?;
        self.stop |= control == Control::Stop;
        Ok(())
    }

    /// Makes steps to the next checkpoint, to which they follow each other, or to the epoch's end, or
    /// until one is the last that is wanted.
    fn steps<W: Workload<Error = E>>(
        &mut self,
        batches: &mut Batches<'_, W::Batch, E>,
        epoch: usize,
        end: u64,
    ) -> Result<(), FitError<E, C>> {
        let every = self.options.checkpoint_every.max(1);
        let done = self.done();
        let count = end.min((done / every + 1) * every) - done;
        let Self {
            trainer,
            progress,
            watch,
            ranks,
            stop,
            ..
        } = self;
        let mut observe = |report: StepReport| {
            progress.loss_sum += report.loss * report.targets as f64;
            progress.targets += report.targets;
            let event = Event::Step {
                epoch: epoch + 1,
                report: &report,
            };
            *stop |= watch(event).map_err(FitError::Watcher)? == Control::Stop;
            // All ranks have made this step, and ask after it.
            *stop = any(*ranks, *stop)?;
            Ok::<bool, FitError<E, C>>(*stop)
        };
        let mut steps = trainer.steps();
        for batch in batches.by_ref().take(count as usize) {
            let batch = batch.map_err(FitError::Workload)?;
            if let Some(report) = steps.submit(&W::micro_batches(&batch))?
                && observe(report)?
            {
                break;
            }
        }
        if let Some(report) = steps.finish()? {
            observe(report)?;
        }
        Ok(())
    }

    /// Evaluates what there is at the end of an epoch, keeps it if it is the best, and saves it.
    fn end_epoch<W: Workload<Error = E>>(
        &mut self,
        workload: &mut W,
        epoch: usize,
    ) -> Result<(), FitError<E, C>> {
        // An epoch that `max_steps` cuts short goes on where that is more: its checkpoint is of before its
        // evaluation, which a whole epoch has not.
        let whole = self.done().is_multiple_of(self.per_epoch);
        if !whole {
            self.save()?;
        }
        let engine = self.trainer.engine().map_err(TrainError::from)?;
        let metrics = workload.evaluate(engine).map_err(FitError::Workload)?;
        let progress = &mut *self.progress;
        progress.evaluations.push(Evaluation {
            epoch: epoch + 1,
            step: self.trainer.steps_done(),
            train_loss: progress.loss_sum / progress.targets.max(1) as f64,
            metrics,
        });
        (progress.loss_sum, progress.targets) = (0.0, 0);
        let best = progress.best(self.options.headline.as_ref());
        let best = best.is_some_and(|best| best.epoch == epoch + 1);
        if best && self.options.keep == Keep::Best {
            self.trainer.keep().map_err(TrainError::from)?;
            progress.kept = Some(epoch + 1);
        }
        if let Some(evaluation) = progress.evaluations.last() {
            let event = Event::Evaluated {
                evaluation,
                best,
                trainer: self.trainer,
            };
            let control = (self.watch)(event).map_err(FitError::Watcher)?;
            self.stop |= control == Control::Stop;
        }
        if whole {
            self.save()?;
        }
        let step = self.done();
        self.tell(Event::Checkpointed { step })
    }

    /// Writes a checkpoint of what all ranks have.
    fn save(&mut self) -> Result<(), FitError<E, C>> {
        self.trainer.check_ranks()?;
        if !self.ranks.leads() {
            return Ok(());
        }
        let Fit {
            checkpoint,
            fingerprint,
            ..
        } = self.options;
        let state = self.trainer.checkpoint().map_err(TrainError::from)?;
        let saved = state.save(checkpoint, fingerprint, self.progress);
        saved.map_err(FitError::Checkpoint)
    }
}
