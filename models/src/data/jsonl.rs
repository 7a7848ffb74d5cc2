use serde::Deserialize;

use super::{DataError, Format, Place, Sink, Source, json::record};
use crate::closed::json::Unique;

/// A JSON object a line. Lines of nothing but white space hold no record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonLines {}

impl Format for JsonLines {
    fn read(&self, source: &Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        for (index, line) in source.bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let number = index + 1;
            let malformed = |cause: String| DataError::Form {
                path: source.path.to_owned(),
                expected: format!("a JSON object on line {number}"),
                cause,
            };
            let value = serde_json::from_slice(line);
            let Unique(value) = value.map_err(|error| malformed(error.to_string()))?;
            let record = record(source.path, Place::Line(number), value);
            sink.record(record.map_err(|odd| malformed(format!("it is {odd}")))?)?;
        }
        Ok(())
    }
}
