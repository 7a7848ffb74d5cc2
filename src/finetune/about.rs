use std::{
    fs,
    path::{Path, PathBuf},
};

use ailora_graph::{
    Trainable,
    adapter::{Layout, Site},
};
use ailora_models::task::Task;
use ailora_runtime::store;
use serde::Serialize;
use serde_json::json;

use crate::run::Error;

/// `ailora.json`: what an adapter belongs to. [`Origin`](ailora_models::peft::Origin) reads it.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    model: String,
    base_sha256: String,
    task: String,
    labels: Vec<String>,
    /// The task itself, if it is not one that is built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<serde_json::Value>,
    /// What the run drew from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The longest sequence, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// How each projection was trained.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<serde_json::Value>,
    /// What trained beside the adapters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainable: Option<Trainable>,
    /// The adapter that training started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
}

impl About {
    const FILE: &str = "ailora.json";

    /// The record of an adapter for a task, on the base that is called `model` and whose weights
    /// have this hash.
    pub fn new(model: &str, task: &Task, base_sha256: &str) -> Self {
        Self {
            model: model.into(),
            base_sha256: base_sha256.into(),
            task: task.name.clone(),
            labels: task.label_names().to_vec(),
            description: task.description.clone(),
            seed: None,
            max_length: None,
            sites: Vec::new(),
            trainable: None,
            from: None,
        }
    }

    /// Says how each projection was trained that was.
    pub fn describe(&mut self, sites: &[Site]) {
        let trained = sites.iter().filter(|site| site.spec.trains());
        let described = trained.map(|site| {
            json!({
                "path": site.path,
                "strategy": site.spec.strategy,
                "rank": site.spec.rank(),
                "shape": [site.out_features, site.in_features],
                "layout": if site.layout == Layout::OutIn { "out_in" } else { "in_out" },
                "lr": site.spec.lr,
                "scale": site.spec.scale(),
                "dropout": site.spec.dropout,
                "b_lr": site.spec.b_lr,
                "dora": site.spec.dora,
            })
        });
        self.sites = described.collect();
    }

    /// Takes what another folder's record says of how the adapter was trained, if it has one.
    pub fn keep(&mut self, folder: &Path) {
        let record = fs::read(folder.join(Self::FILE)).ok();
        let record = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(serde_json::Value::Object(mut record)) = record else {
            return;
        };
        if let Some(serde_json::Value::Array(sites)) = record.remove("sites") {
            self.sites = sites;
        }
        let trainable = record.remove("trainable");
        self.trainable = trainable.and_then(|trainable| serde_json::from_value(trainable).ok());
        self.seed = record.remove("seed").and_then(|seed| seed.as_u64());
    }

    /// Whether a folder has a record.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(Self::FILE).is_file()
    }

    /// Writes the record to an adapter's folder.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(Self::FILE);
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::io(&path, "describe it")(error.into()))?;
        Ok(store::write_atomically(&path, &bytes)?)
    }
}
