//! Indices of shards, and tensors that two of them have.

mod support;

use std::{collections::HashMap, fs, path::Path};

use ailora_models::{head::Head, pretrained::Pretrained};
use ailora_runtime::store::{self, Params};
use support::fixtures;
use tempfile::TempDir;

const HEAD: Head = Head::classification(2);

/// A folder of a BERT in two shards with an index, and what it says.
fn folder() -> (TempDir, serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    let from = fixtures().join("parity/bert_cls-1");
    fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let weights = store::load(&from.join("model.safetensors")).unwrap().0;
    let mut shards = [Params::new(), Params::new()];
    let mut map = serde_json::Map::new();
    for (i, (name, array)) in weights.into_iter().enumerate() {
        map.insert(name.clone(), format!("part-{}.safetensors", i % 2).into());
        shards[i % 2].insert(name, array);
    }
    for (i, shard) in shards.iter().enumerate() {
        let path = dir.path().join(format!("part-{i}.safetensors"));
        store::save(&path, shard, HashMap::new()).unwrap();
    }
    (dir, serde_json::json!({"metadata": {}, "weight_map": map}))
}

fn open(dir: &Path, index: &serde_json::Value) -> Result<Pretrained, String> {
    let path = dir.join("model.safetensors.index.json");
    fs::write(path, index.to_string()).unwrap();
    Pretrained::open(dir, HEAD).map_err(|error| error.to_string())
}

#[test]
fn shards_are_the_model() {
    let (dir, index) = folder();
    let found = open(dir.path(), &index).unwrap();
    let expected = Pretrained::open(&fixtures().join("parity/bert_cls-1"), HEAD).unwrap();
    assert_eq!(found.weights.len(), expected.weights.len());
    for (name, array) in &expected.weights {
        assert_eq!(&found.weights[name], array, "{name}");
    }
}

#[test]
fn an_index_names_files_of_its_folder() {
    let outside = tempfile::tempdir().unwrap();
    let weights = fixtures().join("parity/bert_cls-1/model.safetensors");
    let outside = outside.path().join("outside.safetensors");
    fs::copy(weights, &outside).unwrap();
    for file in [
        serde_json::json!("../outside.safetensors"),
        serde_json::json!(outside.display().to_string()),
        serde_json::json!("part-0.safetensors/../part-1.safetensors"),
        serde_json::json!("./part-0.safetensors"),
        serde_json::json!(".."),
        serde_json::json!(""),
        serde_json::json!("a\0b"),
        serde_json::json!(7),
        serde_json::json!(["part-0.safetensors"]),
        serde_json::json!(null),
    ] {
        let (dir, mut index) = folder();
        index["weight_map"]["classifier.bias"] = file.clone();
        let error = open(dir.path(), &index).unwrap_err();
        for part in [
            "model.safetensors.index.json",
            "`classifier.bias`",
            "not the name of a file",
        ] {
            assert!(error.contains(part), "{file}: {error}");
        }
    }
    let (dir, _) = folder();
    for (index, expected) in [
        (serde_json::json!({}), "it has no `weight_map`"),
        (
            serde_json::json!({"weight_map": []}),
            "it has no `weight_map`",
        ),
        (
            serde_json::json!({"weight_map": {}}),
            "`weight_map` is empty",
        ),
        (serde_json::json!([]), "not a JSON object"),
    ] {
        let error = open(dir.path(), &index).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_tensor_is_in_one_shard() {
    let (dir, index) = folder();
    let path = dir.path().join("part-1.safetensors");
    let (mut shard, _) = store::load(&path).unwrap();
    let name = "classifier.weight";
    let (other, _) = store::load(&dir.path().join("part-0.safetensors")).unwrap();
    let here = shard.contains_key(name);
    let name = if here {
        other.keys().next().unwrap()
    } else {
        name
    };
    let mut array = other[name].clone();
    array.floats_mut().fill(0.0);
    shard.insert(name.into(), array);
    store::save(&path, &shard, HashMap::new()).unwrap();
    let error = open(dir.path(), &index).unwrap_err();
    for part in [name, "part-0.safetensors", "part-1.safetensors", "both"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_missing_shard_is_named_before_anything_is_read() {
    let (dir, index) = folder();
    fs::write(dir.path().join("part-0.safetensors"), "damaged").unwrap();
    fs::remove_file(dir.path().join("part-1.safetensors")).unwrap();
    let error = open(dir.path(), &index).unwrap_err();
    assert!(error.contains("part-1.safetensors is missing"), "{error}");
}

#[test]
fn shards_that_no_index_names_are_noted() {
    let (dir, index) = folder();
    for name in [
        "model-00003-of-00003.safetensors",
        "adapter.safetensors",
        "x-of-y.safetensors",
    ] {
        fs::write(dir.path().join(name), "not read").unwrap();
    }
    let model = open(dir.path(), &index).unwrap();
    let [note] = &model.report.notes[..] else {
        panic!("{:?}", model.report.notes);
    };
    let expected = "shards that no index names are not read: `model-00003-of-00003.safetensors`";
    assert_eq!(note.text, expected);
}
