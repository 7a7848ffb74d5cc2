//! Columns through a model of your own, as a workload.

use std::{collections::HashMap, sync::Arc};

use ailora_graph::{
    ir::{Draw, Program, ops::loss::IGNORED},
    nn::Cx,
};
use ailora_models::batch::shuffle;
use ailora_runtime::{
    backend::Precision,
    collective::gather,
    engine::{Engine, EngineError, PlanId},
    passes::{LOSS, Passes},
    train::{Batches, Headline, MicroBatch, Workload},
};
use indexmap::IndexMap;

use super::{OwnError, Predictions, Score};
use crate::run::{Adapted, Batch, BuildError, Built, Columns, Network};

/// The graph of a model for `rows` rows of data.
pub(super) fn build(
    network: &dyn Network,
    data: &Columns,
    rows: usize,
    training: bool,
) -> Result<Built, BuildError> {
    let cx = match training {
        true => Cx::training(),
        false => Cx::new(),
    };
    network.build(&Batch::new(&cx, data, rows))
}

/// Columns through a model of your own.
pub struct Rows<'a> {
    pub(super) network: &'a dyn Network,
    pub(super) adapted: Adapted,
    pub(super) train: Columns,
    pub(super) held_out: IndexMap<String, Columns>,
    pub(super) targets: Option<String>,
    pub(super) score: Option<Arc<Score>>,
    pub(super) headline: Headline,
    pub(super) batch_size: usize,
    pub(super) accumulate: usize,
    pub(super) seed: u64,
    /// By the number of rows, and whether it is a training step's.
    pub(super) plans: HashMap<(usize, bool), PlanId>,
}

/// A step's micro-batches: the program of each, its columns, and how many targets it has.
pub struct Step(Vec<(PlanId, Columns, usize)>);

impl Rows<'_> {
    /// The sizes that some rows are cut into.
    fn sizes(&self, rows: usize) -> impl Iterator<Item = usize> {
        let whole = (rows >= self.batch_size).then_some(self.batch_size);
        let rest = rows % self.batch_size;
        whole.into_iter().chain((rest > 0).then_some(rest))
    }

    /// The program for so many rows: a training step, or the model's outputs.
    fn program(
        &self,
        rows: usize,
        training: bool,
        precision: Precision,
    ) -> Result<Program, OwnError> {
        let columns = match training {
            true => &self.train,
            false => self.held_out.values().next().unwrap_or(&self.train),
        };
        let built = build(self.network, columns, rows, training)?;
        let passes = Passes {
            sites: &self.adapted.sites,
            trainable: &self.adapted.trainable,
            precision,
        };
        Ok(match training {
            true => passes.step(&built.program)?,
            false => passes.inference(&built.program)?,
        })
    }

    fn plan(
        &mut self,
        engine: &mut Engine,
        rows: usize,
        training: bool,
    ) -> Result<PlanId, OwnError> {
        let key = (rows, training);
        if let Some(&plan) = self.plans.get(&key) {
            return Ok(plan);
        }
        let precision = engine.backend().precision();
        let plan = engine.compile(&self.program(rows, training, precision)?)?;
        self.plans.insert(key, plan);
        Ok(plan)
    }

    /// What a score of a split is called.
    fn named(&self, split: &str, score: &str) -> String {
        match self.held_out.len() {
            1 => score.to_owned(),
            _ => format!("{split}_{score}"),
        }
    }

    /// How many targets the loss of these rows is a mean over.
    fn targets(&self, rows: &Columns) -> usize {
        let labels = self.targets.as_ref().and_then(|name| rows.i32(name));
        labels.map_or(rows.rows(), |labels| {
            labels.iter().filter(|&&label| label != IGNORED).count()
        })
    }

    /// The mean loss, and the outputs of all rows. Batches are shared out among the ranks.
    fn predict<'d>(
        &self,
        engine: &mut Engine,
        data: &'d Columns,
    ) -> Result<(f64, Predictions<'d>), OwnError> {
        let ranks = engine.ranks().clone();
        let mut totals = [0.0, 0.0];
        let mut outputs: IndexMap<String, Vec<Vec<f32>>> = IndexMap::new();
        let rows: Vec<usize> = (0..data.rows()).collect();
        let batches: Vec<&[usize]> = rows.chunks(self.batch_size).collect();
        for (index, rows) in batches.iter().enumerate() {
            let plan = self.plans.get(&(rows.len(), false)).copied();
            let plan = plan.ok_or(OwnError::NotCompiled(rows.len()))?;
            let names = engine.plan(plan).outputs.keys().map(ToString::to_string);
            let names: Vec<String> = names.filter(|name| name != LOSS).collect();
            for name in &names {
                let empty = || vec![Vec::new(); batches.len()];
                outputs.entry(name.clone()).or_insert_with(empty);
            }
            if !ranks.owns(index) {
                continue;
            }
            let batch = data.select(rows);
            let results = engine.run(plan, &batch.values(), Draw::default())?;
            let targets = self.targets(&batch) as f64;
            let loss = results.output(LOSS).map_err(EngineError::from)?;
            totals[0] += loss.iter().map(|&x| f64::from(x)).sum::<f64>() * targets;
            totals[1] += targets;
            for name in names {
                let found = results.output(&name).map_err(EngineError::from)?;
                outputs[&name][index] = found.to_vec();
            }
        }
        ranks.sum_f64(&mut totals).map_err(EngineError::from)?;
        let mut whole = IndexMap::new();
        for (name, mut parts) in outputs {
            gather(&*ranks, &mut parts).map_err(EngineError::from)?;
            whole.insert(name, parts.concat());
        }
        let outputs = whole;
        Ok((
            totals[0] / totals[1].max(1.0),
            Predictions { outputs, data },
        ))
    }
}

