//! What is chosen by name from a list, such as a data format or an objective, with options of its own.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Map, Value};

/// One entry of a list: a name, and what makes a value of its options.
pub struct Kind<T: ?Sized> {
    /// The name in descriptions, in lower case.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Makes it of its options, an object; the error says what is wrong with them.
    pub make: fn(Value) -> Result<Arc<T>, String>,
}

impl<T: ?Sized> fmt::Debug for Kind<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kind").field(&self.name).finish()
    }
}

/// A name with options, as descriptions write it: `"tsv"`, or `{"tsv": {"header": ["a", "b"]}}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The name.
    pub name: String,
    /// The options, an object.
    pub options: Value,
}

impl Choice {
    /// What has this name, without options.
    pub fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            options: Value::Object(Map::new()),
        }
    }

    /// Makes what `kinds` have under the choice's name; `field` is the description's.
    ///
    /// # Errors
    /// No kind has this name, or its options are wrong.
    pub fn make<T: ?Sized>(self, field: &str, kinds: &[Kind<T>]) -> Result<Arc<T>, String> {
        let Some(kind) = kinds.iter().find(|kind| kind.name == self.name) else {
            let names = || kinds.iter().map(|kind| kind.name);
            return Err(format!(
                "`{field}`: `{}` is not known; expected one of {}{}",
                self.name,
                names().collect::<Vec<_>>().join(", "),
                did_you_mean(&self.name, names())
            ));
        };
        (kind.make)(self.options).map_err(|error| format!("`{field}`, {}: {error}", self.name))
    }
}

/// The value that options say; every field is known.
///
/// # Errors
/// The field, what was found there and what was expected.
pub fn options<T: DeserializeOwned>(options: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(options).map_err(|error| {
        let path = error.path().to_string();
        match &*path {
            "." => error.inner().to_string(),
            _ => format!("`{path}`: {}", error.inner()),
        }
    })
}

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.options.as_object().is_some_and(Map::is_empty) {
            return serializer.serialize_str(&self.name);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.name, &self.options)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChoiceVisitor)
    }
}

struct ChoiceVisitor;

impl<'de> Visitor<'de> for ChoiceVisitor {
    type Value = Choice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name, or an object of one name with its options")
    }

    fn visit_str<E>(self, name: &str) -> Result<Choice, E> {
        Ok(Choice::of(name))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Choice, A::Error> {
        let first = map.next_entry()?;
        let (Some((name, options)), None) = (first, map.next_key::<String>()?) else {
            return Err(A::Error::custom("expected exactly one name"));
        };
        Ok(Choice { name, options })
    }
}

/// `"; did you mean X?"` for the known word nearest to `word`, or nothing if none is near.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(&word, &k.to_lowercase()), k))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| format!("; did you mean `{k}`?"))
        .unwrap_or_default()
}
