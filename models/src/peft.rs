//! Adapters in the format of PEFT: a folder that `PeftModel.from_pretrained` loads as plain LoRA.
//!
//! An adapter that starts from singular triplets trains against the residual `W - s B0 A0`. Beside
//! the published `W` it is the LoRA of twice the rank with `A' = [A; A0]` and `B' = [B, -B0]`, so
//! the base stays as it is and no decomposition is repeated when the adapter is loaded.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use ailora_graph::{
    AdapterSpec, Strategy,
    adapter::{Init, Layout, Site},
};
use ailora_runtime::store::{self, Array, Params, StoreError};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::head::Head;

/// What PEFT puts before every module path.
const PREFIX: &str = "base_model.model.";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// An adapter folder that cannot be written or read.
#[derive(Debug, Error)]
pub enum PeftError {
    /// A file of the folder cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder has no such file.
    #[error("{folder}: no {file} there; an adapter folder holds {CONFIG} and {WEIGHTS}", folder = folder.display())]
    NoFile {
        /// The folder.
        folder: PathBuf,
        /// The file.
        file: &'static str,
    },
    /// The configuration is not one of a LoRA adapter.
    #[error("{path}: {reason}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that fits no projection of the model, or not in its shape.
    #[error("{path}: tensor `{name}` is {found:?}; {expected}", path = path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What would fit.
        expected: String,
    },
    /// A parameter that training should have left is missing.
    #[error("the trained parameters have no `{0}`")]
    Missing(String),
    /// A projection whose weight is stored the other way round.
    #[error("{0}: PEFT's linear layers store `[out, in]`; this projection stores `[in, out]`")]
    Layout(String),
}

/// The fields of `adapter_config.json` that say what a LoRA adapter computes.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct LoraConfig {
    peft_type: String,
    #[serde(default)]
    task_type: Option<String>,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    init_lora_weights: serde_json::Value,
    #[serde(default)]
    inference_mode: bool,
    #[serde(default)]
    target_modules: serde_json::Value,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    rank_pattern: IndexMap<String, usize>,
    #[serde(default)]
    alpha_pattern: IndexMap<String, f64>,
}

/// An adapter as plain LoRA: what a folder holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Rank and scale of each adapted projection by module path.
    pub sites: IndexMap<String, (usize, f64)>,
    /// `PATH.lora_A.weight` `[r, in]`, `PATH.lora_B.weight` `[out, r]`, and the parameters that
    /// were trained in full under their own names.
    pub tensors: Params,
}

impl Adapter {
    /// The trained projections of a model as plain LoRA. `params` holds their factors and starts,
    /// and what was trained in full.
    ///
    /// # Errors
    /// A parameter is missing.
    pub fn from_trained(sites: &[Site], params: &Params) -> Result<Self, PeftError> {
        let get = |name: String| match params.get(&name) {
            Some(array) => Ok((name, array.clone())),
            None => Err(PeftError::Missing(name)),
        };
        let mut adapter = Self {
            sites: IndexMap::new(),
            tensors: Params::new(),
        };
        for site in sites {
            match site.spec.strategy {
                Strategy::Frozen => {}
                Strategy::Full => {
                    adapter.tensors.extend([get(site.weight.clone())?]);
                    if let Some(bias) = &site.bias {
                        adapter.tensors.extend([get(bias.clone())?]);
                    }
                }
                Strategy::LowRank { init, rank } => {
                    if site.layout == Layout::InOut {
                        return Err(PeftError::Layout(site.path.clone()));
                    }
                    let (name_a, mut a) = get(site.lora_a())?;
                    let (name_b, mut b) = get(site.lora_b())?;
                    let mut rank = rank;
                    if init != Init::Random {
                        let (_, a0) = get(site.lora_a0())?;
                        let (_, b0) = get(site.lora_b0())?;
                        a = below(a, &a0);
                        b = beside_negative(&b, &b0, rank);
                        rank *= 2;
                    }
                    let scale = site.spec.scale().unwrap_or(1.0);
                    adapter.sites.insert(site.path.clone(), (rank, scale));
                    adapter.tensors.extend([(name_a, a), (name_b, b)]);
                }
            }
        }
        Ok(adapter)
    }

    /// The projections of a model as this adapter leaves them: plain LoRA where it has factors,
    /// fully trained where it has whole weights, else frozen.
    pub fn apply_to(&self, sites: Vec<Site>) -> Vec<Site> {
        let specify = |mut site: Site| {
            site.spec = match self.sites.get(&site.path) {
                Some(&(rank, scale)) => AdapterSpec::random(rank).with_alpha(scale * rank as f64),
                None => AdapterSpec::frozen(),
            };
            site
        };
        sites.into_iter().map(specify).collect()
    }

