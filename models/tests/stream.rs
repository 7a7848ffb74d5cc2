//! Rows that are read again every epoch, in windows.

mod support;

use std::{io::Write, path::Path, sync::Arc};

use ailora_models::{
    batch::{Buckets, Encoded, Order, training_epoch},
    dataset::Dataset,
    stream::{Stream, Windows},
    task::{Malformed, Task},
    tokenizer::Tokenizer,
};
use serde_json::Value;

const ROWS: usize = 3000;
const STEP: usize = 8;

/// Rows in files of four kinds; the target of a row is its number.
fn write(folder: &Path) {
    let line = |row: usize| match row / (ROWS / 4) {
        0 | 1 => format!("the cat {row},{row}.0\n"),
        _ => format!("{{\"text\": \"the \\n cat {row}\", \"score\": {row}.0}}\n"),
    };
    let part = |part: usize| {
        let header = if part < 2 { "text,score\n" } else { "" };
        let rows = part * ROWS / 4..(part + 1) * ROWS / 4;
        header.to_owned() + &rows.map(line).collect::<String>()
    };
    std::fs::write(folder.join("0.csv"), part(0)).unwrap();
    let gzip = std::fs::File::create(folder.join("1.csv.gz")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(gzip, flate2::Compression::fast());
    gzip.write_all(part(1).as_bytes()).unwrap();
    gzip.finish().unwrap();
    let bytes = zstd::encode_all(part(2).as_bytes(), 1).unwrap();
    std::fs::write(folder.join("2.jsonl.zst"), bytes).unwrap();
    std::fs::write(folder.join("3.jsonl"), part(3)).unwrap();
}

fn stream(folder: &Path) -> Stream {
    let dataset = Dataset {
        hold_out: Some(0.0),
        ..Dataset::of(&[folder.to_owned()])
    };
    let understood = dataset.understand().unwrap();
    assert_eq!(understood.survey.rows, ROWS);
    let task: Task = dataset.task(&understood, 0).unwrap();
    let tokenizer = Tokenizer::from_dir(&support::fixtures().join("tokenizers/bert")).unwrap();
    let firsts = (0..4).map(|part| part * ROWS / 4);
    Stream {
        objective: task.objective.clone(),
        files: task.train.files.iter().cloned().zip(firsts).collect(),
        part: task.train.rows,
        malformed: Malformed::Refused,
        tokenizer: Arc::new(tokenizer),
        // So that windows are of 1024 rows.
        max_len: 4096,
        rows: ROWS,
        sample: Vec::new(),
        task: Arc::new(task),
    }
}

fn numbers(rows: &[Encoded]) -> Vec<usize> {
    let number = |row: &Encoded| row.target.as_ref().and_then(Value::as_f64).unwrap() as usize;
    rows.iter().map(number).collect()
}

/// The windows of an epoch from a row on, and how many rows of the first come before it.
fn windows(stream: &Stream, seed: u64, epoch: u64, row: usize) -> (Vec<Vec<usize>>, usize) {
    let (windows, before) = Windows::from_row(stream, seed, epoch, STEP, row);
    let mut reading = stream.read(windows);
    let mut found = Vec::new();
    while let Some(rows) = reading.window().unwrap() {
        found.push(numbers(&rows));
    }
    (found, before)
}

#[test]
fn every_epoch_has_every_row_once_in_another_order() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let stream = stream(folder.path());
    let mut orders = Vec::new();
    for epoch in 0..3 {
        let (found, _) = windows(&stream, 7, epoch, 0);
        let (last, whole) = found.split_last().unwrap();
        assert!(found.len() >= 3 && last.len() <= 1024);
        assert!(whole.iter().all(|window| window.len() % STEP == 0));
        let order = found.concat();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..ROWS));
        assert_eq!(found, windows(&stream, 7, epoch, 0).0);
        orders.push(found);
    }
    assert!(orders[0] != orders[1] && orders[1] != orders[2]);
    assert_ne!(orders[0], windows(&stream, 8, 0, 0).0);
}

#[test]
fn a_reading_goes_on_from_any_step() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let stream = stream(folder.path());
    let (whole, _) = windows(&stream, 3, 1, 0);
    for row in (0..ROWS).step_by(STEP * 17) {
        let (rest, before) = windows(&stream, 3, 1, row);
        let skipped = whole.len() - rest.len();
        assert_eq!(rest, whole[skipped..], "row {row}");
        let earlier: usize = whole[..skipped].iter().map(Vec::len).sum();
        assert_eq!(earlier + before, row);
    }
}

#[test]
fn the_rows_of_a_window_are_batched_as_a_data_set_in_memory() {
    let lengths = [9, 3, 4, 8, 2, 7, 6, 5, 3, 4];
    let buckets = Buckets::choose(&lengths, 16, 8).unwrap();
    for (batch, steps) in [(4, 3), (16, 1)] {
        let plans = training_epoch(Order::ByLength, &lengths, &buckets, batch, 0, 0).unwrap();
        assert_eq!(plans.len(), steps);
        let mut rows: Vec<usize> = plans.into_iter().flat_map(|plan| plan.indices).collect();
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..10));
    }
}

#[test]
fn rows_that_cannot_be_used_are_errors_wherever_they_are() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let stream = stream(folder.path());
    // The file changes behind the reader's back.
    std::fs::write(folder.path().join("3.jsonl"), "{\"text\": \"a\"}\n").unwrap();
    let (windows, _) = Windows::from_row(&stream, 0, 0, STEP, 0);
    let mut reading = stream.read(windows);
    let error = loop {
        match reading.window() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no error"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("3.jsonl, line 1, column `score`"), "{error}");
    // Nobody waits for the rest.
    let (windows, _) = Windows::from_row(&stream, 0, 0, STEP, 0);
    drop(stream.read(windows));
}
