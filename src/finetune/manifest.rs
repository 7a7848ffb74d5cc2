use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Error, Settings, hex, sha256};

/// What a run was made of: enough to make it again, and to know whether another is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest<S = Settings> {
    /// The version of this crate.
    pub version: String,
    /// Everything that was set.
    pub settings: S,
    /// The hash of the base model's weights; empty where there is none.
    pub base_sha256: String,
    /// The hash of each data file.
    pub data_sha256: IndexMap<String, String>,
    /// Threads, which the last bits of sums may depend on.
    pub threads: usize,
    /// One hash of all of the above.
    pub fingerprint: String,
}

impl<S: Clone + Serialize> Manifest<S> {
    /// The manifest of a run on these files, each with the name it has there.
    ///
    /// # Errors
    /// A data file cannot be read.
    pub fn new(
        settings: &S,
        base_sha256: &str,
        files: impl IntoIterator<Item = (String, PathBuf)>,
    ) -> Result<Self, Error> {
        let hashed = files.into_iter();
        let data_sha256 = hashed
            .map(|(name, path)| Ok((name, sha256(&path)?)))
            .collect::<Result<_, Error>>()?;
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
