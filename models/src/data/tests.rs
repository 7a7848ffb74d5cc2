use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::choice::Choice;

/// Collects records as JSON objects, beside the place of each.
#[derive(Default)]
struct Collected {
    columns: Vec<String>,
    records: Vec<Value>,
}

impl Sink for Collected {
    fn columns(&mut self, _: &Path, names: &[&str]) -> Result<(), DataError> {
        self.columns = names.iter().map(|&name| name.to_owned()).collect();
        Ok(())
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), DataError> {
        let fields = record.fields();
        let fields = fields.map(|(name, value)| (name.to_owned(), value.clone()));
        self.records.push(Value::Object(fields.collect()));
        Ok(())
    }
}

/// The records that a file of a format has, or the error.
fn read(format: Value, bytes: impl AsRef<[u8]>) -> Result<Vec<Value>, String> {
    let choice: Choice = serde_json::from_value(format).unwrap();
    let format = choice.make("format", FORMATS)?;
    let mut collected = Collected::default();
    let columns = ["text", "label", "n"];
    let source = Source::new(Path::new("data"), bytes.as_ref(), Some(&columns));
    let read = source.and_then(|mut source| format.read(&mut source, &mut collected));
    read.map_err(|error| error.to_string())?;
    Ok(collected.records)
}

#[test]
fn cells_are_texts_whatever_they_look_like() {
    let rows = read(json!("csv"), "text,label\nNA,007\nNone,1.0\n,null\n").unwrap();
    assert_eq!(
        rows,
        [
            json!({"text": "NA", "label": "007"}),
            json!({"text": "None", "label": "1.0"}),
            json!({"text": "", "label": "null"}),
        ]
    );
}

#[test]
fn quoted_cells_hold_commas_quotes_and_line_ends() {
    let bytes = "text,label\r\n\"He said \"\"hi\"\",\nbye\",pos\r\nb,\"neg\"";
    let rows = read(json!("csv"), bytes).unwrap();
    assert_eq!(
        rows,
        [
            json!({"text": "He said \"hi\",\nbye", "label": "pos"}),
            json!({"text": "b", "label": "neg"}),
        ]
    );
    let rows = read(
        json!({"csv": {"separator": ";"}}),
        "text;label\na,b;\"c;d\"\n",
    )
    .unwrap();
    assert_eq!(rows, [json!({"text": "a,b", "label": "c;d"})]);
    // A quote within a cell is an ordinary character.
    let rows = read(json!("csv"), "text\n5\" nail\n").unwrap();
    assert_eq!(rows, [json!({"text": "5\" nail"})]);
}

