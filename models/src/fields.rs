//! Reading the fields of a `config.json` by name, each with what it may be.

use std::{fmt::Display, ops::RangeInclusive};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::closed::{Refused, shortened};

/// A field of `config.json` that is missing or not what it should be.
#[derive(Debug, Error)]
pub enum FieldError {
    /// A value out of range or not supported.
    #[error("`{field}` is {found}; expected {expected}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A field of an object that is a field.
    #[error("in `{field}`, `{}` is {}; {}", .cause.field, .cause.found, .cause.expected)]
    Nested {
        /// The object.
        field: &'static str,
        /// The field within it.
        cause: Box<Refused>,
    },
}

impl FieldError {
    /// An error about `field` unless the value found fits.
    pub(crate) fn unless(
        fits: bool,
        field: &'static str,
        found: impl Display,
        expected: impl FnOnce() -> String,
    ) -> Result<(), Self> {
        if fits {
            return Ok(());
        }
        Err(Self::Value {
            field,
            found: found.to_string(),
            expected: expected(),
        })
    }

    /// A field that is not there and must be.
    pub(crate) fn missing(field: &'static str, expected: String) -> Self {
        Self::Value {
            field,
            found: "missing".into(),
            expected,
        }
    }
}

/// The fields of a `config.json`. One that is `null` counts as absent, unless [`has`](Self::has) is
/// asked.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The fields of an object.
    pub fn new(json: &'a Map<String, Value>) -> Self {
        Self(json)
    }

    /// Whether a field is there, if only as `null`.
    pub fn has(self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// Whether a field is there with a value.
    pub fn given(self, field: &str) -> bool {
        self.value(field).is_some()
    }

    /// A field's value.
    pub fn value(self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn read<T>(
        self,
        field: &'static str,
        expected: impl FnOnce() -> String,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FieldError> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(FieldError::Value {
                field,
                found: shortened(value),
                expected: expected(),
            }),
        }
    }

    /// A whole number of a range, if it is there.
    pub fn whole(
        self,
        field: &'static str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, FieldError> {
        self.read(
            field,
            || whole(&range),
            |value| {
                let number = usize::try_from(value.as_u64()?).ok()?;
                range.contains(&number).then_some(number)
            },
        )
    }

    /// A size that must be there: a whole number from 1 to `most`.
    pub fn size(self, field: &'static str, most: usize) -> Result<usize, FieldError> {
        let found = self.whole(field, 1..=most)?;
        found.ok_or_else(|| FieldError::missing(field, whole(&(1..=most))))
    }

    /// A number of a range, or what an absent field means.
    fn number_or(
        self,
        field: &'static str,
        default: f64,
        expected: &str,
        fits: impl Fn(f64) -> bool,
    ) -> Result<f64, FieldError> {
        let read = |value: &Value| value.as_f64().filter(|&number| fits(number));
        Ok(self
            .read(field, || expected.into(), read)?
            .unwrap_or(default))
    }

    /// A rate of dropout.
    pub fn rate_or(self, field: &'static str, default: f64) -> Result<f64, FieldError> {
        let expected = "a probability from 0 to below 1";
        self.number_or(field, default, expected, |x| (0.0..1.0).contains(&x))
    }

    /// A number that is at most 1, such as what is added to a variance.
    pub fn fraction_or(self, field: &'static str, default: f64) -> Result<f64, FieldError> {
        let expected = "a number from 0 to 1";
        self.number_or(field, default, expected, |x| (0.0..=1.0).contains(&x))
    }

    /// A number above 0, if it is there.
    pub fn positive(self, field: &'static str) -> Result<Option<f64>, FieldError> {
        self.read(
            field,
            || "a number above 0".into(),
            |value| value.as_f64().filter(|&number| number > 0.0),
        )
    }

    /// A number that is not negative, if it is there.
    pub fn not_negative(self, field: &'static str) -> Result<Option<f64>, FieldError> {
        self.read(
            field,
            || "a number that is not negative".into(),
            |value| value.as_f64().filter(|&number| number >= 0.0),
        )
    }

    /// A number, if it is there.
    pub fn number(self, field: &'static str) -> Result<Option<f64>, FieldError> {
        self.read(field, || "a number".into(), Value::as_f64)
    }

    /// A whole number of either sign, if it is there.
    pub fn integer(self, field: &'static str) -> Result<Option<i64>, FieldError> {
        self.read(field, || "a whole number".into(), Value::as_i64)
    }

    /// True or false.
    pub fn flag_or(self, field: &'static str, default: bool) -> Result<bool, FieldError> {
        let found = self.read(field, || "true or false".into(), Value::as_bool)?;
        Ok(found.unwrap_or(default))
    }

    /// A text, if it is there.
    pub fn text(self, field: &'static str) -> Result<Option<&'a str>, FieldError> {
        self.read(field, || "a text".into(), Value::as_str)
    }

    /// An object, if it is there with anything in it.
    pub fn object(self, field: &'static str) -> Result<Option<&'a Map<String, Value>>, FieldError> {
        let found = self.read(field, || "an object".into(), Value::as_object)?;
        Ok(found.filter(|object| !object.is_empty()))
    }
}

fn whole(range: &RangeInclusive<usize>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}