impl Workload for Rows<'_> {
    type Batch = Step;
    type Error = OwnError;

    fn compile(&mut self, engine: &mut Engine, _: usize) -> Result<(), OwnError> {
        let training: Vec<usize> = self.sizes(self.train.rows()).collect();
        let held_out = self
            .held_out
            .values()
            .flat_map(|rows| self.sizes(rows.rows()));
        let held_out: Vec<usize> = held_out.collect();
        // The largest step fixes the layout of the parameters.
        if let Some(&rows) = training.first() {
            let precision = engine.backend().precision();
            engine.lay_out(&self.program(rows, true, precision)?)?;
        }
        for rows in training {
            self.plan(engine, rows, true)?;
        }
        for rows in held_out {
            self.plan(engine, rows, false)?;
        }
        Ok(())
    }

    /// Those of which it is known which values are better, the first split's first.
    fn headlines(&self) -> Vec<Headline> {
        let loss = Some(Headline::lower(LOSS)).filter(|loss| loss.name != self.headline.name);
        let own = [self.headline.clone()].into_iter().chain(loss);
        let of_split = |split: &String| {
            let own = own.clone().map(|own| Headline {
                name: self.named(split, &own.name),
                ..own
            });
            own.collect::<Vec<_>>()
        };
        self.held_out.keys().flat_map(of_split).collect()
    }

    fn steps_per_epoch(&self) -> u64 {
        let batches = self.train.rows().div_ceil(self.batch_size);
        batches.div_ceil(self.accumulate) as u64
    }

    fn epoch(&mut self, epoch: usize, skip: u64) -> Result<Batches<'_, Step, OwnError>, OwnError> {
        let order = shuffle(self.train.rows(), self.seed, epoch as u64);
        let batches: Vec<Vec<usize>> = order.chunks(self.batch_size).map(<[_]>::to_vec).collect();
        let steps: Vec<Vec<Vec<usize>>> =
            batches.chunks(self.accumulate).map(<[_]>::to_vec).collect();
        let this = &*self;
        Ok(Box::new(steps.into_iter().skip(skip as usize).map(
            move |step| {
                let part = |rows: &Vec<usize>| {
                    let plan = this.plans.get(&(rows.len(), true)).copied();
                    let plan = plan.ok_or(OwnError::NotCompiled(rows.len()))?;
                    let columns = this.train.select(rows);
                    let targets = this.targets(&columns);
                    Ok((plan, columns, targets))
                };
                step.iter().map(part).collect::<Result<_, _>>().map(Step)
            },
        )))
    }

    fn micro_batches(batch: &Step) -> Vec<MicroBatch<'_>> {
        let parts = batch.0.iter();
        parts
            .map(|(plan, columns, targets)| MicroBatch {
                plan: *plan,
                inputs: columns.values(),
                rows: columns.rows(),
                targets: *targets,
            })
            .collect()
    }

    fn evaluate(&mut self, engine: &mut Engine) -> Result<IndexMap<String, f64>, OwnError> {
        let mut scores = IndexMap::new();
        for (split, data) in &self.held_out {
            let (loss, predictions) = self.predict(engine, data)?;
            let own = self.score.as_ref().map(|score| score(&predictions));
            let all = own.into_iter().flatten().chain([(LOSS.to_owned(), loss)]);
            for (name, value) in all {
                scores.insert(self.named(split, &name), value);
            }
        }
        Ok(scores)
    }
}