#[test]
fn malformed_csv_is_named_by_its_line() {
    for (bytes, expected) in [
        (
            "text,label\n\"a\nb\",1\n\"c,2\nd,3\n",
            "data, line 4, column `text`: expected the quote that ends the cell, found the end of the file",
        ),
        (
            "text,label\na,\"b\"c\n",
            "data, line 2, column `label`: expected a separator or the end of the line behind the quotes",
        ),
        (
            "text,label\na\n",
            "data, line 2: expected 2 comma-separated columns (text, label), found 1",
        ),
        (
            "text\n\0\n",
            "data, line 2, column `text`: expected text without NUL",
        ),
    ] {
        let error = read(json!("csv"), bytes).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let error = read(json!("csv"), b"text\nok\n\xe9\n").unwrap_err();
    assert!(
        error.contains("line 3, column `text`: expected UTF-8 text, found byte 0xe9"),
        "{error}"
    );
    let error = read(json!({"csv": {"separator": "ab"}}), "").unwrap_err();
    assert!(error.contains("expected one ASCII character"), "{error}");
}

#[test]
fn a_stray_quote_is_a_character_of_tab_separated_values() {
    let bytes = "text\tlabel\n\"Second\t1\nThird \"x\"\t0\nFourth\t1\nFifth\"\t0\n";
    let rows = read(json!("tsv"), bytes).unwrap();
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[0], json!({"text": "\"Second", "label": "1"}));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_name() {
    let expected = [json!({"text": "a", "n": "b"})];
    for (format, bytes) in [
        ("csv", "\u{feff}text,n\r\na,b\r\n"),
        ("tsv", "\u{feff}text\tn\na\tb\n"),
        ("json", "\u{feff}[{\"text\": \"a\", \"n\": \"b\"}]"),
        ("jsonl", "\u{feff}{\"text\": \"a\", \"n\": \"b\"}\n"),
    ] {
        assert_eq!(read(json!(format), bytes).unwrap(), expected, "{format}");
    }
}

#[test]
fn lines_of_json_have_values_of_any_kind_in_their_order() {
    let bytes = "{\"b\": 1.5, \"a\": [\"x\", null]}\r\n\n{\"text\": null}";
    let rows = read(json!("jsonl"), bytes).unwrap();
    let texts: Vec<String> = rows.iter().map(Value::to_string).collect();
    assert_eq!(texts, [r#"{"b":1.5,"a":["x",null]}"#, r#"{"text":null}"#]);
    for (bytes, expected) in [
        (
            "{}\n{\"a\": \n",
            "data: expected a JSON object on line 2: EOF",
        ),
        (
            "{}\n\n7\n",
            "data: expected a JSON object on line 3: it is \"7\"",
        ),
        (
            "{\"version\": \"1.1\", \"data\": [{\"title\": \"t\", \"paragraphs\": []}]}",
            "data: expected a JSON object on line 1: it is a whole file of SQuAD, which --format squad reads",
        ),
        (
            "{\"a\": 1, \"a\": 2}",
            "data: expected a JSON object on line 1: `a` is there twice",
        ),
    ] {
        let error = read(json!("jsonl"), bytes).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn formats_and_their_options_are_known() {
    for (format, expected) in [
        (
            json!("tsvs"),
            "`format`: `tsvs` is not known; expected one of auto, tsv, csv, json, jsonl, parquet, text, squad, story; did you mean `tsv`?",
        ),
        (
            json!({"tsv": {"headr": []}}),
            "`format`, tsv: `headr`: unknown field `headr`",
        ),
        (
            json!({"json": {"x": 1}}),
            "`format`, json: `x`: unknown field",
        ),
        (
            json!({"tsv": {"header": "a"}}),
            "`format`, tsv: `header`: invalid type: string \"a\"",
        ),
    ] {
        let error = read(format, "").unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(serde_json::from_value::<Choice>(json!({"tsv": {}, "csv": {}})).is_err());
    assert!(serde_json::from_value::<Choice>(json!(3)).is_err());
}

proptest! {
    /// Whatever the bytes, reading answers.
    #[test]
    fn no_bytes_make_it_panic(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                &b","[..], b"\n", b"\r", b"\r\n", b"\"", b"\"\"", b"a b", b"text", b"\xef\xbb\xbf", b"\xff",
                b"\0", b"{\"text\":", b"}", b"1", b"\t", b"[", b"\xc3\xa9",
            ]),
            0..40,
        ),
    ) {
        for format in FORMATS {
            let _ = read(json!(format.name), pieces.concat());
        }
    }

    /// What RFC 4180 writes is read back.
    #[test]
    fn quoted_cells_survive_a_round_trip(
        rows in prop::collection::vec(("[ -~\n\r\té]{0,12}", "[ -~\n]{0,12}"), 1..20),
        crlf: bool,
        last: bool,
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let cell = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let lines = rows.iter().map(|(a, b)| format!("{},{}", cell(a), cell(b)));
        let mut text = std::iter::once("text,n".to_owned()).chain(lines).collect::<Vec<_>>().join(end);
        if last {
            text += end;
        }
        let expected: Vec<Value> = rows.iter().map(|(a, b)| json!({"text": a, "n": b})).collect();
        prop_assert_eq!(read(json!("csv"), text).unwrap(), expected);
    }
}

/// A reader that gives one byte at a time.
struct Bytewise<'a>(&'a [u8]);

impl std::io::Read for Bytewise<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.len().min(into.len()).min(1);
        into[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

#[test]
fn records_are_cut_at_their_ends_however_bytes_come() {
    let csv = "text,label\n\"He said \"\"hi\"\",\nbye\",pos\nb,neg\n";
    let tsv = "text\tlabel\n\"a\t1\r\nb\t0\n";
    let jsonl = "{\"text\": \"a\\nb\"}\n{\"text\": \"c\"}\n";
    let json = "[{\"text\": \"a\"},\n{\"text\": \"b\"}]";
    let text = "one\n\ntwo\n";
    for (format, bytes) in [
        ("csv", csv),
        ("tsv", tsv),
        ("jsonl", jsonl),
        ("json", json),
        ("text", text),
    ] {
        let whole = read(json!(format), bytes).unwrap();
        assert_eq!(whole.len(), 2, "{format}");
        let format = Choice::of(format).make("format", FORMATS).unwrap();
        for cut in 1..bytes.len() {
            let mut collected = Collected::default();
            let (a, b) = bytes.as_bytes().split_at(cut);
            let chain = std::io::Read::chain(a, std::io::BufReader::with_capacity(1, Bytewise(b)));
            let mut source = Source::new(Path::new("data"), chain, None).unwrap();
            format.read(&mut source, &mut collected).unwrap();
            assert_eq!(collected.records, whole);
        }
    }
}

#[test]
fn empty_lines_at_the_end_are_nothing_and_others_are_no_rows() {
    for (format, separator) in [("csv", ","), ("tsv", "\t")] {
        let table = |text: &str| text.replace(',', separator);
        let rows = read(json!(format), table("text,n\na,1\nb,2\n\n\r\n")).unwrap();
        assert_eq!(rows.len(), 2);
        let error = read(json!(format), table("text,n\na,1\n\nb,2\n")).unwrap_err();
        assert!(error.contains("line 3: expected 2"), "{error}");
    }
    let rows = read(json!("csv"), "text\na\n\nb\n").unwrap();
    assert_eq!(rows[1], json!({"text": ""}));
}

#[test]
fn a_name_that_comes_twice_is_refused() {
    for (format, bytes) in [("csv", "text,n,text\n"), ("tsv", "text\tn\ttext\n")] {
        let error = read(json!(format), bytes).unwrap_err();
        assert!(error.contains("the column `text` twice"), "{error}");
    }
}

/// Files in a folder, read by their names.
fn by_name(name: &str, bytes: &[u8]) -> Result<Vec<Value>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let mut collected = Collected::default();
    let read = Source::open(&path, None)
        .and_then(|mut source| Auto::default().read(&mut source, &mut collected));
    read.map_err(|error| {
        error
            .to_string()
            .replace(&format!("{}/", folder.path().display()), "")
    })?;
    Ok(collected.records)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

#[test]
fn every_member_of_a_gzip_file_is_read_and_a_cut_one_is_an_error() {
    let whole = [gzip(b"a\nb\n"), gzip(b"c\n")].concat();
    assert_eq!(by_name("a.txt.gz", &whole).unwrap().len(), 3);
    let error = by_name("a.txt.gz", &whole[..whole.len() - 4]).unwrap_err();
    assert!(
        error.starts_with("a.txt.gz, behind line 3: it breaks off or is damaged"),
        "{error}"
    );
    // What is compressed is known by its bytes, and what is said to be is.
    assert_eq!(by_name("a.txt", &whole).unwrap().len(), 3);
    let error = by_name("a.txt.gz", b"a\n").unwrap_err();
    assert!(
        error.contains("compressed by gzip, as its name says"),
        "{error}"
    );
}

#[test]
fn every_frame_of_a_zstandard_file_is_read_and_a_cut_one_is_an_error() {
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
    let whole = [zstandard(b"a\n"), skippable.clone(), zstandard(b"b\n")].concat();
    assert_eq!(by_name("a.txt.zst", &whole).unwrap().len(), 2);
    let whole = [skippable, whole].concat();
    assert_eq!(by_name("a.txt.zst", &whole).unwrap().len(), 2);
    let error = by_name("a.txt.zst", &whole[..whole.len() - 2]).unwrap_err();
    assert!(error.contains("a.txt.zst"), "{error}");
    assert!(error.contains("incomplete frame"), "{error}");
}

#[test]
fn a_byte_order_mark_within_a_compressed_file_is_left_out() {
    let rows = by_name(
        "a.csv.gz",
        &gzip("\u{feff}text,label\r\na,b\r\n".as_bytes()),
    )
    .unwrap();
    assert_eq!(rows, [json!({"text": "a", "label": "b"})]);
}

#[test]
fn a_json_file_may_hold_an_object_a_line() {
    let rows = by_name("a.json", b"\n{\"a\": 1}\n{\"a\": 2}\n").unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(by_name("a.ndjson", b"{\"a\": 1}\n").unwrap().len(), 1);
    let error = by_name("a.doc", b"").unwrap_err();
    assert!(
        error.contains("expected a file called *.csv, *.tsv"),
        "{error}"
    );
}

/// Expected: what PyArrow wrote.
#[test]
fn parquet_of_every_encoding_is_read() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/data");
    let file = |name: &str| std::fs::read(fixtures.join(name)).unwrap();
    let rows = by_name("a.parquet", &file("encodings.parquet")).unwrap();
    let expected: Vec<Value> = serde_json::from_slice(&file("encodings.json")).unwrap();
    assert_eq!(rows, expected);
    let rows = by_name("a.parquet", &file("pages.parquet")).unwrap();
    let lengths: Vec<usize> = rows
        .iter()
        .map(|row| row["messages"].as_array().unwrap().len())
        .collect();
    assert_eq!(lengths, [5000, 2]);
    assert_eq!(rows[0]["messages"][4999]["content"], "turn 4999");
    let whole = file("encodings.parquet");
    for damaged in [&whole[..whole.len() / 2], b"PAR1", b""] {
        let error = by_name("a.parquet", damaged).unwrap_err();
        assert!(
            error.contains("a.parquet: expected a Parquet file"),
            "{error}"
        );
    }
    let error = by_name("a.parquet.gz", &gzip(&whole)).unwrap_err();
    assert!(
        error.contains("compresses its columns by itself"),
        "{error}"
    );
}

#[test]
fn the_files_of_a_folder_come_by_name_and_others_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let error = files(std::slice::from_ref(&path)).unwrap_err().to_string();
    assert!(error.contains("holds no data files"), "{error}");
    for name in ["b-2.csv", "b-1.csv.gz", "README.md", "_SUCCESS", ".x.csv"] {
        std::fs::write(path.join(name), "").unwrap();
    }
    let (found, notes) = files(std::slice::from_ref(&path)).unwrap();
    assert_eq!(found, [path.join("b-1.csv.gz"), path.join("b-2.csv")]);
    assert!(
        notes[0].text.contains(".x.csv, README.md, _SUCCESS"),
        "{:?}",
        notes
    );
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(path.join("gone.csv"), path.join("c.csv")).unwrap();
        let error = files(std::slice::from_ref(&path)).unwrap_err().to_string();
        assert!(error.contains("c.csv"), "{error}");
    }
    let error = files(&[path.join("none")]).unwrap_err().to_string();
    assert!(error.contains("none"), "{error}");
}
