use std::{marker::PhantomData, path::PathBuf};

use indexmap::IndexMap;
use thiserror::Error;

use super::{
    BestError, CheckpointError, Evaluation, Headline, Keep, MicroBatch, Progress, StepReport,
    TrainError, Trainer,
};
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

    /// The metrics of [`evaluate`](Self::evaluate) that make one evaluation better than another, the
    /// first unless a run names another; none if nothing is held out.
    fn headlines(&self) -> Vec<Headline>;

    /// How many steps an epoch has.
    fn steps_per_epoch(&self) -> u64;

    /// The batches of an epoch from step `skip` on, in an order that depends on the epoch alone. It is
    /// asked for again where a run goes on, and after an evaluation in the middle of the epoch.
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
    /// An evaluation is made after this many steps, and after each epoch.
    pub evaluate_every: Option<u64>,
    /// What stands for everything that fixes the run.
    pub fingerprint: String,
    /// The score that makes the best evaluation; none if nothing is held out to measure.
    pub headline: Option<Headline>,
    /// Which parameters the trainer keeps.
    pub keep: Keep,
    /// Ends training after this many evaluations in a row that are not the best so far.
    pub patience: Option<usize>,
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
    /// An epoch ended, or an evaluation was due before.
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
    /// No evaluation can be the best.
    #[error(transparent)]
    Best(#[from] BestError),
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
    let headline = options.headline.as_ref();
    let known = workload.headlines();
    BestError::unless(headline, known.iter().map(|known| &*known.name))?;
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
    let mut outcome = running.run(workload);
    if let Ok(Outcome::Finished) = outcome
        && (options.keep == Keep::Best || options.patience.is_some())
        && let Err(error) = progress.check_best(headline)
    {
        outcome = Err(error.into());
    }
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
            let end = self.next_evaluation();
            let epoch = (end.saturating_sub(1) / self.per_epoch) as usize;
            if self.done() < end && !self.train(workload, epoch, end)? {
                return Ok(Outcome::Stopped);
            }
            self.evaluate(workload, epoch)?;
            self.stop = any(self.ranks, self.stop)?;
            if self.stop && !self.is_at_end() {
                return Ok(Outcome::Stopped);
            }
        }
        Ok(Outcome::Finished)
    }

    /// Makes the steps of an epoch to `end`, and the checkpoints that are due before; whether it came
    /// to there.
    fn train<W: Workload<Error = E>>(
        &mut self,
        workload: &mut W,
        epoch: usize,
        end: u64,
    ) -> Result<bool, FitError<E, C>> {
        let skip = self.done() - epoch as u64 * self.per_epoch;
        let mut batches = workload.epoch(epoch, skip).map_err(FitError::Workload)?;
        while self.done() < end {
            let before = self.done();
            self.steps::<W>(&mut batches, epoch, end)?;
            let step = self.done();
            if step == before {
                let epoch = epoch + 1;
                return Err(TrainError::Short { epoch, step }.into());
            }
            if step < end {
                self.save()?;
                self.tell(Event::Checkpointed { step })?;
                if self.stop {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The step after which the next evaluation is due: the last one, if it was not evaluated yet.
    fn next_evaluation(&self) -> u64 {
        let done = self.done();
        let is_due = done > 0 && self.is_regular(done) && !self.progress.is_evaluated(done);
        if is_due || done >= self.total {
            return done;
        }
        let next = |every: u64| (done / every + 1) * every;
        let end = self.total.min(next(self.per_epoch));
        let every = self.options.evaluate_every;
        every.map_or(end, |every| end.min(next(every.max(1))))
    }

    /// Whether an evaluation is made after this step, however long the run is.
    fn is_regular(&self, step: u64) -> bool {
        let every = self.options.evaluate_every;
        let is_midway = every.is_some_and(|every| step.is_multiple_of(every.max(1)));
        is_midway || step.is_multiple_of(self.per_epoch)
    }

    fn done(&self) -> u64 {
        self.trainer.steps_done()
    }

    /// Whether all steps are made and evaluated, or none of the last evaluations was the best.
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

    /// Makes steps to the next checkpoint, to which they follow each other, or to `end`, or until one
    /// is the last that is wanted.
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

    /// Evaluates what there is, keeps it if it is the best, and saves it where that is due.
    fn evaluate<W: Workload<Error = E>>(
        &mut self,
        workload: &mut W,
        epoch: usize,
    ) -> Result<(), FitError<E, C>> {
        let step = self.done();
        let ends_epoch = step.is_multiple_of(self.per_epoch);
        let is_regular = self.is_regular(step);
        // Where `max_steps` cuts an epoch short, a longer run goes on without an evaluation: the checkpoint
        // is of before it.
        if !is_regular {
            self.save()?;
        }
        let engine = self.trainer.engine().map_err(TrainError::from)?;
        let metrics = workload.evaluate(engine).map_err(FitError::Workload)?;
        let headline = self.options.headline.as_ref();
        BestError::unless(headline, metrics.keys().map(String::as_str))?;
        let progress = &mut *self.progress;
        progress.evaluations.push(Evaluation {
            epoch: epoch + 1,
            step,
            midway: is_regular && !ends_epoch,
            train_loss: progress.loss_sum / progress.targets.max(1) as f64,
            metrics,
        });
        (progress.loss_sum, progress.targets) = (0.0, 0);
        let best = progress.best(headline);
        let best = best.is_some_and(|best| best.step == step);
        if best && self.options.keep == Keep::Best {
            self.trainer.keep().map_err(TrainError::from)?;
            progress.kept = Some(step);
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
        self.stop = any(self.ranks, self.stop)?;
        if is_regular {
            let is_due = ends_epoch || step.is_multiple_of(self.options.checkpoint_every.max(1));
            if !(is_due || self.stop || self.is_at_end()) {
                return Ok(());
            }
            self.save()?;
        }
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
