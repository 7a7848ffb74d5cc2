use std::{borrow::Cow, collections::VecDeque, path::Path};

use serde::Deserialize;

use super::{DataError, Format, Lines, Place, Record, Sink, Source, unlike, without_end};

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
    fn read(&self, source: &mut Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        let (path, columns) = (source.path, source.columns);
        let mut lines = Ahead {
            lines: source.lines(),
            pending: VecDeque::new(),
        };
        let Some(first) = lines.next()? else {
            return Ok(());
        };
        let given = self.header.as_deref().unwrap_or_default();
        let header: Vec<String> = first
            .text(path, given)?
            .split('\t')
            .map(str::to_owned)
            .collect();
        let text = columns.and_then(<[_]>::first);
        let is_header = text.is_none_or(|text| header.iter().any(|name| name == text));
        let names = match &self.header {
            Some(given) if !is_header => {
                lines.pending.push_front(first);
                given.clone()
            }
            _ => header,
        };
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        unlike(path, &known)?;
        sink.columns(path, &known)?;
        let multiline = self.multiline.as_ref();
        let start = multiline.and_then(|column| names.iter().position(|name| name == column));
        let reads = |name: &&str| columns.is_none_or(|columns| columns.contains(name));
        let reads: Vec<bool> = known.iter().map(reads).collect();
        let mut empty = None;
        while let Some(mut line) = lines.next()? {
            if let Some(start) = start {
                line = lines.rejoined(line, start, names.len())?;
            }
            let row = match line.text(path, &names) {
                Ok(row) => row,
                Err(error) => {
                    sink.malformed(error)?;
                    continue;
                }
            };
            let other_columns = |line: usize, found: usize| DataError::Columns {
                path: path.to_owned(),
                line,
                separated: "tab-separated",
                expected: names.len(),
                names: names.join(", "),
                found,
            };
            // An empty line is no row of several cells; at the end of the file it is nothing.
            if names.len() > 1 && row.is_empty() {
                empty = empty.or(Some(line.number));
                continue;
            }
            if let Some(line) = empty.take() {
                sink.malformed(other_columns(line, 1))?;
            }
            let found = 1 + tabs(row.as_bytes());
            if found != names.len() {
                sink.malformed(other_columns(line.number, found))?;
                continue;
            }
            let cells = known.iter().zip(row.split('\t')).zip(&reads);
            let cells = cells.filter(|(_, reads)| **reads);
            let fields = cells.map(|((name, cell), _)| (Cow::Borrowed(*name), cell.into()));
            sink.record(Record::new(
                path,
                Place::Line(line.number),
                fields.collect(),
            ))?;
        }
        Ok(())
    }
}

fn tabs(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\t').count()
}

/// A line without its end, or several that are one row.
struct Line {
    /// The first one's number, from 1.
    number: usize,
    bytes: Vec<u8>,
}

impl Line {
    fn text(&self, path: &Path, names: &[String]) -> Result<&str, DataError> {
        let bytes = &self.bytes;
        let wrong = |at: usize, expected: &str| DataError::Cell {
            path: path.to_owned(),
            place: Place::Line(self.number),
            column: match names.get(tabs(&bytes[..at])) {
                Some(name) => name.clone(),
                None => (tabs(&bytes[..at]) + 1).to_string(),
            },
            expected: expected.to_owned(),
            found: format!(
                "byte 0x{:02x} at position {} of the line",
                bytes[at],
                at + 1
            ),
        };
        let text = std::str::from_utf8(bytes).map_err(|e| wrong(e.valid_up_to(), "UTF-8 text"))?;
        match text.find('\0') {
            Some(at) => Err(wrong(at, "text without NUL")),
            None => Ok(text),
        }
    }
}

/// The lines of a file, of which some may have been looked at before their turn.
struct Ahead<'a> {
    lines: Lines<'a>,
    pending: VecDeque<Line>,
}

impl Ahead<'_> {
    fn read(&mut self) -> Result<Option<Line>, DataError> {
        let mut bytes = Vec::new();
        if !self.lines.read(&mut bytes)? {
            return Ok(None);
        }
        bytes.truncate(without_end(&bytes).len());
        let number = self.lines.number();
        Ok(Some(Line { number, bytes }))
    }

    fn next(&mut self) -> Result<Option<Line>, DataError> {
        match self.pending.pop_front() {
            Some(line) => Ok(Some(line)),
            None => self.read(),
        }
    }

    /// A row that breaks off behind column `start`, with the next lines, if these complete it.
    fn rejoined(&mut self, line: Line, start: usize, columns: usize) -> Result<Line, DataError> {
        let mut found = 1 + tabs(&line.bytes);
        let mut whole = line.bytes.clone();
        let mut taken = 0;
        while (start + 1..columns).contains(&found) {
            if taken == self.pending.len() {
                let Some(next) = self.read()? else {
                    break;
                };
                self.pending.push_back(next);
            }
            let next = &self.pending[taken].bytes;
            found += tabs(next);
            whole.push(b' ');
            whole.extend(next);
            taken += 1;
        }
        if found != columns {
            return Ok(line);
        }
        self.pending.drain(..taken);
        let number = line.number;
        Ok(Line {
            number,
            bytes: whole,
        })
    }
}
