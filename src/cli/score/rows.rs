//! Files with a row for each text, or a line.

use std::path::Path;

use ailora::models::data::{Auto, DataError, Format, Record, Sink, Source, without_end};
use indexmap::IndexSet;
use serde_json::Value;

use crate::cli::Error;

/// The texts that a system wrote.
pub fn texts(path: &Path) -> Result<Vec<String>, DataError> {
    if is_lines(path) {
        return lines(path);
    }
    let mut rows = Rows::of(&["text"], "a text");
    rows.are_predictions = true;
    rows.read(path)?;
    Ok(rows.values.into_iter().flatten().collect())
}

/// What is expected of each row, and the columns that say it.
pub fn expected(
    path: &Path,
    column: Option<&str>,
    columns: &[&str],
) -> Result<(Vec<Vec<String>>, IndexSet<String>), Error> {
    match column {
        Some(column) if is_lines(path) => {
            let path = path.display();
            Err(format!("--column {column}: {path} has a text a line, and no columns").into())
        }
        None if is_lines(path) => {
            let lines = lines(path)?.into_iter();
            Ok((lines.map(|line| vec![line]).collect(), IndexSet::new()))
        }
        column => {
            let given = column.map(|column| [column]);
            let columns = given.as_ref().map_or(columns, |given| &given[..]);
            let mut rows = Rows::of(columns, "a text, a number, or a list of texts");
            rows.read(path)?;
            Ok((rows.values, rows.used))
        }
    }
}

/// Whether a file has a text a line, by its name.
fn is_lines(path: &Path) -> bool {
    matches!(Auto::ending(path), None | Some("txt"))
}

/// The lines of a file, empty ones too.
fn lines(path: &Path) -> Result<Vec<String>, DataError> {
    let mut source = Source::open(path, None)?;
    let mut lines = source.lines();
    let (mut line, mut texts) = (Vec::new(), Vec::new());
    while lines.read(&mut line)? {
        let text = std::str::from_utf8(without_end(&line)).map_err(|error| DataError::Form {
            path: path.to_owned(),
            expected: format!("UTF-8 text on line {}", lines.number()),
            cause: error.to_string(),
        })?;
        texts.push(text.to_owned());
        line.clear();
    }
    Ok(texts)
}

/// Takes of each record the texts of the first of some columns that it has.
struct Rows<'a> {
    columns: &'a [&'a str],
    expected: &'static str,
    /// Whether each has one text, and an `index` is the row's number.
    are_predictions: bool,
    values: Vec<Vec<String>>,
    /// The columns that were taken.
    used: IndexSet<String>,
}

impl<'a> Rows<'a> {
    fn of(columns: &'a [&'a str], expected: &'static str) -> Self {
        Self {
            columns,
            expected,
            are_predictions: false,
            values: Vec::new(),
            used: IndexSet::new(),
        }
    }

    fn read(&mut self, path: &Path) -> Result<(), DataError> {
        Auto::default().read(&mut Source::open(path, None)?, self)
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
        let row = self.values.len();
        let is_there = |column: &&&str| record.get(column).is_some_and(|value| !value.is_null());
        let Some(column) = self.columns.iter().find(is_there) else {
            let names = self.columns.join("`, `");
            return Err(record.wrong(&names, self.expected));
        };
        let texts: Option<Vec<String>> = match record.get(column) {
            Some(Value::Array(values)) if !self.are_predictions => values
                .iter()
                .map(|value| value.as_str().map(str::to_owned))
                .collect(),
            _ => record.written(column).map(|text| vec![text.into_owned()]),
        };
        let texts = texts.filter(|texts| !texts.is_empty());
        let texts = texts.ok_or_else(|| record.wrong(column, self.expected))?;
        if let Some(index) = record.get("index").filter(|_| self.are_predictions)
            && index.as_u64() != Some(row as u64)
        {
            let expected = format!("{row}, as the rows are in their order");
            return Err(record.wrong("index", &expected));
        }
        self.used.insert((*column).to_owned());
        self.values.push(texts);
        Ok(())
    }
}
