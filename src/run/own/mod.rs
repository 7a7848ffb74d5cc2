//! A model of your own with columns of data.

mod rows;

pub use rows::Rows;

use std::{collections::HashMap, fmt, path::Path, sync::Arc};

use ailora_graph::{AdaptConfig, adapter::Site, module::Parameter};
use ailora_models::{metrics::argmax, peft::merge};
use ailora_runtime::{
    backend::Backend,
    engine::{Engine, EngineError},
    passes::{LOSS, PassError},
    store::{self, Params},
    train::{Headline, Workload},
};
use indexmap::IndexMap;
use serde_json::json;
use thiserror::Error;

use super::{
    Adapted, BuildError, Built, Columns, Error, Identity, Learner, Network, Recipe, Record, hash,
};
use crate::output::OWN;
use rows::build;

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

/// A model of your own, the values that it starts from, and its data.
///
/// Any columns are inputs; every row counts as one target of the loss, unless
/// [`targets`](Self::targets) names a column of labels of which some are ignored. Held-out rows are
/// measured by the mean loss, and by a [`score`](Self::score) of your own.
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
            array.is_some_and(|array| array.shape() == parameter.shape)
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
    /// [`IGNORED`](ailora_graph::ir::ops::loss::IGNORED), instead of over the rows.
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
            if array.shape() != shape {
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

/// What `run.json` says of a run of a model of your own.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Settings {
    adapters: AdaptConfig,
    recipe: Recipe,
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
