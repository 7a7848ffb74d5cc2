//! An adapter that is trained on.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ailora_graph::{
    AdaptConfig, AdapterSpec, Strategy, Trainable,
    adapter::{AdapterError, Site},
    method::{self, Start},
    module::Parameter,
};
use ailora_models::{
    model::Model as Network,
    peft::{Adapter, Origin, PeftError},
};
use indexmap::IndexMap;
use serde_json::Value;

use super::Model;
use crate::run::{Adapted, Error, SettingsError, hash};

/// The files of an adapter by which a run that starts from it is known.
const FILES: [&str; 3] = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
];

/// An adapter that is trained on: what happens to each projection, and what trains.
#[derive(Debug)]
pub struct Continued {
    folder: PathBuf,
    sites: Vec<Site>,
    trainable: Trainable,
    /// Parameters that it holds whole, and that stay in it whether they train or not.
    pub held: Vec<String>,
    /// What whoever starts the run should know of it.
    pub notices: Vec<String>,
}

impl Continued {
    /// Puts the adapter of a folder into a model, which was asked for as `name` and learns `task`: its
    /// tensors are among the weights then.
    ///
    /// What trains is what did: its adapters, and of what it holds whole what its record says, or, where
    /// PEFT wrote it, `modules_to_save` and `bias`.
    ///
    /// # Errors
    /// The folder holds no adapter for this base, or one with a part that cannot be trained here.
    pub fn open(folder: &Path, model: &mut Model, name: &str, task: &str) -> Result<Self, Error> {
        let base = &mut model.pretrained;
        let origin = Origin::read(folder)?;
        let based = origin.check_base(folder, name, base)?;
        let adapter = Adapter::load(folder, base)?;
        if let Some(folded) = adapter.folded.first() {
            return Err(PeftError::Config {
                path: folder.to_owned(),
                reason: format!(
                    "`{folded}` holds what the adapter trained beside it (factors of a table of embeddings, rows \
                     of tokens, a bias of lora_B), which cannot be trained on here: merge the adapter, and train \
                     a new one on that model"
                ),
            }
            .into());
        }
        let mut notices = vec![format!("{}: {}", folder.display(), adapter.report)];
        if let Some(before) = origin.task.filter(|before| before != task) {
            notices.push(format!(
                "note: the adapter was trained for {before}, and goes on with {task}"
            ));
        }
        base.report
            .notes
            .extend(origin.note.into_iter().chain(based));
        let record = Record::of(folder);
        let (sites, trainable) = match &record.sites {
            Some(recorded) => (
                as_recorded(&adapter, &base.model, recorded),
                record.trainable,
            ),
            None => as_peft(&adapter, &base.model),
        };
        let whole = adapter.trained_in_full().map(|(name, _)| name);
        let own_bias = |name: &str| name.ends_with(".bias") && trainable.names(name);
        let held = whole.filter(|name| !own_bias(name)).cloned().collect();
        let given = &mut base.report.initialised;
        given.retain(|initialised| !adapter.tensors.contains_key(&initialised.name));
        base.weights.extend(adapter.tensors);
        base.check_head()?;
        Ok(Self {
            folder: folder.to_owned(),
            sites,
            trainable,
            held,
            notices,
        })
    }

    /// What trains with a configuration, which may change rates and dropout, and nothing that the adapter
    /// is.
    ///
    /// # Errors
    /// It changes something else.
    pub fn adapted(
        &self,
        config: &AdaptConfig,
        parameters: &[Parameter],
    ) -> Result<Adapted, Error> {
        let trains = |trainable: &Trainable| *trainable == self.trainable;
        if let Some(other) = config.trainable.as_ref().filter(|other| !trains(other)) {
            let said = |trainable: &Trainable| serde_json::json!(trainable).to_string();
            return Err(self.contradicted(
                "what trains beside it".to_owned(),
                said(&self.trainable),
                said(other),
            ));
        }
        let sites = match *config == AdaptConfig::default() {
            true => self.sites.clone(),
            false => {
                let config = AdaptConfig {
                    trainable: Some(self.trainable.clone()),
                    ..config.clone()
                };
                config.resolve(self.sites.clone())?
            }
        };
        for (own, site) in self.sites.iter().zip(&sites) {
            let is = |spec: &AdapterSpec| (spec.strategy, spec.rank(), spec.scale(), spec.dora);
            if is(&own.spec) != is(&site.spec) {
                let path = own.path.clone();
                return Err(self.contradicted(path, said(&own.spec), said(&site.spec)));
            }
        }
        sites.iter().try_for_each(Site::check)?;
        let names = parameters.iter().map(|parameter| parameter.name.as_str());
        self.trainable.check(&sites, names)?;
        if !sites.iter().any(|site| site.spec.trains()) && self.trainable == Trainable::Adapters {
            return Err(AdapterError::NothingTrains.into());
        }
        Ok(Adapted {
            sites,
            trainable: self.trainable.clone(),
        })
    }

    fn contradicted(&self, what: String, is: String, would_be: String) -> Error {
        let from = self.folder.clone();
        SettingsError::Contradicted {
            from,
            what,
            is,
            would_be,
        }
        .into()
    }

