//! A model of one's own with columns of data.

use std::{collections::HashMap, fmt, path::Path, sync::Arc};

use ailora_graph::{
    AdaptConfig,
    adapter::Site,
    ir::{Draw, Program, ops::loss::IGNORED},
    module::Parameter,
    nn::Cx,
};
use ailora_models::{batch::shuffle, metrics::argmax, peft::merge};
use ailora_runtime::{
    backend::{Backend, Precision},
    collective::gather,
    engine::{Engine, EngineError, PlanId},
    passes::{LOSS, PassError, Passes},
    store::{self, Params},
    train::{Batches, Headline, MicroBatch, Workload},
};
use indexmap::IndexMap;
use serde_json::json;
use thiserror::Error;

use super::{
    Adapted, Batch, BuildError, Built, Columns, Error, Identity, Learner, Network, Recipe, Record,
    hash,
};
use crate::output::OWN;

/// Rows that cannot be trained on or evaluated.
#[derive(Debug, Error)]
pub enum OwnError {
    /// There are no rows to learn from.
    #[error("there are no rows to learn from; add columns to the training data")]
    Empty,
    /// The model cannot be built for a batch.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The adapters do not fit the model, or its loss cannot be differentiated.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A program cannot be compiled or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A parameter without a value.
    #[error(
        "the model's parameter `{name}` of shape {shape:?} has no value of that shape; add it to the \
         weights"
    )]
    NoValue {
        /// The parameter.
        name: String,
        /// Its dimensions.
        shape: Vec<usize>,
    },
    /// A folder without a run of such a model.
    #[error("{0} holds no adapter that a run of this model left: it has no run.json")]
    NoRun(String),
    /// A tensor that does not fit.
    #[error("{folder}: the adapter {what} `{name}`; it was trained for another model")]
    Tensor {
        /// The adapter's folder.
        folder: String,
        /// What is wrong.
        what: &'static str,
        /// The tensor.
        name: String,
    },
    /// A batch of a size that was not compiled.
    #[error("no program was compiled for {0} rows")]
    NotCompiled(usize),
}

/// What a model says of held-out rows.
#[derive(Debug)]
pub struct Predictions<'a> {
    outputs: IndexMap<String, Vec<f32>>,
    data: &'a Columns,
}

impl Predictions<'_> {
    /// An output of every row, in the rows' order; empty for one that the model has not.
    ///
    /// # Shapes
    /// `[rows]` and the output's other dimensions, row-major
    pub fn output(&self, name: &str) -> &[f32] {
        self.outputs.get(name).map_or(&[], Vec::as_slice)
    }

    /// The rows.
    pub fn data(&self) -> &Columns {
        self.data
    }

    /// The share of rows whose largest of the output's numbers is where the column `label` says.
    ///
    /// # Shapes
    /// The output is `[rows, classes]`, the column `[rows]`.
    pub fn accuracy(&self, output: &str, label: &str) -> f64 {
        let rows = self.data.rows().max(1);
        let logits = self.output(output);
        let labels = self.data.i32(label).unwrap_or_default();
        let rows_of = logits.chunks(logits.len().div_ceil(rows).max(1));
        let right = rows_of.zip(labels).filter(|(logits, label)| {
            usize::try_from(**label).is_ok_and(|label| argmax(logits) == label)
        });
        right.count() as f64 / rows as f64
    }
}

/// Scores by name, of what a model says of held-out rows.
pub type Score = dyn Fn(&Predictions<'_>) -> IndexMap<String, f64> + Send + Sync;

/// A model of one's own, the values that it starts from, and its data.
///
/// Any columns are inputs; every row counts as one target of the loss, unless
/// [`targets`](Self::targets) names a column of labels of which some are ignored. Held-out rows are
/// measured by the mean loss, and by a [`score`](Self::score) of one's own.
///
/// A run leaves what trained and what adapters started from in `adapter.safetensors`, which
/// [`load`](Self::load) puts beside the same weights.
pub struct Own<'a> {
    network: &'a dyn Network,
    parameters: Vec<Parameter>,
    sites: Vec<Site>,
    /// Of a model with an adapter.
    adapted: Option<Adapted>,
    weights: Params,
    train: Columns,
    /// Training rows.
    count: usize,
    held_out: IndexMap<String, Columns>,
    targets: Option<String>,
    score: Option<Arc<Score>>,
    headline: Headline,
}

