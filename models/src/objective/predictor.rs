use std::{collections::HashMap, sync::Arc};

use ailora_graph::{
    adapter::{Site, Trainable},
    ir::{Draw, Program},
};
use ailora_runtime::{
    backend::Precision,
    collective::gather,
    engine::{Engine, EngineError, PlanId},
    passes::{LOSS, Passes},
    run::Outputs,
};

use super::{HeldOut, NotFinite, Objective, ObjectiveError};
use crate::{
    batch::{Batch, BatchError, Encoded, Plan, Shape},
    head::Head,
    metrics::MetricError,
    model::{Measures, Model},
};

/// The output that says how many labels are the tokens with the largest logits.
const MATCHES: &str = "matches";

/// What a model makes of held-out rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The mean loss over all targets, however many a batch has.
    pub loss: f64,
    /// The share of the targets that are predicted; none where they are no tokens.
    pub token_accuracy: Option<f64>,
    /// The logits of every row in the order of the rows, where the objective scores them; else none.
    pub logits: Vec<Vec<f32>>,
}

/// What a program is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    /// The head's outputs.
    Predict,
    /// The mean loss; of tokens, how many are predicted; and the head's outputs, if metrics read them.
    Evaluate,
    /// A training step: with dropout, the loss and its gradients.
    Train,
}

/// A model with adapters and an objective, compiled for shapes of input as they come.
#[derive(Debug)]
pub struct Predictor {
    model: Model,
    objective: Arc<dyn Objective>,
    sites: Vec<Site>,
    trainable: Trainable,
    pad_id: u32,
    plans: HashMap<(Shape, Pass), PlanId>,
}

