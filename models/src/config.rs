//! `config.json`: which family a model is of, and its sizes.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    closed::{
        Note,
        json::{self, JsonError},
    },
    family::{Architecture, FAMILIES, Family},
    gguf::{self, Gguf, GgufError},
};

/// A model's `config.json`, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The model's family.
    pub family: &'static Family,
    /// Its sizes, and how it is built.
    pub architecture: Arc<dyn Architecture>,
    /// The file as it is.
    pub json: Map<String, Value>,
    /// What of it is not used.
    pub notes: Vec<Note>,
}

/// A `config.json` that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read as a JSON object.
    #[error("{0}; a model folder needs the config.json that it was published with")]
    Json(#[from] JsonError),
    /// The model is of no known family.
    #[error("{}: `model_type` is {found}; expected one of {known}", path.display())]
    Family {
        /// The file.
        path: PathBuf,
        /// The family it names.
        found: String,
        /// The families there are.
        known: String,
    },
    /// A GGUF file cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A field is missing or not what it should be.
    #[error("{}: {source}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FieldError,
    },
}

/// A field of `config.json` that is missing or not what it should be.
#[derive(Debug, Error)]
pub enum FieldError {
    /// A field that is missing or of another type.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
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

    /// Checks sizes, each with the largest that is sensible.
    pub(crate) fn unless_sizes(
        sizes: impl IntoIterator<Item = (&'static str, usize, usize)>,
    ) -> Result<(), Self> {
        sizes.into_iter().try_for_each(|(field, found, most)| {
            Self::unless((1..=most).contains(&found), field, found, || {
                format!("a whole number from 1 to {most}")
            })
        })
    }

    /// Checks rates of dropout.
    pub(crate) fn unless_rates(
        rates: impl IntoIterator<Item = (&'static str, f64)>,
    ) -> Result<(), Self> {
        rates.into_iter().try_for_each(|(field, found)| {
            Self::unless((0.0..1.0).contains(&found), field, found, || {
                "a probability from 0 to below 1".into()
            })
        })
    }

    /// Checks numbers that are at most 1, such as what is added to a variance.
    pub(crate) fn unless_fractions(
        numbers: impl IntoIterator<Item = (&'static str, f64)>,
    ) -> Result<(), Self> {
        numbers.into_iter().try_for_each(|(field, found)| {
            Self::unless((0.0..=1.0).contains(&found), field, found, || {
                "a number from 0 to 1".into()
            })
        })
    }
}

impl Config {
    /// Reads and checks the `config.json` of a model's folder, or the metadata of its GGUF file,
    /// whose path may stand for the folder. Unknown fields are ignored.
    ///
    /// # Errors
    /// The file is missing or no JSON object, names no known family, or has fields that are
    /// missing, out of range or not supported.
    pub fn from_dir(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join("config.json");
        let gguf = match path.is_file() {
            true => None,
            false => gguf::find(dir)?,
        };
        let (path, json, notes) = match gguf {
            Some(path) => {
                let gguf = Gguf::open(&path)?;
                (path, gguf.config()?, gguf.notes().to_vec())
            }
            None => {
                let json = json::object(&path, json::LIMIT)?;
                (path, json, Vec::new())
            }
        };
        let bytes = Value::from(json.clone()).to_string().into_bytes();
        let model_type = json.get("model_type").and_then(Value::as_str);
        let Some(family) = FAMILIES.iter().find(|f| Some(f.model_type) == model_type) else {
            return Err(ConfigError::Family {
                path,
                found: json
                    .get("model_type")
                    .map_or("missing".into(), Value::to_string),
                known: FAMILIES
                    .each_ref()
                    .map(|family| family.model_type)
                    .join(", "),
            });
        };
        match (family.read)(&bytes) {
            Ok(architecture) => Ok(Self {
                family,
                architecture: architecture.into(),
                json,
                notes,
            }),
            Err(source) => Err(ConfigError::Field { path, source }),
        }
    }

    /// The tokens that end a text: `eos_token_id`, one or several.
    pub fn ends(&self) -> Vec<i32> {
        let id = |value: &Value| i32::try_from(value.as_i64()?).ok();
        match self.json.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// How many labels the file says the model's head has; 2 where it says nothing, as in
    /// transformers.
    pub fn num_labels(&self) -> usize {
        let names = || Some(self.json.get("id2label")?.as_object()?.len());
        let count = || usize::try_from(self.json.get("num_labels")?.as_u64()?).ok();
        names().or_else(count).unwrap_or(2)
    }
}
