//! Exact match and F1 of answers, as the official scripts of SQuAD compute them: `evaluate-v1.1.py`, and
//! `evaluate-v2.0.py` with its search for the threshold on scores of no answer.
//!
//! A text is put into lower case, loses ASCII punctuation and the words a, an and the, and white space
//! counts once. The scripts differ where nothing is left of a text:
//!
//! | | 1.1 | 2.0 |
//! | --- | --- | --- |
//! | F1 where nothing is left of either | 0 | 1 |
//! | answers of which nothing is left | count | do not count; where none is left, no answer is right |
//! | a question without a prediction | is wrong | the script ends in an error |

use std::{cmp::Ordering, collections::HashMap, sync::LazyLock};

use indexmap::IndexMap;
use regex::{Captures, Regex};
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Whose rules score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// SQuAD 1.1: every question has an answer.
    V1,
    /// SQuAD 2.0: a prediction may be that there is no answer, by an empty text.
    V2,
}

impl Version {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "1.1",
            Self::V2 => "2.0",
        }
    }

    /// The exact match, 0 or 1, and the F1 of a prediction: of each the best over the answers.
    pub fn score(self, prediction: &str, answers: &[&str]) -> [f64; 2] {
        let mut answers: Vec<String> = answers.iter().map(|answer| normal(answer)).collect();
        if self == Self::V2 {
            answers.retain(|answer| !answer.is_empty());
            if answers.is_empty() {
                answers.push(String::new());
            }
        }
        let prediction = normal(prediction);
        let exact = answers.contains(&prediction);
        let f1 = answers.iter().map(|answer| self.f1(&prediction, answer));
        [f64::from(u8::from(exact)), f1.fold(0.0, f64::max)]
    }

    /// F1 of the words of two normalised texts.
    fn f1(self, prediction: &str, answer: &str) -> f64 {
        if self == Self::V2 && (prediction.is_empty() || answer.is_empty()) {
            return f64::from(u8::from(prediction == answer));
        }
        let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).count();
        let mut left: HashMap<&str, usize> = HashMap::new();
        for word in answer.split(' ').filter(|word| !word.is_empty()) {
            *left.entry(word).or_default() += 1;
        }
        let mut same = 0;
        for word in prediction.split(' ') {
            if let Some(left @ 1..) = left.get_mut(word) {
                *left -= 1;
                same += 1;
            }
        }
        if same == 0 {
            return 0.0;
        }
        let precision = f64::from(same) / words(prediction) as f64;
        let recall = f64::from(same) / words(answer) as f64;
        2.0 * precision * recall / (precision + recall)
    }
}

/// A text as the official scripts compare it.
pub fn normal(text: &str) -> String {
    // What Python calls a word: a letter, a number of any kind, or an underscore.
    static WORD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").expect("a pattern of this file"));
    let mut text = text.to_lowercase();
    text.retain(|c| !c.is_ascii_punctuation());
    let text = WORD.replace_all(&text, |word: &Captures<'_>| match &word[0] {
        "a" | "an" | "the" => " ".to_owned(),
        other => other.to_owned(),
    });
    // Python's white space has four separators more than Unicode's.
    let words = text.split(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its name.
    pub id: String,
    /// Its right answers; none if it cannot be answered.
    pub answers: Vec<String>,
}

/// Scores of no answer: the higher, the likelier it is that there is none.
#[derive(Clone, Copy, Debug)]
pub struct NoAnswer<'a> {
    /// Of each question by its name.
    pub scores: &'a IndexMap<String, f64>,
    /// The score above which the prediction is taken to be that there is no answer; the script has 1.
    pub threshold: f64,
}

/// Predictions that cannot be scored.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SquadError {
    /// There is no question.
    #[error("no questions to score")]
    Empty,
    /// Two questions have one name, which the official scripts count differently.
    #[error("question `{0}` is there twice")]
    Twice(String),
    /// A question of 1.1 has no answer.
    #[error(
        "question `{0}` has no answer, and those of SQuAD 1.1 have one each; a file where some have none says \
         so by `\"version\": \"v2.0\"`, or by `is_impossible` of each question"
    )]
    Unanswered(String),
    /// A question of 2.0 has no prediction.
    #[error(
        "{count} of {total} questions have no prediction, `{first}` first; SQuAD 2.0 needs one of each, empty where there is no answer"
    )]
    Missing {
        /// How many.
        count: usize,
        /// Of how many.
        total: usize,
        /// The name of the first.
        first: String,
    },
    /// A question has no score of no answer.
    #[error("question `{0}` has no score of no answer; every question needs one, if any has")]
    NoScore(String),
    /// Scores of no answer for SQuAD 1.1.
    #[error(
        "the questions are of SQuAD 1.1, which all have an answer: scores of no answer are for 2.0"
    )]
    Answered,
}

/// What predictions score.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Whose rules scored.
    pub version: Version,
    /// The scores by their official names, in percent, and numbers of questions.
    pub scores: Map<String, Value>,
    /// Questions without a prediction, which count as wrong.
    pub missing: usize,
    /// Predictions for questions that there are not, which count for nothing.
    pub unknown: usize,
}

/// A question's part of the scores.
struct Row<'a> {
    id: &'a str,
    /// Exact match and F1.
    raw: [f64; 2],
    is_answered: bool,
    is_empty: bool,
}

