//! Rows of tokens, as `prepare_train_features` and `prepare_validation_features` of `run_qa.py` make them.
//!
//! One thing differs: the tokens of an answer are those that have any character of it. In `run_qa` they are
//! from the last token that begins no later to the first that ends no earlier. Where several tokens share
//! a character, as those of bytes do, these are too few, or the last is before the first; where a tokenizer
//! drops the last character of an answer, they are one too many, or at the end of a text none.

use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::Extractive;
use crate::{
    batch::{Encoded, Part},
    data::Example,
    tokenizer::{Tokenizer, TokenizerError, Window},
};

/// The rows of examples, in their order; with their [`Part`]s, if they are held out.
pub fn rows(
    objective: &Extractive,
    examples: &[Example],
    tokenizer: &Tokenizer,
    max_len: usize,
    held_out: bool,
) -> Result<Vec<Encoded>, TokenizerError> {
    let overlap = objective.stride.unwrap_or(max_len / 3);
    let numbered = examples.par_iter().enumerate();
    let rows = numbered.map(|(number, example)| {
        let text = example.pair.as_deref().unwrap_or_default();
        let question = left_stripped(&example.text);
        let windows = tokenizer.encode_windows(question, text, max_len, overlap)?;
        let answer = example
            .target
            .as_ref()
            .map(|target| answer(target, &windows));
        let kept = held_out.then(|| Arc::new(example.clone()));
        let row = |window: Window| {
            let target = answer.map(|answer| json!(within(answer, &window)));
            let part = kept.clone().map(|example| Part {
                number,
                example,
                first: window.first,
                places: window.places,
            });
            let encoding = window.encoding;
            Encoded {
                encoding,
                target,
                part,
            }
        };
        Ok(windows.into_iter().map(row).collect::<Vec<_>>())
    });
    let rows: Vec<Vec<Encoded>> = rows.collect::<Result<_, TokenizerError>>()?;
    Ok(rows.into_iter().flatten().collect())
}

/// A question without the white space before it, as Python's `lstrip` takes it away: some questions of SQuAD
/// begin with hundreds of blanks, which tokenizers of bytes keep.
fn left_stripped(question: &str) -> &str {
    let is_space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    question.trim_start_matches(is_space)
}

/// The answer of a target that is learned, and the character that it starts at.
pub fn learned(target: &Value) -> Option<(&str, usize)> {
    let text = target["answers"].get(0)?.as_str()?;
    let start = usize::try_from(target["start"].as_u64()?).ok()?;
    Some((text, start))
}

/// The first and the last token of a row's answer.
pub fn tokens(target: &Value) -> Option<[usize; 2]> {
    let token = |i: usize| usize::try_from(target.get(i)?.as_u64()?).ok();
    Some([token(0)?, token(1)?])
}

/// Which of the whole text's tokens are the first and the last of an answer, if any are.
fn answer(target: &Value, windows: &[Window]) -> Option<[usize; 2]> {
    let (text, start) = learned(target)?;
    let end = start.checked_add(text.chars().count())?;
    let tokens = windows
        .iter()
        .flat_map(|window| window.tokens.clone().zip(&window.places));
    let inside = tokens.filter(|(_, place)| place.start < end && place.end > start);
    let inside: Vec<usize> = inside.map(|(token, _)| token).collect();
    Some([*inside.iter().min()?, *inside.iter().max()?])
}

/// Where in a row an answer is: at the first token for both ends, if not all of it is there.
fn within(answer: Option<[usize; 2]>, window: &Window) -> [usize; 2] {
    match answer {
        Some([first, last]) if window.tokens.start <= first && last < window.tokens.end => {
            [first, last].map(|token| window.first + token - window.tokens.start)
        }
        _ => [0, 0],
    }
}
