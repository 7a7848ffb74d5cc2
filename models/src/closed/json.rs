//! JSON files of other programs: an object, each of its names once, of a sensible size.

use std::{
    cell::Cell,
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use thiserror::Error;

/// Bytes of a file of settings that are read at most.
pub const LIMIT: u64 = 64 << 20;
/// Values of such a file at most, each of which takes more memory than bytes of the file.
const VALUES: usize = 1 << 20;

/// A JSON file that cannot be used.
#[derive(Debug, Error)]
pub enum JsonError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is larger than any such file.
    #[error("{} has more than {limit} bytes; is it the file that its name says?", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// The largest size.
        limit: u64,
    },
    /// It is not JSON, or not an object, or names something twice.
    #[error("{}: not a JSON object with each name once: {}", path.display(), super::brief(cause))]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column where known.
        cause: String,
    },
}

/// The object that a file of at most `limit` bytes holds.
///
/// # Errors
/// The file cannot be read, is too large, or holds anything else; also two values of one name,
/// of which readers take different ones.
pub fn object(path: &Path, limit: u64) -> Result<Map<String, Value>, JsonError> {
    let bytes = bytes(path, limit)?;
    parse(path, &bytes)
}

/// The bytes of a file of at most `limit`.
///
/// # Errors
/// It cannot be read, or is too large.
pub fn bytes(path: &Path, limit: u64) -> Result<Vec<u8>, JsonError> {
    let read = |source| JsonError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let mut file = File::open(path).map_err(read)?.take(limit + 1);
    file.read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > limit {
        let path = path.to_owned();
        return Err(JsonError::Size { path, limit });
    }
    Ok(bytes)
}

/// The object that bytes of the file at `path` hold.
///
/// # Errors
/// As [`object`].
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    let form = |cause: String| JsonError::Form {
        path: path.to_owned(),
        cause,
    };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let left = Cell::new(VALUES);
    let value = Counted(&left).deserialize(&mut json);
    let value = value.and_then(|value| json.end().map(|()| value));
    match value {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(form(format!("found {}", super::shortened(&other)))),
        Err(error) => Err(form(error.to_string())),
    }
}

/// A value whose objects have each name once.
#[derive(Clone, Debug, PartialEq)]
pub struct Unique(pub Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let left = Cell::new(usize::MAX);
        Counted(&left).deserialize(deserializer).map(Self)
    }
}

/// Reads a value whose objects have each name once, and that has so many values in it at most.
#[derive(Clone, Copy)]
struct Counted<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0.get().checked_sub(1) {
            Some(left) => self.0.set(left),
            None => return Err(D::Error::custom(format!("more than {VALUES} values"))),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self)?;
            if object.contains_key(&name) {
                return Err(A::Error::custom(format!("`{name}` is there twice")));
            }
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Map<String, Value>, JsonError> {
        parse(Path::new("a.json"), text.as_bytes())
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let text = r#"{"a": [1, -2, 2.5, 1e3, "x", true, null, {}], "b": {"a": {"a": []}}}"#;
        let expected: Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn refuses_what_readers_take_differently() {
        for (text, cause) in [
            (r#"{"a": 1, "b": 2, "a": 1}"#, "`a` is there twice"),
            (r#"{"b": [{"c": 1, "c": 2}]}"#, "`c` is there twice"),
            (r#"{"a": NaN}"#, "line 1"),
            (r#"{"a": 1e400}"#, "out of range"),
            ("[1, 2]", "found [1,2]"),
            ("", "EOF"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("a.json") && error.contains(cause), "{error}");
        }
        let deep = format!("{{\"a\": {}", "[".repeat(100_000));
        assert!(read(&deep).unwrap_err().to_string().contains("recursion"));
    }

    #[test]
    fn values_are_counted() {
        let list = |len: usize| format!("{{\"a\": [0{}]}}", ",0".repeat(len - 1));
        assert!(read(&list(VALUES - 2)).is_ok());
        let error = read(&list(VALUES - 1)).unwrap_err().to_string();
        assert!(error.contains("more than 1048576 values"), "{error}");
        // Where each is read alone, as a record of many, they are not.
        assert!(serde_json::from_str::<Unique>(&list(VALUES + 5)).is_ok());
    }

    #[test]
    fn large_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, "{\"a\": 12}").unwrap();
        assert!(object(&path, 9).is_ok());
        let error = object(&path, 8).unwrap_err().to_string();
        assert!(error.contains("more than 8 bytes"), "{error}");
    }
}
