//! PyTorch's own weight files: their tensors, and that nothing in them is run.

mod support;

use std::{
    fs,
    io::{Cursor, Write},
    path::Path,
    time::{Duration, Instant},
};

use ailora_models::{head::Head, pickle, pretrained::Pretrained};
use ailora_runtime::store;
use support::fixtures;
use tempfile::TempDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

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

/// An archive as `torch.save` writes it.
fn archive(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in parts {
        zip.start_file(format!("x/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn text(text: &str) -> Vec<u8> {
    [
        b"X",
        &(text.len() as u32).to_le_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

fn number(number: i32) -> Vec<u8> {
    [b"J", &number.to_le_bytes()[..]].concat()
}

fn tuple(numbers: &[i32]) -> Vec<u8> {
    let numbers: Vec<u8> = numbers.iter().flat_map(|&n| number(n)).collect();
    [b"(", &numbers[..], b"t"].concat()
}

/// A view of `len` numbers of a storage.
fn tensor(key: &str, len: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text(key),
        &text("cpu"),
        &number(len),
        b"tQ",
        &number(offset),
        &tuple(shape),
        &tuple(strides),
        b"\x89}tR",
    ]
    .concat()
}

fn dictionary(before: &[u8], entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let entries = entries
        .iter()
        .flat_map(|(name, value)| [text(name), value.clone()].concat());
    let entries: Vec<u8> = entries.collect();
    [b"\x80\x02", before, b"}(", &entries, b"u."].concat()
}

fn read(bytes: &[u8]) -> Result<ailora_runtime::store::Params, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pytorch_model.bin");
    fs::write(&path, bytes).unwrap();
    let start = Instant::now();
    let found = pickle::load(&path).map(|found| found.0);
    assert!(start.elapsed() < Duration::from_secs(10));
    found.map_err(|error| error.to_string())
}

/// What a program of the one tensor `a`, with something before it, gives.
fn program(before: &[u8]) -> Result<ailora_runtime::store::Params, String> {
    let entry = ("a".to_owned(), tensor("0", 2, 0, &[2], &[1]));
    let pickle = dictionary(before, &[entry]);
    read(&archive(&[("data.pkl", &pickle), ("data/0", &[0; 8])]))
}

#[test]
fn deep_and_shared_values_cost_what_they_say() {
    assert_eq!(*program(b"").unwrap()["a"].floats(), [0.0; 2]);
    const MANY: usize = 300_000;
    for deep in [
        [&b")"[..], &b"\x85".repeat(MANY), b"0"].concat(),
        [&b"N"[..], &b"N\x86".repeat(MANY), b"0"].concat(),
        [&b"(".repeat(MANY)[..], &b"t".repeat(MANY), b"0"].concat(),
    ] {
        let error = program(&deep).unwrap_err();
        assert!(error.contains("deep") || error.contains("0x30"), "{error}");
    }
    // Lists and dictionaries that hold themselves and each other, and tuples that double.
    let lists = [&b"]("[..]].concat().repeat(1000);
    let lists = [lists, b"e".repeat(1000)].concat();
    let double = [&b")q\x00"[..], &b"h\x00h\x00\x86q\x00".repeat(30)].concat();
    let itself = b"]q\x00h\x00a}q\x01X\x01\x00\x00\x00xh\x01s".to_vec();
    for shared in [lists, double, itself] {
        let entry = ("a".to_owned(), tensor("0", 2, 0, &[2], &[1]));
        let pickle = dictionary(&shared, &[entry]);
        let found = read(&archive(&[("data.pkl", &pickle), ("data/0", &[0; 8])])).unwrap();
        assert_eq!(found.len(), 1);
    }
}

#[test]
fn programs_are_short() {
    let error = program(&b"N".repeat(9 << 20)).unwrap_err();
    assert!(error.contains("x/data.pkl has 94"), "{error}");
    // The older container is one stream.
    let error = read(&[b"\x80\x02", &b"N".repeat(9 << 20)[..]].concat()).unwrap_err();
    assert!(error.contains("more than 8388608 bytes"), "{error}");
}

#[test]
fn a_storage_is_shared_as_often_as_models_do() {
    let names = |count: usize| -> Vec<(String, Vec<u8>)> {
        let entry = |i| (format!("n{i}"), tensor("0", 1 << 16, 0, &[1 << 16], &[1]));
        (0..count).map(entry).collect()
    };
    let file = |entries: &[_]| {
        let pickle = dictionary(b"", entries);
        read(&archive(&[
            ("data.pkl", &pickle),
            ("data/0", &vec![0; 4 << 16]),
        ]))
    };
    assert_eq!(file(&names(8)).unwrap().len(), 8);
    let error = file(&names(3000)).unwrap_err();
    assert!(error.contains("`n8` and others share storage 0"), "{error}");
    // Many small views of it, of which each is far from the next, are read once each.
    let slices: Vec<_> = (0..20_000)
        .map(|i| (format!("n{i}"), tensor("0", 1 << 16, i, &[2], &[1 << 15])))
        .collect();
    assert_eq!(file(&slices).unwrap().len(), 20_000);
    let mut twice = names(1);
    twice.extend(names(1));
    assert!(file(&twice).unwrap_err().contains("`n0` is there twice"));
}

#[test]
fn tensors_are_within_their_storages() {
    let file = |tensor: Vec<u8>, bytes: usize| {
        let pickle = dictionary(b"", &[("a".to_owned(), tensor)]);
        read(&archive(&[
            ("data.pkl", &pickle),
            ("data/0", &vec![0; bytes]),
        ]))
    };
    assert!(file(tensor("0", 6, 1, &[2, 2], &[2, 1]), 24).is_ok());
    for (tensor, bytes, expected) in [
        (
            tensor("0", 6, 3, &[2, 2], &[2, 1]),
            24,
            "`a` is not within its storage",
        ),
        (tensor("0", 6, 0, &[7], &[1]), 24, "`a` is not within"),
        (
            tensor("0", 6, 0, &[2], &[i32::MAX]),
            24,
            "`a` is not within",
        ),
        (
            tensor("0", 6, 0, &[1 << 20; 4], &[1; 4]),
            24,
            "`a` is not within",
        ),
        (tensor("0", 6, 0, &[2, 2], &[1]), 24, "`a` is not within"),
        (tensor("0", 6, 0, &[-1], &[1]), 24, "a size of -1"),
        (tensor("0", 6, 0, &[1; 65], &[1; 65]), 24, "65 dimensions"),
        (
            tensor("0", 6, 0, &[2], &[1]),
            28,
            "storage 0 has 28 bytes, and should have 24",
        ),
        (
            tensor("0", 1 << 30, 0, &[2], &[1]),
            24,
            "storage 0 has 24 bytes",
        ),
        (tensor("1", 6, 0, &[2], &[1]), 24, "not found"),
        (tensor("../../data.pkl", 6, 0, &[2], &[1]), 24, "not found"),
    ] {
        let error = file(tensor, bytes).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
