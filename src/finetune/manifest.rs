use ailora_models::task::Task;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Error, Settings, hex, sha256};

/// What a run was made of: enough to make it again, and to know whether another is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this crate.
    pub version: String,
    /// Everything that was set.
    pub settings: Settings,
    /// The hash of the base model's weights.
    pub base_sha256: String,
    /// The hash of each data file.
    pub data_sha256: IndexMap<String, String>,
    /// Threads, which the last bits of sums may depend on.
    pub threads: usize,
    /// One hash of all of the above.
    pub fingerprint: String,
}

impl Manifest {
    /// The manifest of a run.
    ///
    /// # Errors
    /// A data file cannot be read.
    pub fn new(settings: &Settings, base_sha256: &str, task: &Task) -> Result<Self, Error> {
        let splits = std::iter::once(&task.train).chain(task.dev);
        let mut data_sha256 = IndexMap::new();
        for split in splits {
            let hash = sha256(&settings.data.join(split.file))?;
            data_sha256.insert(split.file.to_owned(), hash);
        }
        let mut manifest = Self {
            version: env!("CARGO_PKG_VERSION").into(),
            settings: settings.clone(),
            base_sha256: base_sha256.into(),
            data_sha256,
            threads: rayon::current_num_threads(),
            fingerprint: String::new(),
        };
        let fields = serde_json::to_vec(&manifest).unwrap_or_default();
        manifest.fingerprint = hex(&Sha256::digest(&fields)[..16]);
        Ok(manifest)
    }
}
