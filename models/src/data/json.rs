use std::{borrow::Cow, fmt, path::Path};

use serde::{
    Deserialize, Deserializer as _,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{DataError, Format, Place, Record, Sink, Source, quote};
use crate::closed::json::Unique;

/// What a file should be.
const EXPECTED: &str = "a JSON array of objects";

/// A JSON array of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Json {}

impl Format for Json {
    fn read(&self, source: &mut Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        if source.first_byte()?.is_none() {
            return Ok(());
        }
        let path = source.path;
        let malformed = |cause: String| DataError::Form {
            path: path.to_owned(),
            expected: EXPECTED.to_owned(),
            cause,
        };
        let mut take = |index: usize, value: Value| {
            let number = index + 1;
            match record(path, Place::Record(number), value) {
                Ok(record) => sink.record(record),
                Err(odd) => sink.malformed(malformed(format!("record {number} is {odd}"))),
            }
        };
        let mut wrong = None;
        let mut json = serde_json::Deserializer::from_reader(source.bytes());
        let whole = json.deserialize_seq(Each(|index, value| {
            take(index, value)
                .map_err(|error| wrong = Some(error))
                .is_ok()
        }));
        let whole = whole.and_then(|()| json.end());
        match (wrong, whole) {
            (Some(wrong), _) => Err(wrong),
            (None, Err(cause)) => Err(malformed(cause.to_string())),
            (None, Ok(())) => Ok(()),
        }
    }
}

/// The record that a value is, or what it is instead of an object.
pub(super) fn record(path: &Path, place: Place, value: Value) -> Result<Record<'_>, String> {
    match value {
        Value::Object(object) if is_of_squad(&object) => {
            Err("a whole file of SQuAD, which --format squad reads".to_owned())
        }
        Value::Object(object) => {
            let fields = object.into_iter();
            let fields = fields.map(|(name, value)| (Cow::Owned(name), value));
            Ok(Record::new(path, place, fields.collect()))
        }
        other => Err(quote(&other.to_string())),
    }
}

/// Whether this is the one object that a file of SQuAD is.
fn is_of_squad(object: &Map<String, Value>) -> bool {
    let first = object.get("data").and_then(|articles| articles.get(0));
    first.is_some_and(|article| article["paragraphs"].is_array())
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
