use std::{collections::VecDeque, sync::Arc};

use ailora_graph::ir::Draw;
use crc32c::crc32c_append;
use indexmap::IndexMap;
use thiserror::Error;

use super::{Checkpoint, CheckpointError};
use crate::{
    backend::{BackendError, Share, Update},
    collective::{Collective, CollectiveError},
    engine::{Engine, EngineError, PlanId},
    optim::{AdamW, Moments, Schedule},
    run::Value,
    store::{Array, Params},
};

/// A step that cannot be made.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The program could not be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The loss or a gradient is infinite or not a number.
    #[error(
        "step {step}: the {what} is {value}; training diverged. Lower the learning rate, or clip \
         gradients; the last checkpoint is intact"
    )]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// What it was.
        value: f64,
    },
    /// The optimiser could not run.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// An epoch has fewer batches than its workload says.
    #[error("the data of epoch {epoch} end after step {step}, too early; were they changed?")]
    Short {
        /// The epoch, from 1.
        epoch: usize,
        /// The last step made.
        step: u64,
    },
    /// The ranks cannot go on together.
    #[error(transparent)]
    Ranks(#[from] CollectiveError),
    /// Ranks that do not train the same.
    #[error(
        "after step {step}, rank {rank} has other values of what is trained than rank 0; start anew \
         from a checkpoint, with the same version and files on every rank"
    )]
    Apart {
        /// Updates made.
        step: u64,
        /// The rank.
        rank: usize,
    },
}

/// Part of a step's batch: inputs for one compiled program.
#[derive(Debug)]
pub struct MicroBatch<'a> {
    /// The program: its outputs are `loss`, a mean over targets, and the gradients.
    pub plan: PlanId,
    /// Its inputs.
    pub inputs: Vec<(&'a str, Value<'a>)>,
    /// How many rows it has.
    pub rows: usize,
    /// How many targets its loss is the mean over: rows, or tokens that are to be predicted.
    pub targets: usize,
}

/// What happened in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The number of the step, from 1.
    pub step: u64,
    /// The mean loss over the batch, before the update.
    pub loss: f64,
    /// The base learning rate of the update.
    pub lr: f64,
    /// The norm of all gradients, before clipping.
    pub gradient_norm: f64,
    /// Rows of the batch.
    pub rows: usize,
    /// Targets of the batch, which the loss is the mean over.
    pub targets: usize,
}

/// What each micro-batch contributes to a step's mean over all targets; nothing where there are none.
fn shares(batch: &[MicroBatch<'_>]) -> Vec<f64> {
    let total: usize = batch.iter().map(|micro| micro.targets).sum();
    let share = |micro: &MicroBatch<'_>| micro.targets as f64 / total.max(1) as f64;
    batch.iter().map(share).collect()
}

impl StepReport {
    /// # Errors
    /// The loss or the norm is not finite.
    fn finite(&self) -> Result<(), TrainError> {
        for (what, value) in [("loss", self.loss), ("gradient norm", self.gradient_norm)] {
            if !value.is_finite() {
                let step = self.step;
                return Err(TrainError::NotFinite { step, what, value });
            }
        }
        Ok(())
    }
}

/// An engine with an optimiser.
#[derive(Debug)]
pub struct Trainer {
    engine: Engine,
    optimizer: AdamW,
    lr: f64,
    schedule: Schedule,
    clip: Option<f64>,
    draw: Draw,
    /// What was trained when [`keep`](Trainer::keep) was last called.
    kept: Option<Params>,
    /// The step after which the engine's weights were last made those that are trained.
    fetched: Option<u64>,
}

/// A step that was queued.
#[derive(Debug)]
struct Queued {
    step: u64,
    lr: f64,
    rows: usize,
    targets: usize,
    /// What each micro-batch contributes.
    shares: Vec<f64>,
}

/// Steps one behind the other, from [`Trainer::steps`]. On a device the next step is queued, its batch
/// on the way, while the last one runs; only then is it waited for.
#[derive(Debug)]
pub struct Steps<'a> {
    trainer: &'a mut Trainer,
    queued: VecDeque<Queued>,
}

impl Trainer {
    /// A trainer at base rate `lr`, clipping the gradients' norm at `clip`; `seed` fixes dropout.
    pub fn new(
        engine: Engine,
        optimizer: AdamW,
        lr: f64,
        schedule: Schedule,
        clip: Option<f64>,
        seed: u64,
    ) -> Self {
        Self {
            engine,
            optimizer,
            lr,
            schedule,
            clip,
            draw: Draw { seed, step: 0 },
            kept: None,
            fetched: None,
        }
    }

