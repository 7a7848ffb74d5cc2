use std::{borrow::Cow, path::Path};

use serde::Deserialize;

use super::{DataError, Format, Place, Record, Sink, Source};

/// GLUE's tab-separated values: a row a line, quotes are ordinary characters, columns are found by
/// name in the header. CRLF line ends are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tsv {
    /// Column names of files that come without a header; files with one, in which the text's column
    /// has its name, are accepted too.
    pub header: Option<Vec<String>>,
    /// The first column whose texts may hold line feeds, so that a row goes on in the next line.
    pub multiline: Option<String>,
}

impl Format for Tsv {
    fn parts(&self) -> &'static str {
        "columns"
    }

    fn read(&self, source: &Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        let Source { path, bytes, .. } = *source;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut lines = Lines {
            rest: Some(bytes.strip_suffix(b"\n").unwrap_or(bytes)),
            number: 0,
        };
        let given = self.header.as_ref();
        let given: Option<Vec<&str>> = given.map(|names| names.iter().map(|n| &**n).collect());
        let mut ahead = lines.clone();
        let first = ahead.next_line(path, given.as_deref().unwrap_or_default())?;
        let header: Vec<&str> = first.unwrap_or_default().split('\t').collect();
        let is_header = source
            .columns
            .first()
            .is_none_or(|text| header.contains(text));
        let names = match given {
            Some(given) if !is_header => given,
            _ => {
                lines = ahead;
                header
            }
        };
        sink.columns(path, &names)?;

        let multiline = self.multiline.as_ref();
        let start = multiline.and_then(|column| names.iter().position(|name| name == column));
        let read: Vec<bool> = names.iter().map(|name| source.reads(name)).collect();
        while let Some(line) = lines.next_line(path, &names)? {
            let number = lines.number;
            let row = match start {
                Some(start) => rejoin(line, &mut lines, path, &names, start)?,
                None => Cow::Borrowed(line),
            };
            let found = 1 + tabs(&row);
            if found != names.len() {
                return Err(DataError::Columns {
                    path: path.to_owned(),
                    line: number,
                    separated: "tab-separated",
                    expected: names.len(),
                    names: names.join(", "),
                    found,
                });
            }
            let cells = names.iter().zip(row.split('\t')).zip(&read);
            let cells = cells.filter(|(_, read)| **read);
            let fields = cells.map(|((name, cell), _)| (Cow::Borrowed(*name), cell.into()));
            sink.record(Record::new(path, Place::Line(number), fields.collect()))?;
        }
        Ok(())
    }
}

fn tabs(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\t').count()
}

/// Appends the next lines to a row that breaks off behind column `start`, if that completes it.
fn rejoin<'a>(
    line: &'a str,
    lines: &mut Lines<'a>,
    path: &Path,
    names: &[&str],
    start: usize,
) -> Result<Cow<'a, str>, DataError> {
    let mut columns = 1 + tabs(line);
    let mut row = Cow::Borrowed(line);
    let mut ahead = lines.clone();
    while (start + 1..names.len()).contains(&columns) {
        let Some(next) = ahead.next_line(path, names)? else {
            break;
        };
        columns += tabs(next);
        let whole = row.to_mut();
        whole.push(' ');
        whole.push_str(next);
    }
    if columns != names.len() {
        return Ok(Cow::Borrowed(line));
    }
    *lines = ahead;
    Ok(row)
}

/// The lines of a file, decoded one by one. Only a line feed ends a line.
#[derive(Clone)]
struct Lines<'a> {
    rest: Option<&'a [u8]>,
    /// Number of the line last returned, from 1.
    number: usize,
}

impl<'a> Lines<'a> {
    fn next_line(&mut self, path: &Path, names: &[&str]) -> Result<Option<&'a str>, DataError> {
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
            DataError::Cell {
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
