//! Tasks: what a data file looks like, what its labels mean and how predictions are scored.
//!
//! A task is data. Adding one takes a file that defines a [`Task`] and a line in [`TASKS`].

mod cola;
mod error;
mod json;
mod math;
mod mnli;
mod mrpc;
mod order;
mod qnli;
mod qqp;
mod rte;
mod sst2;
mod stsb;
mod svamp;
mod tsv;

pub use error::{Place, TaskError};
pub use json::Json;
pub use order::OtherLabels;
pub(crate) use order::in_task_order;
pub use tsv::Tsv;

use std::path::Path;

use indexmap::IndexMap;

use crate::{
    closed::Note,
    head::Head,
    metrics::{self, Metric, MetricError},
};

/// Every task, in the order in which they are listed to the user.
pub static TASKS: [&Task; 10] = [
    &cola::COLA,
    &sst2::SST2,
    &mrpc::MRPC,
    &qqp::QQP,
    &stsb::STSB,
    &mnli::MNLI,
    &qnli::QNLI,
    &rte::RTE,
    &svamp::SVAMP,
    &math::MATH,
];

/// A sentence or sentence-pair task with one label an example.
#[derive(Debug)]
pub struct Task {
    /// Canonical lower-case name, such as `sst2`.
    pub name: &'static str,
    /// Other spellings accepted by [`Task::parse`], such as `SST-2`.
    pub aliases: &'static [&'static str],
    /// What is predicted and how it is written in the files.
    pub labels: LabelSet,
    /// How the files are laid out.
    pub format: Format,
    /// The split to train on.
    pub train: Split,
    /// The splits to evaluate on; the first decides which epoch was best.
    pub dev: &'static [Split],
    /// The metrics to report; the first decides which epoch was best.
    pub metrics: &'static [Metric],
}

/// The labels of a task and their spelling in its files.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LabelSet {
    /// Classes written as their index: `0`, `1`, ...
    Indexed(&'static [&'static str]),
    /// Classes written by name.
    Named(&'static [&'static str]),
    /// A number between the two bounds, both included.
    Scored(f32, f32),
    /// A text that a language model goes on with.
    Text {
        /// What the model is given, with `{}` for the example's text.
        prompt: &'static str,
        /// What it is given of an example that has an input beside its text: `{}` is the text, and
        /// `{input}` the input.
        prompt_with_input: &'static str,
    },
}

/// The layout of a task's files.
#[derive(Debug)]
pub enum Format {
    /// Tab-separated values as GLUE writes them.
    Tsv(Tsv),
    /// One JSON array of objects.
    Json(Json),
}

/// A named part of a task's data and where it is found.
#[derive(Debug, Clone, Copy)]
pub struct Split {
    /// Name under which results are recorded.
    pub name: &'static str,
    /// File name within the data folder.
    pub file: &'static str,
    /// Which of the file's rows belong to the split.
    pub rows: Rows,
}

/// Which rows of a file belong to a split; rows count from 0.
#[derive(Debug, Clone, Copy)]
pub enum Rows {
    /// All of them.
    All,
    /// Those with `index % 5 == 4`.
    EveryFifth,
    /// Those with `index % 5 != 4`.
    AllButEveryFifth,
}

/// A sentence or a pair of sentences, with its label where the file has one.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The sentence, or the first of the pair.
    pub text: String,
    /// The second sentence of a pair, or the text to write behind the first.
    pub pair: Option<String>,
    /// The label; always there in files read with [`Labels::Required`].
    pub label: Option<Label>,
}

/// The label of one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Label {
    /// Index into [`Task::label_names`].
    Class(usize),
    /// Target of a regression.
    Score(f32),
    /// The second text is what is to be written.
    Text,
}

/// Whether a file may come without labels, as GLUE's test files do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// Every example needs a label.
    Required,
    /// The label column, or single labels, may be missing. Labels that are there are still checked.
    Optional,
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct File {
    /// Its rows, or those of a split.
    pub examples: Vec<Example>,
    /// What of the rows is not used.
    pub notes: Vec<Note>,
}

