//! A task's files as examples.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use indexmap::{IndexMap, IndexSet};

use super::{Labels, Split, Task, TaskError};
use crate::{
    closed::{Note, Values},
    data::{DataError, Example, Record, Sink, Source, is_of, quote},
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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Splits {
    /// The examples to train on.
    pub train: Vec<Example>,
    /// The evaluation splits by name, in the order of [`Task::dev`].
    pub dev: IndexMap<String, Vec<Example>>,
    /// What of the files is not used.
    pub notes: Vec<Note>,
}

/// What becomes of rows that cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Malformed {
    /// The first is an error.
    #[default]
    Refused,
    /// They are left out, and counted.
    Skipped,
}

/// What takes the examples of files, with the number of each, from 0.
pub type Taken<'a> = dyn FnMut(usize, Example) -> Result<(), DataError> + 'a;

impl Task {
    /// Reads every row of files in their order, as long as `take` takes them: it ends the reading by
    /// [`DataError::Stopped`]. Returns what of the rows is not used.
    ///
    /// # Errors
    /// The first malformed row, by file and line, unless such are skipped.
    pub fn read<P: AsRef<Path>>(
        &self,
        files: &[P],
        labels: Labels,
        malformed: Malformed,
        take: &mut Taken<'_>,
    ) -> Result<Vec<Note>, TaskError> {
        let targets = self.objective.columns();
        let texts = self
            .text
            .columns()
            .chain(self.pair.iter().flat_map(|pair| pair.columns()));
        let columns = texts.chain(targets.iter().copied());
        let columns: Vec<&str> = columns.chain(self.id.as_deref()).collect();
        let mut loader = Loader {
            task: self,
            labels,
            malformed,
            targets: &targets,
            columns: &columns,
            take,
            rows: 0,
            skipped: Skipped::default(),
            unused: IndexSet::new(),
            is_table: false,
        };
        let mut notes = Vec::new();
        for file in files {
            let path = file.as_ref();
            let mut source = Source::open(path, Some(&columns))?;
            let stopped = match self.format.read(&mut source, &mut loader) {
                Ok(()) => false,
                Err(DataError::Stopped) => true,
                Err(error) => return Err(error.into()),
            };
            notes.extend(loader.notes(path));
            if stopped {
                break;
            }
        }
        Ok(notes)
    }

    /// Every row of files.
    ///
    /// # Errors
    /// As [`read`](Self::read), and files without examples.
    pub fn load<P: AsRef<Path>>(
        &self,
        files: &[P],
        labels: Labels,
        malformed: Malformed,
    ) -> Result<File, TaskError> {
        let mut examples = Vec::new();
        let notes = self.read(files, labels, malformed, &mut |_, example| {
            examples.push(example);
            Ok(())
        })?;
        match (examples.is_empty(), files) {
            (true, [first, ..]) => {
                let path = first.as_ref().to_owned();
                Err(DataError::Empty { path }.into())
            }
            _ => Ok(File { examples, notes }),
        }
    }

    /// The files of a split in a data folder.
    ///
    /// # Errors
    /// [`TaskError::MissingFile`] if the folder lacks one.
    pub fn paths(&self, dir: &Path, split: &Split) -> Result<Vec<PathBuf>, TaskError> {
        let path = |file: &PathBuf| {
            let path = dir.join(file);
            match path.is_file() {
                true => Ok(path),
                false => Err(TaskError::MissingFile {
                    dir: dir.to_owned(),
                    task: self.name.clone(),
                    split: split.name.clone(),
                    file: file.display().to_string(),
                }),
            }
        };
        split.files.iter().map(path).collect()
    }

    /// Reads one labelled split from a data folder.
    ///
    /// # Errors
    /// As [`load`](Self::load) and [`paths`](Self::paths).
    pub fn load_split(
        &self,
        dir: &Path,
        split: &Split,
        malformed: Malformed,
    ) -> Result<File, TaskError> {
        let paths = self.paths(dir, split)?;
        let mut examples = Vec::new();
        let notes = self.read(&paths, Labels::Required, malformed, &mut |row, example| {
            if split.rows.contains(row) {
                examples.push(example);
            }
            Ok(())
        })?;
        match examples.is_empty() {
            true => Err(DataError::Empty {
                path: paths.into_iter().next().unwrap_or(dir.to_owned()),
            }
            .into()),
            false => Ok(File { examples, notes }),
        }
    }

    /// Reads the training split and all evaluation splits from a data folder.
    ///
    /// # Errors
    /// As [`Task::load_split`].
    pub fn load_dir(&self, dir: &Path, malformed: Malformed) -> Result<Splits, TaskError> {
        let train = self.load_split(dir, &self.train, malformed)?;
        let mut splits = Splits {
            train: train.examples,
            dev: IndexMap::new(),
            notes: train.notes,
        };
        splits.add_held_out(self, dir, malformed)?;
        Ok(splits)
    }
}

