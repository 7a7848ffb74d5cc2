use std::{fmt, path::Path};

use indexmap::IndexSet;
use serde::{
    Deserializer as _,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::error::quote;
use super::{Example, File, Label, LabelSet, Labels, Place, TaskError, beside};
use crate::closed::{Values, json::Unique};

/// A JSON array of objects with string fields.
#[derive(Debug)]
pub struct Json {
    /// Fields whose values, joined by a space, are the text.
    pub text: &'static [&'static str],
    /// Field of what the text is about, for which a prompt has a place; rows may lack it.
    pub input: Option<&'static str>,
    /// Field of the label.
    pub label: &'static str,
    /// Fields of the published files that are not needed.
    pub beside: &'static [&'static str],
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
    ) -> Result<File, TaskError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if bytes.trim_ascii().is_empty() {
            return Ok(File::default());
        }
        let malformed = |source| TaskError::Json {
            path: path.to_owned(),
            source,
        };
        let mut file = File::default();
        let mut unused: IndexSet<String> = IndexSet::new();
        let mut read = |index, record: Value| {
            let Value::Object(record) = record else {
                let found = quote(&record.to_string());
                let odd = format!("record {} is {found}", index + 1);
                return Err(malformed(serde_json::Error::custom(odd)));
            };
            let row = Row {
                record: &record,
                path,
                index,
            };
            file.examples.push(self.example(&row, label_set, labels)?);
            let unknown = record
                .into_iter()
                .filter(|(name, value)| !self.knows(name) && !Values::Unset.accept(value));
            unused.extend(unknown.map(|(name, _)| name));
            Ok(())
        };
        let mut wrong = None;
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let whole = json.deserialize_seq(Each(|index, record| {
            read(index, record)
                .map_err(|error| wrong = Some(error))
                .is_ok()
        }));
        let whole = whole.and_then(|()| json.end());
        match (wrong, whole) {
            (Some(wrong), _) => return Err(wrong),
            (None, Err(source)) => return Err(malformed(source)),
            (None, Ok(())) => {}
        }
        let unused: Vec<String> = unused.into_iter().collect();
        file.notes.extend(beside(path, "fields", &unused));
        Ok(file)
    }

    fn knows(&self, name: &str) -> bool {
        let read = self.text.iter().chain(&self.input).chain([&self.label]);
        read.chain(self.beside).any(|known| *known == name)
    }

    fn example(
        &self,
        row: &Row<'_>,
        label_set: &LabelSet,
        labels: Labels,
    ) -> Result<Example, TaskError> {
        let text = self
            .text
            .iter()
            .map(|field| row.string(field, "a sentence"));
        let text = text.collect::<Result<Vec<_>, _>>()?.join(" ");
        let input = match self.input {
            Some(field) if !row.is_blank(field) => Some(row.string(field, "a text or nothing")?),
            _ => None,
        };
        let written = match labels {
            Labels::Optional if !row.record.contains_key(self.label) => None,
            _ => Some(row.string(self.label, &label_set.expected(""))?),
        };
        let label = match written {
            None => None,
            Some(written) => {
                let fix = self.misspelt.iter().find(|(wrong, _)| *wrong == written);
                let label = label_set.parse(fix.map_or(written, |(_, right)| right));
                Some(label.ok_or_else(|| {
                    row.wrong(self.label, &label_set.expected(written), quote(written))
                })?)
            }
        };
        let answer = written.filter(|_| label == Some(Label::Text));
        Ok(Example {
            text: label_set.prompt(&text, input),
            pair: answer.map(|answer| answer.trim().to_owned()),
            label,
        })
    }
}

/// Gives the elements of an array, as they are read, to a function that says whether to go on.
struct Each<F>(F);

impl<'de, F: FnMut(usize, Value) -> bool> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(Unique(record)) = seq.next_element()? {
            if !(self.0)(index, record) {
                return Err(A::Error::custom("a record cannot be used"));
            }
            index += 1;
        }
        Ok(())
    }
}

/// An object of the array.
struct Row<'a> {
    record: &'a Map<String, Value>,
    path: &'a Path,
    index: usize,
}

impl<'a> Row<'a> {
    fn wrong(&self, field: &str, expected: &str, found: String) -> TaskError {
        TaskError::Cell {
            path: self.path.to_owned(),
            place: Place::Record(self.index + 1),
            column: field.to_owned(),
            expected: expected.to_owned(),
            found,
        }
    }

    /// Whether a field is not there, null, or without text.
    fn is_blank(&self, field: &str) -> bool {
        match self.record.get(field) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.trim().is_empty(),
            Some(_) => false,
        }
    }

    fn string(&self, field: &str, expected: &str) -> Result<&'a str, TaskError> {
        match self.record.get(field) {
            Some(Value::String(s)) if !s.trim().is_empty() && !s.contains('\0') => Ok(s.as_str()),
            Some(Value::String(s)) => Err(self.wrong(field, expected, quote(s))),
            Some(other) => Err(self.wrong(field, expected, quote(&other.to_string()))),
            None => Err(self.wrong(field, expected, "no such field".to_owned())),
        }
    }
}
