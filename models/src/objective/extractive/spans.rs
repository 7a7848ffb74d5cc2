//! Answers of logits, as `postprocess_qa_predictions` of `utils_qa.py` finds them.
//!
//! What differs, beside the order of equal scores:
//! - Padding is not among the `n_best` starts and ends, where `utils_qa` leaves it out of them only then;
//!   so nothing depends on what a row is batched with.
//! - A text goes on over the combining marks behind it that the tokenizer drops.
//! - Where no span is left the answer is empty, in place of the word `empty`.
//! - Spans without characters, of tokens that have none, are never answers; in `utils_qa` they are in 1.1.

use std::{ops::Range, sync::LazyLock};

use indexmap::IndexMap;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::Extractive;
use crate::{
    batch::{Encoded, Part},
    score::squad::{self, NoAnswer, Question, SquadError, Version},
};

/// What a model answers to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The best spans of all rows, the best first, with the one of no answer among them where that may be
    /// predicted.
    pub n_best: Vec<Span>,
    /// The least score of no answer in any row.
    pub null: f32,
}

/// A part of a text as an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The text; empty for no answer.
    pub text: String,
    /// The logit of its first token,
    pub start: f32,
    /// and that of its last.
    pub end: f32,
}

impl Span {
    /// Both logits together.
    pub fn score(&self) -> f32 {
        self.start + self.end
    }
}

impl Prediction {
    /// The best answer that is one.
    pub fn best(&self) -> Option<&Span> {
        self.n_best.iter().find(|span| !span.text.is_empty())
    }

    /// By how much the score of no answer is above that of the best span; that score, if there is none.
    pub fn no_answer_score(&self) -> f32 {
        match self.best() {
            Some(best) => self.null - best.start - best.end,
            None => self.null,
        }
    }

    /// What is answered: nothing, where that may be and is likelier by more than the threshold.
    pub fn text(&self, objective: &Extractive) -> &str {
        let is_null =
            objective.no_answer && f64::from(self.no_answer_score()) > objective.null_threshold;
        match self.best() {
            Some(best) if !is_null => &best.text,
            _ => "",
        }
    }

    /// As users read it.
    pub(super) fn described(&self, objective: &Extractive) -> Value {
        let mut fields = Map::new();
        fields.insert("text".to_owned(), json!(self.text(objective)));
        fields.insert("score".to_owned(), json!(self.best().map(Span::score)));
        if objective.no_answer {
            fields.insert("no_answer_score".to_owned(), json!(self.no_answer_score()));
        }
        let most = self.n_best.first().map_or(0.0, Span::score);
        let weight = |span: &Span| f64::from(span.score() - most).exp();
        let sum: f64 = self.n_best.iter().map(weight).sum();
        let spans = self.n_best.iter().map(|span| {
            json!({"text": span.text, "score": span.score(), "probability": weight(span) / sum})
        });
        fields.insert("n_best".to_owned(), spans.collect());
        fields.into()
    }
}

/// What the logits of rows say of each example that they are of, in the order of the examples.
pub fn predictions(
    objective: &Extractive,
    rows: &[Encoded],
    logits: &[Vec<f32>],
) -> Vec<Prediction> {
    let parts = rows.iter().zip(logits);
    let parts = parts.filter_map(|(row, logits)| {
        let part = row.part.as_ref()?;
        Some(Scored::of(part, row.tokens(), logits))
    });
    let parts: Vec<Scored<'_>> = parts.collect();
    let examples = parts.chunk_by(|a, b| a.part.number == b.part.number);
    examples.map(|parts| prediction(objective, parts)).collect()
}

/// A row with the logits of its tokens.
struct Scored<'a> {
    part: &'a Part,
    starts: &'a [f32],
    ends: &'a [f32],
}

impl<'a> Scored<'a> {
    /// Of a padded row's logits, those of all starts and then those of all ends.
    fn of(part: &'a Part, tokens: usize, logits: &'a [f32]) -> Self {
        let (starts, ends) = logits.split_at(logits.len() / 2);
        let own = |logits: &'a [f32]| &logits[..tokens.min(logits.len())];
        Self {
            part,
            starts: own(starts),
            ends: own(ends),
        }
    }

    fn null(&self) -> (f32, f32) {
        let first = |logits: &[f32]| logits.first().copied().unwrap_or_default();
        (first(self.starts), first(self.ends))
    }

    /// Which token of the text a token of the row is.
    fn token(&self, at: usize) -> Option<usize> {
        let token = at.checked_sub(self.part.first)?;
        (token < self.part.places.len()).then_some(token)
    }

    /// The spans between the best starts and ends, as tokens of the text.
    fn spans(&self, objective: &Extractive) -> Vec<Candidate<'a>> {
        let mut spans = Vec::new();
        let ends = best(self.ends, objective.n_best);
        for start in best(self.starts, objective.n_best) {
            for &end in &ends {
                let (Some(first), Some(last)) = (self.token(start), self.token(end)) else {
                    continue;
                };
                if last < first || last - first >= objective.longest_answer {
                    continue;
                }
                spans.push(Candidate {
                    part: self.part,
                    tokens: Some((first, last)),
                    start: self.starts[start],
                    end: self.ends[end],
                });
            }
        }
        spans
    }
}

