//! Extractive question answering, as transformers' `run_qa` does it for SQuAD 1.1 and 2.0.
//!
//! `features` makes rows of tokens of questions and texts, `spans` makes answers of logits. Both follow
//! `run_qa.py` and `utils_qa.py` of transformers; where they differ, they say so.

mod features;
mod spans;
#[cfg(test)]
mod tests;

pub use spans::{Prediction, Span};

use ailora_graph::ir::Draw;
use ailora_runtime::{engine::Engine, train::Headline};
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{HeldOut, LOSS, Objective, ObjectiveError, Predictor, Scored};
use crate::{
    batch::{Batch, BatchError, Encoded, Targets},
    data::{DataError, Example, Record},
    head::Head,
    tokenizer::{Tokenizer, TokenizerError},
};

/// The part of a text that answers a question, by the mean cross-entropy of its first and its last token.
///
/// The question is an example's text, and what it is asked of is the second one. A text that is too long
/// takes several rows, which overlap by `stride` tokens; in those without the whole answer the first token
/// of the row is to be predicted for both ends, as where there is no answer. Padding is among the places of
/// the loss, as in transformers, and never predicted.
///
/// A target is the texts that answer the question, as `answers`, with the `start` of the first one, which is
/// learned; that of an encoded row is the first and the last token of the answer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extractive {
    /// The column of the answers: a text, or a list of texts.
    pub answers: String,
    /// The column of where they start: a number of Unicode code points, or a list of them.
    pub starts: String,
    /// Whether a question may have no answer, as in SQuAD 2.0.
    #[serde(default)]
    pub no_answer: bool,
    /// Tokens of the text that one row and the next have both; without it a third of the longest row, which
    /// is 128 of 384.
    #[serde(default)]
    pub stride: Option<usize>,
    /// How many starts, ends and spans are looked at.
    #[serde(default = "Extractive::default_n_best")]
    pub n_best: usize,
    /// Tokens of an answer, at most.
    #[serde(default = "Extractive::default_longest_answer")]
    pub longest_answer: usize,
    /// By how much the score of no answer has to be above that of the best span to be predicted.
    #[serde(default)]
    pub null_threshold: f64,
}

impl Extractive {
    /// Answers in these columns to questions that each have one, as in SQuAD 1.1.
    pub fn new(answers: &str, starts: &str) -> Self {
        Self {
            answers: answers.to_owned(),
            starts: starts.to_owned(),
            no_answer: false,
            stride: None,
            n_best: Self::default_n_best(),
            longest_answer: Self::default_longest_answer(),
            null_threshold: 0.0,
        }
    }

    fn default_n_best() -> usize {
        20
    }

    fn default_longest_answer() -> usize {
        30
    }

