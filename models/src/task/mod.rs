//! Tasks: which files are read, what of their records is text, and what is learned of them.
//!
//! A task is data. The built-in ones are files in this folder, described as users describe their
//! own; adding one takes such a file and a line in `BUILT_IN`. In the library a task is a value,
//! whose format and objective may be your own.

mod describe;
mod error;
mod load;

pub use error::{OtherLabels, TaskError};
pub use load::{File, Malformed, Splits, Taken};

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use ailora_graph::ir::Draw;
use indexmap::IndexSet;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    choice::did_you_mean,
    config::Config,
    data::{Format, Text},
    generate,
    head::Head,
    objective::{BindError, Objective},
    tokenizer::{Tokenizer, TokenizerError},
};

/// The descriptions of every task, in the order in which they are listed to the user.
const BUILT_IN: &[&str] = &[
    include_str!("cola.json"),
    include_str!("sst2.json"),
    include_str!("mrpc.json"),
    include_str!("qqp.json"),
    include_str!("stsb.json"),
    include_str!("mnli.json"),
    include_str!("qnli.json"),
    include_str!("rte.json"),
    include_str!("squad.json"),
    include_str!("squad2.json"),
    include_str!("svamp.json"),
    include_str!("math.json"),
    include_str!("math10k.json"),
    include_str!("xsum.json"),
    include_str!("cnn_dailymail.json"),
    include_str!("scitldr.json"),
];

/// The description of a task that is built in, by its name.
pub(crate) fn described(name: &str) -> Option<Value> {
    let values = BUILT_IN
        .iter()
        .map(|text| serde_json::from_str::<Value>(text));
    values.flatten().find(|value| value["name"] == name)
}

/// Every task that is built in, in the order in which they are listed to the user.
pub static TASKS: LazyLock<Vec<Task>> = LazyLock::new(|| {
    let tasks = BUILT_IN.iter().map(|text| Task::from_json(text));
    tasks
        .collect::<Result<_, _>>()
        .expect("the descriptions of this crate are of tasks, which its tests hold")
});

/// Rows of texts, or of pairs of texts, with something to be learned of each.
#[derive(Clone, Debug)]
pub struct Task {
    /// Canonical lower-case name, such as `sst2`.
    pub name: String,
    /// Other spellings accepted by [`Task::parse`], such as `SST-2`.
    pub aliases: Vec<String>,
    /// What it is about, for the user.
    pub about: String,
    /// What it was read from, if it is of data of one's own: adapters record it.
    pub description: Option<Value>,
    /// What is learned.
    pub objective: Arc<dyn Objective>,
    /// How the files are laid out.
    pub format: Arc<dyn Format>,
    /// What of a record is the text, or the first of the pair.
    pub text: Text,
    /// What is the text of rows that are evaluated or predicted, where it is another than in training.
    pub evaluation_text: Option<Text>,
    /// What of it is the second text.
    pub pair: Option<Text>,
    /// Columns that hold lists of texts: these are read as one, with blanks between them.
    pub joined: Vec<String>,
    /// The column of the rows' names, if they have any.
    pub id: Option<String>,
    /// Whether the white space around what is put into the templates is left out.
    pub trim: bool,
    /// Whether one text of a pair may be blank.
    pub one_may_be_blank: bool,
    /// Columns of the files that are known and not needed.
    pub unused: Vec<String>,
    /// The split to train on.
    pub train: Split,
    /// The splits to evaluate on; the first decides which epoch was best. Without any there is no
    /// best epoch, and a run leaves its last one.
    pub dev: Vec<Split>,
    /// Files that are evaluated where they are there, and play no part in training.
    pub test: Vec<TestFile>,
    /// The longest sequence, in tokens, where nothing else says it.
    pub max_length: Option<usize>,
    /// How texts are written, in the form of `generation_config.json`; it counts more than what the
    /// model's files say.
    pub generation: Map<String, Value>,
}

