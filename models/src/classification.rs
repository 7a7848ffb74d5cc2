//! Sequence classification as a workload: rows of a task through a model, for training and for
//! prediction.

use std::{collections::HashMap, fmt};

use ailora_graph::{
    adapter::{Site, Trainable},
    ir::{Draw, Program},
};
use ailora_runtime::{
    backend::Precision,
    engine::{Engine, EngineError, PlanId},
    passes::{PassError, Passes},
    train::{Batches, MicroBatch, Workload},
    weights::Weights,
};
use indexmap::IndexMap;
use thiserror::Error;

use crate::{
    batch::{
        Batch, BatchError, Buckets, Encoded, Plan, Shape, Targets, evaluation, training_epoch,
    },
    family::Inputs,
    metrics::{Metric, MetricError, argmax},
    model::{Model, ModelError},
    task::{Label, Task, in_task_order},
};

/// The most sequence lengths that programs are compiled for.
const MAX_BUCKETS: usize = 8;

/// Rows that cannot be trained on or predicted.
#[derive(Debug, Error)]
pub enum ClassificationError {
    /// The model cannot be built for a shape.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapters do not fit the model, or its loss cannot be differentiated.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A program cannot be compiled or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Rows cannot be batched.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A shape that [`Classification::compile`] was not told of.
    #[error("no program was compiled for {rows} rows of {len} tokens; compile every epoch first")]
    NotCompiled {
        /// Rows of the batch.
        rows: usize,
        /// Tokens of a row.
        len: usize,
    },
    /// A logit is infinite or not a number.
    #[error("a logit of row {row} is {value}: {cause}")]
    NotFinite {
        /// The row, from 0.
        row: usize,
        /// The logit.
        value: f32,
        /// Where that may come from.
        cause: NotFinite,
    },
    /// Predictions cannot be scored.
    #[error(transparent)]
    Metric(#[from] MetricError),
}

/// Where logits that are not finite come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFinite(Option<String>);

impl NotFinite {
    /// In a model with these parameters.
    pub fn of(weights: &Weights) -> Self {
        Self(weights.not_finite())
    }
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(
                f,
                "the parameter `{name}` has values that are infinite or NaN; load other weights"
            ),
            None => f.write_str(
                "all parameters are finite, so that values overflow on the way; the model or the \
                 adapter has diverged",
            ),
        }
    }
}

/// A model with adapters, compiled for shapes of input as they come.
#[derive(Debug)]
pub struct Predictor {
    model: Model,
    sites: Vec<Site>,
    trainable: Trainable,
    pad_id: u32,
    order: Option<Vec<usize>>,
    plans: HashMap<(usize, usize, bool), PlanId>,
}

impl Predictor {
    /// A model whose projections are as `sites` says, and of which `trainable` trains. Sequences are
    /// padded with `pad_id`.
    pub fn new(model: Model, sites: Vec<Site>, trainable: Trainable, pad_id: u32) -> Self {
        Self {
            model,
            sites,
            trainable,
            pad_id,
            order: None,
            plans: HashMap::new(),
        }
    }

    /// This predictor of a model whose head has the task's classes in this order, as
    /// [`Task::order`] gives it.
    pub fn with_order(mut self, order: Option<Vec<usize>>) -> Self {
        self.order = order;
        self
    }

    /// Rows of logits, each class where the task has it.
    ///
    /// # Shapes
    /// `[rows, outputs]`, as the result
    pub fn in_task_order(&self, logits: &[f32]) -> Vec<f32> {
        in_task_order(self.order.as_deref(), logits)
    }

    /// The class of the task that a row of logits says.
    pub fn class(&self, logits: &[f32]) -> usize {
        argmax(&self.in_task_order(logits))
    }

