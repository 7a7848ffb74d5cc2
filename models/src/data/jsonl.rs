use serde::Deserialize;

use super::{DataError, Format, Place, Sink, Source, json::record};
use crate::closed::json::Unique;

/// A JSON object a line. Lines of nothing but white space hold no record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonLines {}

impl Format for JsonLines {
    fn read(&self, source: &mut Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        let path = source.path;
        let mut lines = source.lines();
        let mut line = Vec::new();
        while lines.read(&mut line)? {
            let number = lines.number();
            let malformed = |cause: String| DataError::Form {
                path: path.to_owned(),
                expected: format!("a JSON object on line {number}"),
                cause,
            };
            let blank = line.trim_ascii().is_empty();
            let value = (!blank).then(|| serde_json::from_slice(&line));
            match value {
                None => {}
                Some(Err(error)) => sink.malformed(malformed(error.to_string()))?,
                Some(Ok(Unique(value))) => match record(path, Place::Line(number), value) {
                    Ok(record) => sink.record(record)?,
                    Err(odd) => sink.malformed(malformed(format!("it is {odd}")))?,
                },
            }
            line.clear();
        }
        Ok(())
    }
}