/// A named file to evaluate on, that may be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestFile {
    /// Name under which results are recorded.
    pub name: String,
    /// Where it may be in the data folder, whatever the case of its letters: the first that is there counts.
    pub places: Vec<PathBuf>,
}

/// A named part of a task's data and where it is found.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Name under which results are recorded.
    pub name: String,
    /// Its files, in order, within the data folder; paths that are not relative are as they are.
    pub files: Vec<PathBuf>,
    /// Which of the file's rows belong to the split.
    pub rows: Rows,
}

/// Which rows of a file belong to a split; rows count from 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub enum Rows {
    /// All of them.
    #[default]
    #[serde(rename = "all")]
    All,
    /// A random share of them.
    #[serde(skip)]
    HeldOut(Share),
    /// What a share leaves.
    #[serde(skip)]
    But(Share),
    /// Those with `index % 5 == 4`.
    #[serde(rename = "every fifth")]
    EveryFifth,
    /// Those with `index % 5 != 4`.
    #[serde(rename = "all but every fifth")]
    AllButEveryFifth,
}

/// A random share of rows: which ones depends on the seed and their numbers alone, so that they are
/// known before the rows are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    below: f64,
    seed: u64,
}

impl Share {
    /// The most rows among which the wanted ones are counted out.
    const COUNTED: usize = 1 << 20;

    /// About `wanted` of `rows`: exactly so many, unless the rows are more than a million.
    pub fn of(wanted: usize, rows: usize, seed: u64) -> Self {
        let mut share = Self {
            below: wanted as f64 / rows.max(1) as f64,
            seed,
        };
        if rows <= Self::COUNTED && wanted < rows {
            let mut places: Vec<f64> = (0..rows).map(|row| share.place(row)).collect();
            let (_, place, _) = places.select_nth_unstable_by(wanted, f64::total_cmp);
            share.below = *place;
        }
        share
    }

    fn place(self, row: usize) -> f64 {
        let draw = Draw {
            seed: self.seed,
            step: 0,
        };
        draw.key("held out").uniform(row as u64)
    }

    fn contains(self, row: usize) -> bool {
        self.place(row) < self.below
    }
}

/// Whether a file may come without labels, as GLUE's test files do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// Every example needs a label.
    Required,
    /// The label column, or single labels, may be missing. Labels that are there are still checked.
    Optional,
    /// Nothing is made of labels, whatever they are.
    Ignored,
}

impl Task {
    /// Finds a task that is built in by its name or an alias, whatever the case.
    ///
    /// # Errors
    /// [`TaskError::UnknownTask`], with the nearest name if one is near.
    pub fn parse(name: &str) -> Result<Task, TaskError> {
        let is_named = |task: &&Task| {
            let mut spellings = std::iter::once(&task.name).chain(&task.aliases);
            spellings.any(|spelling| spelling.eq_ignore_ascii_case(name))
        };
        let known = || TASKS.iter().map(|task| task.name.as_str());
        let task = TASKS.iter().find(is_named);
        task.cloned().ok_or_else(|| TaskError::UnknownTask {
            name: name.to_owned(),
            known: known().collect::<Vec<_>>().join(", "),
            suggestion: did_you_mean(name, known()),
        })
    }

    /// The longest sequence, in tokens, where nothing else says it.
    pub fn max_len(&self) -> usize {
        self.max_length.unwrap_or(self.objective.max_len())
    }

    /// The head that predicts the targets.
    pub fn head(&self) -> Head {
        self.objective.head()
    }

    /// Class names by index; empty where there are no classes.
    pub fn label_names(&self) -> &[String] {
        self.objective.classes()
    }

    /// What a model is given of a text.
    pub fn prompt(&self, text: &str) -> String {
        self.text.around(text, self.trim)
    }

