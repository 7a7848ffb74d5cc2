use ailora_graph::{grad::gradient_name, ir::Draw};
use indexmap::IndexMap;
use thiserror::Error;

use super::{Checkpoint, CheckpointError};
#[cfg(feature = "cuda")]
use crate::{backend::Backend, cuda};
use crate::{
    engine::{Engine, EngineError, PlanId},
    optim::{AdamW, Moments, Schedule, global_norm},
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
    /// The device failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] cuda::CudaError),
    /// The program has no output of this name.
    #[error("the compiled program has no output `{0}`; training needs a loss and its gradients")]
    NoOutput(String),
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

/// The base rate `lr` at a step; none where nothing counts, so that momentum alone moves nothing.
fn rate(lr: f64, schedule: Schedule, step: u64, batch: &[MicroBatch<'_>]) -> f64 {
    match batch.iter().all(|micro| micro.targets == 0) {
        true => 0.0,
        false => lr * schedule.factor(step - 1),
    }
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
    gradients: IndexMap<String, Vec<f32>>,
    lr: f64,
    schedule: Schedule,
    clip: Option<f64>,
    draw: Draw,
    /// What was trained when [`keep`](Trainer::keep) was last called.
    kept: Option<Params>,
    /// The gradients and the optimiser's state, where a device has them.
    #[cfg(feature = "cuda")]
    on_device: Option<cuda::Optimizer>,
    /// The step after which the engine's weights were last fetched from there.
    #[cfg(feature = "cuda")]
    fetched: Option<u64>,
}

/// A step that a device makes.
#[cfg(feature = "cuda")]
#[derive(Debug)]
struct Queued {
    on_device: cuda::Queued,
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
    #[cfg(feature = "cuda")]
    queued: Option<Queued>,
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
        let zeros =
            |(name, moments): (&String, &Moments)| (name.clone(), vec![0.0; moments.first.len()]);
        Self {
            gradients: optimizer.moments().iter().map(zeros).collect(),
            engine,
            optimizer,
            lr,
            schedule,
            clip,
            draw: Draw { seed, step: 0 },
            kept: None,
            #[cfg(feature = "cuda")]
            on_device: None,
            #[cfg(feature = "cuda")]
            fetched: None,
        }
    }

    /// One update from the mean gradient over all targets of the micro-batches, however these are cut.
    ///
    /// # Errors
    /// A micro-batch does not fit its program, or the loss or a gradient is not finite; nothing is
    /// updated then.
    pub fn step(&mut self, batch: &[MicroBatch<'_>]) -> Result<StepReport, TrainError> {
        #[cfg(feature = "cuda")]
        if self.engine.device().is_some() {
            let queued = self.queue(batch, false)?;
            return self.wait(queued);
        }
        self.step_here(batch)
    }

    /// Steps one behind the other, without waiting for each.
    pub fn steps(&mut self) -> Steps<'_> {
        Steps {
            trainer: self,
            #[cfg(feature = "cuda")]
            queued: None,
        }
    }

    fn step_here(&mut self, batch: &[MicroBatch<'_>]) -> Result<StepReport, TrainError> {
        let mut loss = 0.0;
        for (i, (micro, share)) in batch.iter().zip(shares(batch)).enumerate() {
            let outputs = self.engine.run(micro.plan, &micro.inputs, self.draw)?;
            self.draw.step += 1;
            let missing = || TrainError::NoOutput("loss".into());
            let micro_loss = outputs
                .get("loss")
                .and_then(<[f32]>::first)
                .ok_or_else(missing)?;
            loss += share * f64::from(*micro_loss);
            let share = share as f32;
            for (name, sum) in &mut self.gradients {
                let output = gradient_name(name);
                let gradient = outputs.get(&output).ok_or(TrainError::NoOutput(output))?;
                for (sum, &g) in sum.iter_mut().zip(gradient) {
                    *sum = if i == 0 { share * g } else { *sum + share * g };
                }
            }
        }
        let step = self.optimizer.step() + 1;
        let report = StepReport {
            step,
            loss,
            lr: rate(self.lr, self.schedule, step, batch),
            gradient_norm: global_norm(self.gradients.values().map(Vec::as_slice)),
            rows: batch.iter().map(|micro| micro.rows).sum(),
            targets: batch.iter().map(|micro| micro.targets).sum(),
        };
        report.finite()?;
        // torch.nn.utils.clip_grad_norm_ divides by the norm plus 1e-6 too.
        let factor = self
            .clip
            .map_or(1.0, |clip| (clip / (report.gradient_norm + 1e-6)).min(1.0));
        let weights = self.engine.weights_mut();
        self.optimizer
            .update(weights, &self.gradients, report.lr, factor);
        Ok(report)
    }

    /// Queues a step on the device; `follows` says whether there is one that is not waited for yet.
    #[cfg(feature = "cuda")]
    fn queue(&mut self, batch: &[MicroBatch<'_>], follows: bool) -> Result<Queued, TrainError> {
        let missing = || TrainError::NoOutput("loss".into());
        let (cuda, plans, weights) = self.engine.device().ok_or_else(missing)?;
        let shares = shares(batch);
        for (index, (micro, &share)) in batch.iter().zip(&shares).enumerate() {
            let share = cuda::Share {
                index,
                of: batch.len(),
                weight: share as f32,
            };
            let id = micro.plan.0;
            cuda.accumulate(
                &mut self.on_device,
                &self.optimizer,
                (id, &plans[id]),
                weights,
                &micro.inputs,
                self.draw,
                share,
            )?;
            self.draw.step += 1;
        }
        let state = self.on_device.as_mut().ok_or_else(missing)?;
        let step = self.optimizer.step() + 1 + u64::from(follows);
        let lr = rate(self.lr, self.schedule, step, batch);
        let config = self.optimizer.config();
        let count = batch.len();
        let on_device = cuda.update(state, config, step, lr, self.clip, count, follows)?;
        Ok(Queued {
            on_device,
            step,
            lr,
            rows: batch.iter().map(|micro| micro.rows).sum(),
            targets: batch.iter().map(|micro| micro.targets).sum(),
            shares,
        })
    }

    /// Waits for a step on the device.
    #[cfg(feature = "cuda")]
    fn wait(&mut self, queued: Queued) -> Result<StepReport, TrainError> {
        let Queued {
            on_device,
            step,
            lr,
            rows,
            targets,
            shares,
        } = queued;
        let missing = || TrainError::NoOutput("loss".into());
        let state = self.on_device.as_mut().ok_or_else(missing)?;
        let found = state.wait(on_device)?;
        let losses = shares.iter().zip(&found.losses);
        let losses = losses.map(|(share, &loss)| share * f64::from(loss));
        let report = StepReport {
            step,
            loss: losses.sum(),
            lr,
            gradient_norm: found.norm,
            rows,
            targets,
        };
        report.finite()?;
        if found.updated {
            self.optimizer.advance();
        }
        Ok(report)
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
        #[cfg(feature = "cuda")]
        if self.on_device.is_some() && self.fetched != Some(self.optimizer.step()) {
            for (name, array) in self.trained()? {
                self.engine.weights_mut().mirror(&name, &array.data);
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
            let like = |data| Array {
                shape: array.shape.clone(),
                data,
            };
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
        #[cfg(feature = "cuda")]
        let mut there = match (self.engine.backend(), &self.on_device) {
            (Backend::Cuda(cuda), Some(state)) => cuda.trained(state)?,
            _ => IndexMap::new(),
        };
        #[cfg(not(feature = "cuda"))]
        let mut there: IndexMap<String, (Vec<f32>, Moments)> = IndexMap::new();
        let moments = self.optimizer.moments();
        Ok(self.gradients.keys().filter_map(move |name| {
            let mut array = self.engine.weights().get(name)?;
            let moments = match there.swap_remove(name) {
                Some((data, moments)) => {
                    array.data = data;
                    moments
                }
                None => moments.get(name)?.clone(),
            };
            Some((name.clone(), array, moments))
        }))
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
            found.any(|name| self.gradients.contains_key(name))
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
        for (name, gradient) in &self.gradients {
            let take = |prefix: &str| {
                let full = format!("{prefix}.{name}");
                checkpoint
                    .tensors
                    .get(&full)
                    .filter(|array| array.data.len() == gradient.len())
                    .ok_or(CheckpointError::Tensor { name: full })
            };
            let first = take("adam.first")?.data.clone();
            let second = take("adam.second")?.data.clone();
            moments.insert(name.clone(), Moments { first, second });
            values.push((name.clone(), take("param")?.clone()));
            if has_kept {
                kept.insert(name.clone(), take("kept")?.clone());
            }
        }
        for (name, value) in values {
            if !self.engine.weights_mut().set(&name, &value.data) {
                return Err(CheckpointError::Tensor { name });
            }
        }
        self.kept = has_kept.then_some(kept);
        self.optimizer.restore(checkpoint.step, moments);
        self.draw.step = checkpoint.draws;
        #[cfg(feature = "cuda")]
        {
            self.on_device = None;
            self.fetched = None;
        }
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
        #[cfg(feature = "cuda")]
        if self.trainer.engine.device().is_some() {
            let next = self.trainer.queue(batch, self.queued.is_some())?;
            let last = self.queued.replace(next);
            return last.map(|last| self.trainer.wait(last)).transpose();
        }
        self.trainer.step_here(batch).map(Some)
    }

    /// Waits for the step that is still on its way, if one is.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn finish(&mut self) -> Result<Option<StepReport>, TrainError> {
        #[cfg(feature = "cuda")]
        if let Some(last) = self.queued.take() {
            return self.trainer.wait(last).map(Some);
        }
        Ok(None)
    }
}

impl Drop for Steps<'_> {
    /// A step that nobody asked about is made all the same.
    fn drop(&mut self) {
        self.finish().ok();
    }
}
