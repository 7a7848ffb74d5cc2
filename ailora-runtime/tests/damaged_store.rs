//! safetensors files that are not what they say.

use std::{collections::HashMap, fs};

use ailora_runtime::store::{Array, Params, load, save};

/// A file with this head and this many bytes behind it.
fn file(head: &str, data: usize) -> Vec<u8> {
    [
        &(head.len() as u64).to_le_bytes()[..],
        head.as_bytes(),
        &vec![0; data],
    ]
    .concat()
}

fn read(bytes: &[u8]) -> Result<Params, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    fs::write(&path, bytes).unwrap();
    let found = load(&path).map(|found| found.0);
    found.map_err(|error| {
        let message = error.to_string();
        assert!(message.contains("a.safetensors"), "{message}");
        message
    })
}

#[test]
fn tensors_fill_the_file() {
    let one = r#""a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}"#;
    let two = r#""b": {"dtype": "F16", "shape": [3], "data_offsets": [8, 14]}"#;
    assert_eq!(
        read(&file(&format!("{{{one}, {two}}}"), 14)).unwrap().len(),
        2
    );
    // Names may be in any order, and tensors may be empty.
    let none = r#""c": {"dtype": "F32", "shape": [0, 7], "data_offsets": [8, 8]}"#;
    assert_eq!(
        read(&file(&format!("{{{two}, {none}, {one}}}"), 14))
            .unwrap()
            .len(),
        3
    );
    let a = |rest: &str| format!(r#"{{"a": {{{rest}}}}}"#);
    for (head, data, expected) in [
        (format!("{{{one}}}"), 7, "tensors have 8 bytes, where 7"),
        (format!("{{{one}}}"), 9, "tensors have 8 bytes, where 9"),
        (
            format!("{{{two}}}"),
            14,
            "`b` begins at 8, where 0 is expected",
        ),
        (
            format!("{{{one}, {}}}", two.replace("[8, 14]", "[4, 10]")),
            10,
            "`b` begins at 4",
        ),
        (format!("{{{one}, {one}}}"), 8, "`a` is there twice"),
        (
            format!("{{{one}, {}}}", one.replace("F32", "I64")),
            8,
            "`a` is there twice",
        ),
        (
            a(r#""dtype": "F32", "shape": [2], "data_offsets": [8, 0]"#),
            8,
            "`a` of F32 [2] cannot have",
        ),
        (
            a(r#""dtype": "F32", "shape": [3], "data_offsets": [0, 8]"#),
            8,
            "`a` of F32 [3] cannot have",
        ),
        (
            a(r#""dtype": "F32", "shape": [9223372036854775807, 8], "data_offsets": [0, 8]"#),
            8,
            "cannot have",
        ),
        (
            a(r#""dtype": "F32", "shape": [2], "data_offsets": [-8, 0]"#),
            8,
            "head is damaged",
        ),
        (
            a(r#""dtype": "F12", "shape": [2], "data_offsets": [0, 8]"#),
            8,
            "F12",
        ),
        (
            a(r#""dtype": "F32", "dtype": "I32", "shape": [2], "data_offsets": [0, 8]"#),
            8,
            "duplicate",
        ),
        (
            a(r#""dtype": "F32", "data_offsets": [0, 8]"#),
            8,
            "tensor `a` has no shape",
        ),
        ("[".repeat(50_000), 8, "head is damaged"),
        (String::new(), 8, "head is damaged"),
        ("{}".into(), 8, "tensors have 0 bytes, where 8"),
    ] {
        let error = read(&file(&head, data)).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_head_is_within_the_file() {
    let good = file(
        r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#,
        4,
    );
    for len in [u64::MAX, 1 << 63, 99_999_999, 0, 20] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        assert!(read(&bytes).is_err(), "{len}");
    }
    for len in 0..good.len() {
        assert!(read(&good[..len]).is_err(), "{len}");
    }
}

#[test]
fn what_is_saved_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let params = Params::from_iter([
        (
            "b".to_owned(),
            Array::new([2, 2], vec![1.5, -2.0, 0.0, f32::MAX]),
        ),
        ("a".to_owned(), Array::new([], vec![3.0])),
    ]);
    let metadata = HashMap::from([("x".to_owned(), "y".to_owned())]);
    save(&path, &params, metadata.clone()).unwrap();
    let (found, said) = load(&path).unwrap();
    assert_eq!((&found["a"], &found["b"]), (&params["a"], &params["b"]));
    assert_eq!(said, metadata);
}