    /// Writes the folder's two files, each whole or not at all. `base` is what the base model is
    /// called; `heads` are the modules that hold parameters trained in full, such as `classifier`,
    /// of a model with this `head`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(
        &self,
        folder: &Path,
        base: &str,
        head: Head,
        heads: &[String],
    ) -> Result<(), PeftError> {
        let (mut r, mut alpha) = (1, 1.0);
        if let Some(&(rank, scale)) = self.sites.values().next() {
            (r, alpha) = (rank, scale * rank as f64);
        }
        let other = |(path, &(rank, scale)): (&String, &(usize, f64))| {
            let site_alpha = scale * rank as f64;
            ((rank, site_alpha) != (r, alpha)).then(|| (path.clone(), rank, site_alpha))
        };
        let others: Vec<(String, usize, f64)> = self.sites.iter().filter_map(other).collect();
        let config = LoraConfig {
            peft_type: "LORA".into(),
            task_type: head.peft_task().map(Into::into),
            base_model_name_or_path: Some(base.into()),
            r,
            lora_alpha: alpha,
            lora_dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            fan_in_fan_out: false,
            bias: Some("none".into()),
            // The values are in the file: loading must not decompose the weight again.
            init_lora_weights: true.into(),
            inference_mode: true,
            target_modules: self.sites.keys().cloned().collect(),
            modules_to_save: Some(heads.to_vec()),
            rank_pattern: others
                .iter()
                .map(|(path, rank, _)| (path.clone(), *rank))
                .collect(),
            alpha_pattern: others
                .iter()
                .map(|(path, _, alpha)| (path.clone(), *alpha))
                .collect(),
        };
        let prefixed =
            |(name, array): (&String, &Array)| (format!("{PREFIX}{name}"), array.clone());
        let tensors: Params = self.tensors.iter().map(prefixed).collect();
        let metadata = HashMap::from([("format".into(), "pt".into())]);
        store::save(&folder.join(WEIGHTS), &tensors, metadata)?;
        let path = folder.join(CONFIG);
        let json = serde_json::to_vec_pretty(&config).map_err(|error| PeftError::Config {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        Ok(store::write_atomically(&path, &json)?)
    }

    /// Reads a LoRA folder, of ours or of PEFT's, for a model with these projections.
    ///
    /// # Errors
    /// The folder is not one of a LoRA adapter, or its tensors do not fit the model.
    pub fn load(folder: &Path, sites: &[Site]) -> Result<Self, PeftError> {
        let (config, path) = read_config(folder)?;
        let (tensors, _) = store::load(&path)?;
        let mut adapter = Self {
            sites: IndexMap::new(),
            tensors: Params::new(),
        };
        for (full, array) in tensors {
            let misfit = |expected: String| PeftError::Tensor {
                path: path.clone(),
                name: full.clone(),
                found: array.shape.clone(),
                expected,
            };
            let name = full
                .strip_prefix(PREFIX)
                .unwrap_or(&full)
                .replace(".modules_to_save.default", "");
            let factor = name
                .strip_suffix(".lora_A.weight")
                .map(|module| (module, true))
                .or_else(|| Some((name.strip_suffix(".lora_B.weight")?, false)));
            if let Some((module, down)) = factor {
                let site = sites.iter().find(|site| site.path == module);
                let site = site.ok_or_else(|| misfit(format!("the model has no `{module}`")))?;
                let rank = config.rank(module);
                let expected = if down {
                    [rank, site.in_features]
                } else {
                    [site.out_features, rank]
                };
                if array.shape != expected {
                    return Err(misfit(format!("expected {expected:?} for rank {rank}")));
                }
                let scale = config.scale(module, rank);
                adapter.sites.insert(module.to_owned(), (rank, scale));
            } else if let Some(expected) = sites.iter().find_map(|site| own_shape(site, &name))
                && array.shape != expected
            {
                return Err(misfit(format!(
                    "the model and task need {expected:?}; give the adapter's own"
                )));
            }
            adapter.tensors.insert(name, array);
        }
        for module in adapter.sites.keys() {
            for factor in ["lora_A", "lora_B"] {
                let name = format!("{module}.{factor}.weight");
                if !adapter.tensors.contains_key(&name) {
                    return Err(PeftError::Config {
                        path,
                        reason: format!("tensor `{PREFIX}{name}` is missing"),
                    });
                }
            }
        }
        Ok(adapter)
    }

    /// `W + s B A` for every adapted projection, in place of its weight, and everything that was
    /// trained in full in place of what was there. In float32, which loses nothing that training in
    /// float32 had.
    ///
    /// # Errors
    /// A weight is missing.
    pub fn merge_into(&self, sites: &[Site], params: &mut Params) -> Result<(), PeftError> {
        for (module, &(rank, scale)) in &self.sites {
            let site = sites.iter().find(|site| site.path == *module);
            let site = site.ok_or_else(|| PeftError::Missing(module.clone()))?;
            let factor = |name: String| {
                let array = self.tensors.get(&name);
                array.ok_or(PeftError::Missing(name))
            };
            let (a, b) = (factor(site.lora_a())?, factor(site.lora_b())?);
            let weight = params
                .get_mut(&site.weight)
                .ok_or_else(|| PeftError::Missing(site.weight.clone()))?;
            let columns = site.in_features;
            for (row, b) in weight
                .data
                .chunks_exact_mut(columns)
                .zip(b.data.chunks_exact(rank))
            {
                for (i, w) in row.iter_mut().enumerate() {
                    let product: f64 = b
                        .iter()
                        .enumerate()
                        .map(|(k, &b)| f64::from(b) * f64::from(a.data[k * columns + i]))
                        .sum();
                    *w = (f64::from(*w) + scale * product) as f32;
                }
            }
        }
        params.extend(
            self.trained_in_full()
                .map(|(name, array)| (name.clone(), array.clone())),
        );
        Ok(())
    }

    /// The parameters that are no factors.
    pub fn trained_in_full(&self) -> impl Iterator<Item = (&String, &Array)> {
        let factor =
            |name: &str| name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight");
        self.tensors.iter().filter(move |(name, _)| !factor(name))
    }
}

impl LoraConfig {
    fn rank(&self, module: &str) -> usize {
        pattern(&self.rank_pattern, module)
            .copied()
            .unwrap_or(self.r)
    }

    fn scale(&self, module: &str, rank: usize) -> f64 {
        let alpha = pattern(&self.alpha_pattern, module)
            .copied()
            .unwrap_or(self.lora_alpha);
        let rank = rank as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

/// The shape of a projection's weight or bias, if `name` is one of them.
fn own_shape(site: &Site, name: &str) -> Option<Vec<usize>> {
    if site.weight == name {
        let (out, inputs) = (site.out_features, site.in_features);
        return Some(match site.layout {
            Layout::OutIn => vec![out, inputs],
            Layout::InOut => vec![inputs, out],
        });
    }
    (site.bias.as_deref() == Some(name)).then(|| vec![site.out_features])
}

/// The value of the first key that is the module or the end of its path.
fn pattern<'a, T>(patterns: &'a IndexMap<String, T>, module: &str) -> Option<&'a T> {
    let matches = |key: &str| {
        module
            .strip_suffix(key)
            .is_some_and(|head| head.is_empty() || head.ends_with('.'))
    };
    patterns
        .iter()
        .find(|(key, _)| matches(key))
        .map(|(_, value)| value)
}

fn read_config(folder: &Path) -> Result<(LoraConfig, PathBuf), PeftError> {
    let no_file = |file| PeftError::NoFile {
        folder: folder.to_owned(),
        file,
    };
    let path = folder.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(|_| no_file(CONFIG))?;
    let bad = |reason: String| PeftError::Config {
        path: path.clone(),
        reason,
    };
    let config: LoraConfig = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let unsupported = [
        (config.peft_type != "LORA", "expected peft_type LORA"),
        (
            config.use_dora,
            "DoRA adapters (use_dora) are not supported",
        ),
        (
            config.fan_in_fan_out,
            "fan_in_fan_out adapters are not supported",
        ),
        (
            config.bias.as_deref().is_some_and(|bias| bias != "none"),
            "trained biases are not supported",
        ),
        (config.r == 0, "expected a rank of at least 1"),
    ];
    if let Some((_, reason)) = unsupported.into_iter().find(|(is, _)| *is) {
        return Err(bad(format!(
            "{reason}; found peft_type {}, r {}",
            config.peft_type, config.r
        )));
    }
    let weights = folder.join(WEIGHTS);
    if !weights.is_file() {
        return Err(no_file(WEIGHTS));
    }
    Ok((config, weights))
}

/// The rows of `b` below those of `a`.
fn below(mut a: Array, b: &Array) -> Array {
    a.shape[0] += b.shape[0];
    a.data.extend(&b.data);
    a
}

/// The columns of `-b` beside those of `a`, each `rank` wide.
fn beside_negative(a: &Array, b: &Array, rank: usize) -> Array {
    let rows = a.data.chunks_exact(rank).zip(b.data.chunks_exact(rank));
    Array {
        shape: vec![a.shape[0], 2 * rank],
        data: rows
            .flat_map(|(a, b)| a.iter().copied().chain(b.iter().map(|x| -x)))
            .collect(),
    }
}
