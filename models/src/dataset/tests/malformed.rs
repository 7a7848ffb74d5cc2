//! Files that are malformed, each refused by its place.

use std::fs;

use super::{super::Choice, Given};

/// Compressed bytes that end too early.
fn cut(bytes: Vec<u8>) -> Vec<u8> {
    bytes[..bytes.len() - 5].to_vec()
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn malformed_files_are_refused_by_their_place() {
    let zstandard = |text: &str| zstd::encode_all(text.as_bytes(), 3).unwrap();
    let long = "text,label\n".to_owned() + &"some words,a\nothers,b\n".repeat(3000);
    let text = |text: &str| text.as_bytes().to_vec();
    let files: Vec<(&str, Vec<u8>, &str)> = vec![
        // Tables.
        (
            "a.csv",
            text("text,label\na,x\nb\n"),
            "a.csv, line 3: expected 2 comma-separated columns (text, label), found 1",
        ),
        (
            "a.csv",
            text("text,label\na,x\nb,y,z\n"),
            "a.csv, line 3: expected 2 comma-separated columns (text, label), found 3",
        ),
        (
            "a.csv",
            text("text,label\na,x\n\nb,y\n"),
            "a.csv, line 3: expected 2 comma-separated",
        ),
        (
            "a.csv",
            text("text,label\n\"a\nb,x\n\"c,y\nd,x\n"),
            "a.csv, line 4, column `text`: expected a separator or the end of the line behind the quotes",
        ),
        (
            "a.csv",
            text("text,label\na,x\n\"b,y\nc,x\n"),
            "a.csv, line 3, column `text`: expected the quote that ends the cell, found the end of the file",
        ),
        (
            "a.csv",
            text("text,label\na,\"x\"y\n"),
            "a.csv, line 2, column `label`: expected a separator or the end of the line",
        ),
        (
            "a.csv",
            text("text,text,label\na,b,x\n"),
            "a.csv, line 1: the header has the column `text` twice",
        ),
        (
            "a.csv",
            b"text,label\na,x\n\xff,y\n".to_vec(),
            "a.csv, line 3, column `text`: expected UTF-8 text, found byte 0xff",
        ),
        (
            "a.csv",
            text("text,label\na\0b,x\n"),
            "a.csv, line 2, column `text`: expected text without NUL",
        ),
        (
            "a.csv",
            text("text,label\na,x\n ,y\n"),
            "a.csv, line 3, column `text`: expected a sentence, found \" \"",
        ),
        (
            "a.csv",
            text("text,label\na,x\nb,\nc,y\n"),
            "a.csv, line 3, column `label`: expected one of x, y, found nothing",
        ),
        (
            "a.csv",
            text("text,score\na,0.5\nb,high\nc,1.5\n"),
            "a.csv, line 3, column `score`: expected a finite number, found \"high\"",
        ),
        (
            "a.tsv",
            text("text\tlabel\na\tx\nb\n"),
            "a.tsv, line 3: expected 2 tab-separated columns (text, label), found 1",
        ),
        (
            "a.tsv",
            b"text\tlabel\na\tx\nb\t\xe9\n".to_vec(),
            "a.tsv, line 3, column `label`: expected UTF-8 text, found byte 0xe9 at position 3",
        ),
        (
            "a.tsv",
            text("text\tlabel\na\tx\nb\0\ty\n"),
            "a.tsv, line 3, column `text`: expected text without NUL",
        ),
        // JSON.
        (
            "a.jsonl",
            text("{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"b\"\n"),
            "a.jsonl: expected a JSON object on line 2: EOF",
        ),
        (
            "a.jsonl",
            text("{\"text\": \"a\", \"label\": \"x\"}\n[1]\n"),
            "a.jsonl: expected a JSON object on line 2: it is \"[1]\"",
        ),
        (
            "a.jsonl",
            text("{\"text\": \"a\", \"text\": \"b\"}\n"),
            "a.jsonl: expected a JSON object on line 1: `text` is there twice",
        ),
        (
            "a.jsonl",
            text("{\"text\": \"a\", \"label\": \"x\"} {}\n"),
            "a.jsonl: expected a JSON object on line 1: trailing characters",
        ),
        (
            "a.jsonl",
            text("{\"text\": \"a\", \"label\": \"x\"}\n{\"label\": \"y\"}\n"),
            "a.jsonl, line 2, column `text`: expected a sentence, found no such field",
        ),
        (
            "a.jsonl",
            text("{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": 7, \"label\": \"y\"}\n"),
            "a.jsonl, line 2, column `text`: expected a sentence, found \"7\"",
        ),
        (
            "a.jsonl",
            text(
                "{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"b\", \"label\": null}\n{\"text\": \"c\", \"label\": \"y\"}\n",
            ),
            "a.jsonl, line 2, column `label`: expected one of x, y, found \"null\"",
        ),
        (
            "a.jsonl",
            text(
                "{\"text\": \"a\", \"label\": [\"x\", \"y\"]}\n{\"text\": \"b\", \"label\": \"x\"}\n",
            ),
            "a.jsonl, column `label`: expected classes, or numbers in every row",
        ),
        (
            "a.json",
            text("[{\"text\": \"a\", \"label\": \"x\"}, {\"text\": \"b\""),
            "a.json: expected a JSON array of objects: EOF while parsing an object at line 1 column",
        ),
        (
            "a.json",
            text("[{\"text\": \"a\", \"label\": \"x\"}, 5]"),
            "a.json: expected a JSON array of objects: record 2 is \"5\"",
        ),
        (
            "a.json",
            text("[{\"text\": \"a\", \"label\": \"x\"}] []"),
            "a.json: expected a JSON array of objects: trailing characters at line 1",
        ),
        (
            "a.json",
            text("\"text\""),
            "a.json: expected a JSON array of objects: invalid type: string",
        ),
        // Running text.
        (
            "a.txt",
            b"one\ntwo \xc3\n".to_vec(),
            "a.txt, line 2, column `text`: expected UTF-8 text, found byte 0xc3 at position 5",
        ),
        (
            "a.txt",
            text("one\n\0\n"),
            "a.txt, line 2, column `text`: expected text without NUL",
        ),
        ("a.txt", text("\n \n"), "a.txt holds no examples"),
        // What is compressed, and Parquet.
        ("a.csv.gz", cut(gzip(&long)), "a.csv.gz, behind line"),
        (
            "a.csv.gz",
            text("text,label\na,x\n"),
            "a.csv.gz: expected a file that is compressed by gzip",
        ),
        ("a.csv.zst", cut(zstandard(&long)), "a.csv.zst, behind line"),
        (
            "a.jsonl.gz",
            gzip("{\"text\": \"a\", \"label\": \"x\"}\n{\"text\"\n"),
            "a.jsonl.gz: expected a JSON object on line 2",
        ),
        (
            "a.parquet",
            text("text,label\n"),
            "a.parquet: expected a Parquet file",
        ),
        // Conversations and prompts.
        (
            "a.jsonl",
            text(
                "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\", \"completion\": \"\"}\n",
            ),
            "a.jsonl, line 2, column `completion`: expected a text",
        ),
        (
            "a.jsonl",
            text("{\"instruction\": \"a\", \"output\": \"b\"}\n{\"output\": \"c\"}\n"),
            "a.jsonl, line 2, column `instruction`: expected a sentence, found no such field",
        ),
        (
            "a.jsonl",
            text(
                "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n{\"messages\": [{\"role\": \"usr\", \"content\": \"a\"}]}\n",
            ),
            "a.jsonl, line 2, column `messages`: expected",
        ),
        (
            "a.jsonl",
            text(
                "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": null}]}\n",
            ),
            "a.jsonl, line 1, column `messages`: expected",
        ),
        (
            "a.jsonl",
            text(
                "{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"robot\", \"value\": \"b\"}]}\n",
            ),
            "a.jsonl, line 1, column `conversations`: expected",
        ),
    ];
    assert!(files.len() >= 30);
    for (name, bytes, expected) in files {
        let given = Given::new("other.csv", "").with(|dataset| dataset.train.clear());
        let path = given.folder.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let given = given.with(|dataset| {
            if name == "a.csv" && bytes.starts_with(b"text,score") {
                dataset.objective = Some(Choice::of("regression"));
            }
            dataset.train.push(path);
        });
        let error = given.error();
        assert!(error.contains(expected), "{name}: {error}");
    }
}