impl fmt::Debug for Own<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own")
            .field("parameters", &self.parameters.len())
            .field("rows", &self.count)
            .finish_non_exhaustive()
    }
}

impl<'a> Own<'a> {
    /// A model that learns from rows, starting from `weights` by the parameters' paths.
    ///
    /// # Errors
    /// There are no rows, the model cannot be built for them, or a parameter has no value of its shape.
    pub fn new(
        network: &'a dyn Network,
        weights: Params,
        train: Columns,
    ) -> Result<Self, OwnError> {
        if train.rows() == 0 {
            return Err(OwnError::Empty);
        }
        let Built {
            parameters, sites, ..
        } = build(network, &train, 1, false)?;
        let valued = |parameter: &&Parameter| {
            let array = weights.get(&parameter.name);
            array.is_some_and(|array| array.shape == parameter.shape)
        };
        if let Some(Parameter { name, shape, .. }) = parameters.iter().find(|p| !valued(p)) {
            let (name, shape) = (name.clone(), shape.clone());
            return Err(OwnError::NoValue { name, shape });
        }
        Ok(Self {
            network,
            parameters,
            sites,
            adapted: None,
            weights,
            count: train.rows(),
            train,
            held_out: IndexMap::new(),
            targets: None,
            score: None,
            headline: Headline::lower(LOSS),
        })
    }

    /// This, with rows that are measured after each epoch.
    #[must_use]
    pub fn held_out(mut self, name: &str, rows: Columns) -> Self {
        self.held_out.insert(name.to_owned(), rows);
        self
    }

    /// This, where the loss is a mean over the labels of a column that are not
    /// [`IGNORED`], instead of over the rows.
    #[must_use]
    pub fn targets(mut self, column: &str) -> Self {
        self.targets = Some(column.to_owned());
        self
    }

    /// This, with scores of held-out rows; `headline` is the one by which an epoch is the best.
    #[must_use]
    pub fn score(
        mut self,
        headline: Headline,
        score: impl Fn(&Predictions<'_>) -> IndexMap<String, f64> + Send + Sync + 'static,
    ) -> Self {
        self.headline = headline;
        self.score = Some(Arc::new(score));
        self
    }
}

impl Own<'_> {
    /// This model with the adapter that a run left in a folder.
    ///
    /// # Errors
    /// The folder holds none, or one of another model.
    pub fn load(mut self, folder: &Path) -> Result<Self, Error> {
        let place = folder.display().to_string();
        let record = Record::of(folder)?;
        let record = record.ok_or_else(|| OwnError::NoRun(place.clone()))?;
        let Settings { adapters, .. } = record.settings()?;
        let adapted = Adapted::new(&adapters, self.sites.clone(), &self.parameters)?;
        let (tensors, _) = store::load(&folder.join(OWN[0]))?;
        let mut expected = adapted.shapes(&self.parameters);
        for (name, array) in tensors {
            let wrong = |what| OwnError::Tensor {
                folder: place.clone(),
                what,
                name: name.clone(),
            };
            let shape = expected.shift_remove(&name);
            let shape = shape.ok_or_else(|| wrong("has a tensor that is not known,"))?;
            if array.shape != shape {
                return Err(wrong("has another shape of").into());
            }
            self.weights.insert(name, array);
        }
        if let Some((name, _)) = expected.into_iter().next() {
            let what = "lacks the tensor";
            return Err(OwnError::Tensor {
                folder: place,
                what,
                name,
            }
            .into());
        }
        self.adapted = Some(adapted);
        Ok(self)
    }

    /// What a backend gives for held-out rows of the model, with its adapter if one was
    /// [loaded](Self::load): the scores, `loss` among them.
    ///
    /// # Errors
    /// The model does not fit the rows, or the backend fails.
    pub fn evaluate(
        &self,
        backend: Box<dyn Backend>,
        batch_size: usize,
    ) -> Result<IndexMap<String, f64>, Error> {
        let recipe = Recipe {
            batch_size,
            ..Recipe::default()
        };
        recipe.check()?;
        let adapted = match &self.adapted {
            Some(adapted) => adapted.clone(),
            None => Adapted::frozen(&self.sites),
        };
        let mut rows = self.rows_of(&adapted, &recipe, Columns::new(), self.held_out.clone());
        let mut engine = Engine::fused(backend, self.weights.clone());
        rows.compile(&mut engine, 0)?;
        Ok(rows.evaluate(&mut engine)?)
    }

