//! Checkpoints in other types than float32 compute what their float32 values compute.

mod support;

use std::{collections::HashMap, fs, path::Path};

use ailora_graph::ir::DType;
use ailora_models::{
    head::Head,
    pretrained::{Pretrained, PretrainedError},
};
use ailora_runtime::store::{self, Array, Params};
use safetensors::{
    Dtype,
    tensor::{TensorView, serialize},
};
use support::{File, fixtures, run};

const HEAD: Head = Head::classification(2);

/// Writes tensors, each in the type that it has.
fn write(path: &Path, params: &Params) {
    let views = params.iter().map(|(name, array)| {
        let dtype = match array.dtype() {
            DType::F32 => Dtype::F32,
            DType::Bf16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            DType::F64 => Dtype::F64,
            DType::I32 => Dtype::I32,
        };
        let bytes: &[u8] = array.bytes().into_owned().leak();
        let view = TensorView::new(dtype, array.shape().to_vec(), bytes).unwrap();
        (name.clone(), view)
    });
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

/// The same tensors as elements of another type.
fn rounded(params: &Params, dtype: impl Fn(usize) -> DType) -> Params {
    let each = params.iter().enumerate();
    each.map(|(i, (name, array))| {
        let dtype = dtype(i);
        let mut bytes = vec![0; array.len() * dtype.bytes()];
        dtype.encode(&array.floats(), &mut bytes);
        (name.clone(), Array::from_bytes(dtype, array.shape(), bytes))
    })
    .collect()
}

fn wide(params: &Params) -> Params {
    let wide = |(name, array): (&String, &Array)| {
        (
            name.clone(),
            Array::new(array.shape(), array.floats().into_owned()),
        )
    };
    params.iter().map(wide).collect()
}

/// What a folder's model computes, and its weights.
fn outputs(dir: &Path) -> (Vec<(String, Vec<f64>)>, Params) {
    let base = Pretrained::open(dir, HEAD).unwrap();
    base.check_head().unwrap();
    let batch = File::open(&fixtures().join("parity/bert_cls-0/io.safetensors")).batch(HEAD);
    let program = base.model.program(batch.shape(), false, false).unwrap();
    let outputs = run(&program, &base.weights, &base.model.inputs(&batch));
    assert!(outputs.iter().any(|(name, _)| name == "logits"));
    (outputs, base.weights)
}

#[test]
fn narrow_checkpoints_compute_what_their_float32_values_compute() {
    let from = fixtures().join("parity/bert_cls-0");
    let given = store::load(&from.join("model.safetensors")).unwrap().0;
    let (original, _) = outputs(&from);
    let mixed = |i: usize| DType::ALL[i % 4];
    let all: [&dyn Fn(usize) -> DType; 4] =
        [&|_| DType::Bf16, &|_| DType::F16, &|_| DType::F64, &mixed];
    for (i, dtype) in all.into_iter().enumerate() {
        let narrow = rounded(&given, dtype);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
        store::save(&path, &wide(&narrow), HashMap::new()).unwrap();
        let (expected, _) = outputs(dir.path());
        assert_eq!(expected == original, i == 2, "the types of number {i}");
        write(&path, &narrow);
        let (found, weights) = outputs(dir.path());
        assert_eq!(found, expected, "the types of number {i}");
        for (name, array) in &weights {
            assert_eq!(array.dtype(), narrow[name].dtype(), "{name}");
        }

        fs::remove_file(&path).unwrap();
        let mut shards = [Params::new(), Params::new()];
        let mut map = serde_json::Map::new();
        for (i, (name, array)) in narrow.iter().enumerate() {
            map.insert(name.clone(), format!("{}.safetensors", i % 2).into());
            shards[i % 2].insert(name.clone(), array.clone());
        }
        for (i, shard) in shards.iter().enumerate() {
            write(&dir.path().join(format!("{i}.safetensors")), shard);
        }
        let index = serde_json::json!({"weight_map": map}).to_string();
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        let (found, weights) = outputs(dir.path());
        assert_eq!(found, expected, "the types of number {i}, in shards");
        assert!(weights.iter().all(|(name, array)| *array == narrow[name]));
    }
}

/// Two tables that the model shares may be there twice, in different types.
#[test]
fn copies_of_a_tied_table_may_differ_in_their_types() {
    let from = fixtures().join("parity/bert_mlm-0");
    let dir = tempfile::tempdir().unwrap();
    fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let path = dir.path().join("model.safetensors");
    let given = store::load(&from.join("model.safetensors")).unwrap().0;
    let mut narrow = rounded(&given, |_| DType::Bf16);
    let table = &narrow["bert.embeddings.word_embeddings.weight"];
    let copy = Array::new(table.shape(), table.floats().into_owned());
    let name = "cls.predictions.decoder.weight";
    narrow.insert(name.to_owned(), copy.clone());
    write(&path, &narrow);
    let base = Pretrained::open(dir.path(), Head::MaskedLm).unwrap();
    assert!(!base.weights.contains_key(name));
    let mut other = copy;
    other.floats_mut()[7] += 1.0;
    narrow.insert(name.to_owned(), other);
    write(&path, &narrow);
    let error = Pretrained::open(dir.path(), Head::MaskedLm).unwrap_err();
    assert!(matches!(error, PretrainedError::Untied { .. }), "{error}");
}
