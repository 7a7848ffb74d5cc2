use std::borrow::Cow;
use std::path::Path;

use super::error::quote;
use super::{Example, File, LabelSet, Labels, Place, TaskError, beside};

/// GLUE's tab-separated values: a row a line, quotes are ordinary characters, columns are found by
/// name in the header. A byte-order mark and CRLF line ends are accepted.
#[derive(Debug)]
pub struct Tsv {
    /// Column of the sentence, or of the first of a pair.
    pub text: &'static str,
    /// Column of the second sentence.
    pub pair: Option<&'static str>,
    /// Column of the label.
    pub label: &'static str,
    /// Columns of the published files that are not needed.
    pub beside: &'static [&'static str],
    /// Column names of files that come without a header; files with one are accepted too.
    pub headerless: Option<&'static [&'static str]>,
    /// The texts are as their authors typed them: they may hold line feeds, so that a row goes on in
    /// the next line, and one of a pair may be empty.
    pub raw_text: bool,
}

impl Tsv {
    /// A single sentence in columns `sentence` and `label`.
    pub(super) const SENTENCE: Tsv = Tsv {
        text: "sentence",
        pair: None,
        label: "label",
        beside: &["index", "idx"],
        headerless: None,
        raw_text: false,
    };

    /// A pair in columns `sentence1`, `sentence2` and `label`.
    pub(super) const PAIR: Tsv = Tsv {
        text: "sentence1",
        pair: Some("sentence2"),
        ..Tsv::SENTENCE
    };

    pub(super) fn parse(
        &self,
        bytes: &[u8],
        path: &Path,
        label_set: &LabelSet,
        labels: Labels,
    ) -> Result<File, TaskError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if bytes.is_empty() {
            return Ok(File::default());
        }
        let mut lines = Lines {
            rest: Some(bytes.strip_suffix(b"\n").unwrap_or(bytes)),
            number: 0,
        };
        let mut ahead = lines.clone();
        let first = ahead
            .next_line(path, self.headerless.unwrap_or_default())?
            .unwrap_or_default();
        let header: Vec<&str> = first.split('\t').collect();
        let names = match self.headerless {
            Some(names) if !header.contains(&self.text) => names.to_vec(),
            _ => {
                lines = ahead;
                header
            }
        };
        let table = Table::new(self, names, path, labels)?;

        let mut file = File::default();
        let read = [Some(self.text), self.pair, Some(self.label)];
        let knows = |name: &str| read.contains(&Some(name)) || self.beside.contains(&name);
        let unused = table.names.iter().filter(|name| !knows(name));
        let unused: Vec<String> = unused.map(|&name| name.to_owned()).collect();
        file.notes.extend(beside(path, "columns", &unused));
        while let Some(line) = lines.next_line(path, &table.names)? {
            let number = lines.number;
            let row = match self.raw_text {
                true => table.rejoin(line, &mut lines)?,
                false => Cow::Borrowed(line),
            };
            file.examples
                .push(table.example(&row, number, label_set, labels)?);
        }
        Ok(file)
    }
}

/// The columns of one file.
struct Table<'a> {
    path: &'a Path,
    names: Vec<&'a str>,
    text: usize,
    pair: Option<usize>,
    label: Option<usize>,
    raw_text: bool,
}

impl<'a> Table<'a> {
    fn new(
        tsv: &Tsv,
        names: Vec<&'a str>,
        path: &'a Path,
        labels: Labels,
    ) -> Result<Self, TaskError> {
        let find = |column| {
            let index = names.iter().position(|name| *name == column);
            index.ok_or_else(|| TaskError::MissingColumn {
                path: path.to_owned(),
                column,
                found: quote(&names.join(", ")),
            })
        };
        Ok(Table {
            path,
            text: find(tsv.text)?,
            pair: tsv.pair.map(find).transpose()?,
            label: match labels {
                Labels::Required => Some(find(tsv.label)?),
                Labels::Optional => find(tsv.label).ok(),
            },
            raw_text: tsv.raw_text,
            names,
        })
    }

