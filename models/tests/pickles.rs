//! PyTorch's own weight files: their tensors, and that nothing in them is run.

mod support;

use std::{fs, path::Path};

use ailora_models::{head::Head, pickle, pretrained::Pretrained};
use ailora_runtime::store;
use support::fixtures;
use tempfile::TempDir;

/// A model's folder with a file of PyTorch in place of its weights.
fn folder(file: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = fixtures().join("parity/bert_cls-0/config.json");
    fs::copy(config, dir.path().join("config.json")).unwrap();
    let from = fixtures().join("pickles").join(file);
    fs::copy(from, dir.path().join("pytorch_model.bin")).unwrap();
    dir
}

fn error(dir: &Path) -> String {
    let message = Pretrained::open(dir, Head::classification(2)).unwrap_err();
    message
        .to_string()
        .replace(&dir.display().to_string(), "DIR")
}

#[test]
fn both_formats_hold_what_pytorch_put_into_them() {
    let expected = fixtures().join("pickles/expected.safetensors");
    let expected = store::load(&expected).unwrap().0;
    assert_eq!(expected.len(), 10);
    for file in ["archive.bin", "older.bin"] {
        let (found, others) = pickle::load(&fixtures().join("pickles").join(file))
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(found, expected, "{file}");
        assert_eq!(others.keys().collect::<Vec<_>>(), ["ids"], "{file}");
    }
}

#[test]
fn code_is_refused_by_its_name() {
    let dir = folder("code.bin");
    let message = error(dir.path());
    assert!(
        message.starts_with("DIR/pytorch_model.bin: it would run `posix.system`"),
        "{message}"
    );
}

#[test]
fn weights_that_are_none_of_the_model_are_missing() {
    let message = error(folder("archive.bin").path());
    assert!(
        message.starts_with("DIR: 37 weights that config.json asks for are missing"),
        "{message}"
    );
}

#[test]
fn shards_with_old_names_are_the_model() {
    let dir = folder("archive.bin");
    fs::remove_file(dir.path().join("pytorch_model.bin")).unwrap();
    for file in fs::read_dir(fixtures().join("pickles/shards")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let head = Head::classification(2);
    let found = Pretrained::open(dir.path(), head).unwrap();
    found.check_head().unwrap();
    assert_eq!(found.report.unused, Vec::<String>::new());
    let expected = Pretrained::open(&fixtures().join("parity/bert_cls-0"), head).unwrap();
    assert_eq!(found.weights.len(), expected.weights.len());
    for (name, array) in &expected.weights {
        assert_eq!(&found.weights[name], array, "{name}");
    }

    let shard = "pytorch_model-00002-of-00002.bin";
    fs::remove_file(dir.path().join(shard)).unwrap();
    let message = error(dir.path());
    assert!(
        message.starts_with(&format!("DIR/{shard} is missing")),
        "{message}"
    );
}

#[test]
fn damaged_files_are_errors() {
    for file in ["archive.bin", "older.bin"] {
        let dir = folder(file);
        let path = dir.path().join("pytorch_model.bin");
        let whole = fs::read(&path).unwrap();
        for len in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(pickle::load(&path).is_err(), "{file} {len}");
        }
        // Nor does any changed byte make it panic.
        for at in (0..whole.len()).step_by(3) {
            let mut spoilt = whole.clone();
            spoilt[at] ^= 0x55;
            fs::write(&path, &spoilt).unwrap();
            let _ = pickle::load(&path);
        }
    }
}
