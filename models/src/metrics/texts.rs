//! Metrics of generated texts. A prediction is a text; what is expected a text, several of which any is right,
//! or an answer.

use serde_json::Value;

use super::{MetricError, all, ratio};
use crate::score::{
    arithmetic::{Answer, Rule},
    rouge::{Kind, Rouge},
};

/// The mean F of a kind of ROUGE, with the stemmer; `<n>` and `<q>` are newlines, which end sentences. A row
/// has one reference or a list of them, of which the best counts.
///
/// # Errors
/// A prediction is no text, or a reference neither a text nor a list of texts.
pub fn rouge(found: &[Value], expected: &[Value], kind: Kind) -> Result<f64, MetricError> {
    let found = all(found, "a text", text)?;
    let expected = all(expected, "a text, or a list of texts", references)?;
    let scores = Rouge::default().corpus(&[kind], &expected, &found);
    Ok(scores.first().map_or(0.0, |score| score.f))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// The references of a row, at least one.
fn references(value: &Value) -> Option<Vec<String>> {
    let values = match value {
        Value::Array(values) => values,
        value => std::slice::from_ref(value),
    };
    let texts: Option<Vec<String>> = values.iter().map(text).collect();
    texts.filter(|texts| !texts.is_empty())
}

/// Share of texts whose number, by a rule, is the right one: a number, or a text as [`Answer::parse`] reads it.
///
/// # Errors
/// A prediction is no text, or no number is expected.
pub fn number_accuracy(
    found: &[Value],
    expected: &[Value],
    rule: &Rule,
) -> Result<f64, MetricError> {
    let is_number = |answer: &Answer| matches!(answer, Answer::Number(_));
    let numbers = all(expected, "a number", |value| {
        answer(value).filter(is_number)
    })?;
    accuracy(found, &numbers, rule)
}

/// Share of texts whose letter, by a rule, is the right one.
///
/// # Errors
/// A prediction is no text, or no letter from A to E is expected.
pub fn letter_accuracy(
    found: &[Value],
    expected: &[Value],
    rule: &Rule,
) -> Result<f64, MetricError> {
    let letters = all(
        expected,
        "a letter from A to E",
        |value| match Answer::parse(value.as_str()?) {
            Ok(answer @ Answer::Letter(_)) => Some(answer),
            _ => None,
        },
    )?;
    accuracy(found, &letters, rule)
}

/// Share of texts whose answer, by a rule, is the right one: a number or a letter, whichever the right one is.
///
/// # Errors
/// A prediction is no text, or what is expected is no answer.
pub fn answer_accuracy(
    found: &[Value],
    expected: &[Value],
    rule: &Rule,
) -> Result<f64, MetricError> {
    let answers = all(expected, "a number, or a letter from A to E", answer)?;
    accuracy(found, &answers, rule)
}

/// The answer that a value is.
pub fn answer(value: &Value) -> Option<Answer> {
    match value {
        Value::String(text) => Answer::parse(text).ok(),
        value => value.as_f64().map(Answer::Number),
    }
}

fn accuracy(found: &[Value], expected: &[Answer], rule: &Rule) -> Result<f64, MetricError> {
    let right = all(found, "a text", text)?;
    let right = right.iter().zip(expected);
    let right = right.filter(|(text, answer)| rule.is_right(text, **answer));
    Ok(ratio(right.count() as f64, expected.len() as f64))
}
