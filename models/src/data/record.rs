use std::{borrow::Cow, path::Path};

use serde_json::Value;

use super::{DataError, Place, quote};

/// Whether a column that is asked for as `wanted` is the one called `name`, or a field of the object in it.
pub(crate) fn is_of(wanted: &str, name: &str) -> bool {
    let outer = wanted.split_once('.').map(|(outer, _)| outer);
    wanted == name || outer == Some(name)
}

/// One record of a file: values by the names of its columns, in the file's order.
///
/// A table's cells are texts; formats that know numbers, lists and objects give them as such.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<'a> {
    path: &'a Path,
    place: Place,
    fields: Vec<(Cow<'a, str>, Value)>,
}

impl<'a> Record<'a> {
    /// A record with these fields, from a place of a file.
    pub fn new(path: &'a Path, place: Place, fields: Vec<(Cow<'a, str>, Value)>) -> Self {
        Self {
            path,
            place,
            fields,
        }
    }

    /// This record with the lists of texts in these columns as one text each, blanks between them; what
    /// is no such list stays.
    pub fn joined(mut self, columns: &[String]) -> Self {
        let texts = |value: &Value| -> Option<String> {
            let texts = value.as_array()?.iter().map(Value::as_str);
            Some(texts.collect::<Option<Vec<&str>>>()?.join(" "))
        };
        for (name, value) in &mut self.fields {
            if columns.iter().any(|column| column == name)
                && let Some(text) = texts(value)
            {
                *value = text.into();
            }
        }
        self
    }

    /// Names and values, in the file's order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.fields.iter().map(|(name, value)| (&**name, value))
    }

    /// The value of a column, if the record has it. Where no column is called `a.b` itself, that is the
    /// field `b` of the object in column `a`.
    pub fn get(&self, column: &str) -> Option<&Value> {
        let found = |wanted: &str| self.fields.iter().find(|(name, _)| name == wanted);
        if let Some((_, value)) = found(column) {
            return Some(value);
        }
        let (outer, field) = column.split_once('.')?;
        let (_, object) = found(outer)?;
        object.get(field)
    }

    /// Whether a column is not there, null, or empty.
    pub fn is_unset(&self, column: &str) -> bool {
        match self.get(column) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(_) => false,
        }
    }

    /// Whether a column is not there, null, or a text of nothing but white space.
    pub fn is_blank(&self, column: &str) -> bool {
        match self.get(column) {
            Some(Value::String(text)) => text.trim().is_empty(),
            _ => self.is_unset(column),
        }
    }

    /// The text of a column, which may not be blank.
    ///
    /// # Errors
    /// It holds something else than the text that was `expected`.
    pub fn text(&self, column: &str, expected: &str) -> Result<&str, DataError> {
        match self.get(column) {
            Some(Value::String(text)) if !text.trim().is_empty() && !text.contains('\0') => {
                Ok(text)
            }
            _ => Err(self.wrong(column, expected)),
        }
    }

    /// What a column says as text: a number or a truth value as JSON writes it.
    pub fn written(&self, column: &str) -> Option<Cow<'_, str>> {
        match self.get(column)? {
            Value::String(text) => Some(Cow::Borrowed(text)),
            value @ (Value::Number(_) | Value::Bool(_)) => Some(Cow::Owned(value.to_string())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// The error that a column holds something else than `expected`.
    pub fn wrong(&self, column: &str, expected: &str) -> DataError {
        let found = match self.get(column) {
            Some(Value::String(text)) => quote(text),
            Some(other) => quote(&other.to_string()),
            None => "no such field".to_owned(),
        };
        DataError::Cell {
            path: self.path.to_owned(),
            place: self.place,
            column: column.to_owned(),
            expected: expected.to_owned(),
            found,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_column_may_be_a_field_of_another() {
        let answers = json!({"text": ["a", "b"], "answer_start": [0, 3]});
        let fields = vec![
            ("answers".into(), answers),
            ("answers.id".into(), json!("own")),
        ];
        let record = Record::new(Path::new("f"), Place::Line(1), fields);
        assert_eq!(record.get("answers.text"), Some(&json!(["a", "b"])));
        assert_eq!(record.get("answers.id"), Some(&json!("own")));
        for none in ["answers.end", "answers.text.0", "texts.text", "text"] {
            assert_eq!(record.get(none), None, "{none}");
        }
        assert!(record.is_unset("answers.end") && !record.is_unset("answers.text"));
        assert!(is_of("answers.text", "answers") && is_of("a.b", "a.b") && is_of("a", "a"));
        assert!(!is_of("answers", "answers.text") && !is_of("ab.c", "a"));
    }
}