/// A note that `unused` parts of a file's rows are not used, if there are any.
fn beside(path: &Path, parts: &str, unused: &[String]) -> Option<Note> {
    let names: Vec<String> = unused.iter().map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| Note {
        path: path.to_owned(),
        text: format!(
            "{parts} of its rows that are not known are not used: {}",
            names.join(", ")
        ),
    })
}

/// The splits of a task as read from a data folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Splits {
    /// The examples to train on.
    pub train: Vec<Example>,
    /// The evaluation splits by name, in the order of [`Task::dev`].
    pub dev: IndexMap<&'static str, Vec<Example>>,
    /// What of the files is not used.
    pub notes: Vec<Note>,
}

impl Task {
    /// Finds a task by its name or an alias, whatever the case.
    ///
    /// # Errors
    /// [`TaskError::UnknownTask`], with the nearest name if one is near.
    pub fn parse(name: &str) -> Result<&'static Task, TaskError> {
        let spellings = |task: &&'static Task| [&[task.name], task.aliases].concat();
        TASKS
            .into_iter()
            .find(|task| spellings(task).iter().any(|s| s.eq_ignore_ascii_case(name)))
            .ok_or_else(|| TaskError::UnknownTask {
                name: name.to_owned(),
                known: TASKS.map(|task| task.name).join(", "),
                suggestion: did_you_mean(name, TASKS.map(|task| task.name)),
            })
    }

    /// The head that predicts the labels.
    pub fn head(&self) -> Head {
        match self.labels {
            LabelSet::Indexed(names) | LabelSet::Named(names) => Head::classification(names.len()),
            LabelSet::Scored(..) => Head::regression(),
            LabelSet::Text { .. } => Head::CausalLm,
        }
    }

    /// Width of the model's head: the number of classes, or 1 for a regression.
    pub fn outputs(&self) -> usize {
        self.label_names().len().max(1)
    }

    /// Class names by index; empty where there are no classes.
    pub fn label_names(&self) -> &'static [&'static str] {
        match self.labels {
            LabelSet::Indexed(names) | LabelSet::Named(names) => names,
            LabelSet::Scored(..) | LabelSet::Text { .. } => &[],
        }
    }

    /// The metric whose highest value marks the best epoch, if the task has any.
    pub fn headline(&self) -> Option<Metric> {
        self.metrics.first().copied()
    }

    /// What a model is given of an example's text.
    pub fn prompt(&self, text: &str) -> String {
        self.labels.prompt(text, None)
    }

    /// Reads every row of one file.
    ///
    /// # Errors
    /// The first malformed row, by file and line: nothing is skipped. A file without examples.
    pub fn load(&self, path: &Path, labels: Labels) -> Result<File, TaskError> {
        let bytes = std::fs::read(path).map_err(|source| TaskError::Read {
            path: path.to_owned(),
            source,
        })?;
        let file = match &self.format {
            Format::Tsv(tsv) => tsv.parse(&bytes, path, &self.labels, labels),
            Format::Json(json) => json.parse(&bytes, path, &self.labels, labels),
        }?;
        if file.examples.is_empty() {
            return Err(TaskError::Empty {
                path: path.to_owned(),
            });
        }
        Ok(file)
    }

    /// Reads one labelled split from a data folder.
    ///
    /// # Errors
    /// As [`Task::load`], and [`TaskError::MissingFile`] if the folder lacks the split's file.
    pub fn load_split(&self, dir: &Path, split: &Split) -> Result<File, TaskError> {
        let path = dir.join(split.file);
        if !path.is_file() {
            return Err(TaskError::MissingFile {
                dir: dir.to_owned(),
                task: self.name,
                split: split.name,
                file: split.file,
            });
        }
        let mut file = self.load(&path, Labels::Required)?;
        let mut rows = 0..;
        file.examples
            .retain(|_| rows.next().is_some_and(|row| split.rows.contains(row)));
        if file.examples.is_empty() {
            return Err(TaskError::Empty { path });
        }
        Ok(file)
    }

    /// The names of the files that the splits are read from.
    pub fn files(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.train.file).chain(self.dev.iter().map(|split| split.file))
    }

    /// Reads the training split and all evaluation splits from a data folder.
    ///
    /// # Errors
    /// As [`Task::load_split`].
    pub fn load_dir(&self, dir: &Path) -> Result<Splits, TaskError> {
        let train = self.load_split(dir, &self.train)?;
        let mut splits = Splits {
            train: train.examples,
            dev: IndexMap::new(),
            notes: train.notes,
        };
        for split in self.dev {
            let File { examples, notes } = self.load_split(dir, split)?;
            splits.dev.insert(split.name, examples);
            // Splits may be parts of one file.
            let new = notes
                .into_iter()
                .filter(|note| !splits.notes.contains(note));
            let new: Vec<Note> = new.collect();
            splits.notes.extend(new);
        }
        Ok(splits)
    }

    /// Scores logits against labels with the task's metrics, by name in their order.
    ///
    /// # Shapes
    /// `logits` is row-major `[labels.len(), outputs]`.
    ///
    /// # Errors
    /// No examples, wrong shapes, labels of the wrong kind, and logits that are not finite.
    pub fn score(
        &self,
        logits: &[f32],
        labels: &[Label],
    ) -> Result<IndexMap<String, f64>, MetricError> {
        metrics::score(self.metrics, logits, self.outputs(), labels)
    }
}