    /// A batch's inputs, with its classes as the head has them.
    fn inputs(&self, mut batch: Batch) -> Inputs {
        if let (Some(order), Targets::Classes(classes)) = (&self.order, &mut batch.targets) {
            let place = |class: &i32| order.get(usize::try_from(*class).ok()?).copied();
            for class in classes {
                *class = place(class).map_or(*class, |output| output as i32);
            }
        }
        self.model.inputs(&batch)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The projections.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The program for `rows` sequences of `len` tokens, with dropout, the loss and its gradients if
    /// `training`, in the form that is computed at `precision`.
    ///
    /// # Errors
    /// The model cannot be built for this shape, or the adapters do not fit.
    pub fn program(
        &self,
        rows: usize,
        len: usize,
        training: bool,
        precision: Precision,
    ) -> Result<Program, ClassificationError> {
        let program = self
            .model
            .program(Shape::new(rows, len), training, training)?;
        let passes = Passes {
            sites: &self.sites,
            trainable: &self.trainable,
            precision,
        };
        Ok(match training {
            true => passes.step(&program)?,
            false => passes.inference(&program)?,
        })
    }

    /// The compiled program for a shape.
    ///
    /// # Errors
    /// Those of [`program`](Self::program), or a parameter that is missing.
    pub fn plan(
        &mut self,
        engine: &mut Engine,
        rows: usize,
        len: usize,
        training: bool,
    ) -> Result<PlanId, ClassificationError> {
        let key = (rows, len, training);
        if let Some(&id) = self.plans.get(&key) {
            return Ok(id);
        }
        let precision = engine.backend().precision();
        let program = self.program(rows, len, training, precision)?;
        let id = engine.compile(&program)?;
        self.plans.insert(key, id);
        Ok(id)
    }

    /// The logits of every row, in the order of the rows and of the model's outputs.
    ///
    /// # Errors
    /// A row is too long, or has an id that the model does not know.
    pub fn logits(
        &mut self,
        engine: &mut Engine,
        rows: &[Encoded],
        batches: &[Plan],
    ) -> Result<Vec<f32>, ClassificationError> {
        let mut logits = vec![Vec::new(); rows.len()];
        for batch in batches {
            let batch = Batch::new(batch, rows, self.pad_id)?;
            let plan = self.plan(engine, batch.rows, batch.len, false)?;
            let inputs = self.model.inputs(&batch);
            let results = engine.run(plan, &inputs.values(), Draw::default())?;
            let found = results.output("logits").map_err(EngineError::from)?;
            let outputs = (found.len() / batch.rows.max(1)).max(1);
            for (&row, found) in batch.indices.iter().zip(found.chunks_exact(outputs)) {
                logits[row] = found.to_vec();
            }
        }
        let odd = logits.iter().enumerate().find_map(|(row, logits)| {
            let value = logits.iter().find(|x| !x.is_finite())?;
            Some((row, *value))
        });
        if let Some((row, value)) = odd {
            let cause = NotFinite::of(engine.weights());
            return Err(ClassificationError::NotFinite { row, value, cause });
        }
        Ok(logits.concat())
    }
}

/// Rows of one held-out split.
#[derive(Debug)]
struct HeldOut {
    name: String,
    rows: Vec<Encoded>,
    labels: Vec<Label>,
    batches: Vec<Plan>,
}

/// A task's rows through a model.
#[derive(Debug)]
pub struct Classification {
    task: &'static Task,
    predictor: Predictor,
    train: Vec<Encoded>,
    lengths: Vec<usize>,
    buckets: Buckets,
    batch_size: usize,
    accumulate: usize,
    seed: u64,
    held_out: Vec<HeldOut>,
}

/// How rows are batched.
#[derive(Clone, Copy, Debug)]
pub struct Batching {
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// The longest sequence.
    pub max_len: usize,
    /// What fixes the order.
    pub seed: u64,
}

impl Classification {
    /// A workload over training rows and named held-out splits.
    ///
    /// # Errors
    /// A row is longer than the limit, or a batch size of zero.
    pub fn new(
        task: &'static Task,
        predictor: Predictor,
        train: Vec<Encoded>,
        held_out: IndexMap<&str, Vec<Encoded>>,
        batching: Batching,
    ) -> Result<Self, ClassificationError> {
        let Batching {
            batch_size,
            accumulate,
            max_len,
            seed,
        } = batching;
        let lengths: Vec<usize> = train.iter().map(Encoded::tokens).collect();
        let others = held_out.values().flatten().map(Encoded::tokens);
        let all: Vec<usize> = lengths.iter().copied().chain(others).collect();
        let buckets = Buckets::choose(&all, max_len, MAX_BUCKETS)?;
        let held_out = held_out
            .into_iter()
            .map(|(name, rows)| {
                let lengths: Vec<usize> = rows.iter().map(Encoded::tokens).collect();
                Ok(HeldOut {
                    name: name.to_owned(),
                    labels: rows.iter().filter_map(|row| row.label).collect(),
                    batches: evaluation(&lengths, &buckets, batch_size)?,
                    rows,
                })
            })
            .collect::<Result<_, ClassificationError>>()?;
        Ok(Self {
            task,
            predictor,
            train,
            lengths,
            buckets,
            batch_size,
            accumulate: accumulate.max(1),
            seed,
            held_out,
        })
    }