    /// The weights with the loaded adapter in them, for the model without adapters.
    ///
    /// # Errors
    /// An adapter that comes to no weight.
    pub fn merged(&self) -> Result<Params, Error> {
        let mut merged = self.weights.clone();
        if let Some(Adapted { sites, .. }) = &self.adapted {
            for site in sites {
                merge(site, sites, &self.weights, &mut merged)?;
            }
        }
        let own = |name: &String| self.parameters.iter().any(|p| p.name == *name);
        merged.retain(|name, _| own(name));
        Ok(merged)
    }
}

impl<'a> Own<'a> {
    fn rows_of(
        &self,
        adapted: &Adapted,
        recipe: &Recipe,
        train: Columns,
        held_out: IndexMap<String, Columns>,
    ) -> Rows<'a> {
        Rows {
            network: self.network,
            adapted: adapted.clone(),
            train,
            held_out,
            targets: self.targets.clone(),
            score: self.score.clone(),
            headline: self.headline.clone(),
            batch_size: recipe.batch_size,
            accumulate: recipe.accumulate,
            seed: recipe.seed,
            plans: HashMap::new(),
        }
    }
}

/// What `run.json` says of a run of a model of one's own.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Settings {
    adapters: AdaptConfig,
    recipe: Recipe,
}

/// The graph of a model for `rows` rows of data.
fn build(
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

impl<'a> Learner for Own<'a> {
    type Workload = Rows<'a>;

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn sites(&self) -> Vec<Site> {
        self.sites.clone()
    }

    fn rows(&self) -> usize {
        self.count
    }

    fn identity(&mut self, adapters: &AdaptConfig, recipe: &Recipe) -> Result<Identity, Error> {
        let held_out = self.held_out.iter();
        let held_out = held_out.map(|(name, rows)| (name.clone(), rows.sha256()));
        let train = ("train".to_owned(), self.train.sha256());
        let settings = Settings {
            adapters: adapters.clone(),
            recipe: recipe.clone(),
        };
        Ok(Identity {
            settings: json!(settings),
            base: [("weights".to_owned(), hash::params(&self.weights))].into(),
            data: std::iter::once(train).chain(held_out).collect(),
            inputs: Vec::new(),
        })
    }

    fn take_weights(&mut self) -> Params {
        std::mem::take(&mut self.weights)
    }

    fn workload(&mut self, adapted: &Adapted, recipe: &Recipe) -> Result<Rows<'a>, Error> {
        let train = std::mem::take(&mut self.train);
        let held_out = std::mem::take(&mut self.held_out);
        Ok(self.rows_of(adapted, recipe, train, held_out))
    }

    fn kept(&self, _: &Adapted) -> Vec<String> {
        Vec::new()
    }

    fn writes(&self, _: &Adapted) -> &'static [&'static str] {
        OWN
    }

    fn save(&self, folder: &Path, _: &Adapted, params: Params) -> Result<(), Error> {
        Ok(store::save(&folder.join(OWN[0]), &params, HashMap::new())?)
    }
}

/// Columns through a model of one's own.
pub struct Rows<'a> {
    network: &'a dyn Network,
    adapted: Adapted,
    train: Columns,
    held_out: IndexMap<String, Columns>,
    targets: Option<String>,
    score: Option<Arc<Score>>,
    headline: Headline,
    batch_size: usize,
    accumulate: usize,
    seed: u64,
    /// By the number of rows, and whether it is a training step's.
    plans: HashMap<(usize, bool), PlanId>,
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
        // The largest step decides where parameters lie.
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

    fn headline(&self) -> Option<Headline> {
        let (first, _) = self.held_out.first()?;
        let Headline { name, better } = self.headline.clone();
        let name = match self.held_out.len() {
            1 => name,
            _ => format!("{first}_{name}"),
        };
        Some(Headline { name, better })
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
                let name = match self.held_out.len() {
                    1 => name,
                    _ => format!("{split}_{name}"),
                };
                scores.insert(name, value);
            }
        }
        Ok(scores)
    }
}
