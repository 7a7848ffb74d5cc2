use ailora_graph::{grad::gradient_name, ir::Draw};
use indexmap::IndexMap;
use thiserror::Error;

use super::{Checkpoint, CheckpointError};
use crate::{
    cpu::Value,
    engine::{Engine, EngineError, PlanId},
    optim::{AdamW, Moments, Schedule, global_norm},
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
    /// The program has no output of this name.
    #[error("the compiled program has no output `{0}`; training needs a loss and its gradients")]
    NoOutput(String),
}

/// Part of a step's batch: inputs for one compiled program.
#[derive(Debug)]
pub struct MicroBatch<'a> {
    /// The program: its outputs are `loss`, a mean over rows, and the gradients.
    pub plan: PlanId,
    /// Its inputs.
    pub inputs: Vec<(&'a str, Value<'a>)>,
    /// How many rows it has.
    pub rows: usize,
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
        }
    }

    /// One update from the mean gradient over all rows of the micro-batches.
    ///
    /// # Errors
    /// A micro-batch does not fit its program, or the loss or a gradient is not finite; nothing is
    /// updated then.
    pub fn step(&mut self, batch: &[MicroBatch<'_>]) -> Result<StepReport, TrainError> {
        let rows: usize = batch.iter().map(|micro| micro.rows).sum();
        let step = self.optimizer.step() + 1;
        let mut loss = 0.0;
        for (i, micro) in batch.iter().enumerate() {
            let outputs = self.engine.run(micro.plan, &micro.inputs, self.draw)?;
            self.draw.step += 1;
            let missing = || TrainError::NoOutput("loss".into());
            let micro_loss = outputs
                .get("loss")
                .and_then(<[f32]>::first)
                .ok_or_else(missing)?;
            let share = micro.rows as f64 / rows as f64;
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
        let gradient_norm = global_norm(self.gradients.values().map(Vec::as_slice));
        for (what, value) in [("loss", loss), ("gradient norm", gradient_norm)] {
            if !value.is_finite() {
                return Err(TrainError::NotFinite { step, what, value });
            }
        }
        // torch.nn.utils.clip_grad_norm_ divides by the norm plus 1e-6 too.
        let factor = self
            .clip
            .map_or(1.0, |clip| (clip / (gradient_norm + 1e-6)).min(1.0));
        let lr = self.lr * self.schedule.factor(step - 1);
        let weights = self.engine.weights_mut();
        self.optimizer.update(weights, &self.gradients, lr, factor);
        Ok(StepReport {
            step,
            loss,
            lr,
            gradient_norm,
            rows,
        })
    }

    /// How many updates were made.
    pub fn steps_done(&self) -> u64 {
        self.optimizer.step()
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to be run for evaluation.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The trained parameters by name.
    pub fn trained(&self) -> Params {
        let weights = self.engine.weights();
        self.gradients
            .keys()
            .filter_map(|name| Some((name.clone(), weights.get(name)?)))
            .collect()
    }

    /// Everything a resumed run needs of the trainer.
    pub fn checkpoint(&self) -> Checkpoint {
        let mut tensors = Params::new();
        for (name, array) in self.trained() {
            if let Some(moments) = self.optimizer.moments().get(&name) {
                let like = |data: &[f32]| Array {
                    shape: array.shape.clone(),
                    data: data.to_vec(),
                };
                tensors.insert(format!("adam.first.{name}"), like(&moments.first));
                tensors.insert(format!("adam.second.{name}"), like(&moments.second));
            }
            tensors.insert(format!("param.{name}"), array);
        }
        Checkpoint {
            tensors,
            step: self.optimizer.step(),
            draws: self.draw.step,
        }
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// The checkpoint lacks a parameter, or has it in another shape.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        let mut moments = IndexMap::new();
        let mut values = Vec::new();
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
        }
        for (name, value) in values {
            if !self.engine.weights_mut().set(&name, &value.data) {
                return Err(CheckpointError::Tensor { name });
            }
        }
        self.optimizer.restore(checkpoint.step, moments);
        self.draw.step = checkpoint.draws;
        Ok(())
    }
}
