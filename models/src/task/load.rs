//! A task's files as examples.

use std::path::Path;

use indexmap::{IndexMap, IndexSet};

use super::{Labels, Split, Task, TaskError};
use crate::{
    closed::{Note, Values},
    data::{DataError, Example, Record, Sink, Source, quote},
};

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct File {
    /// Its rows, or those of a split.
    pub examples: Vec<Example>,
    /// What of the rows is not used.
    pub notes: Vec<Note>,
}

/// The splits of a task as read from a data folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Splits {
    /// The examples to train on.
    pub train: Vec<Example>,
    /// The evaluation splits by name, in the order of [`Task::dev`].
    pub dev: IndexMap<String, Vec<Example>>,
    /// What of the files is not used.
    pub notes: Vec<Note>,
}

impl Task {
    /// Reads every row of one file.
    ///
    /// # Errors
    /// The first malformed row, by file and line: nothing is skipped. A file without examples.
    pub fn load(&self, path: &Path, labels: Labels) -> Result<File, TaskError> {
        let bytes = std::fs::read(path).map_err(|source| DataError::Read {
            path: path.to_owned(),
            source,
        })?;
        let targets = self.objective.columns();
        let texts = self
            .text
            .columns()
            .chain(self.pair.iter().flat_map(|pair| pair.columns()));
        let columns: Vec<&str> = texts.chain(targets.iter().copied()).collect();
        let mut loader = Loader {
            task: self,
            labels,
            targets: &targets,
            columns: &columns,
            examples: Vec::new(),
            unused: IndexSet::new(),
            is_table: false,
        };
        self.format
            .read(&Source::new(path, &bytes, &columns), &mut loader)?;
        let Loader {
            examples, unused, ..
        } = loader;
        if examples.is_empty() {
            let path = path.to_owned();
            return Err(DataError::Empty { path }.into());
        }
        let names: Vec<String> = unused.iter().map(|name| format!("`{name}`")).collect();
        let note = (!names.is_empty()).then(|| Note {
            path: path.to_owned(),
            text: format!(
                "{} of its rows that are not known are not used: {}",
                self.format.parts(),
                names.join(", ")
            ),
        });
        Ok(File {
            examples,
            notes: note.into_iter().collect(),
        })
    }

    /// Reads one labelled split from a data folder.
    ///
    /// # Errors
    /// As [`Task::load`], and [`TaskError::MissingFile`] if the folder lacks the split's file.
    pub fn load_split(&self, dir: &Path, split: &Split) -> Result<File, TaskError> {
        let path = dir.join(&split.file);
        if !path.is_file() {
            return Err(TaskError::MissingFile {
                dir: dir.to_owned(),
                task: self.name.clone(),
                split: split.name.clone(),
                file: split.file.clone(),
            });
        }
        let mut file = self.load(&path, Labels::Required)?;
        let mut rows = 0..;
        file.examples
            .retain(|_| rows.next().is_some_and(|row| split.rows.contains(row)));
        match file.examples.is_empty() {
            true => Err(DataError::Empty { path }.into()),
            false => Ok(file),
        }
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
        for split in &self.dev {
            let File { examples, notes } = self.load_split(dir, split)?;
            splits.dev.insert(split.name.clone(), examples);
            // Splits may be parts of one file.
            let new = notes
                .into_iter()
                .filter(|note| !splits.notes.contains(note));
            let new: Vec<Note> = new.collect();
            splits.notes.extend(new);
        }
        Ok(splits)
    }
}

/// Takes a file's records as examples of a task.
struct Loader<'a> {
    task: &'a Task,
    labels: Labels,
    /// The columns of the targets.
    targets: &'a [&'a str],
    /// All columns that are read.
    columns: &'a [&'a str],
    examples: Vec<Example>,
    unused: IndexSet<String>,
    /// Whether the file names its columns once, before its records.
    is_table: bool,
}

impl Loader<'_> {
    fn knows(&self, name: &str) -> bool {
        self.columns.contains(&name) || self.task.unused.iter().any(|known| known == name)
    }

    fn example(&self, record: &Record<'_>) -> Result<Example, DataError> {
        let Task {
            text,
            pair,
            trim,
            one_may_be_blank,
            objective,
            ..
        } = self.task;
        let needed = text
            .needed()
            .chain(pair.iter().flat_map(|pair| pair.needed()));
        let blank = needed.filter(|column| record.is_blank(column)).count();
        let blank = *one_may_be_blank && pair.is_some() && blank == 1;
        let text = text.of(record, *trim, blank)?;
        let pair = pair.as_ref().map(|pair| pair.of(record, *trim, blank));
        let pair = pair.transpose()?;
        let is_unlabelled = self.targets.iter().all(|column| record.is_unset(column));
        let target = match self.labels {
            Labels::Optional if is_unlabelled => None,
            _ => Some(objective.target(record)?),
        };
        Ok(Example { text, pair, target })
    }
}

impl Sink for Loader<'_> {
    fn columns(&mut self, path: &Path, names: &[&str]) -> Result<(), DataError> {
        let Task { text, pair, .. } = self.task;
        let texts = text
            .needed()
            .chain(pair.iter().flat_map(|pair| pair.needed()));
        let targets = match self.labels {
            Labels::Required => self.targets,
            Labels::Optional => &[],
        };
        let mut needed = texts.chain(targets.iter().copied());
        if let Some(column) = needed.find(|column| !names.contains(column)) {
            return Err(DataError::MissingColumn {
                path: path.to_owned(),
                column: column.to_owned(),
                found: quote(&names.join(", ")),
            });
        }
        let unknown = names.iter().filter(|name| !self.knows(name));
        let unknown: Vec<String> = unknown.map(|&name| name.to_owned()).collect();
        self.unused.extend(unknown);
        self.is_table = true;
        Ok(())
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), DataError> {
        self.examples.push(self.example(&record)?);
        if !self.is_table {
            let fields = record.fields();
            let unknown =
                fields.filter(|(name, value)| !self.knows(name) && !Values::Unset.accept(value));
            let unknown: Vec<String> = unknown.map(|(name, _)| name.to_owned()).collect();
            self.unused.extend(unknown);
        }
        Ok(())
    }
}
