//! One training run as a value: a model with its data, what is adapted, what trains, how and where.
//!
//! The command, the demo, pretraining, the examples and your own program build a [`Run`] and call
//! [`Run::fit`]: adapters start from the spectra of the weights, every program is compiled before the first
//! step, epochs are evaluated, and at any time the output folder has what is needed to resume. Runs differ
//! in their [`Learner`]: a pretrained model with a task
//! ([`finetune::Settings::run`](crate::finetune::Settings::run)), text with a new model
//! ([`pretrain::Settings::run`](crate::pretrain::Settings::run)), or a [`Network`] of your own with
//! [`Columns`] of data ([`Own`]).

mod columns;
mod error;
mod fit;
pub(crate) mod hash;
mod manifest;
mod network;
mod output;
mod own;
mod recipe;
mod report;
mod settings;
mod yaml;

pub use columns::{Columns, ColumnsError};
pub use error::Error;
pub use manifest::{Manifest, Record};
pub use network::{Batch, BuildError, Built, Network};
pub use output::Output;
pub use own::{Own, OwnError, Predictions, Score};
pub(crate) use recipe::groups;
pub use recipe::{Recipe, backend, spectrum_cache};
pub use report::{Report, Stage};
pub(crate) use settings::Range;
pub use settings::SettingsError;
pub use yaml::{read_settings, read_yaml, yaml};

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ailora_graph::{
    AdaptConfig, AdapterSpec, Trainable,
    adapter::{AdapterError, Site},
    module::Parameter,
};
use ailora_models::pretrained::LoadReport;
use ailora_runtime::{
    collective::{Collective, Single},
    store::Params,
    train::Workload,
};
use indexmap::IndexMap;
use serde_json::{Value, json};

/// A run: what learns, what is adapted in it and trains, how, and together with whom.
#[derive(Clone, Debug)]
pub struct Run<L> {
    /// A model and its data.
    pub learner: L,
    /// What is changed of the model's annotations, and what trains.
    pub adapters: AdaptConfig,
    /// How parameters are moved, and where that is computed.
    pub recipe: Recipe,
    /// The ranks that this run is one of: each is given the same run, and has a part of every step.
    pub ranks: Arc<dyn Collective>,
}

impl<L: Learner> Run<L> {
    /// A run by itself of a model as it is annotated.
    pub fn new(learner: L) -> Self {
        Self {
            learner,
            adapters: AdaptConfig::default(),
            recipe: Recipe::default(),
            ranks: Arc::new(Single),
        }
    }
}

/// A model and its data: what a run trains.
pub trait Learner {
    /// The rows through the model.
    type Workload: Workload<Error: Into<Error>>;

    /// The model's parameters.
    fn parameters(&self) -> &[Parameter];

    /// Its projections, as annotated.
    fn sites(&self) -> Vec<Site>;

    /// What trains with this configuration.
    ///
    /// # Errors
    /// The configuration does not fit the model.
    fn adapted(&self, adapters: &AdaptConfig) -> Result<Adapted, Error> {
        Ok(Adapted::new(adapters, self.sites(), self.parameters())?)
    }

    /// How many rows it learns from.
    fn rows(&self) -> usize;

    /// What a run of it with these adapters and this recipe is known by.
    ///
    /// # Errors
    /// A file cannot be read.
    fn identity(&mut self, adapters: &AdaptConfig, recipe: &Recipe) -> Result<Identity, Error>;

    /// The values of the model's parameters, which the learner has no longer then.
    fn take_weights(&mut self) -> Params;

    /// The rows through the model with these adapters; the learner has no rows then.
    /// `recipe.accumulate` is the number of micro-batches of a step on all ranks together.
    ///
    /// # Errors
    /// Rows that do not fit the model.
    fn workload(&mut self, adapted: &Adapted, recipe: &Recipe) -> Result<Self::Workload, Error>;

    /// The parameters whose values [`save`](Self::save) wants beside those that train.
    fn kept(&self, adapted: &Adapted) -> Vec<String>;

    /// The names of the files that [`save`](Self::save) writes.
    fn writes(&self, adapted: &Adapted) -> &'static [&'static str];

    /// Writes what training left: `params` has what trained, the frozen starts of adapters, and what
    /// is [`kept`](Self::kept).
    ///
    /// # Errors
    /// A file cannot be written.
    fn save(&self, folder: &Path, adapted: &Adapted, params: Params) -> Result<(), Error>;

    /// Writes what does not depend on training, once the run can begin.
    ///
    /// # Errors
    /// A file cannot be written.
    fn begin(&self, _folder: &Path) -> Result<(), Error> {
        Ok(())
    }

    /// What was used of the model's files, if it is of files.
    fn report(&self) -> Option<&LoadReport> {
        None
    }

    /// What whoever started the run should know of the rows.
    fn notices(&self) -> &[String] {
        &[]
    }

    /// What `metrics.json` says the run is of.
    fn about(&self) -> Value {
        json!({})
    }
}

/// The projections of a run's model, and what trains.
#[derive(Clone, Debug)]
pub struct Adapted {
    /// The projections, with what happens to them.
    pub sites: Vec<Site>,
    /// What trains.
    pub trainable: Trainable,
}

impl Adapted {
    /// A configuration applied to a model.
    ///
    /// # Errors
    /// The configuration does not fit the model.
    pub fn new(
        config: &AdaptConfig,
        sites: Vec<Site>,
        parameters: &[Parameter],
    ) -> Result<Self, AdapterError> {
        let sites = config.resolve(sites)?;
        let trainable = config.resolve_trainable(&sites, parameters)?;
        Ok(Self { sites, trainable })
    }

    /// The projections of a model as it is.
    pub fn frozen(sites: &[Site]) -> Self {
        let frozen = |site: &Site| Site {
            spec: AdapterSpec::frozen(),
            ..site.clone()
        };
        Self {
            sites: sites.iter().map(frozen).collect(),
            trainable: Trainable::Adapters,
        }
    }

    /// The dimensions of what a run leaves: of what trains, and of the frozen parameters of adapters.
    fn shapes(&self, parameters: &[Parameter]) -> IndexMap<String, Vec<usize>> {
        let adapters = self.sites.iter();
        let adapters = adapters.flat_map(|site| site.parameters(&self.sites));
        let mut shapes: IndexMap<String, Vec<usize>> = adapters
            .map(|parameter| (parameter.name, parameter.shape))
            .collect();
        let names = parameters.iter().map(|parameter| &*parameter.name);
        let rates = self.trainable.rates(&self.sites, names);
        let trained =
            |parameter: &&Parameter| rates.iter().any(|(name, _)| *name == parameter.name);
        for Parameter { name, shape, .. } in parameters.iter().filter(trained) {
            shapes.insert(name.clone(), shape.clone());
        }
        shapes
    }
}

/// What a run is known by: `run.json` records it, and a run goes on only as the same.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Everything that was set.
    pub settings: Value,
    /// The hashes of the base model's `weights`, and of its other files by name; none without a base.
    pub base: IndexMap<String, String>,
    /// The hash of each part of the data.
    pub data: IndexMap<String, String>,
    /// Files and folders that are read, and never written to.
    pub inputs: Vec<PathBuf>,
}
