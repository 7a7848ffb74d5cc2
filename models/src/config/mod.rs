//! `config.json`: which family a model is of, and its sizes.

mod labels;
pub(crate) mod table;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    closed::{
        Note, Refused,
        json::{self, JsonError},
    },
    family::{Architecture, FAMILIES, Family},
    fields::{FieldError, Fields},
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
    /// A field asks for what is not done.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A field is missing or not what it should be.
    #[error("{}: {source}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FieldError,
    },
}

impl Config {
    /// Reads and checks the `config.json` of a model's folder, or the metadata of its GGUF file,
    /// whose path may stand for the folder. Fields that are not known are noted.
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
        let (path, json, mut notes) = match gguf {
            Some(path) => {
                let gguf = Gguf::open(&path)?;
                (path, gguf.config()?, gguf.notes().to_vec())
            }
            None => {
                let json = json::object(&path, json::LIMIT)?;
                (path, json, Vec::new())
            }
        };
        let model_type = json.get("model_type").and_then(Value::as_str);
        let Some(family) = FAMILIES.iter().find(|f| Some(f.model_type) == model_type) else {
            return Err(ConfigError::Family {
                path,
                found: json
                    .get("model_type")
                    .map_or("missing".into(), Value::to_string),
                known: FAMILIES
                    .iter()
                    .map(|family| family.model_type)
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        };
        notes.extend(family.table.check(&path, &json)?);
        let fields = Fields::new(&json);
        let checked = (family.read)(fields).and_then(|read| labels::check(fields).map(|()| read));
        match checked {
            Ok(architecture) => Ok(Self {
                family,
                architecture: architecture.into(),
                json,
                notes,
            }),
            Err(source) => Err(ConfigError::Field { path, source }),
        }
    }

    /// This configuration with another value of a field.
    ///
    /// # Errors
    /// The value does not fit the others.
    pub(crate) fn with(&self, field: &str, value: Value) -> Result<Self, FieldError> {
        let mut json = self.json.clone();
        json.insert(field.to_owned(), value);
        Ok(Self {
            architecture: (self.family.read)(Fields::new(&json))?.into(),
            json,
            ..self.clone()
        })
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

    /// The token that is put behind a text: the first of [`ends`](Self::ends).
    pub fn end(&self) -> Option<u32> {
        u32::try_from(*self.ends().first()?).ok()
    }

    /// This configuration with a head that has a table of words of its own, if it shares one; `tensors`
    /// are the two in the files of the folder `dir`, which differ.
    pub(crate) fn untied(&self, dir: &Path, tensors: [&str; 2]) -> Option<Self> {
        let mut untied = self.clone();
        untied.architecture = self.architecture.untied()?;
        let field = "tie_word_embeddings";
        untied.json.insert(field.into(), false.into());
        let [first, second] = tensors;
        untied.notes.push(Note {
            path: dir.join("config.json"),
            text: format!(
                "`{field}` is not used: `{first}` and `{second}` of the files differ, and each is \
                 used for itself"
            ),
        });
        Some(untied)
    }

    /// How many labels the file says the model's head has; where it says nothing, what
    /// transformers takes.
    pub fn num_labels(&self) -> usize {
        let names = || Some(self.json.get("id2label")?.as_object()?.len());
        let count = || usize::try_from(self.json.get("num_labels")?.as_u64()?).ok();
        names().or_else(count).unwrap_or(self.family.labels)
    }

    /// What the file calls the labels, in the order of the head's outputs; nothing where it gives
    /// them no names of their own.
    pub fn labels(&self) -> Option<Vec<&str>> {
        labels::named(Fields::new(&self.json))
    }
}
