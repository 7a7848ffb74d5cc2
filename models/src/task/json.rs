use std::path::Path;

use serde_json::{Map, Value};

use super::error::quote;
use super::{Example, Label, LabelSet, Labels, Place, TaskError};

/// A JSON array of objects with string fields.
#[derive(Debug)]
pub struct Json {
    /// Fields whose values, joined by a space, are the text.
    pub text: &'static [&'static str],
    /// Field of the label.
    pub label: &'static str,
    /// Misspelt labels of the published file, with what they stand for.
    pub misspelt: &'static [(&'static str, &'static str)],
}

impl Json {
    pub(super) fn parse(
        &self,
        bytes: &[u8],
        path: &Path,
        label_set: &LabelSet,
        labels: Labels,
    ) -> Result<Vec<Example>, TaskError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if bytes.trim_ascii().is_empty() {
            return Ok(Vec::new());
        }
        let records: Vec<Map<String, Value>> =
            serde_json::from_slice(bytes).map_err(|source| TaskError::Json {
                path: path.to_owned(),
                source,
            })?;
        let example =
            |(index, record): (usize, &Map<String, Value>)| -> Result<Example, TaskError> {
                let wrong = |field: &str, expected: &str, found: String| TaskError::Cell {
                    path: path.to_owned(),
                    place: Place::Record(index + 1),
                    column: field.to_owned(),
                    expected: expected.to_owned(),
                    found,
                };
                let string = |field: &str, expected: &str| match record.get(field) {
                    Some(Value::String(s)) if !s.trim().is_empty() && !s.contains('\0') => {
                        Ok(s.as_str())
                    }
                    Some(Value::String(s)) => Err(wrong(field, expected, quote(s))),
                    Some(other) => Err(wrong(field, expected, quote(&other.to_string()))),
                    None => Err(wrong(field, expected, "no such field".to_owned())),
                };
                let text = self.text.iter().map(|field| string(field, "a sentence"));
                let text = text.collect::<Result<Vec<_>, _>>()?.join(" ");
                let written = match labels {
                    Labels::Optional if !record.contains_key(self.label) => None,
                    _ => Some(string(self.label, &label_set.expected(""))?),
                };
                let label = match written {
                    None => None,
                    Some(written) => {
                        let fix = self.misspelt.iter().find(|(wrong, _)| *wrong == written);
                        let label = label_set.parse(fix.map_or(written, |(_, right)| right));
                        Some(label.ok_or_else(|| {
                            wrong(self.label, &label_set.expected(written), quote(written))
                        })?)
                    }
                };
                let answer = written.filter(|_| label == Some(Label::Text));
                Ok(Example {
                    text: label_set.prompt(&text),
                    pair: answer.map(|answer| answer.trim().to_owned()),
                    label,
                })
            };
        records.iter().enumerate().map(example).collect()
    }
}