    /// Compiles every shape that the epochs and the evaluations will need, before the first step. The
    /// largest step decides where parameters lie.
    ///
    /// # Errors
    /// A shape cannot be built.
    pub fn compile(
        &mut self,
        engine: &mut Engine,
        epochs: usize,
    ) -> Result<(), ClassificationError> {
        let mut shapes: Vec<(usize, usize, bool)> = Vec::new();
        for epoch in 0..epochs {
            let plans = self.epoch_plans(epoch)?;
            shapes.extend(
                plans
                    .iter()
                    .map(|plan| (plan.indices.len(), plan.len, true)),
            );
        }
        let batches = self.held_out.iter().flat_map(|split| &split.batches);
        shapes.extend(batches.map(|plan| (plan.indices.len(), plan.len, false)));
        shapes.sort_unstable();
        shapes.dedup();
        let steps = shapes.iter().filter(|(_, _, training)| *training);
        if let Some(&(rows, len, _)) = steps.max_by_key(|(rows, len, _)| rows * len) {
            let precision = engine.backend().precision();
            engine.lay_out(&self.predictor.program(rows, len, true, precision)?)?;
        }
        for (rows, len, training) in shapes {
            self.predictor.plan(engine, rows, len, training)?;
        }
        Ok(())
    }

    /// The model with its adapters.
    pub fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    fn epoch_plans(&self, epoch: usize) -> Result<Vec<Plan>, BatchError> {
        training_epoch(
            &self.lengths,
            &self.buckets,
            self.batch_size,
            self.seed,
            epoch as u64,
        )
    }
}

/// The prepared inputs of one step.
#[derive(Debug)]
pub struct Prepared(Vec<Part>);

/// The prepared inputs of one micro-batch.
#[derive(Debug)]
struct Part {
    plan: PlanId,
    inputs: Inputs,
    rows: usize,
    targets: usize,
}

impl Workload for Classification {
    type Batch = Prepared;
    type Error = ClassificationError;

    fn steps_per_epoch(&self) -> u64 {
        self.train
            .len()
            .div_ceil(self.batch_size)
            .div_ceil(self.accumulate) as u64
    }

    fn epoch(
        &mut self,
        epoch: usize,
        skip: u64,
    ) -> Result<Batches<'_, Prepared, ClassificationError>, ClassificationError> {
        let plans = self.epoch_plans(epoch)?;
        let steps: Vec<Vec<Plan>> = plans
            .chunks(self.accumulate)
            .map(<[Plan]>::to_vec)
            .skip(skip as usize)
            .collect();
        let Self {
            predictor, train, ..
        } = self;
        Ok(Box::new(steps.into_iter().map(move |step| {
            let prepared = step.iter().map(|plan| {
                let batch = Batch::new(plan, train, predictor.pad_id)?;
                let key = (batch.rows, batch.len, true);
                let plan = predictor.plans.get(&key).copied();
                let plan = plan.ok_or(ClassificationError::NotCompiled {
                    rows: batch.rows,
                    len: batch.len,
                })?;
                Ok(Part {
                    plan,
                    rows: batch.rows,
                    targets: predictor.model.targets(&batch),
                    inputs: predictor.inputs(batch),
                })
            });
            Ok(Prepared(
                prepared.collect::<Result<_, ClassificationError>>()?,
            ))
        })))
    }

    fn micro_batches<'a>(batch: &'a Prepared) -> Vec<MicroBatch<'a>> {
        let micro = |part: &'a Part| MicroBatch {
            plan: part.plan,
            inputs: part.inputs.values(),
            rows: part.rows,
            targets: part.targets,
        };
        batch.0.iter().map(micro).collect()
    }

    fn evaluate(
        &mut self,
        engine: &mut Engine,
    ) -> Result<IndexMap<String, f64>, ClassificationError> {
        let several = self.held_out.len() > 1;
        let mut metrics = IndexMap::new();
        for split in &self.held_out {
            let logits = self.predictor.logits(engine, &split.rows, &split.batches)?;
            let logits = self.predictor.in_task_order(&logits);
            for (name, value) in self.task.score(&logits, &split.labels)? {
                let name = if several {
                    format!("{}_{name}", split.name)
                } else {
                    name
                };
                metrics.insert(name, value);
            }
        }
        Ok(metrics)
    }
}

impl Classification {
    /// The metric that makes the best epoch: the task's first, on its first split, if it has both.
    pub fn headline(&self) -> Option<String> {
        let name = self.task.headline().map(Metric::name)?;
        match &self.held_out[..] {
            [] => None,
            [_] => Some(name.to_owned()),
            [first, ..] => Some(format!("{}_{name}", first.name)),
        }
    }
}
