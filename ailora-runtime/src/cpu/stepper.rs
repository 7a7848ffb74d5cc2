//! Training steps on the processor: gradients in host memory, moments in the optimiser's own.

use std::collections::VecDeque;

use ailora_graph::grad::gradient_name;
use indexmap::IndexMap;

use super::{Cpu, execute, run_in};
use crate::{
    backend::{BackendError, Share, Stepper, Update, Updated},
    collective::Collective,
    optim::{AdamW, Moments, global_norm},
    run::Run,
    weights::Weights,
};

/// The gradients of a step, and what steps that nobody asked about came to.
#[derive(Debug, Default)]
pub(super) struct Training {
    gradients: IndexMap<String, Vec<f32>>,
    losses: Vec<f32>,
    done: VecDeque<Updated>,
}

impl Training {
    fn new(adamw: &AdamW) -> Self {
        let zeros =
            |(name, moments): (&String, &Moments)| (name.clone(), vec![0.0; moments.first.len()]);
        Self {
            gradients: adamw.moments().iter().map(zeros).collect(),
            ..Self::default()
        }
    }
}

fn missing() -> BackendError {
    BackendError::NoOutput("loss".into())
}

impl Stepper for Cpu {
    fn steps_ahead(&self) -> usize {
        0
    }

    fn accumulate(
        &mut self,
        adamw: &AdamW,
        run: Run<'_, '_>,
        share: Share,
    ) -> Result<(), BackendError> {
        let training = self.training.get_or_insert_with(|| Training::new(adamw));
        let params = run.weights.arrays();
        let storage = &mut self.storage;
        let outputs = run_in(storage, run.plan, params, run.inputs, |step, memory| {
            execute(step, memory, run.draw);
        })?;
        let loss = outputs.get("loss").and_then(<[f32]>::first);
        let loss = *loss.ok_or_else(missing)?;
        if share.first {
            training.losses = vec![0.0; share.of];
        }
        training.losses[share.index] = loss;
        let is_first = share.first;
        let share = share.weight;
        for (name, sum) in &mut training.gradients {
            let output = gradient_name(name);
            let gradient = outputs.get(&output);
            let gradient = gradient.ok_or(BackendError::NoOutput(output))?;
            for (sum, &g) in sum.iter_mut().zip(gradient) {
                *sum = if is_first {
                    share * g
                } else {
                    *sum + share * g
                };
            }
        }
        Ok(())
    }

    fn reduce(
        &mut self,
        adamw: &AdamW,
        _: Run<'_, '_>,
        ranks: &dyn Collective,
        of: usize,
    ) -> Result<(), BackendError> {
        let training = self.training.get_or_insert_with(|| Training::new(adamw));
        if !(0..of).any(|index| ranks.owns(index)) {
            training.losses = vec![0.0; of];
            let gradients = training.gradients.values_mut();
            gradients.for_each(|gradient| gradient.fill(0.0));
        }
        ranks.sum_f32(&mut training.losses)?;
        for gradient in training.gradients.values_mut() {
            ranks.sum_f32(gradient)?;
        }
        Ok(())
    }

    fn update(
        &mut self,
        adamw: &mut AdamW,
        weights: &mut Weights,
        update: Update,
    ) -> Result<(), BackendError> {
        let training = self.training.as_mut().ok_or_else(missing)?;
        let norm = global_norm(training.gradients.values().map(Vec::as_slice));
        let updated = norm.is_finite() && training.losses.iter().all(|loss| loss.is_finite());
        if updated && update.counts {
            // torch.nn.utils.clip_grad_norm_ divides by the norm plus 1e-6 too.
            let factor = update
                .clip
                .map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
            adamw.apply(update.step, weights, &training.gradients, update.lr, factor);
        }
        training.done.push_back(Updated {
            losses: training.losses.clone(),
            norm,
            updated,
        });
        Ok(())
    }

    fn wait(&mut self) -> Result<Updated, BackendError> {
        let training = self.training.as_mut();
        let done = training.and_then(|training| training.done.pop_front());
        done.ok_or_else(missing)
    }

    fn trained(&self) -> Result<IndexMap<String, (Vec<f32>, Moments)>, BackendError> {
        Ok(IndexMap::new())
    }

    fn restart(&mut self) {
        self.training = None;
    }
}
