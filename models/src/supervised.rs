//! Rows of an objective through a model, as a workload: what it is trained on, and the held-out
//! splits that it is judged by. Masked tokens are such rows too: they supervise themselves.

use std::collections::VecDeque;

use ailora_graph::ir::Draw;
use ailora_runtime::{
    engine::{Engine, PlanId},
    train::{Batches, Headline, MicroBatch, Workload},
};
use indexmap::IndexMap;

use crate::{
    batch::{BatchError, Buckets, Encoded, Inputs, Order, Plan, Shape, training_epoch},
    metrics::Metric,
    objective::{HeldOut, ObjectiveError, Pass, Predictor, written::Writing},
    stream::{Reading, Stream, Windows},
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

/// The rows to train on.
#[derive(Debug)]
pub enum Train {
    /// Rows in memory.
    Held(Vec<Encoded>),
    /// Rows that are read again every epoch.
    Streamed(Stream),
}

impl Train {
    /// How many there are.
    pub fn rows(&self) -> usize {
        match self {
            Self::Held(rows) => rows.len(),
            Self::Streamed(stream) => stream.rows,
        }
    }

    /// Those that are in memory.
    fn held(&self) -> &[Encoded] {
        match self {
            Self::Held(rows) => rows,
            Self::Streamed(stream) => &stream.sample,
        }
    }
}

/// Training rows and held-out splits of an objective.
#[derive(Debug)]
pub struct Supervised {
    predictor: Predictor,
    train: Train,
    /// Tokens of the training rows that are in memory.
    lengths: Vec<usize>,
    buckets: Buckets,
    batching: Batching,
    held_out: Vec<HeldOut>,
    /// What is written of the held-out rows at every evaluation, if anything is.
    writing: Option<Writing>,
    /// Where the current epoch stands, if its rows are read.
    position: Option<Position>,
}

impl Supervised {
    /// A workload over training rows and named held-out splits.
    ///
    /// # Errors
    /// A row is longer than the limit, a batch size of zero, or rows that fill no batch where
    /// batches have to be whole.
    pub fn new(
        predictor: Predictor,
        train: Train,
        held_out: IndexMap<String, Vec<Encoded>>,
        batching: Batching,
    ) -> Result<Self, ObjectiveError> {
        let Batching {
            batch_size,
            max_len,
            seed,
            ..
        } = batching;
        if batch_size == 0 {
            return Err(BatchError::ZeroBatchSize.into());
        }
        let objective = &**predictor.objective();
        if objective.order() == Order::Whole {
            let held_out = held_out.values().map(Vec::len);
            if let Some(few) = std::iter::once(train.rows())
                .chain(held_out)
                .find(|&rows| rows < batch_size)
            {
                return Err(ObjectiveError::Tokenizer(TokenizerError::TooFewTexts {
                    rows: few,
                    len: max_len,
                    expected: batch_size,
                }));
            }
        }
        let lengths: Vec<usize> = train.held().iter().map(Encoded::tokens).collect();
        let others = held_out.values().flatten().map(Encoded::tokens);
        // Rows that are still to be read may be of any length.
        let unknown = matches!(train, Train::Streamed(_)).then_some(max_len);
        let all = lengths.iter().copied().chain(others).chain(unknown);
        let all: Vec<usize> = all.collect();
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
            writing: None,
            position: None,
        })
    }

    /// This workload with texts that are written and scored at every evaluation.
    pub fn with_texts(mut self, writing: Writing) -> Self {
        self.writing = Some(writing);
        self
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
            Order::ByLength => self.train.rows().div_ceil(batch_size),
            Order::Whole => self.train.rows() / batch_size,
        }
    }

    /// The shapes of training batches.
    fn shapes(&self, epochs: usize) -> Result<Vec<Shape>, BatchError> {
        let rows = match &self.train {
            Train::Held(rows) => rows,
            Train::Streamed(stream) => {
                let size = self.batching.batch_size;
                let lengths = self.buckets.lengths().iter();
                let mut shapes: Vec<Shape> = lengths.map(|&len| Shape::new(size, len)).collect();
                let last = stream.rows % size;
                if stream.rows < size {
                    shapes.clear();
                }
                if last > 0 {
                    shapes.push(Shape::new(last, self.batching.max_len));
                }
                let targets = self.predictor.objective().target_lengths();
                let with = |shape: Shape| {
                    let targets = targets.iter();
                    targets.map(move |&target_len| Shape {
                        target_len,
                        ..shape
                    })
                };
                return Ok(shapes.into_iter().flat_map(with).collect());
            }
        };
        let mut shapes = Vec::new();
        for epoch in 0..epochs {
            let plans = self.epoch_plans(epoch)?;
            shapes.extend(plans.iter().map(|plan| self.predictor.shape(plan, rows)));
        }
        Ok(shapes)
    }

    /// What a batch of rows is for a program.
    fn part(&self, plan: &Plan, rows: &[Encoded], step: u64) -> Result<Part, ObjectiveError> {
        let draw = Draw {
            seed: self.batching.seed,
            step,
        };
        let predictor = &self.predictor;
        let batch = predictor.batch(plan, rows, draw)?;
        let shape = predictor.shape(plan, rows);
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
    }

    /// The steps of an epoch whose rows are in memory.
    fn steps_of_held(
        &self,
        epoch: usize,
        skip: usize,
    ) -> Result<Batches<'_, Prepared, ObjectiveError>, ObjectiveError> {
        let rows = self.train.held();
        // Micro-batches count from the run's first, so that no two draw the same.
        let first = (epoch * self.micro_batches_per_epoch()) as u64;
        let plans = self.epoch_plans(epoch)?;
        let numbered: Vec<(u64, Plan)> = (first..).zip(plans).collect();
        let steps = numbered.chunks(self.batching.accumulate);
        let steps: Vec<Vec<(u64, Plan)>> = steps.skip(skip).map(<[_]>::to_vec).collect();
        Ok(Box::new(steps.into_iter().map(move |step| {
            let parts = step.iter().map(|(step, plan)| self.part(plan, rows, *step));
            Ok(Prepared(parts.collect::<Result<_, ObjectiveError>>()?))
        })))
    }

    /// Where an epoch whose rows are read stands behind `skip` steps.
    fn position(&self, stream: &Stream, epoch: usize, skip: usize) -> Position {
        let Batching {
            batch_size,
            accumulate,
            seed,
            ..
        } = self.batching;
        let step_rows = batch_size * accumulate;
        let first = skip * step_rows;
        let (windows, before) = Windows::from_row(stream, seed, epoch as u64, step_rows, first);
        let per_epoch = self.micro_batches_per_epoch();
        Position {
            epoch: epoch as u64,
            reading: stream.read(windows),
            window: windows.first() as u64,
            rows: Vec::new(),
            plans: VecDeque::new(),
            skip: before / batch_size,
            micro: (epoch * per_epoch + skip * accumulate) as u64,
            end: ((epoch + 1) * per_epoch) as u64,
        }
    }

    /// The next step of an epoch whose rows are read.
    fn streamed_step(&self, at: &mut Position) -> Result<Option<Prepared>, ObjectiveError> {
        let Batching {
            batch_size,
            accumulate,
            seed,
            max_len,
        } = self.batching;
        if at.micro == at.end {
            return Ok(None);
        }
        if at.plans.is_empty() {
            at.rows = at.reading.window()?.ok_or(ObjectiveError::FewerRows)?;
            let lengths: Vec<usize> = at.rows.iter().map(Encoded::tokens).collect();
            let (order, seed) = (Order::ByLength, shuffled_seed(seed, at.window));
            let plans = training_epoch(order, &lengths, &self.buckets, batch_size, seed, at.epoch)?;
            let skip = std::mem::take(&mut at.skip);
            at.plans = plans.into_iter().skip(skip).collect();
            at.window += 1;
        }
        let left = (at.end - at.micro) as usize;
        let count = accumulate.min(at.plans.len()).min(left);
        let mut parts = Vec::with_capacity(count);
        for mut plan in at.plans.drain(..count) {
            // Only the largest program is there for a batch of fewer rows.
            if plan.indices.len() < batch_size {
                plan.len = max_len;
            }
            parts.push(self.part(&plan, &at.rows, at.micro)?);
            at.micro += 1;
        }
        Ok(Some(Prepared(parts)))
    }
}

