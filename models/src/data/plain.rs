use std::borrow::Cow;

use serde::Deserialize;

use super::{DataError, Format, Place, Record, Sink, Source, without_end};

/// Running text: a line is a document, in the field `text`. Lines of nothing but white space are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plain {}

impl Plain {
    /// The field that holds a line.
    pub const FIELD: &'static str = "text";
}

impl Format for Plain {
    fn read(&self, source: &mut Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        let path = source.path;
        let mut lines = source.lines();
        let mut line = Vec::new();
        while lines.read(&mut line)? {
            let place = Place::Line(lines.number());
            let wrong = |at: usize, expected: &str| DataError::Cell {
                path: path.to_owned(),
                place,
                column: Self::FIELD.to_owned(),
                expected: expected.to_owned(),
                found: format!("byte 0x{:02x} at position {} of the line", line[at], at + 1),
            };
            let text = std::str::from_utf8(&line)
                .map_err(|error| wrong(error.valid_up_to(), "UTF-8 text"))
                .and_then(|text| match text.find('\0') {
                    Some(at) => Err(wrong(at, "text without NUL")),
                    None => Ok(text),
                });
            match text {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => {
                    let text = &text[..without_end(text.as_bytes()).len()];
                    let field = (Cow::Borrowed(Self::FIELD), text.into());
                    sink.record(Record::new(path, place, vec![field]))?;
                }
                Err(error) => sink.malformed(error)?,
            }
            line.clear();
        }
        Ok(())
    }
}