/// A span that may answer, or none.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    part: &'a Part,
    tokens: Option<(usize, usize)>,
    start: f32,
    end: f32,
}

impl Candidate<'_> {
    fn score(&self) -> f32 {
        self.start + self.end
    }

    fn span(&self, text: &Characters<'_>) -> Span {
        let cut = |tokens| text.cut(&self.part.places, tokens);
        Span {
            text: self.tokens.map(cut).unwrap_or_default().to_owned(),
            start: self.start,
            end: self.end,
        }
    }
}

/// Where the `n` largest values are, the largest first and the first of equals before the others.
fn best(values: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(n);
    order
}

fn prediction(objective: &Extractive, parts: &[Scored<'_>]) -> Prediction {
    let mut spans: Vec<Candidate<'_>> = Vec::new();
    let mut null: Option<Candidate<'_>> = None;
    for part in parts {
        let (start, end) = part.null();
        let candidate = Candidate {
            part: part.part,
            tokens: None,
            start,
            end,
        };
        if null.is_none_or(|least| candidate.score() < least.score()) {
            null = Some(candidate);
        }
        spans.extend(part.spans(objective));
    }
    if objective.no_answer {
        spans.extend(null);
    }
    spans.sort_by(|a, b| b.score().total_cmp(&a.score()));
    let left_out = spans
        .iter()
        .skip(objective.n_best)
        .any(|span| span.tokens.is_none());
    spans.truncate(objective.n_best);
    // Its score is always shown.
    if left_out {
        spans.extend(null);
    }
    let text = parts
        .first()
        .and_then(|part| part.part.example.pair.as_deref());
    let text = Characters::of(text.unwrap_or_default());
    Prediction {
        n_best: spans.iter().map(|span| span.span(&text)).collect(),
        null: null.map(|null| null.score()).unwrap_or_default(),
    }
}

/// A text whose characters have numbers.
struct Characters<'a> {
    text: &'a str,
    /// Where each character begins, and the end.
    bytes: Vec<usize>,
}

impl<'a> Characters<'a> {
    fn of(text: &'a str) -> Self {
        let starts = text.char_indices().map(|(at, _)| at);
        Self {
            text,
            bytes: starts.chain([text.len()]).collect(),
        }
    }

    fn part(&self, characters: Range<usize>) -> &'a str {
        let last = self.bytes.len() - 1;
        let [start, end] = [characters.start, characters.end].map(|at| self.bytes[at.min(last)]);
        self.text.get(start..end).unwrap_or_default()
    }

    /// The characters of tokens, and the combining marks behind them that are of no token.
    fn cut(&self, places: &[Range<usize>], (first, last): (usize, usize)) -> &'a str {
        static MARKS: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"^\p{M}+").expect("an expression that tests hold"));
        let (Some(first), Some(own)) = (places.get(first), places.get(last)) else {
            return "";
        };
        let found = self.part(first.start..own.end);
        if found.is_empty() {
            return found;
        }
        let next = places.get(last + 1).map_or(usize::MAX, |next| next.start);
        let marks = MARKS.find(self.part(own.end..next.max(own.end)));
        let marks = marks.map_or(0, |marks| marks.as_str().chars().count());
        self.part(first.start..own.end + marks)
    }
}

/// What SQuAD's official scripts give for predictions of rows: of 2.0 with the threshold, and with the best
/// ones. Scores are in percent.
///
/// # Errors
/// There are none, or a question of 1.1 has no answer.
pub fn scores(
    objective: &Extractive,
    rows: &[Encoded],
    found: &[Prediction],
) -> Result<IndexMap<String, f64>, SquadError> {
    let parts = rows.iter().filter_map(|row| row.part.as_ref());
    let mut questions: Vec<Question> = Vec::with_capacity(found.len());
    for part in parts {
        if part.number < questions.len() {
            continue;
        }
        let target = part.example.target.as_ref();
        let answers = target.and_then(|target| target["answers"].as_array());
        let texts = answers.into_iter().flatten().filter_map(Value::as_str);
        questions.push(Question {
            id: part.number.to_string(),
            answers: texts.map(str::to_owned).collect(),
        });
    }
    let ids = || questions.iter().map(|question| question.id.clone());
    // The script applies the threshold, and searches the best one, on the texts that there would be.
    let best = |found: &Prediction| found.best().map(|span| span.text.clone());
    let texts = ids().zip(found.iter().map(|found| best(found).unwrap_or_default()));
    let texts: IndexMap<String, String> = texts.collect();
    let scores = ids().zip(found.iter().map(|found| f64::from(found.no_answer_score())));
    let scores: IndexMap<String, f64> = scores.collect();
    let (version, no_answer) = match objective.no_answer {
        false => (Version::V1, None),
        true => {
            let threshold = objective.null_threshold;
            let scores = &scores;
            (Version::V2, Some(NoAnswer { scores, threshold }))
        }
    };
    let report = squad::score(version, &questions, &texts, no_answer)?;
    let numbers = report.scores.into_iter();
    Ok(numbers
        .filter_map(|(name, value)| Some((name, value.as_f64()?)))
        .collect())
}