impl Splits {
    /// Reads the evaluation splits of a task from a data folder.
    ///
    /// # Errors
    /// As [`Task::load_split`].
    pub fn add_held_out(
        &mut self,
        task: &Task,
        dir: &Path,
        malformed: Malformed,
    ) -> Result<(), TaskError> {
        let task = task.evaluated();
        for split in &task.dev {
            let File { examples, notes } = task.load_split(dir, split, malformed)?;
            self.dev.insert(split.name.clone(), examples);
            // Splits may be parts of one file.
            let new = notes.into_iter().filter(|note| !self.notes.contains(note));
            let new: Vec<Note> = new.collect();
            self.notes.extend(new);
        }
        Ok(())
    }
}

/// Rows of a file that were left out.
#[derive(Default)]
struct Skipped {
    rows: usize,
    /// What is wrong with the first.
    first: String,
}

/// Takes a file's records as examples of a task.
struct Loader<'a, 'b> {
    task: &'a Task,
    labels: Labels,
    malformed: Malformed,
    /// The columns of the targets.
    targets: &'a [&'a str],
    /// All columns that are read.
    columns: &'a [&'a str],
    take: &'a mut Taken<'b>,
    /// Rows so far, of all files.
    rows: usize,
    skipped: Skipped,
    unused: IndexSet<String>,
    /// Whether the file names its columns once, before its records.
    is_table: bool,
}

impl Loader<'_, '_> {
    fn knows(&self, name: &str) -> bool {
        let is_read = self.columns.iter().any(|column| is_of(column, name));
        is_read || self.task.unused.iter().any(|known| known == name)
    }

    /// What of a file that was read is not used.
    fn notes(&mut self, path: &Path) -> Vec<Note> {
        let note = |text: String| Note {
            path: path.to_owned(),
            text,
        };
        let mut notes = Vec::new();
        let unused = std::mem::take(&mut self.unused);
        let names: Vec<String> = unused.iter().map(|name| format!("`{name}`")).collect();
        if !names.is_empty() {
            let parts = match self.is_table {
                true => "columns",
                false => "fields",
            };
            notes.push(note(format!(
                "{parts} of its rows that are not known are not used: {}",
                names.join(", ")
            )));
        }
        let Skipped { rows, first } = std::mem::take(&mut self.skipped);
        if rows > 0 {
            notes.push(note(format!(
                "skipped {rows} {} that cannot be used, the first: {first}",
                if rows == 1 { "row" } else { "rows" }
            )));
        }
        self.is_table = false;
        notes
    }

    fn example(&self, record: &Record<'_>) -> Result<Example, DataError> {
        let Task {
            text,
            pair,
            id,
            trim,
            one_may_be_blank,
            objective,
            ..
        } = self.task;
        let needed = text
            .needed()
            .chain(pair.iter().flat_map(|pair| pair.needed()));
        let needed: Vec<&str> = needed.collect();
        let blank = needed.iter().filter(|column| record.is_blank(column));
        let blank = match (blank.count(), self.labels) {
            // What is to be predicted may be of any text.
            (_, Labels::Optional | Labels::Ignored) => true,
            (count, _) if self.task.description.is_some() => count < needed.len(),
            (count, _) => *one_may_be_blank && pair.is_some() && count == 1,
        };
        let text = text.of(record, *trim, blank)?;
        let pair = pair.as_ref().map(|pair| pair.of(record, *trim, blank));
        let pair = pair.transpose()?;
        let is_unlabelled = self.targets.iter().all(|column| record.is_unset(column));
        let target = match self.labels {
            Labels::Ignored => None,
            // Without a text there is nothing but the target.
            Labels::Optional if is_unlabelled && !needed.is_empty() => None,
            _ => Some(objective.target(record)?),
        };
        let id = id.as_deref().and_then(|id| record.written(id));
        let example = Example {
            id: id.map(Cow::into_owned),
            text,
            pair,
            target,
        };
        objective.check(&example, record)?;
        Ok(example)
    }
}

impl Sink for Loader<'_, '_> {
    fn columns(&mut self, path: &Path, names: &[&str]) -> Result<(), DataError> {
        let Task { text, pair, .. } = self.task;
        let texts = text
            .needed()
            .chain(pair.iter().flat_map(|pair| pair.needed()));
        let targets = match self.labels {
            Labels::Required => self.targets,
            Labels::Optional | Labels::Ignored => &[],
        };
        let mut needed = texts.chain(targets.iter().copied());
        let is_there = |column: &str| names.iter().any(|name| is_of(column, name));
        if let Some(column) = needed.find(|column| !is_there(column)) {
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
        let record = record.joined(&self.task.joined);
        match self.example(&record) {
            Ok(example) => (self.take)(self.rows, example)?,
            Err(error) => return self.malformed(error),
        }
        self.rows += 1;
        if !self.is_table {
            let fields = record.fields();
            let unknown =
                fields.filter(|(name, value)| !self.knows(name) && !Values::Unset.accept(value));
            let unknown: Vec<String> = unknown.map(|(name, _)| name.to_owned()).collect();
            self.unused.extend(unknown);
        }
        Ok(())
    }

    fn malformed(&mut self, error: DataError) -> Result<(), DataError> {
        if self.malformed == Malformed::Refused {
            return Err(error);
        }
        if self.skipped.rows == 0 {
            self.skipped.first = error.to_string();
        }
        self.skipped.rows += 1;
        Ok(())
    }
}