    fn example(
        &self,
        row: &str,
        line: usize,
        label_set: &LabelSet,
        labels: Labels,
    ) -> Result<Example, TaskError> {
        let cells: Vec<&str> = row.split('\t').collect();
        if cells.len() != self.names.len() {
            return Err(TaskError::Columns {
                path: self.path.to_owned(),
                line,
                expected: self.names.len(),
                names: self.names.join(", "),
                found: cells.len(),
            });
        }
        let wrong = |column: usize, expected: String| TaskError::Cell {
            path: self.path.to_owned(),
            place: Place::Line(line),
            column: self.names[column].to_owned(),
            expected,
            found: quote(cells[column]),
        };
        let blank = |column: &usize| cells[*column].trim().is_empty();
        let texts = [Some(self.text), self.pair];
        let mut blanks = texts.iter().flatten().filter(|column| blank(column));
        if let Some(column) = blanks.next()
            && !(self.raw_text && self.pair.is_some() && blanks.next().is_none())
        {
            return Err(wrong(*column, "a sentence".to_owned()));
        }
        let label = match self.label {
            Some(column) if !(labels == Labels::Optional && cells[column].is_empty()) => {
                let label = label_set.parse(cells[column]);
                Some(label.ok_or_else(|| wrong(column, label_set.expected(cells[column])))?)
            }
            _ => None,
        };
        Ok(Example {
            text: cells[self.text].to_owned(),
            pair: self.pair.map(|column| cells[column].to_owned()),
            label,
        })
    }

    /// Appends the next lines to a row that breaks off within its texts, if that completes it.
    fn rejoin(&self, line: &'a str, lines: &mut Lines<'a>) -> Result<Cow<'a, str>, TaskError> {
        let tabs = |text: &str| text.bytes().filter(|byte| *byte == b'\t').count();
        let mut columns = 1 + tabs(line);
        let mut row = Cow::Borrowed(line);
        let mut ahead = lines.clone();
        while (self.text + 1..self.names.len()).contains(&columns) {
            let Some(next) = ahead.next_line(self.path, &self.names)? else {
                break;
            };
            columns += tabs(next);
            let whole = row.to_mut();
            whole.push(' ');
            whole.push_str(next);
        }
        if columns != self.names.len() {
            return Ok(Cow::Borrowed(line));
        }
        *lines = ahead;
        Ok(row)
    }
}

/// The lines of a file, decoded one by one. Only a line feed ends a line.
#[derive(Clone)]
struct Lines<'a> {
    rest: Option<&'a [u8]>,
    /// Number of the line last returned, from 1.
    number: usize,
}

impl<'a> Lines<'a> {
    fn next_line(&mut self, path: &Path, names: &[&str]) -> Result<Option<&'a str>, TaskError> {
        let Some(rest) = self.rest else {
            return Ok(None);
        };
        let end = rest.iter().position(|byte| *byte == b'\n');
        self.rest = end.map(|end| &rest[end + 1..]);
        self.number += 1;
        let line = &rest[..end.unwrap_or(rest.len())];
        let line = line.strip_suffix(b"\r").unwrap_or(line);

        let wrong = |at: usize, expected: &str| {
            let column = line[..at].iter().filter(|byte| **byte == b'\t').count();
            TaskError::Cell {
                path: path.to_owned(),
                place: Place::Line(self.number),
                column: match names.get(column) {
                    Some(name) => (*name).to_owned(),
                    None => (column + 1).to_string(),
                },
                expected: expected.to_owned(),
                found: format!("byte 0x{:02x} at position {} of the line", line[at], at + 1),
            }
        };
        let text = std::str::from_utf8(line).map_err(|e| wrong(e.valid_up_to(), "UTF-8 text"))?;
        match text.find('\0') {
            Some(at) => Err(wrong(at, "text without NUL")),
            None => Ok(Some(text)),
        }
    }
}