    /// One update from the mean gradient over all targets of the micro-batches, however these are cut.
    ///
    /// # Errors
    /// A micro-batch does not fit its program, or the loss or a gradient is not finite; nothing is
    /// updated then.
    pub fn step(&mut self, batch: &[MicroBatch<'_>]) -> Result<StepReport, TrainError> {
        let queued = self.queue(batch, 0)?;
        self.wait(&queued)
    }

    /// Steps one behind the other, without waiting for each.
    pub fn steps(&mut self) -> Steps<'_> {
        Steps {
            trainer: self,
            queued: VecDeque::new(),
        }
    }

    /// Makes a step or queues it, behind `before` that are not waited for yet.
    fn queue(&mut self, batch: &[MicroBatch<'_>], before: usize) -> Result<Queued, TrainError> {
        let shares = shares(batch);
        let ranks = self.engine.ranks().clone();
        let mut first = true;
        for (index, (micro, &share)) in batch.iter().zip(&shares).enumerate() {
            if ranks.owns(index) {
                let (backend, run) = self.engine.prepared(micro.plan, &micro.inputs, self.draw);
                let share = Share {
                    index,
                    of: batch.len(),
                    first: std::mem::take(&mut first),
                    weight: share as f32,
                };
                backend.accumulate(&self.optimizer, run, share)?;
            }
            // Each micro-batch has draws of its own, whichever rank it is on.
            self.draw.step += 1;
        }
        if let Some(micro) = batch.first()
            && ranks.world() > 1
        {
            let (backend, run) = self.engine.prepared(micro.plan, &micro.inputs, self.draw);
            backend.reduce(&self.optimizer, run, &*ranks, batch.len())?;
        }
        let (backend, weights) = self.engine.backend_mut();
        let step = self.optimizer.step() + 1 + before as u64;
        let lr = self.lr * self.schedule.factor(step - 1);
        let targets = batch.iter().map(|micro| micro.targets).sum();
        let update = Update {
            step,
            lr,
            counts: targets > 0,
            clip: self.clip,
            batches: batch.len(),
            follows: before > 0,
        };
        backend.update(&mut self.optimizer, weights, update)?;
        Ok(Queued {
            step,
            lr,
            rows: batch.iter().map(|micro| micro.rows).sum(),
            targets,
            shares,
        })
    }

    /// Waits for the first step that was queued.
    fn wait(&mut self, queued: &Queued) -> Result<StepReport, TrainError> {
        let (backend, _) = self.engine.backend_mut();
        let found = backend.wait()?;
        let losses = queued.shares.iter().zip(&found.losses);
        let losses = losses.map(|(share, &loss)| share * f64::from(loss));
        let report = StepReport {
            step: queued.step,
            loss: losses.fold(0.0, |sum, loss| sum + loss),
            lr: queued.lr,
            gradient_norm: found.norm,
            rows: queued.rows,
            targets: queued.targets,
        };
        report.finite()?;
        if found.updated {
            self.optimizer.advance();
        }
        Ok(report)
    }

    /// The ranks that this trainer is one of.
    pub fn ranks(&self) -> &Arc<dyn Collective> {
        self.engine.ranks()
    }

    /// Checks that all ranks have the same values of what is trained, by a checksum.
    ///
    /// # Errors
    /// One has others, or failed.
    pub fn check_ranks(&self) -> Result<(), TrainError> {
        let ranks = self.engine.ranks();
        if ranks.world() == 1 {
            return Ok(());
        }
        let mut checksum = 0;
        for (name, array) in self.trained()? {
            checksum = crc32c_append(checksum, name.as_bytes());
            checksum = crc32c_append(checksum, bytemuck::cast_slice(&array.floats()));
        }
        // Each has a place of its own in the sum.
        let mut all = vec![0.0; ranks.world()];
        all[ranks.rank()] = f64::from(checksum);
        ranks.sum_f64(&mut all)?;
        match all.iter().position(|other| *other != all[0]) {
            None => Ok(()),
            Some(rank) => Err(TrainError::Apart {
                step: self.steps_done(),
                rank,
            }),
        }
    }

    /// How many updates were made.
    pub fn steps_done(&self) -> u64 {
        self.optimizer.step()
    }

    /// The engine, to be run or looked at: its weights are those that were trained, wherever that was.
    ///
    /// # Errors
    /// The device that has them failed.
    pub fn engine(&mut self) -> Result<&mut Engine, EngineError> {
        if self.fetched != Some(self.optimizer.step()) {
            for (name, (data, _)) in self.engine.backend().trained()? {
                self.engine.weights_mut().mirror(&name, &data);
            }
            self.fetched = Some(self.optimizer.step());
        }
        Ok(&mut self.engine)
    }

    /// The trained parameters by name.
    ///
    /// # Errors
    /// The device that has them failed.
    pub fn trained(&self) -> Result<Params, EngineError> {
        let state = self.state()?;
        Ok(state.map(|(name, array, _)| (name, array)).collect())
    }

    /// Keeps the trained parameters as they are now, in checkpoints too; what was kept before is gone.
    ///
    /// # Errors
    /// The device that has them failed.
    pub fn keep(&mut self) -> Result<(), EngineError> {
        self.kept = Some(self.trained()?);
        Ok(())
    }

    /// The trained parameters that were kept, or else as they are now.
    ///
    /// # Errors
    /// The device that has them failed.
    pub fn kept(&self) -> Result<Params, EngineError> {
        match &self.kept {
            Some(kept) => Ok(kept.clone()),
            None => self.trained(),
        }
    }

    /// Everything a resumed run needs of the trainer.
    ///
    /// # Errors
    /// The device that has it failed.
    pub fn checkpoint(&self) -> Result<Checkpoint, EngineError> {
        let mut tensors = Params::new();
        for (name, array, Moments { first, second }) in self.state()? {
            let like = |data| Array::new(array.shape(), data);
            tensors.insert(format!("adam.first.{name}"), like(first));
            tensors.insert(format!("adam.second.{name}"), like(second));
            tensors.insert(format!("param.{name}"), array);
        }
        for (name, array) in self.kept.iter().flatten() {
            tensors.insert(format!("kept.{name}"), array.clone());
        }
        Ok(Checkpoint {
            tensors,
            step: self.optimizer.step(),
            draws: self.draw.step,
        })
    }

    /// What is trained and its moments, from where they are.
    fn state(
        &self,
    ) -> Result<impl Iterator<Item = (String, Array, Moments)> + use<'_>, EngineError> {
        let mut elsewhere = self.engine.backend().trained()?;
        let state = move |(name, moments): (&String, &Moments)| {
            let array = self.engine.weights().get(name)?;
            let (array, moments) = match elsewhere.swap_remove(name) {
                Some((values, moments)) => (Array::new(array.shape(), values), moments),
                None => (array, moments.clone()),
            };
            Some((name.clone(), array, moments))
        };
        Ok(self.optimizer.moments().iter().filter_map(state))
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// The checkpoint lacks a parameter, has it in another shape, or has one more.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        let trained = |name: &str| {
            let prefixes = ["adam.first.", "adam.second.", "param.", "kept."];
            let mut found = prefixes
                .iter()
                .filter_map(|prefix| name.strip_prefix(prefix));
            found.any(|name| self.optimizer.moments().contains_key(name))
        };
        if let Some(name) = checkpoint.tensors.keys().find(|name| !trained(name)) {
            let name = name.clone();
            return Err(CheckpointError::Unknown { name });
        }
        let mut moments = IndexMap::new();
        let mut values = Vec::new();
        let mut kept = Params::new();
        let has_kept = checkpoint
            .tensors
            .keys()
            .any(|name| name.starts_with("kept."));
        for (name, known) in self.optimizer.moments() {
            let take = |prefix: &str| {
                let full = format!("{prefix}.{name}");
                checkpoint
                    .tensors
                    .get(&full)
                    .filter(|array| array.len() == known.first.len())
                    .ok_or(CheckpointError::Tensor { name: full })
            };
            let first = take("adam.first")?.floats().into_owned();
            let second = take("adam.second")?.floats().into_owned();
            moments.insert(name.clone(), Moments { first, second });
            values.push((name.clone(), take("param")?.clone()));
            if has_kept {
                kept.insert(name.clone(), take("kept")?.clone());
            }
        }
        for (name, value) in values {
            if !self.engine.weights_mut().set(&name, &value.floats()) {
                return Err(CheckpointError::Tensor { name });
            }
        }
        self.kept = has_kept.then_some(kept);
        self.optimizer.restore(checkpoint.step, moments);
        self.draw.step = checkpoint.draws;
        self.engine.backend_mut().0.restart();
        self.fetched = None;
        Ok(())
    }
}

impl Steps<'_> {
    /// Makes or queues a step as [`Trainer::step`]; the report of the last one that is done.
    ///
    /// # Errors
    /// As [`Trainer::step`], of this step or the one before it. Nothing is updated by a step behind
    /// one that failed.
    pub fn submit(&mut self, batch: &[MicroBatch<'_>]) -> Result<Option<StepReport>, TrainError> {
        let next = self.trainer.queue(batch, self.queued.len())?;
        self.queued.push_back(next);
        if self.queued.len() <= self.trainer.engine.backend().steps_ahead() {
            return Ok(None);
        }
        self.finish()
    }

    /// Waits for the step that is still on its way, if one is.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn finish(&mut self) -> Result<Option<StepReport>, TrainError> {
        let first = self.queued.pop_front();
        first.map(|first| self.trainer.wait(&first)).transpose()
    }
}

impl Drop for Steps<'_> {
    /// A step that nobody asked about is made all the same.
    fn drop(&mut self) {
        while !self.queued.is_empty() {
            self.finish().ok();
        }
    }
}