    /// This objective, if its options make sense.
    ///
    /// # Errors
    /// One does not.
    pub(super) fn checked(self) -> Result<Self, String> {
        let least = [
            ("n_best", self.n_best),
            ("longest_answer", self.longest_answer),
        ];
        if let Some((name, _)) = least.iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{name}` is 0; expected at least 1"));
        }
        if self.null_threshold != 0.0 && !self.no_answer {
            return Err(
                "`null_threshold` is for questions that may have no answer; \
                        set `no_answer: true` too"
                    .to_owned(),
            );
        }
        match self.null_threshold.is_finite() {
            true => Ok(self),
            false => Err("`null_threshold` is no finite number".to_owned()),
        }
    }

    /// What the logits of rows say of each example that they are of.
    pub fn answer(&self, rows: &[Encoded], logits: &[Vec<f32>]) -> Vec<Prediction> {
        spans::predictions(self, rows, logits)
    }
}

/// A list's items, or what is no list itself.
fn items(value: Option<&Value>) -> &[Value] {
    match value {
        Some(Value::Array(items)) => items,
        Some(Value::Null) | None => &[],
        Some(Value::String(text)) if text.is_empty() => &[],
        Some(value) => std::slice::from_ref(value),
    }
}

/// Checks that a row which says whether its question can be answered has answers accordingly.
fn agrees(record: &Record<'_>, answers: usize) -> Result<(), DataError> {
    const COLUMN: &str = "is_impossible";
    let said = record.written(COLUMN).unwrap_or_default();
    let expected = match &*said.trim().to_ascii_lowercase() {
        "" => return Ok(()),
        "true" | "1" if answers == 0 => return Ok(()),
        "false" | "0" if answers > 0 => return Ok(()),
        "true" | "1" => format!("false, as the row has answers ({answers})"),
        "false" | "0" => "true, as the row has no answer".to_owned(),
        _ => "true or false".to_owned(),
    };
    Err(record.wrong(COLUMN, &expected))
}

impl Objective for Extractive {
    fn head(&self) -> Head {
        Head::QuestionAnswering
    }

    fn columns(&self) -> Vec<&str> {
        vec![&self.answers, &self.starts]
    }

    fn target(&self, record: &Record<'_>) -> Result<Value, DataError> {
        let texts = items(record.get(&self.answers));
        let is_text = |answer: &Value| answer.as_str().is_some_and(|text| !text.trim().is_empty());
        if !texts.iter().all(is_text) {
            let expected = "a text or a list of texts, of which none is blank";
            return Err(record.wrong(&self.answers, expected));
        }
        agrees(record, texts.len())?;
        if texts.is_empty() {
            return match self.no_answer {
                true => Ok(Value::Null),
                false => Err(record.wrong(
                    &self.answers,
                    "an answer (for questions without one set `no_answer: true`)",
                )),
            };
        }
        let starts = items(record.get(&self.starts));
        let start = match starts.first() {
            Some(Value::String(written)) => written.trim().parse().ok(),
            other => other.and_then(Value::as_u64),
        };
        let start: u64 = start.ok_or_else(|| {
            record.wrong(&self.starts, "the number of the answer's first character")
        })?;
        match starts.len() == texts.len() {
            true => Ok(json!({"answers": texts, "start": start})),
            false => {
                let expected = format!("as many starts as there are answers, {}", texts.len());
                Err(record.wrong(&self.starts, &expected))
            }
        }
    }

    /// That the answer is where it is said to be: characters are not bytes.
    fn check(&self, example: &Example, record: &Record<'_>) -> Result<(), DataError> {
        let Some((answer, start)) = example.target.as_ref().and_then(features::learned) else {
            return Ok(());
        };
        let text = example.pair.as_deref().unwrap_or_default();
        let from = text.char_indices().map(|(at, _)| at).nth(start);
        match from.is_some_and(|from| text[from..].starts_with(answer)) {
            true => Ok(()),
            false => Err(record.wrong(
                &self.starts,
                &format!(
                    "the number of Unicode code points before {answer:?} in the text, which does not have \
                     it where this says"
                ),
            )),
        }
    }

    fn max_len(&self) -> usize {
        384
    }

    /// Each example as the rows that it takes.
    fn encode(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        features::rows(self, examples, tokenizer, max_len, false)
    }

    /// As to train on, with what [`predictions`](Objective::predictions) need to know of each row.
    fn encode_held_out(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        features::rows(self, examples, tokenizer, max_len, true)
    }

    fn has_row_each(&self) -> bool {
        false
    }

    /// The tokens of the answer.
    fn learned(&self, row: &Encoded) -> Vec<bool> {
        let target = row.target.as_ref().and_then(features::tokens);
        let inside = |at: usize| target.is_some_and(|[first, last]| (first..=last).contains(&at));
        (0..row.tokens()).map(inside).collect()
    }

    fn prepare(&self, batch: &mut Batch, rows: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        // Without a target, past the end, which does not count.
        let token = |row: &&Encoded, i: usize| -> i32 {
            let tokens = row.target.as_ref().and_then(features::tokens);
            let token = tokens.and_then(|tokens| i32::try_from(tokens[i]).ok());
            token.unwrap_or(i32::MAX)
        };
        let [starts, ends] =
            [0, 1].map(|i| rows.iter().map(|row| token(row, i)).collect::<Vec<_>>());
        batch.targets = Targets::spans(&starts, &ends, batch.len);
        Ok(())
    }

    /// Objects with the `text` that answers and its `score`; where a question may have no answer with
    /// `no_answer_score`, by how much that is likelier; and the best spans as `n_best`.
    fn predictions(&self, rows: &[Encoded], logits: &[Vec<f32>]) -> Vec<Value> {
        let predictions = self.answer(rows, logits);
        predictions
            .iter()
            .map(|found| found.described(self))
            .collect()
    }

    fn scores_logits(&self) -> bool {
        true
    }

    fn headlines(&self) -> Vec<Headline> {
        let exact = match self.no_answer {
            true => "exact",
            false => "exact_match",
        };
        vec![
            Headline::higher("f1"),
            Headline::higher(exact),
            Headline::lower(LOSS),
        ]
    }

    /// What SQuAD's official scripts give, in percent, and the mean loss.
    fn evaluate(
        &self,
        predictor: &mut Predictor,
        engine: &mut Engine,
        split: &HeldOut,
    ) -> Result<IndexMap<String, f64>, ObjectiveError> {
        let Scored { loss, logits, .. } = predictor.score(engine, split)?;
        let found = self.answer(&split.rows, &logits);
        let mut scores = spans::scores(self, &split.rows, &found)?;
        scores.insert(LOSS.to_owned(), loss);
        scores.extend(self.conditions(split));
        Ok(scores)
    }
}