impl LabelSet {
    fn prompt(&self, text: &str, input: Option<&str>) -> String {
        match (self, input) {
            (LabelSet::Text { prompt, .. }, None) => prompt.replacen("{}", text.trim(), 1),
            (
                LabelSet::Text {
                    prompt_with_input, ..
                },
                Some(input),
            ) => {
                // What was put in is not looked through for places.
                let (before, after) = prompt_with_input.split_once("{input}").unwrap_or_default();
                before.replacen("{}", text.trim(), 1) + input.trim() + after
            }
            _ => text.to_owned(),
        }
    }

    fn parse(&self, cell: &str) -> Option<Label> {
        match *self {
            LabelSet::Indexed(names) => (0..names.len())
                .find(|class| class.to_string() == cell)
                .map(Label::Class),
            LabelSet::Named(names) => names.iter().position(|n| *n == cell).map(Label::Class),
            LabelSet::Scored(low, high) => {
                let score = cell.parse().ok()?;
                (low..=high).contains(&score).then_some(Label::Score(score))
            }
            LabelSet::Text { .. } => Some(Label::Text),
        }
    }

    /// What a label cell should hold, given what it holds.
    fn expected(&self, found: &str) -> String {
        match *self {
            LabelSet::Indexed(names) => {
                let classes = names.iter().enumerate().map(|(i, n)| format!("{i} ({n})"));
                format!("one of {}", classes.collect::<Vec<_>>().join(", "))
            }
            LabelSet::Named(names) => {
                let suggestion = did_you_mean(found, names.iter().copied());
                format!("one of {}{suggestion}", names.join(", "))
            }
            LabelSet::Scored(low, high) => format!("a number from {low} to {high}"),
            LabelSet::Text { .. } => "a text".to_owned(),
        }
    }
}

impl Split {
    const fn whole(name: &'static str, file: &'static str) -> Split {
        let rows = Rows::All;
        Split { name, file, rows }
    }
}

impl Rows {
    fn contains(self, index: usize) -> bool {
        match self {
            Rows::All => true,
            Rows::EveryFifth => index % 5 == 4,
            Rows::AllButEveryFifth => index % 5 != 4,
        }
    }
}

/// `"; did you mean X?"` for the known word nearest to `word`, or nothing if none is near.
fn did_you_mean(word: &str, known: impl IntoIterator<Item = &'static str>) -> String {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(&word, &k.to_lowercase()), k))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| format!("; did you mean `{k}`?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