    /// The task as its rows are evaluated and predicted.
    pub fn evaluated(&self) -> Cow<'_, Self> {
        match &self.evaluation_text {
            None => Cow::Borrowed(self),
            Some(text) => Cow::Owned(Self {
                text: text.clone(),
                evaluation_text: None,
                ..self.clone()
            }),
        }
    }

    /// The splits to evaluate on that a folder has: those of [`dev`](Self::dev), and the
    /// [`test`](Self::test) files that are there.
    ///
    /// # Errors
    /// There are none, or several files of one test set.
    pub fn held_out(&self, dir: &Path) -> Result<Vec<Split>, TaskError> {
        let mut splits = self.dev.clone();
        for TestFile { name, places } in &self.test {
            let files: Vec<PathBuf> = places.iter().flat_map(|place| find(dir, place)).collect();
            if files.len() > 1 {
                let files = files.iter().map(|file| file.display().to_string());
                return Err(TaskError::SeveralTests {
                    dir: dir.to_owned(),
                    task: self.name.clone(),
                    split: name.clone(),
                    files: files.collect::<Vec<_>>().join(", "),
                });
            }
            if !files.is_empty() {
                let (name, rows) = (name.clone(), Rows::All);
                splits.push(Split { name, files, rows });
            }
        }
        match splits.is_empty() {
            false => Ok(splits),
            true => {
                let places = self.test.iter().filter_map(|test| test.places.first());
                let files: Vec<String> = places.map(|place| place.display().to_string()).collect();
                Err(TaskError::NoTests {
                    dir: dir.to_owned(),
                    task: self.name.clone(),
                    files: files.join(", "),
                })
            }
        }
    }

    /// How texts are written for this task by a model whose files say `settings`.
    ///
    /// # Errors
    /// A field of [`generation`](Self::generation) that this model cannot follow.
    pub fn generation(
        &self,
        settings: generate::Settings,
        vocabulary: usize,
    ) -> Result<generate::Settings, TaskError> {
        let settings = settings.with(&self.generation, vocabulary);
        settings.map_err(|source| TaskError::Generation {
            task: self.name.clone(),
            source,
        })
    }

    /// The files that the splits are read from, each once.
    pub fn files(&self) -> IndexSet<&Path> {
        let splits = std::iter::once(&self.train).chain(&self.dev);
        let files = splits.flat_map(|split| &split.files);
        files.map(PathBuf::as_path).collect()
    }

    /// The task's objective for a model with this configuration and tokenizer. Where the model's
    /// labels are not the task's, it is as without the model, and they are given beside it.
    ///
    /// # Errors
    /// The tokenizer lacks a token that the objective needs.
    pub fn bind(
        &self,
        config: &Config,
        tokenizer: &Tokenizer,
    ) -> Result<(Arc<dyn Objective>, Option<OtherLabels>), TokenizerError> {
        match self.objective.bind(config, tokenizer) {
            Ok(bound) => Ok((bound.unwrap_or(self.objective.clone()), None)),
            Err(BindError::Tokenizer(error)) => Err(error),
            Err(BindError::Labels { expected, found }) => {
                let task = self.name.clone();
                let other = OtherLabels {
                    task,
                    expected,
                    found,
                };
                Ok((self.objective.clone(), Some(other)))
            }
        }
    }
}

/// The files of a folder at a path, whatever the case of its letters; relative to the folder.
fn find(dir: &Path, place: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in place.components() {
        let below = |folder: &PathBuf| {
            let entries = fs::read_dir(dir.join(folder)).into_iter().flatten();
            let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
            let names = names.filter(|name| name.eq_ignore_ascii_case(part.as_os_str()));
            names.map(|name| folder.join(name)).collect::<Vec<_>>()
        };
        found = found.iter().flat_map(below).collect();
    }
    found.retain(|file| dir.join(file).is_file());
    found.sort();
    found
}

impl Rows {
    /// Whether a row is of the part.
    pub fn contains(self, index: usize) -> bool {
        match self {
            Rows::All => true,
            Rows::HeldOut(share) => share.contains(index),
            Rows::But(share) => !share.contains(index),
            Rows::EveryFifth => index % 5 == 4,
            Rows::AllButEveryFifth => index % 5 != 4,
        }
    }
}

#[cfg(test)]
mod tests;
