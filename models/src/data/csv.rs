use std::{borrow::Cow, path::Path};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{DataError, Format, Lines, Place, Record, Sink, Source, unlike, without_end};

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
    fn read(&self, source: &mut Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        let path = source.path;
        let separator = self.separator;
        let columns = source.columns;
        let mut rows = Rows {
            lines: source.lines(),
            separator,
            bytes: Vec::new(),
        };
        let Some(line) = rows.read()? else {
            return Ok(());
        };
        let header = Row::parse(path, line, &rows.bytes, separator, &[])?;
        let names: Vec<String> = header.into_iter().map(Cow::into_owned).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        unlike(path, &names)?;
        self.check_separator(path, &names)?;
        let reads = |name: &&str| columns.is_none_or(|columns| columns.contains(name));
        let reads: Vec<bool> = names.iter().map(reads).collect();
        sink.columns(path, &names)?;
        let mut empty = None;
        while let Some(line) = rows.read()? {
            // An empty line is no row of several cells; at the end of the file it is nothing.
            if names.len() > 1 && without_end(&rows.bytes).is_empty() {
                empty = empty.or(Some(line));
                continue;
            }
            if let Some(line) = empty.take() {
                sink.malformed(self.other_columns(path, line, &names, 1))?;
            }
            let cells = match Row::parse(path, line, &rows.bytes, separator, &names) {
                Ok(cells) if cells.len() == names.len() => cells,
                Ok(cells) => {
                    let found = cells.len();
                    sink.malformed(self.other_columns(path, line, &names, found))?;
                    continue;
                }
                Err(error) => {
                    sink.malformed(error)?;
                    continue;
                }
            };
            let fields = names.iter().zip(cells).zip(&reads);
            let fields = fields.filter(|(_, read)| **read);
            let fields =
                fields.map(|((name, cell), _)| (Cow::Borrowed(*name), cell.into_owned().into()));
            sink.record(Record::new(path, Place::Line(line), fields.collect()))?;
        }
        Ok(())
    }
}

impl Csv {
    /// Refuses a header of one name in which another separator stands.
    fn check_separator(&self, path: &Path, names: &[&str]) -> Result<(), DataError> {
        let others = [',', ';', '\t', '|'];
        match names {
            [name] if name.contains(others) => Err(DataError::Form {
                path: path.to_owned(),
                expected: format!(
                    "columns with {:?} between them on line 1",
                    char::from(self.separator)
                ),
                cause: format!(
                    "there is only `{name}`; if something else separates columns, say so with --format \
                     '{{csv: {{separator: \";\"}}}}'"
                ),
            }),
            _ => Ok(()),
        }
    }

    fn other_columns(&self, path: &Path, line: usize, names: &[&str], found: usize) -> DataError {
        DataError::Columns {
            path: path.to_owned(),
            line,
            separated: match self.separator {
                b',' => "comma-separated",
                _ => "separated",
            },
            expected: names.len(),
            names: names.join(", "),
            found,
        }
    }
}

/// The rows of a file, one at a time.
struct Rows<'a> {
    lines: Lines<'a>,
    separator: u8,
    /// The row last read.
    bytes: Vec<u8>,
}

impl Rows<'_> {
    /// Reads the lines of the next row, which goes on behind lines that end in quotes; the number of
    /// its first line. Empty lines are rows of one empty cell.
    fn read(&mut self) -> Result<Option<usize>, DataError> {
        self.bytes.clear();
        let first = self.lines.number() + 1;
        let mut place = InRow::Start;
        let mut seen = 0;
        loop {
            match self.lines.read(&mut self.bytes) {
                Ok(true) => {}
                Ok(false) => break,
                // A row that does not end is one whose quotes do not.
                Err(DataError::Form { path, cause, .. }) if place == InRow::Quoted => {
                    let expected = format!("the quote that ends a cell of the row on line {first}");
                    return Err(DataError::Form {
                        path,
                        expected,
                        cause,
                    });
                }
                Err(error) => return Err(error),
            }
            let bytes = self.bytes[seen..].iter();
            place = bytes.fold(place, |place, &byte| place.next(byte, self.separator));
            seen = self.bytes.len();
            if place != InRow::Quoted {
                break;
            }
        }
        Ok((seen > 0).then_some(first))
    }
}

/// Where in a row a byte is.
#[derive(Clone, Copy, PartialEq)]
enum InRow {
    /// At the start of a cell.
    Start,
    Plain,
    Quoted,
    /// Behind a quote in quotes.
    Quote,
}

impl InRow {
    fn next(self, byte: u8, separator: u8) -> Self {
        match (self, byte) {
            (Self::Start | Self::Quote, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) => Self::Quoted,
            (_, byte) if byte == separator => Self::Start,
            _ => Self::Plain,
        }
    }
}

/// A row of which cells are taken.
struct Row<'a> {
    path: &'a Path,
    rest: &'a [u8],
    separator: u8,
    line: usize,
    /// The columns' names, but for the header.
    names: &'a [&'a str],
}

impl<'a> Row<'a> {
    /// The cells of a row that begins on a line.
    fn parse(
        path: &'a Path,
        line: usize,
        bytes: &'a [u8],
        separator: u8,
        names: &'a [&'a str],
    ) -> Result<Vec<Cow<'a, str>>, DataError> {
        let mut row = Self {
            path,
            rest: bytes,
            separator,
            line,
            names,
        };
        let mut cells = Vec::new();
        loop {
            let column = cells.len() + 1;
            cells.push(match row.rest.first() {
                Some(b'"') => row.quoted(column)?,
                _ => row.plain(column)?,
            });
            match row.rest.first() == Some(&separator) {
                true => row.rest = &row.rest[1..],
                false => return Ok(cells),
            }
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
            column: match self.names.get(column - 1) {
                Some(name) => (*name).to_owned(),
                None => column.to_string(),
            },
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }
}
