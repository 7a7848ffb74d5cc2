//! Writing a folder that `PeftModel.from_pretrained` loads as plain LoRA.

use std::{collections::HashMap, path::Path};

use ailora_runtime::store::{self, Array, Params};
use indexmap::IndexMap;
use serde::Serialize;

use super::{Adapter, CONFIG, PeftError, WEIGHTS, names::PREFIX};
use crate::head::Head;

/// The fields that are written; PEFT has defaults for the others.
#[derive(Serialize)]
struct Written {
    peft_type: &'static str,
    task_type: Option<&'static str>,
    base_model_name_or_path: String,
    r: usize,
    lora_alpha: f64,
    lora_dropout: f64,
    use_rslora: bool,
    use_dora: bool,
    fan_in_fan_out: bool,
    bias: &'static str,
    /// The values are in the file: loading must not decompose the weight again.
    init_lora_weights: bool,
    inference_mode: bool,
    target_modules: Targeted,
    modules_to_save: Vec<String>,
    rank_pattern: IndexMap<String, usize>,
    alpha_pattern: IndexMap<String, f64>,
}

/// The modules with factors.
#[derive(Serialize)]
#[serde(untagged)]
enum Targeted {
    Nothing(&'static str),
    Modules(Vec<String>),
}

/// What PEFT wants of an adapter without factors in place of modules' names.
const NOTHING: &str = "dummy-target-modules";

impl Adapter {
    /// Writes the folder's two files, each whole or not at all. `base` is what the base model is
    /// called, and `head` what it has.
    ///
    /// # Errors
    /// The folder cannot be written, or the base has no such parameters as the adapter changes.
    pub fn save(&self, folder: &Path, base: &str, head: Head) -> Result<(), PeftError> {
        let path = folder.join(CONFIG);
        if let Some(added) = self.added.first() {
            return Err(PeftError::Config {
                path,
                reason: format!(
                    "the adapter gives the base biases such as `{added}`, which PEFT could not load \
                     again; merge it instead"
                ),
            });
        }
        let (mut r, mut alpha) = (1, 1.0);
        if let Some(&(rank, scale)) = self.sites.values().next() {
            (r, alpha) = (rank, scale * rank as f64);
        }
        let other = |(path, &(rank, scale)): (&String, &(usize, f64))| {
            let site_alpha = scale * rank as f64;
            ((rank, site_alpha) != (r, alpha)).then(|| (path.clone(), rank, site_alpha))
        };
        let others: Vec<(String, usize, f64)> = self.sites.iter().filter_map(other).collect();
        let config = Written {
            peft_type: "LORA",
            task_type: head.peft_task(),
            base_model_name_or_path: base.into(),
            r,
            lora_alpha: alpha,
            lora_dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            fan_in_fan_out: false,
            bias: self.biases.name(),
            init_lora_weights: true,
            inference_mode: true,
            target_modules: match self.sites.is_empty() {
                true => Targeted::Nothing(NOTHING),
                false => Targeted::Modules(self.sites.keys().cloned().collect()),
            },
            modules_to_save: self.modules.clone(),
            rank_pattern: others
                .iter()
                .map(|(path, rank, _)| (path.clone(), *rank))
                .collect(),
            alpha_pattern: others
                .iter()
                .map(|(path, _, alpha)| (path.clone(), *alpha))
                .collect(),
        };
        // PEFT puts a layer of its own around a module with factors.
        let inside = |name: &str| match name.rsplit_once('.') {
            Some((module, bias @ "bias")) if self.sites.contains_key(module) => {
                format!("{module}.base_layer.{bias}")
            }
            _ => name.to_owned(),
        };
        let prefixed =
            |(name, array): (&String, &Array)| (format!("{PREFIX}{}", inside(name)), array.clone());
        let mut tensors: Params = self.tensors.iter().map(prefixed).collect();
        for (alias, name) in &self.shared {
            if let Some(array) = self.tensors.get(name) {
                tensors.insert(format!("{PREFIX}{alias}"), array.clone());
            }
        }
        let metadata = HashMap::from([("format".into(), "pt".into())]);
        store::save(&folder.join(WEIGHTS), &tensors, metadata)?;
        let json = serde_json::to_vec_pretty(&config).map_err(|error| PeftError::Config {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        Ok(store::write_atomically(&path, &json)?)
    }
}