    /// The hashes of its files.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn hashes(&self) -> Result<IndexMap<String, String>, Error> {
        let paths = FILES.map(|file| (file, self.folder.join(file)));
        let there = paths.into_iter().filter(|(_, path)| path.is_file());
        there
            .map(|(file, path)| Ok((format!("from/{file}"), hash::file(&path)?)))
            .collect()
    }
}

/// What is said of a projection, for people.
fn said(spec: &AdapterSpec) -> String {
    let rank = spec.rank().map(|rank| format!(" of rank {rank}"));
    let scale = spec.scale().map(|scale| format!(" and scale {scale}"));
    let dora = if spec.dora { " with magnitudes" } else { "" };
    let parts = [rank, scale].map(Option::unwrap_or_default).concat();
    format!("{}{parts}{dora}", spec.strategy.name())
}

/// What our runs record of how an adapter was trained.
#[derive(Debug, Default)]
struct Record {
    /// What is said of projections by their path.
    sites: Option<IndexMap<String, Value>>,
    trainable: Trainable,
}

impl Record {
    fn of(folder: &Path) -> Self {
        let about = std::fs::read(folder.join("ailora.json")).ok();
        let about: Option<Value> = about.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(about) = about else {
            return Self::default();
        };
        let named = |site: &Value| Some((site["path"].as_str()?.to_owned(), site.clone()));
        let sites = about.get("sites").and_then(Value::as_array);
        let sites = sites.map(|sites| sites.iter().filter_map(named).collect());
        let trainable = about.get("trainable").cloned();
        let trainable = trainable.and_then(|trainable| serde_json::from_value(trainable).ok());
        Self {
            // Where nothing but parameters trained, no projection is recorded.
            sites: sites.or(trainable.as_ref().map(|_| IndexMap::new())),
            trainable: trainable.unwrap_or_default(),
        }
    }
}

/// The projections with the adapter's, at the rates and the dropout that were recorded; those that trained
/// whole do so again. Of an adapter whose parameters are in the folder as it has them, the same train.
fn as_recorded(
    adapter: &Adapter,
    model: &Network,
    recorded: &IndexMap<String, Value>,
) -> Vec<Site> {
    let mut sites = adapter.apply_to(model.sites());
    for site in &mut sites {
        let Some(recorded) = recorded.get(&site.path) else {
            continue;
        };
        if !site.is_adapted() && recorded["strategy"] == Strategy::Full.name() {
            site.spec = AdapterSpec::full();
        }
        if let Some(strategy) = trained_as(site, recorded) {
            site.spec.strategy = strategy;
        }
        let number = |field: &str, plain: f64| recorded[field].as_f64().unwrap_or(plain);
        let spec = &mut site.spec;
        spec.lr = number("lr", spec.lr);
        if site.is_adapted() {
            let spec = &mut site.spec;
            let trained = recorded["strategy"].as_str().map(method::strategy);
            if let (Some(Ok(Strategy::Adapted(trained))), Strategy::Adapted(loaded)) =
                (trained, spec.strategy)
                && trained.peft() == loaded.peft()
                && recorded["rank"].as_u64() == spec.rank().map(|rank| rank as u64)
            {
                spec.strategy = Strategy::Adapted(trained);
            }
            spec.dropout = number("dropout", spec.dropout);
            spec.b_lr = number("b_lr", spec.b_lr);
        }
    }
    sites
}

/// The adapter that was trained at a site, where it is saved as it trained: one of the same parameters, but for
/// those that follow from others, of which not all may train, as of LoRA-FA.
fn trained_as(site: &Site, recorded: &Value) -> Option<Strategy> {
    let named = method::adapters().find(|own| recorded["strategy"] == own.name());
    let strategy = Strategy::Adapted(named.filter(|_| site.is_adapted())?);
    let spec = AdapterSpec {
        strategy,
        ..site.spec
    };
    let trained = Site {
        spec,
        ..site.clone()
    };
    let parameters = |site: &Site| -> BTreeMap<String, Vec<usize>> {
        let own = site.parameters(std::slice::from_ref(site)).into_iter();
        let own = own.filter(|parameter| parameter.start != Start::InverseGram);
        own.map(|parameter| (parameter.name, parameter.shape))
            .collect()
    };
    let same = recorded["rank"].as_u64() == site.spec.rank().map(|rank| rank as u64)
        && parameters(&trained) == parameters(site);
    same.then_some(strategy)
}

/// The projections with the adapter's, and what trains beside them: what PEFT would train of what the
/// adapter holds whole.
fn as_peft(adapter: &Adapter, model: &Network) -> (Vec<Site>, Trainable) {
    let mut sites = adapter.apply_to(model.sites());
    let mut others = adapter.moved.clone();
    for site in sites.iter_mut().filter(|site| !site.is_adapted()) {
        let own: Vec<&String> = [Some(&site.weight), site.bias.as_ref()]
            .into_iter()
            .flatten()
            .collect();
        if own.iter().all(|name| adapter.moved.contains(name)) {
            others.retain(|name| !own.contains(&name));
            site.spec = AdapterSpec::full();
        }
    }
    let trainable = match others.is_empty() {
        true => Trainable::Adapters,
        false => Trainable::Parameters(others),
    };
    (sites, trainable)
}