/// Where an epoch whose rows are read stands.
#[derive(Debug)]
struct Position {
    epoch: u64,
    reading: Reading,
    /// The next window.
    window: u64,
    /// The rows of the current one.
    rows: Vec<Encoded>,
    /// Its batches to come.
    plans: VecDeque<Plan>,
    /// Batches of the first window that were made before.
    skip: usize,
    /// The next micro-batch, and the one behind the epoch's last, from the run's first.
    micro: u64,
    end: u64,
}

/// The seed of a window's order.
fn shuffled_seed(seed: u64, window: u64) -> u64 {
    Draw { seed, step: window }.key("window").word()
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
        let training = self.shapes(epochs)?.into_iter();
        let mut shapes: Vec<(Shape, Pass)> = training.map(|shape| (shape, Pass::Train)).collect();
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
            let objective = self.predictor.objective();
            let texts = objective.text_metrics().iter();
            let texts = texts.filter(|_| self.writing.is_some());
            let own = objective.headlines().into_iter();
            let own = own.chain(texts.map(Metric::headline));
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
        let skip = skip as usize;
        if let Train::Held(_) = &self.train {
            return self.steps_of_held(epoch, skip);
        }
        let next = epoch * self.micro_batches_per_epoch() + skip * self.batching.accumulate;
        // After an evaluation within an epoch its reading goes on where it was.
        let stands = |at: &Position| at.epoch == epoch as u64 && at.micro == next as u64;
        if let Train::Streamed(stream) = &self.train
            && !self.position.as_ref().is_some_and(stands)
        {
            self.position = Some(self.position(stream, epoch, skip));
        }
        Ok(Box::new(std::iter::from_fn(move || {
            let mut at = self.position.take()?;
            let step = self.streamed_step(&mut at);
            self.position = Some(at);
            step.transpose()
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
            let mut found = objective.evaluate(&mut self.predictor, engine, split)?;
            if let Some(writing) = &mut self.writing {
                found.extend(writing.scores(&*objective, engine, &split.name)?);
            }
            let named = |(name, value): (String, f64)| (self.named(&split.name, &name), value);
            scores.extend(found.into_iter().map(named));
        }
        Ok(scores)
    }
}