impl Predictor {
    /// A model whose projections are as `sites` says, and of which `trainable` trains. Sequences are
    /// padded with `pad_id`.
    pub fn new(
        model: Model,
        objective: Arc<dyn Objective>,
        sites: Vec<Site>,
        trainable: Trainable,
        pad_id: u32,
    ) -> Self {
        Self {
            model,
            objective,
            sites,
            trainable,
            pad_id,
            plans: HashMap::new(),
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What it is for.
    pub fn objective(&self) -> &Arc<dyn Objective> {
        &self.objective
    }

    /// The projections.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The program of a pass over a batch of a shape, in the form that is computed at `precision`.
    ///
    /// # Errors
    /// The model cannot be built for this shape, or the adapters do not fit.
    pub fn program(
        &self,
        shape: Shape,
        pass: Pass,
        precision: Precision,
    ) -> Result<Program, ObjectiveError> {
        let measures: &Measures<'_> = &|logits, shape| {
            let loss = self.objective.loss(logits, shape);
            let matches = match pass {
                Pass::Evaluate => self.objective.matches(logits, shape),
                Pass::Predict | Pass::Train => None,
            };
            let matches = matches.map(|matches| (MATCHES, matches));
            [(LOSS, loss)].into_iter().chain(matches).collect()
        };
        let measures = (pass != Pass::Predict).then_some(measures);
        let training = pass == Pass::Train;
        let mut program = self.model.program_with(shape, training, measures)?;
        let passes = Passes {
            sites: &self.sites,
            trainable: &self.trainable,
            precision,
        };
        if pass == Pass::Evaluate && !self.objective.scores_logits() {
            program.retain_outputs(|name| [LOSS, MATCHES].contains(&name));
        }
        Ok(match training {
            true => passes.step(&program)?,
            false => passes.inference(&program)?,
        })
    }

    /// The compiled program of a pass over a batch of a shape.
    ///
    /// # Errors
    /// Those of [`program`](Self::program), or a parameter that is missing.
    pub fn plan(
        &mut self,
        engine: &mut Engine,
        shape: Shape,
        pass: Pass,
    ) -> Result<PlanId, ObjectiveError> {
        if let Some(id) = self.compiled(shape, pass) {
            return Ok(id);
        }
        let precision = engine.backend().precision();
        let program = self.program(shape, pass, precision)?;
        let id = engine.compile(&program)?;
        self.plans.insert((shape, pass), id);
        Ok(id)
    }

    /// The program of a pass, if it was compiled.
    pub fn compiled(&self, shape: Shape, pass: Pass) -> Option<PlanId> {
        self.plans.get(&(shape, pass)).copied()
    }

    /// The sizes of the program for a batch.
    pub fn shape(&self, plan: &Plan, rows: &[Encoded]) -> Shape {
        let rows: Vec<&Encoded> = plan.indices.iter().map(|&row| &rows[row]).collect();
        self.objective.shape(&rows, plan.len)
    }

    /// A padded batch with its targets.
    ///
    /// # Errors
    /// A row that is too long, or without a target.
    pub fn batch(&self, plan: &Plan, rows: &[Encoded], draw: Draw) -> Result<Batch, BatchError> {
        let mut batch = self.padded(plan, rows)?;
        let rows: Vec<&Encoded> = plan.indices.iter().map(|&row| &rows[row]).collect();
        self.objective.prepare(&mut batch, &rows, draw)?;
        Ok(batch)
    }

    /// A padded batch. Only causal attention keeps the documents of a row apart.
    fn padded(&self, plan: &Plan, rows: &[Encoded]) -> Result<Batch, BatchError> {
        let head = self.model.head();
        let parts = |index: usize| rows.get(index).map_or(0, |row| row.encoding.parts.len());
        let packed = plan.indices.iter().find(|&&index| parts(index) > 1);
        match packed {
            Some(&index) if head != Head::CausalLm => Err(BatchError::Packed {
                index,
                documents: parts(index),
                head: head.to_string(),
            }),
            _ => Batch::new(plan, rows, self.pad_id),
        }
    }

    /// The logits of every row in the order of the rows; those of a head with several outputs one
    /// after the other.
    ///
    /// # Errors
    /// A row is too long, or has an id that the model does not know; a logit that is not finite.
    pub fn logits(
        &mut self,
        engine: &mut Engine,
        rows: &[Encoded],
        batches: &[Plan],
    ) -> Result<Vec<Vec<f32>>, ObjectiveError> {
        let mut logits = vec![Vec::new(); rows.len()];
        let ranks = engine.ranks().clone();
        for (index, plan) in batches.iter().enumerate() {
            if !ranks.owns(index) {
                continue;
            }
            let batch = self.padded(plan, rows)?;
            let shape = self.shape(plan, rows);
            let found = self.outputs(engine, shape, &batch)?;
            for (&row, found) in batch.indices.iter().zip(found) {
                logits[row] = found;
            }
        }
        whole(engine, &mut logits)?;
        Ok(logits)
    }

    /// What the head puts out for each row of a batch, as [`logits`](Self::logits) has it.
    ///
    /// # Errors
    /// An id that the model does not know.
    pub fn outputs(
        &mut self,
        engine: &mut Engine,
        shape: Shape,
        batch: &Batch,
    ) -> Result<Vec<Vec<f32>>, ObjectiveError> {
        let plan = self.plan(engine, shape, Pass::Predict)?;
        let inputs = self.model.inputs(batch);
        self.rows(engine.run(plan, &inputs.values(), Draw::default())?, batch)
    }

    /// The head's outputs for each row of a batch.
    fn rows(&self, results: Outputs<'_>, batch: &Batch) -> Result<Vec<Vec<f32>>, ObjectiveError> {
        let mut rows = vec![Vec::new(); batch.rows];
        for name in self.model.head().output_names() {
            let found = results.output(name).map_err(EngineError::from)?;
            let outputs = (found.len() / batch.rows.max(1)).max(1);
            for (row, found) in rows.iter_mut().zip(found.chunks_exact(outputs)) {
                row.extend_from_slice(found);
            }
        }
        Ok(rows)
    }

    /// What the model makes of held-out rows and their targets.
    ///
    /// # Errors
    /// As [`logits`](Self::logits), a row without a target, or no targets at all.
    pub fn score(
        &mut self,
        engine: &mut Engine,
        split: &HeldOut,
    ) -> Result<Scored, ObjectiveError> {
        let mut sums = Sums::default();
        let mut logits = Vec::new();
        if self.objective.scores_logits() {
            logits.resize(split.rows.len(), Vec::new());
        }
        let ranks = engine.ranks().clone();
        for (plan, step) in split.batches.iter().zip(0..) {
            if !ranks.owns(step as usize) {
                continue;
            }
            let seed = split.seed;
            let batch = self.batch(plan, &split.rows, Draw { seed, step })?;
            let shape = self.shape(plan, &split.rows);
            let id = self.plan(engine, shape, Pass::Evaluate)?;
            let inputs = self.model.inputs(&batch);
            let results = engine.run(id, &inputs.values(), Draw::default())?;
            let sum = |found: &[f32]| found.iter().map(|&x| f64::from(x)).sum::<f64>();
            let loss = sum(results.output(LOSS).map_err(EngineError::from)?);
            sums.add(loss, results.get(MATCHES).map(sum), batch.targets.count);
            if self.objective.scores_logits() {
                let found = self.rows(results, &batch)?;
                let rows = batch.indices.iter().zip(found);
                rows.for_each(|(&row, found)| logits[row] = found);
            }
        }
        whole(engine, &mut logits)?;
        ranks.sum_f64(&mut sums.0).map_err(EngineError::from)?;
        let (loss, token_accuracy) = sums.means().ok_or(MetricError::Empty)?;
        match loss.is_finite() {
            true => Ok(Scored {
                loss,
                token_accuracy,
                logits,
            }),
            false => Err(ObjectiveError::Loss {
                value: loss,
                cause: NotFinite::of(engine.weights()),
            }),
        }
    }
}

/// Makes the logits of some rows those of all, from all ranks.
///
/// # Errors
/// A logit is not finite.
fn whole(engine: &Engine, logits: &mut [Vec<f32>]) -> Result<(), ObjectiveError> {
    gather(&**engine.ranks(), logits).map_err(EngineError::from)?;
    let odd = logits.iter().enumerate().find_map(|(row, logits)| {
        let value = logits.iter().find(|x| !x.is_finite())?;
        Some((row, *value))
    });
    match odd {
        None => Ok(()),
        Some((row, value)) => {
            let cause = NotFinite::of(engine.weights());
            Err(ObjectiveError::NotFinite { row, value, cause })
        }
    }
}

/// Sums over targets: of their losses, and their number; of those that are predicted, and the number of
/// those of which that is counted.
#[derive(Debug, Default)]
struct Sums([f64; 4]);

impl Sums {
    /// Adds a batch, given its mean loss and, if that is counted, how many of its targets are predicted.
    fn add(&mut self, loss: f64, matches: Option<f64>, targets: usize) {
        // The mean over no targets is no number.
        if targets == 0 {
            return;
        }
        let targets = targets as f64;
        let counted = matches.map_or(0.0, |_| targets);
        let terms = [loss * targets, targets, matches.unwrap_or(0.0), counted];
        let Self(sums) = self;
        sums.iter_mut()
            .zip(terms)
            .for_each(|(sum, term)| *sum += term);
    }

    /// The mean loss and the share of what is predicted, if there are any targets.
    fn means(&self) -> Option<(f64, Option<f64>)> {
        let [loss, targets, matches, counted] = self.0;
        let mean = |sum: f64, count: f64| (count > 0.0).then(|| sum / count);
        Some((mean(loss, targets)?, mean(matches, counted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four tokens of loss 2 and one of loss 6: neither the mean of the batches' means, 4, nor the mean of
    /// their perplexities, 205.41. A batch without any changes nothing.
    #[test]
    fn a_mean_is_over_tokens_and_not_over_batches() {
        let mut sums = Sums::default();
        sums.add(2.0, Some(3.0), 4);
        sums.add(f64::NAN, Some(0.0), 0);
        sums.add(6.0, Some(0.0), 1);
        let (loss, share) = sums.means().unwrap();
        assert!((loss - 2.8).abs() < 1e-12, "{loss}");
        assert!((loss.exp() - 16.444646771097048).abs() < 1e-9);
        assert_eq!(share, Some(0.6));
        let mut sums = Sums::default();
        assert_eq!(sums.means(), None);
        sums.add(0.5, None, 2);
        assert_eq!(sums.means(), Some((0.5, None)));
    }
}
