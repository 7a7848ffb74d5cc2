//! Files with a row for each text, or a line.

use std::{borrow::Cow, path::Path};

use ailora::models::data::{Auto, DataError, Format, Record, Sink, Source, without_end};
use indexmap::IndexSet;
use serde_json::{Map, Value};

use crate::cli::Error;

/// The rows of a file.
#[derive(Default)]
pub struct Read {
    /// The texts of each: one of a prediction, of what is expected as many as there are.
    pub texts: Vec<Vec<String>>,
    /// What each is called in the column `id`, if it has one.
    pub ids: Vec<Option<String>>,
    /// The columns of the texts.
    pub columns: IndexSet<String>,
}

/// The texts that a system wrote.
pub fn predicted(path: &Path) -> Result<Read, DataError> {
    if is_lines(path) {
        return lines(path);
    }
    let mut rows = Rows::of(&["text"], "a text");
    rows.are_predictions = true;
    rows.read(path)
}

/// What is expected of each row.
pub fn expected(path: &Path, column: Option<&str>, columns: &[&str]) -> Result<Read, Error> {
    match column {
        Some(column) if is_lines(path) => {
            let path = path.display();
            Err(format!("--column {column}: {path} has a text a line, and no columns").into())
        }
        None if is_lines(path) => Ok(lines(path)?),
        column => {
            let given = column.map(|column| [column]);
            let columns = given.as_ref().map_or(columns, |given| &given[..]);
            Ok(Rows::of(columns, "a text, a number, or a list of texts").read(path)?)
        }
    }
}

/// Whether a file has a text a line, by its name.
fn is_lines(path: &Path) -> bool {
    matches!(Auto::ending(path), None | Some("txt"))
}

/// The lines of a file, empty ones too.
fn lines(path: &Path) -> Result<Read, DataError> {
    let mut source = Source::open(path, None)?;
    let mut lines = source.lines();
    let (mut line, mut read) = (Vec::new(), Read::default());
    let mut are_objects = true;
    while lines.read(&mut line)? {
        let text = std::str::from_utf8(without_end(&line)).map_err(|error| DataError::Form {
            path: path.to_owned(),
            expected: format!("UTF-8 text on line {}", lines.number()),
            cause: error.to_string(),
        })?;
        are_objects = are_objects && serde_json::from_str::<Map<String, Value>>(text).is_ok();
        read.texts.push(vec![text.to_owned()]);
        read.ids.push(None);
        line.clear();
    }
    match are_objects && !read.texts.is_empty() {
        false => Ok(read),
        true => Err(DataError::Form {
            path: path.to_owned(),
            expected: "a text a line, as the file's name is not that of rows".to_owned(),
            cause: "every line is a JSON object; give the file a name that ends in .jsonl"
                .to_owned(),
        }),
    }
}

/// Takes of each record the texts of the first of some columns that it has.
struct Rows<'a> {
    columns: &'a [&'a str],
    expected: &'static str,
    /// Whether each has one text, and an `index` is the row's number.
    are_predictions: bool,
    found: Read,
}

impl<'a> Rows<'a> {
    fn of(columns: &'a [&'a str], expected: &'static str) -> Self {
        Self {
            columns,
            expected,
            are_predictions: false,
            found: Read::default(),
        }
    }

    fn read(mut self, path: &Path) -> Result<Read, DataError> {
        Auto::default().read(&mut Source::open(path, None)?, &mut self)?;
        Ok(self.found)
    }

    /// The error that a record has none of the columns.
    fn lacking(&self, record: &Record<'_>) -> DataError {
        let names: Vec<&str> = record.fields().map(|(name, _)| name).collect();
        let (names, expected) = (names.join("`, `"), self.expected);
        let expected = match self.are_predictions {
            true => format!("{expected}, and in no other column (`{names}`)"),
            false => format!("{expected}, or --column with another (`{names}`)"),
        };
        record.wrong(&self.columns.join("`, `"), &expected)
    }
}

impl Sink for Rows<'_> {
    fn columns(&mut self, path: &Path, names: &[&str]) -> Result<(), DataError> {
        let is_there = self.columns.iter().any(|column| names.contains(column));
        match is_there {
            true => Ok(()),
            false => Err(DataError::MissingColumn {
                path: path.to_owned(),
                column: self.columns.join("`, `"),
                found: names.join(", "),
            }),
        }
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), DataError> {
        let row = self.found.texts.len();
        let is_there = |column: &&&str| record.get(column).is_some_and(|value| !value.is_null());
        let Some(column) = self.columns.iter().find(is_there) else {
            return Err(self.lacking(&record));
        };
        let texts: Option<Vec<String>> = match record.get(column) {
            Some(Value::Array(values)) if !self.are_predictions => {
                values.iter().map(written).collect()
            }
            value => value.and_then(written).map(|text| vec![text]),
        };
        let texts = texts.filter(|texts| !texts.is_empty());
        let texts = texts.ok_or_else(|| record.wrong(column, self.expected))?;
        if record.get("index").is_some() && self.are_predictions {
            // Tables have it as a text.
            let index = record.written("index");
            if index.and_then(|index| index.parse().ok()) != Some(row) {
                let expected = format!("{row}, as the rows are in their order");
                return Err(record.wrong("index", &expected));
            }
        }
        self.found
            .ids
            .push(record.written("id").map(Cow::into_owned));
        self.found.columns.insert((*column).to_owned());
        self.found.texts.push(texts);
        Ok(())
    }
}

/// A text, or a number as JSON writes it.
fn written(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
