//! A folder of a whole model, as transformers and this crate load it.

use std::{collections::HashMap, path::Path};

use ailora_models::{head::Head, pretrained::Pretrained, task::Task};
use ailora_runtime::store::{self, Params};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::Model;
use crate::run::{Error, hash};

/// Files of a model's folder, beside its weights, that change what is trained.
const MODEL_FILES: [&str; 10] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spm.model",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
];

/// The hashes of a model's files.
///
/// # Errors
/// A file cannot be read.
pub(super) fn hashes(model: &Pretrained) -> Result<IndexMap<String, String>, Error> {
    let mut hashes = IndexMap::from([("weights".to_owned(), model.sha256.clone())]);
    for name in MODEL_FILES {
        let path = model.dir.join(name);
        if path.is_file() {
            hashes.insert(name.to_owned(), hash::file(&path)?);
        }
    }
    Ok(hashes)
}

/// Writes a model folder: weights, configuration with the task's labels, tokenizer, and what says
/// how to generate. Weights are float32, which loses nothing of what was trained or merged, and
/// `config.json` says so.
///
/// # Errors
/// A file cannot be read or written.
pub fn write_model(
    model: &Model,
    task: &Task,
    params: &Params,
    folder: &Path,
) -> Result<(), Error> {
    let companions = model.pretrained.companions(&model.tokenizer)?;
    let metadata = HashMap::from([("format".into(), "pt".into())]);
    store::save(&folder.join("model.safetensors"), params, metadata)?;
    let config = format!("{:#}\n", Value::Object(config(model, task)));
    store::write_atomically(&folder.join("config.json"), config.as_bytes())?;
    for (name, bytes) in companions {
        store::write_atomically(&folder.join(name), &bytes)?;
    }
    Ok(())
}

/// The base's `config.json`, of the model with the task's head in float32.
fn config(model: &Model, task: &Task) -> Map<String, Value> {
    let base = model.pretrained.model.config();
    let mut config = base.json.clone();
    let mut set = |field: &str, value: Value| drop(config.insert(field.into(), value));
    if let Head::Sequence { outputs, problem } = task.head() {
        for (field, value) in labels(model, outputs) {
            set(field, value);
        }
        set("num_labels", outputs.into());
        set("problem_type", problem.name().into());
    }
    set("architectures", vec![model.pretrained.model.class()].into());
    set("dtype", "float32".into());
    if base.json.contains_key("torch_dtype") {
        set("torch_dtype", "float32".into());
    }
    config
}

/// `id2label` and `label2id`: the names of the head's outputs in their order.
fn labels(model: &Model, outputs: usize) -> [(&'static str, Value); 2] {
    let names: Vec<String> = match model.objective.output_names() {
        [] => (0..outputs).map(|i| format!("LABEL_{i}")).collect(),
        names => names.to_vec(),
    };
    let numbered = || names.iter().enumerate();
    let by_id: Map<String, Value> = numbered().map(|(i, n)| (i.to_string(), json!(n))).collect();
    let by_name: Map<String, Value> = numbered().map(|(i, n)| (n.clone(), json!(i))).collect();
    [("id2label", by_id.into()), ("label2id", by_name.into())]
}
