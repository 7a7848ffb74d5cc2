//! What is written of answers to questions.

use std::collections::HashSet;

use ailora::models::{data::Example, head::Head, task::Task};
use serde_json::{Map, Value, json};

use super::Error;

/// What is written of answers.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct AnswerArgs {
    /// Of answers to questions, write one JSON object instead, of every question's id with its answer, as
    /// SQuAD's official scripts and `ailora score` read it.
    #[arg(long)]
    by_id: bool,
    /// Of answers to questions, write the N best ones too, with their scores and probabilities; there are no
    /// more than the objective's `n_best`.
    #[arg(long, value_name = "N", conflicts_with = "by_id")]
    n_best: Option<usize>,
}

impl AnswerArgs {
    /// Refuses what the task's predictions cannot be written as.
    pub fn check(self, task: &Task, rows: &[Example]) -> Result<(), Error> {
        if task.head() != Head::QuestionAnswering {
            return match self.by_id || self.n_best.is_some() {
                true => Err(format!(
                    "--by-id and --n-best are for answers to questions, and task {} has none",
                    task.name
                )
                .into()),
                false => Ok(()),
            };
        }
        let mut ids = HashSet::new();
        for (index, row) in rows.iter().enumerate().filter(|_| self.by_id) {
            match &row.id {
                None => Err(format!(
                    "row {index} has no id, which --by-id needs; leave it out"
                ))?,
                Some(id) if !ids.insert(id) => Err(format!(
                    "row {index} has the id {id:?}, which another row has too; leave --by-id out"
                ))?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Predictions of rows as they are written.
    pub fn written(self, rows: &[Example], found: Vec<Value>) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        if self.by_id {
            let ids = rows.iter().filter_map(|row| row.id.clone());
            let texts = found.into_iter().map(|mut found| found["text"].take());
            serde_json::to_writer(&mut bytes, &ids.zip(texts).collect::<Map<_, _>>())?;
            bytes.push(b'\n');
            return Ok(bytes);
        }
        for (index, (row, found)) in rows.iter().zip(found).enumerate() {
            let mut line = Map::from_iter([("index".to_owned(), json!(index))]);
            line.extend(row.id.as_ref().map(|id| ("id".to_owned(), json!(id))));
            if let Value::Object(fields) = found {
                line.extend(fields);
            }
            let most = self.n_best.unwrap_or(0);
            match line.get_mut("n_best").and_then(Value::as_array_mut) {
                Some(spans) if most > 0 => spans.truncate(most),
                _ => drop(line.remove("n_best")),
            }
            serde_json::to_writer(&mut bytes, &line)?;
            bytes.push(b'\n');
        }
        Ok(bytes)
    }
}