/// Scores predictions, by the names of their questions.
///
/// # Errors
/// See [`SquadError`].
pub fn score(
    version: Version,
    questions: &[Question],
    predictions: &IndexMap<String, String>,
    no_answer: Option<NoAnswer<'_>>,
) -> Result<Report, SquadError> {
    let rows = rows(version, questions, predictions)?;
    let missing = questions.len() - rows.len();
    let total = questions.len();
    let mut report = Report {
        version,
        scores: Map::new(),
        missing,
        unknown: predictions.len() - rows.len(),
    };
    if version == Version::V1 {
        if no_answer.is_some() {
            return Err(SquadError::Answered);
        }
        for (i, name) in ["exact_match", "f1"].into_iter().enumerate() {
            let sum: f64 = rows.values().map(|row| row.raw[i]).sum();
            report.scores.insert(name.into(), percent(sum, total));
        }
        report.scores.insert("total".into(), json!(total));
        return Ok(report);
    }
    if missing > 0 {
        let is_missing = |question: &&Question| !rows.contains_key(&*question.id);
        let first = questions.iter().find(is_missing);
        return Err(SquadError::Missing {
            count: missing,
            total,
            first: first
                .map(|question| question.id.clone())
                .unwrap_or_default(),
        });
    }
    let scored = with_threshold(&rows, no_answer)?;
    let all = |_: bool| true;
    let parts: [(&str, &dyn Fn(bool) -> bool); 3] = [
        ("", &all),
        ("HasAns_", &|is| is),
        ("NoAns_", &|is: bool| !is),
    ];
    for (prefix, is_of) in parts {
        let part = rows.values().zip(&scored);
        let part = part.filter(|(row, _)| is_of(row.is_answered));
        let part: Vec<[f64; 2]> = part.map(|(_, scores)| *scores).collect();
        if part.is_empty() {
            continue;
        }
        for (i, name) in ["exact", "f1"].into_iter().enumerate() {
            let sum = part.iter().map(|scores| scores[i]).sum();
            report
                .scores
                .insert(format!("{prefix}{name}"), percent(sum, part.len()));
        }
        report
            .scores
            .insert(format!("{prefix}total"), json!(part.len()));
    }
    if let Some(NoAnswer { scores, .. }) = no_answer {
        for (i, name) in ["exact", "f1"].into_iter().enumerate() {
            let (best, threshold) = best(&rows, i, scores);
            report
                .scores
                .insert(format!("best_{name}"), percent(best, total));
            report
                .scores
                .insert(format!("best_{name}_thresh"), json!(threshold));
        }
    }
    Ok(report)
}

fn percent(sum: f64, total: usize) -> Value {
    json!(100.0 * sum / total as f64)
}

/// The questions that have a prediction, by their names, with what it scores.
fn rows<'a>(
    version: Version,
    questions: &'a [Question],
    predictions: &IndexMap<String, String>,
) -> Result<IndexMap<&'a str, Row<'a>>, SquadError> {
    if questions.is_empty() {
        return Err(SquadError::Empty);
    }
    let mut seen = std::collections::HashSet::new();
    let mut rows = IndexMap::new();
    for Question { id, answers } in questions {
        if !seen.insert(id) {
            return Err(SquadError::Twice(id.clone()));
        }
        if version == Version::V1 && answers.is_empty() {
            return Err(SquadError::Unanswered(id.clone()));
        }
        if let Some(prediction) = predictions.get(id) {
            let texts: Vec<&str> = answers.iter().map(String::as_str).collect();
            let row = Row {
                id,
                raw: version.score(prediction, &texts),
                is_answered: !answers.is_empty(),
                is_empty: prediction.is_empty(),
            };
            rows.insert(&**id, row);
        }
    }
    Ok(rows)
}

/// The scores where predictions with a score of no answer above the threshold are that there is none.
fn with_threshold(
    rows: &IndexMap<&str, Row<'_>>,
    no_answer: Option<NoAnswer<'_>>,
) -> Result<Vec<[f64; 2]>, SquadError> {
    let scored = rows.values().map(|row| {
        let Some(NoAnswer { scores, threshold }) = no_answer else {
            return Ok(row.raw);
        };
        let score = scores.get(row.id);
        let score = score.ok_or_else(|| SquadError::NoScore(row.id.to_owned()))?;
        Ok(match *score > threshold {
            true => [f64::from(u8::from(!row.is_answered)); 2],
            false => row.raw,
        })
    });
    scored.collect()
}

/// The best sum of a score over all thresholds, and the lowest threshold that has it: the script's
/// `find_best_thresh`. Equal scores are taken one by one, in the order of their file.
fn best(
    rows: &IndexMap<&str, Row<'_>>,
    which: usize,
    scores: &IndexMap<String, f64>,
) -> (f64, f64) {
    let mut sorted: Vec<(&String, f64)> = scores.iter().map(|(id, score)| (id, *score)).collect();
    sorted.sort_by(|a, b| a.1.partial_cmp(&b.1).unwrap_or(Ordering::Equal));
    let mut sum = rows.values().filter(|row| !row.is_answered).count() as f64;
    let mut best = (sum, 0.0);
    for (id, score) in sorted {
        let Some(row) = rows.get(&**id) else { continue };
        sum += match (row.is_answered, row.is_empty) {
            (true, _) => row.raw[which],
            (false, true) => 0.0,
            (false, false) => -1.0,
        };
        if sum > best.0 {
            best = (sum, score);
        }
    }
    best
}

#[cfg(test)]
mod tests;
