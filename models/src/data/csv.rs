use std::{borrow::Cow, path::Path};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{DataError, Format, Place, Record, Sink, Source};

/// Comma-separated values as RFC 4180 has them: a cell in quotes may hold commas, line feeds and, as
/// two, quotes. Columns are found by name in the header. Every cell is a text, whatever it looks
/// like; no word stands for a missing value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Csv {
    /// What separates cells: one ASCII character.
    #[serde(deserialize_with = "separator")]
    pub separator: u8,
}

impl Default for Csv {
    fn default() -> Self {
        Self { separator: b',' }
    }
}

fn separator<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_bytes() {
        [byte] if !matches!(byte, b'"' | b'\r' | b'\n') => Ok(*byte),
        _ => Err(D::Error::custom(format!(
            "{text:?} does not separate cells; expected one ASCII character"
        ))),
    }
}

impl Format for Csv {
    fn parts(&self) -> &'static str {
        "columns"
    }

    fn read(&self, source: &Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        let path = source.path;
        let mut rows = Rows {
            path,
            rest: source.bytes,
            separator: self.separator,
            line: 1,
        };
        let Some(header) = rows.next_row()? else {
            return Ok(());
        };
        let names: Vec<&str> = header.cells.iter().map(|name| &**name).collect();
        sink.columns(path, &names)?;
        while let Some(Row { line, cells }) = rows.next_row()? {
            if cells.len() != names.len() {
                return Err(DataError::Columns {
                    path: path.to_owned(),
                    line,
                    separated: match self.separator {
                        b',' => "comma-separated",
                        _ => "separated",
                    },
                    expected: names.len(),
                    names: names.join(", "),
                    found: cells.len(),
                });
            }
            let fields = names.iter().zip(cells);
            let fields = fields.filter(|(name, _)| source.reads(name));
            let fields =
                fields.map(|(name, cell)| (Cow::Borrowed(*name), cell.into_owned().into()));
            sink.record(Record::new(path, Place::Line(line), fields.collect()))?;
        }
        Ok(())
    }
}

/// A row, and the number of the line that it begins on.
struct Row<'a> {
    line: usize,
    cells: Vec<Cow<'a, str>>,
}

/// The rows of a file.
struct Rows<'a> {
    path: &'a Path,
    rest: &'a [u8],
    separator: u8,
    line: usize,
}

impl<'a> Rows<'a> {
    fn next_row(&mut self) -> Result<Option<Row<'a>>, DataError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let line = self.line;
        let mut cells = Vec::new();
        loop {
            let column = cells.len() + 1;
            cells.push(match self.rest.first() {
                Some(b'"') => self.quoted(column)?,
                _ => self.plain(column)?,
            });
            if self.rest.first() == Some(&self.separator) {
                self.rest = &self.rest[1..];
                continue;
            }
            self.rest = self.rest.strip_prefix(b"\r").unwrap_or(self.rest);
            self.rest = self.rest.strip_prefix(b"\n").unwrap_or(self.rest);
            self.line += 1;
            return Ok(Some(Row { line, cells }));
        }
    }

    /// A cell up to the separator or the end of the line, neither of which it takes.
    fn plain(&mut self, column: usize) -> Result<Cow<'a, str>, DataError> {
        let rest = self.rest;
        let ends = |&byte: &u8| byte == self.separator || byte == b'\n';
        let mut end = rest.iter().position(ends).unwrap_or(rest.len());
        if rest[..end].ends_with(b"\r") && rest.get(end) != Some(&self.separator) {
            end -= 1;
        }
        self.rest = &rest[end..];
        self.text(&rest[..end], column, self.line)
            .map(Cow::Borrowed)
    }

    /// A cell in quotes.
    fn quoted(&mut self, column: usize) -> Result<Cow<'a, str>, DataError> {
        let first = self.line;
        let mut cell = String::new();
        let mut rest = &self.rest[1..];
        loop {
            let Some(end) = rest.iter().position(|byte| *byte == b'"') else {
                let expected = "the quote that ends the cell";
                return Err(self.wrong(column, first, expected, "the end of the file"));
            };
            cell += self.text(&rest[..end], column, self.line)?;
            self.line += rest[..end].iter().filter(|byte| **byte == b'\n').count();
            rest = &rest[end + 1..];
            match rest.first() {
                Some(b'"') => {
                    cell.push('"');
                    rest = &rest[1..];
                }
                None | Some(b'\r' | b'\n') => break,
                Some(byte) if *byte == self.separator => break,
                Some(_) => {
                    let expected = "a separator or the end of the line behind the quotes";
                    return Err(self.wrong(column, self.line, expected, "more text"));
                }
            }
        }
        self.rest = rest;
        Ok(Cow::Owned(cell))
    }

    fn text(&self, bytes: &'a [u8], column: usize, line: usize) -> Result<&'a str, DataError> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let byte = bytes[error.valid_up_to()];
            self.wrong(column, line, "UTF-8 text", &format!("byte 0x{byte:02x}"))
        })?;
        match text.contains('\0') {
            true => Err(self.wrong(column, line, "text without NUL", "byte 0x00")),
            false => Ok(text),
        }
    }

    fn wrong(&self, column: usize, line: usize, expected: &str, found: &str) -> DataError {
        DataError::Cell {
            path: self.path.to_owned(),
            place: Place::Line(line),
            column: column.to_string(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }
}
