//! A task's rows as a model sees them.

use std::{path::PathBuf, sync::Arc};

use ailora_models::{
    batch::Encoded,
    closed::Note,
    data::{DataError, Example},
    lengths::Cut,
    stream::Stream,
    task::{Labels, Malformed, Task},
};

use super::{Model, Settings};
use crate::run::{Error, SettingsError};

/// Rows that are looked at before the others are read.
const SAMPLE: usize = 2048;

/// Makes rows of tokens of a task's examples.
pub struct Rows<'a> {
    pub task: &'a Task,
    pub model: &'a Model,
    pub max_len: usize,
    /// What whoever started the run should know of the rows.
    pub notices: Vec<String>,
}

impl Rows<'_> {
    /// Rows to train on.
    fn encode(&mut self, part: &str, examples: &[Example]) -> Result<Vec<Encoded>, Error> {
        let rows = self.model.encode(examples, self.max_len)?;
        self.noted(part, rows)
    }

    /// Rows to evaluate on.
    pub fn held_out(&mut self, part: &str, examples: &[Example]) -> Result<Vec<Encoded>, Error> {
        let rows = self.model.encode_held_out(examples, self.max_len)?;
        let rows = self.noted(part, rows)?;
        self.some_targets(&rows, examples.len())?;
        Ok(rows)
    }

    fn noted(&mut self, part: &str, rows: Vec<Encoded>) -> Result<Vec<Encoded>, Error> {
        let cut = Cut::of(&*self.model.objective, &rows, self.max_len);
        if cut.is_any() {
            self.notices.push(format!("note: {part}: {cut}"));
        }
        Ok(rows)
    }

    /// Training rows that are kept in memory.
    pub fn held(&mut self, examples: &[Example]) -> Result<Vec<Encoded>, Error> {
        let mut rows = self.encode(&self.task.train.name, examples)?;
        // Of a prompt without any of its answer there is nothing to learn.
        rows.retain(|row| self.model.objective.has_targets(row));
        self.some_targets(&rows, examples.len())?;
        Ok(rows)
    }

    fn some_targets(&self, rows: &[Encoded], count: usize) -> Result<(), Error> {
        let objective = &self.model.objective;
        match rows.iter().any(|row| objective.has_targets(row)) {
            true => Ok(()),
            false => Err(Error::NoAnswers {
                rows: count,
                limit: self.max_len,
                longest: self.model.max_len(usize::MAX),
            }),
        }
    }

    /// Training rows that are read again every epoch. All are read once here, so that what cannot be
    /// used is said before the first step. What is not used of them is given beside them.
    pub fn streamed(
        &mut self,
        settings: &Settings,
        malformed: Malformed,
    ) -> Result<(Stream, Vec<Note>), Error> {
        if settings.rows.is_some() {
            return Err(SettingsError::StreamedRows.into());
        }
        let Task { train, .. } = self.task;
        let (mut files, mut notes) = (Vec::<(PathBuf, usize)>::new(), Vec::new());
        let (mut first, mut rows) = (0, 0);
        let mut sample = Vec::new();
        for path in &train.files {
            files.push((path.clone(), first));
            let mut read = 0;
            let mut take = |row: usize, example| -> Result<(), DataError> {
                read = row + 1;
                if train.rows.contains(first + row) {
                    rows += 1;
                    if sample.len() < SAMPLE {
                        sample.push(example);
                    }
                }
                Ok(())
            };
            let labels = Labels::Required;
            notes.extend(self.task.read(&[path], labels, malformed, &mut take)?);
            first += read;
        }
        if rows == 0 {
            let path = train.files.first().cloned().unwrap_or_default();
            return Err(Error::Task(DataError::Empty { path }.into()));
        }
        let name = format!("the first {} rows of {}", sample.len(), train.name);
        let encoded = self.encode(&name, &sample)?;
        self.some_targets(&encoded, sample.len())?;
        let mut sample = encoded;
        sample.retain(|row| self.model.objective.has_targets(row));
        let mut stream = Stream {
            objective: self.model.objective.clone(),
            task: Arc::new(self.task.clone()),
            files,
            part: train.rows,
            malformed,
            tokenizer: Arc::new(self.model.tokenizer.clone()),
            max_len: self.max_len,
            rows,
            sample,
        };
        if !stream.objective.has_row_each() {
            let step = settings.batch_size * settings.accumulate;
            let most = settings
                .max_steps
                .map(|steps| (steps as usize).saturating_mul(step));
            stream.rows = stream.count(most.unwrap_or(usize::MAX))?;
        }
        let rows = stream.rows;
        self.notices
            .push(format!("{rows} training rows are read again every epoch"));
        Ok((stream, notes))
    }
}
