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
            "data, line 4, column `1`: expected the quote that ends the cell, found the end of the file",
        ),
        (
            "text,label\na,\"b\"c\n",
            "data, line 2, column `2`: expected a separator or the end of the line behind the quotes",
        ),
        (
            "text,label\na\n",
            "data, line 2: expected 2 comma-separated columns (text, label), found 1",
        ),
        (
            "text\n\0\n",
            "data, line 2, column `1`: expected text without NUL",
        ),
    ] {
        let error = read(json!("csv"), bytes).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let error = read(json!("csv"), b"text\nok\n\xe9\n").unwrap_err();
    assert!(
        error.contains("line 3, column `1`: expected UTF-8 text, found byte 0xe9"),
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
            "`format`: `tsvs` is not known; expected one of tsv, csv, json, jsonl; did you mean `tsv`?",
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
