//! A task as a file describes it.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Rows, Split, Task, TaskError, TestFile};
use crate::{
    choice::{Choice, did_you_mean, options},
    closed::{Meaning, json::Unique},
    data::{FORMATS, Text},
    generate,
    objective::OBJECTIVES,
};

/// The fields of a description.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    about: String,
    objective: Choice,
    format: Choice,
    text: Text,
    evaluation_text: Option<Text>,
    pair: Option<Text>,
    #[serde(default)]
    joined: Vec<String>,
    id: Option<String>,
    #[serde(default)]
    trim: bool,
    #[serde(default)]
    one_may_be_blank: bool,
    #[serde(default)]
    unused: Vec<String>,
    #[serde(default)]
    train: Part,
    #[serde(default)]
    dev: IndexMap<String, Part>,
    #[serde(default)]
    test: IndexMap<String, Places>,
    max_length: Option<usize>,
    #[serde(default)]
    generation: Map<String, Value>,
}

/// Where a file may be: in one place, or in one of several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Places {
    One(PathBuf),
    Several(Vec<PathBuf>),
}

impl Places {
    fn named(self, name: String) -> TestFile {
        let places = match self {
            Self::One(place) => vec![place],
            Self::Several(places) => places,
        };
        TestFile { name, places }
    }
}

/// Checks that every field of a description's `generation` is one that is read.
fn known(generation: &Map<String, Value>) -> Result<(), String> {
    let is_applied = |name: &str| {
        let field = generate::TABLE.get(name);
        field.is_some_and(|field| matches!(field.meaning, Meaning::Applied(_)))
            || name == "early_stopping"
    };
    match generation.keys().find(|name| !is_applied(name)) {
        None => Ok(()),
        Some(name) => {
            let fields = generate::TABLE.fields.iter().copied().flatten();
            Err(format!(
                "`generation`: `{name}` is not known; expected fields of generation_config.json that are \
                 applied{}",
                did_you_mean(name, fields.map(|field| field.name))
            ))
        }
    }
}

/// A split, without its name.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    #[serde(default)]
    file: Option<PathBuf>,
    #[serde(default)]
    rows: Rows,
}

impl Part {
    fn named(self, name: String) -> Split {
        Split {
            name,
            files: self.file.into_iter().collect(),
            rows: self.rows,
        }
    }
}

impl Task {
    /// The task that a JSON text describes. `docs/add-an-objective.md` has the fields.
    ///
    /// # Errors
    /// [`TaskError::Description`]: a field that is missing, unknown, there twice or of another type;
    /// an objective, a format or a metric that does not exist, or whose options are wrong.
    pub fn from_json(text: &str) -> Result<Self, TaskError> {
        let value = serde_json::from_str(text);
        let Unique(value) = value.map_err(|error| TaskError::Description(error.to_string()))?;
        Self::from_value(value)
    }

    /// The task of data of one's own that a value describes, which adapters record.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn own(description: &Value) -> Result<Self, TaskError> {
        Ok(Self {
            description: Some(description.clone()),
            ..Self::from_value(description.clone())?
        })
    }

    /// The task that a value describes, as [`from_json`](Self::from_json).
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_value(value: Value) -> Result<Self, TaskError> {
        let task = |value| {
            let Description {
                name,
                aliases,
                about,
                objective,
                format,
                text,
                evaluation_text,
                pair,
                joined,
                id,
                trim,
                one_may_be_blank,
                unused,
                train,
                dev,
                test,
                max_length,
                generation,
            } = options(value)?;
            known(&generation)?;
            Ok(Self {
                name,
                aliases,
                about,
                description: None,
                objective: objective.make("objective", OBJECTIVES)?,
                format: format.make("format", FORMATS)?,
                text,
                evaluation_text,
                pair,
                joined,
                id,
                trim,
                one_may_be_blank,
                unused,
                train: train.named("train".to_owned()),
                dev: dev
                    .into_iter()
                    .map(|(name, part)| part.named(name))
                    .collect(),
                test: test
                    .into_iter()
                    .map(|(name, places)| places.named(name))
                    .collect(),
                max_length,
                generation,
            })
        };
        task(value).map_err(TaskError::Description)
    }
}
