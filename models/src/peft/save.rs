//! Writing a folder that `PeftModel.from_pretrained` loads.

use std::{collections::HashMap, path::Path};

use ailora_graph::{adapter::Site, method::Field};
use ailora_runtime::store::{self, Array, Params};
use serde_json::{Map, Value, json};

use super::{
    Adapter, CONFIG, PeftError, WEIGHTS, form,
    names::{PREFIX, TUNER},
};
use crate::head::Head;

/// What PEFT wants of an adapter without factors in place of modules' names.
const NOTHING: &str = "dummy-target-modules";

impl Adapter {
    /// Writes the folder's two files, each whole or not at all. `base` is what the base model is
    /// called, and `head` what it has.
    ///
    /// # Errors
    /// The folder cannot be written, the base has no such parameters as the adapter changes, or PEFT
    /// has no form of the adapter.
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
        let config = self.config(base, head)?;
        // PEFT puts a layer of its own around a module with factors.
        let inside = |name: &str| match name.rsplit_once('.') {
            Some((module, bias @ "bias")) if self.sites.contains_key(module) => {
                format!("{module}.base_layer.{bias}")
            }
            _ => name.to_owned(),
        };
        let [shared, left_out] = self.shared_and_left_out();
        let prefixed = |(name, array): (&String, &Array)| {
            let prefix = if shared.contains(name) { TUNER } else { PREFIX };
            (format!("{prefix}{}", inside(name)), array.clone())
        };
        let kept = self
            .tensors
            .iter()
            .filter(|(name, _)| !left_out.contains(*name));
        let mut tensors: Params = kept.map(prefixed).collect();
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

    /// The fields of `adapter_config.json`; PEFT has defaults for the others. What is said by module
    /// comes last.
    fn config(&self, base: &str, head: Head) -> Result<Map<String, Value>, PeftError> {
        let form = form::common(&self.adapted())?.or_else(form::alone);
        let fields = form.map_or(&[][..], |form| form.fields);
        let mut config = Map::new();
        let mut set = |name: &str, value: Value| config.insert(name.to_owned(), value);
        set("peft_type", json!(form.map(|form| form.kind)));
        set("task_type", json!(head.peft_task()));
        set("base_model_name_or_path", json!(base));
        let by_module = |field: &Field| matches!(field, Field::Ranks | Field::Alphas);
        let (last, first): (Vec<_>, Vec<_>) =
            fields.iter().partition(|(_, field)| by_module(field));
        for &(name, field) in first {
            set(name, self.field(name, field));
        }
        set("inference_mode", json!(true));
        set(
            "target_modules",
            match self.sites.is_empty() {
                true => json!(NOTHING),
                false => json!(self.sites.keys().collect::<Vec<_>>()),
            },
        );
        set("modules_to_save", json!(self.modules));
        for &(name, field) in last {
            set(name, self.field(name, field));
        }
        Ok(config)
    }

    /// The value of a field of the adapter's own.
    fn field(&self, name: &str, field: Field) -> Value {
        let rank = |site: &Site| site.spec.rank().unwrap_or(1);
        let alpha = |site: &Site| site.spec.alpha.unwrap_or(rank(site) as f64);
        let size = |site: &Site| (rank(site), alpha(site));
        let first = self.sites.values().next().map_or((1, 1.0), size);
        let others = || {
            let sites = self.sites.values();
            sites.filter(|site| size(site) != first)
        };
        match field {
            Field::Rank => json!(first.0),
            Field::Alpha => json!(first.1),
            Field::Ranks => others()
                .map(|site| (site.path.clone(), json!(rank(site))))
                .collect(),
            Field::Alphas => others()
                .map(|site| (site.path.clone(), json!(alpha(site))))
                .collect(),
            Field::Biases => json!(self.biases.name()),
            Field::Dora => json!(self.sites.values().any(|site| site.spec.dora)),
            Field::Bool(value) => json!(value),
            Field::Number(value) => json!(value),
            Field::Text(value) => json!(value),
            Field::Began(value) => json!(value),
            Field::Empty => json!([]),
            Field::Among(_) => {
                let is_among = |site: &&Site| {
                    let form = form::of(site.spec.strategy);
                    form.is_some_and(|form| form.fields.contains(&(name, Field::Among(true))))
                };
                let among = self.sites.values().filter(is_among);
                among.map(|site| site.path.as_str()).collect()
            }
            Field::DrawSeed => json!(self.draws.seed),
            Field::DrawsSaved => json!(self.draws.saved),
        }
    }
}
