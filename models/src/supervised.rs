//! Rows of an objective through a model, as a workload: what it is trained on, and the held-out
//! splits that it is judged by. Masked tokens are such rows too: they supervise themselves.

use ailora_graph::ir::Draw;
use ailora_runtime::{
    engine::{Engine, PlanId},
    train::{Batches, Headline, MicroBatch, Workload},
};
use indexmap::IndexMap;

use crate::{
    batch::{BatchError, Buckets, Encoded, Inputs, Order, Plan, Shape, training_epoch},
    objective::{HeldOut, ObjectiveError, Pass, Predictor},
    tokenizer::TokenizerError,
};

/// The most sequence lengths that programs are compiled for.
const MAX_BUCKETS: usize = 8;

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

/// Training rows and held-out splits of an objective.
#[derive(Debug)]
pub struct Supervised {
    predictor: Predictor,
    train: Vec<Encoded>,
    lengths: Vec<usize>,
    buckets: Buckets,
    batching: Batching,
    held_out: Vec<HeldOut>,
}

impl Supervised {
    /// A workload over training rows and named held-out splits.
    ///
    /// # Errors
    /// A row is longer than the limit, a batch size of zero, or rows that fill no batch where
    /// batches have to be whole.
    pub fn new(
        predictor: Predictor,
        train: Vec<Encoded>,
        held_out: IndexMap<String, Vec<Encoded>>,
        batching: Batching,
    ) -> Result<Self, ObjectiveError> {
        let Batching {
            batch_size,
            max_len,
            seed,
            ..
        } = batching;
        let objective = &**predictor.objective();
        if objective.order() == Order::Whole {
            let splits = std::iter::once(&train).chain(held_out.values());
            if let Some(few) = splits.map(Vec::len).find(|&rows| rows < batch_size) {
                return Err(ObjectiveError::Tokenizer(TokenizerError::TooFewTexts {
                    rows: few,
                    len: max_len,
                    expected: batch_size,
                }));
            }
        }
        let lengths: Vec<usize> = train.iter().map(Encoded::tokens).collect();
        let others = held_out.values().flatten().map(Encoded::tokens);
        let all: Vec<usize> = lengths.iter().copied().chain(others).collect();
        let buckets = Buckets::choose(&all, max_len, MAX_BUCKETS)?;
        let held_out = held_out
            .into_iter()
            // Not the draws of training, whose steps count from 0.
            .map(|(name, rows)| HeldOut::new(&name, rows, objective, &buckets, batch_size, !seed))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            predictor,
            train,
            lengths,
            buckets,
            batching: Batching {
                accumulate: batching.accumulate.max(1),
                ..batching
            },
            held_out,
        })
    }

    /// The model with its adapters.
    pub fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    /// What a score of a split is called.
    fn named(&self, split: &str, score: &str) -> String {
        match self.held_out.len() {
            1 => score.to_owned(),
            _ => format!("{split}_{score}"),
        }
    }

    fn epoch_plans(&self, epoch: usize) -> Result<Vec<Plan>, BatchError> {
        training_epoch(
            self.predictor.objective().order(),
            &self.lengths,
            &self.buckets,
            self.batching.batch_size,
            self.batching.seed,
            epoch as u64,
        )
    }

    fn micro_batches_per_epoch(&self) -> usize {
        let Batching { batch_size, .. } = self.batching;
        match self.predictor.objective().order() {
            Order::ByLength => self.train.len().div_ceil(batch_size),
            Order::Whole => self.train.len() / batch_size,
        }
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

impl Workload for Supervised {
    type Batch = Prepared;
    type Error = ObjectiveError;

    fn compile(&mut self, engine: &mut Engine, epochs: usize) -> Result<(), ObjectiveError> {
        let mut shapes: Vec<(Shape, Pass)> = Vec::new();
        for epoch in 0..epochs {
            let plans = self.epoch_plans(epoch)?;
            let shape = |plan| (self.predictor.shape(plan, &self.train), Pass::Train);
            shapes.extend(plans.iter().map(shape));
        }
        for split in &self.held_out {
            let shape = |plan| (self.predictor.shape(plan, &split.rows), Pass::Evaluate);
            shapes.extend(split.batches.iter().map(shape));
        }
        shapes.sort_unstable();
        shapes.dedup();
        // The largest step fixes the layout of the parameters.
        let steps = shapes.iter().filter(|(_, pass)| *pass == Pass::Train);
        if let Some(&(shape, pass)) = steps.max_by_key(|(shape, _)| shape.rows * shape.len) {
            let precision = engine.backend().precision();
            engine.lay_out(&self.predictor.program(shape, pass, precision)?)?;
        }
        for (shape, pass) in shapes {
            self.predictor.plan(engine, shape, pass)?;
        }
        Ok(())
    }

    /// The objective's, of the first held-out split first.
    fn headlines(&self) -> Vec<Headline> {
        let of_split = |split: &HeldOut| {
            let own = self.predictor.objective().headlines().into_iter();
            let own = own.map(|own| Headline {
                name: self.named(&split.name, &own.name),
                ..own
            });
            own.collect::<Vec<_>>()
        };
        self.held_out.iter().flat_map(of_split).collect()
    }

    fn steps_per_epoch(&self) -> u64 {
        let steps = self.micro_batches_per_epoch();
        steps.div_ceil(self.batching.accumulate) as u64
    }

    fn epoch(
        &mut self,
        epoch: usize,
        skip: u64,
    ) -> Result<Batches<'_, Prepared, ObjectiveError>, ObjectiveError> {
        let Batching {
            accumulate, seed, ..
        } = self.batching;
        // Micro-batches count from the run's first, so that no two draw the same.
        let first = (epoch * self.micro_batches_per_epoch()) as u64;
        let plans = self.epoch_plans(epoch)?;
        let numbered: Vec<(u64, Plan)> = (first..).zip(plans).collect();
        let steps = numbered.chunks(accumulate).map(<[_]>::to_vec);
        let steps: Vec<Vec<(u64, Plan)>> = steps.skip(skip as usize).collect();
        let Self {
            predictor, train, ..
        } = self;
        Ok(Box::new(steps.into_iter().map(move |step| {
            let prepared = step.iter().map(|(step, plan)| {
                let draw = Draw { seed, step: *step };
                let batch = predictor.batch(plan, train, draw)?;
                let shape = predictor.shape(plan, train);
                let plan = predictor.compiled(shape, Pass::Train);
                let plan = plan.ok_or(ObjectiveError::NotCompiled {
                    rows: shape.rows,
                    len: shape.len,
                })?;
                Ok(Part {
                    plan,
                    rows: batch.rows,
                    targets: batch.targets.count,
                    inputs: predictor.model().inputs(&batch),
                })
            });
            Ok(Prepared(prepared.collect::<Result<_, ObjectiveError>>()?))
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

    fn evaluate(&mut self, engine: &mut Engine) -> Result<IndexMap<String, f64>, ObjectiveError> {
        let objective = self.predictor.objective().clone();
        let mut scores = IndexMap::new();
        for split in &self.held_out {
            let found = objective.evaluate(&mut self.predictor, engine, split)?;
            let named = |(name, value): (String, f64)| (self.named(&split.name, &name), value);
            scores.extend(found.into_iter().map(named));
        }
        Ok(scores)
    }
}
