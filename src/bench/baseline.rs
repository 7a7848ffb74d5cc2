use std::{
    fmt,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Ratios;
use crate::runtime::store::{StoreError, write_atomically};

/// The ratios of each configuration, by its key: what a run is compared with. Ratios of times that
/// were measured side by side mean something on another machine too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Baseline {
    /// The ratios.
    pub ratios: IndexMap<String, Ratios>,
}

/// A baseline that cannot be read or written.
#[derive(Debug, Error)]
pub enum BaselineError {
    /// A file that cannot be read.
    #[error("{file}: {source}; `--write-baseline` makes one")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is no baseline.
    #[error("{file}: {source}; expected an object of ratios by configuration")]
    Parse {
        /// The file.
        file: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A file that cannot be written.
    #[error(transparent)]
    Write(#[from] StoreError),
}

/// A run beside a baseline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// What became worse.
    pub regressions: Vec<Regression>,
    /// The configurations that were run and are not in the baseline.
    pub missing: Vec<String>,
}

/// A ratio that became worse.
#[derive(Clone, Debug, PartialEq)]
pub struct Regression {
    /// The configuration.
    pub key: String,
    /// Which ratio.
    pub ratio: &'static str,
    /// Its value in the baseline.
    pub before: f64,
    /// Its value now.
    pub now: f64,
}

impl Baseline {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no baseline.
    pub fn read(file: &Path) -> Result<Self, BaselineError> {
        let bytes = std::fs::read(file).map_err(|source| BaselineError::Read {
            file: file.to_owned(),
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|source| BaselineError::Parse {
            file: file.to_owned(),
            source,
        })
    }

    /// Writes a file, one configuration a line, with three decimals.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, file: &Path) -> Result<(), BaselineError> {
        let lines: Vec<String> = self
            .ratios
            .iter()
            .map(|(key, ratios)| {
                let round = |x: f64| (1e3 * x).round() / 1e3;
                let rounded = Ratios {
                    fused_to_unfused: round(ratios.fused_to_unfused),
                    fused_to_frozen: round(ratios.fused_to_frozen),
                    unfused_to_frozen: round(ratios.unfused_to_frozen),
                };
                format!(
                    "  {}: {}",
                    serde_json::json!(key),
                    serde_json::json!(rounded)
                )
            })
            .collect();
        let text = format!("{{\n{}\n}}\n", lines.join(",\n"));
        Ok(write_atomically(file, text.as_bytes())?)
    }

    /// What of `run` is worse than here by more than `tolerance`, a share: 0.1 is 10%.
    pub fn compare(&self, run: &Self, tolerance: f64) -> Comparison {
        let mut comparison = Comparison::default();
        for (key, now) in &run.ratios {
            let Some(before) = self.ratios.get(key) else {
                comparison.missing.push(key.clone());
                continue;
            };
            let pairs = [
                (
                    "fused / unfused",
                    before.fused_to_unfused,
                    now.fused_to_unfused,
                ),
                (
                    "fused / frozen",
                    before.fused_to_frozen,
                    now.fused_to_frozen,
                ),
                (
                    "unfused / frozen",
                    before.unfused_to_frozen,
                    now.unfused_to_frozen,
                ),
            ];
            for (ratio, before, now) in pairs {
                if now.is_nan() || now > before * (1.0 + tolerance) {
                    comparison.regressions.push(Regression {
                        key: key.clone(),
                        ratio,
                        before,
                        now,
                    });
                }
            }
        }
        comparison
    }
}

impl fmt::Display for Regression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            ratio,
            before,
            now,
        } = self;
        write!(f, "{key}: {ratio} is {now:.3}, was {before:.3}")
    }
}
