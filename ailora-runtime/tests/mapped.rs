//! A file's tensors take no memory of their own. One test alone, as it looks at the memory of its process.
#![cfg(target_os = "linux")]

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
};

use ailora_graph::ir::DType;
use ailora_runtime::store::load;

const ROWS: usize = 100_000;
const WIDTH: usize = 1_000;

/// Bytes of memory that belong to no file.
fn own_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    1024 * kilobytes.parse::<usize>().unwrap()
}

#[test]
fn tensors_are_in_the_file_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.safetensors");
    let bytes = 2 * ROWS * WIDTH;
    let head = format!(
        r#"{{"w": {{"dtype": "BF16", "shape": [{ROWS}, {WIDTH}], "data_offsets": [0, {bytes}]}}}}"#
    );
    let mut file = BufWriter::new(File::create(&path).unwrap());
    file.write_all(&(head.len() as u64).to_le_bytes()).unwrap();
    file.write_all(head.as_bytes()).unwrap();
    // Ones, and one other number at the end.
    let row = [0x80, 0x3f].repeat(WIDTH);
    for _ in 1..ROWS {
        file.write_all(&row).unwrap();
    }
    file.write_all(&row[2..]).unwrap();
    file.write_all(&[0x20, 0xc0]).unwrap();
    file.into_inner().unwrap();

    let before = own_memory();
    let (params, _) = load(&path).unwrap();
    let array = &params["w"];
    assert_eq!(
        (array.dtype(), array.shape()),
        (DType::Bf16, &[ROWS, WIDTH][..])
    );
    let copy = array.clone();
    // Every page is looked at.
    let ones = copy
        .bytes()
        .chunks_exact(2)
        .filter(|x| *x == [0x80, 0x3f])
        .count();
    assert_eq!(ones, ROWS * WIDTH - 1);
    let grown = own_memory().saturating_sub(before);
    assert!(
        grown < bytes / 8,
        "{grown} bytes more for a file of {bytes}"
    );

    let floats = array.floats();
    assert_eq!(floats[floats.len() - 2..], [1.0, -2.5]);
    let grown = own_memory().saturating_sub(before);
    assert!(
        grown > bytes,
        "the measure does not see {} bytes",
        2 * bytes
    );
}
