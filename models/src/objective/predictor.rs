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

/// Means over the targets of held-out rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Means {
    /// The loss.
    pub loss: f64,
    /// The share of tokens that are predicted; none where the targets are no tokens.
    pub token_accuracy: Option<f64>,
}

/// What a program is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    /// The head's outputs.
    Predict,
    /// The mean loss and, of tokens, how many are predicted, without the logits.
    Loss,
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
                Pass::Loss => self.objective.matches(logits, shape),
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
        if pass == Pass::Loss {
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
        gather(&*ranks, &mut logits).map_err(EngineError::from)?;
        let odd = logits.iter().enumerate().find_map(|(row, logits)| {
            let value = logits.iter().find(|x| !x.is_finite())?;
            Some((row, *value))
        });
        if let Some((row, value)) = odd {
            let cause = NotFinite::of(engine.weights());
            return Err(ObjectiveError::NotFinite { row, value, cause });
        }
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
        let results = engine.run(plan, &inputs.values(), Draw::default())?;
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

    /// Means over all targets of held-out rows, however many a batch has.
    ///
    /// # Errors
    /// As [`logits`](Self::logits), and a row without a target.
    pub fn means(&mut self, engine: &mut Engine, split: &HeldOut) -> Result<Means, ObjectiveError> {
        // Of the loss, of what is predicted, and the number of the targets.
        let mut totals = [0.0; 3];
        let mut counts_matches = false;
        let ranks = engine.ranks().clone();
        for (plan, step) in split.batches.iter().zip(0..) {
            let shape = self.shape(plan, &split.rows);
            let id = self.plan(engine, shape, Pass::Loss)?;
            counts_matches |= engine.plan(id).outputs.contains_key(MATCHES);
            if !ranks.owns(step as usize) {
                continue;
            }
            let seed = split.seed;
            let batch = self.batch(plan, &split.rows, Draw { seed, step })?;
            // The mean over no targets is no number.
            if batch.targets.count == 0 {
                continue;
            }
            let count = batch.targets.count as f64;
            let inputs = self.model.inputs(&batch);
            let results = engine.run(id, &inputs.values(), Draw::default())?;
            let sum = |name: &str| -> Result<f64, EngineError> {
                let found = results.output(name).map_err(EngineError::from)?;
                Ok(found.iter().map(|&x| f64::from(x)).sum())
            };
            totals[0] += sum(LOSS)? * count;
            if counts_matches {
                totals[1] += sum(MATCHES)?;
            }
            totals[2] += count;
        }
        ranks.sum_f64(&mut totals).map_err(EngineError::from)?;
        let [loss, matches, count] = totals;
        if count == 0.0 {
            return Err(MetricError::Empty.into());
        }
        let (value, share) = (loss / count, matches / count);
        match value.is_finite() {
            true => Ok(Means {
                loss: value,
                token_accuracy: counts_matches.then_some(share),
            }),
            false => Err(ObjectiveError::Loss {
                value,
                cause: NotFinite::of(engine.weights()),
            }),
        }
    }
}
