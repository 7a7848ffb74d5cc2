//! How the next token is chosen.

use ailora_graph::ir::{Draw, ops::top::Top};

use super::{
    Rules,
    beams::Beams,
    candidates::{Candidate, Candidates, likeliest},
    rules::Text,
};
use crate::model::Choices;

/// A model that continues sequences.
pub trait Decode {
    /// What a step fails with.
    type Error;

    /// Makes row `i` what row `parents[i]` was, with `tokens[i]` behind it, and gives what may follow.
    /// Rows may be repeated or left out.
    ///
    /// # Errors
    /// A sequence becomes too long, or a token is none of the model's.
    fn step(&mut self, parents: &[usize], tokens: &[i32]) -> Result<Next, Self::Error>;

    /// The logits of the last step, `[rows, vocabulary]`.
    ///
    /// # Errors
    /// They cannot be had.
    fn logits(&mut self) -> Result<Vec<f32>, Self::Error>;
}

/// What may follow the rows of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Next {
    /// How many tokens there are.
    pub vocabulary: usize,
    /// For each row, the tokens with the largest logits, in descending order, of equal ones the first; as
    /// many as were asked for. None where none were.
    pub top: Vec<Vec<(i32, f32)>>,
    /// For each row, the logarithm of the sum of exponentials of its logits, if it was asked for.
    pub log_sums: Vec<f32>,
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strategy {
    /// The likeliest.
    Greedy,
    /// At random: of the distribution at `temperature`, the `top_k` likeliest tokens, of those as
    /// many as make up `top_p` of the probability (Holtzman et al., 2020), and of those the ones
    /// that are at least `min_p` times as likely as the likeliest.
    Sample {
        /// What logits are divided by.
        temperature: f64,
        /// How many tokens may be drawn; 0 for all.
        top_k: usize,
        /// How much of the probability may be drawn from.
        top_p: f64,
        /// How likely a token must be, beside the likeliest; 0 for no matter.
        min_p: f64,
        /// What fixes the draws.
        seed: u64,
    },
    /// The sequence of the highest score among those that the `beams` likeliest lead to.
    Beam {
        /// How many sequences are followed.
        beams: usize,
        /// A sequence's score is its log-probability over its length to this power.
        length_penalty: f64,
        /// Whether to stop at as many finished sequences as there are beams, even if one that goes on
        /// could have a higher score.
        early_stopping: bool,
    },
}

/// What is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How the next token is chosen.
    pub strategy: Strategy,
    /// The most tokens of a sequence.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence.
    pub ends: Vec<i32>,
    /// What may be written next.
    pub rules: Rules,
    /// What a row's draws depend on beside the seed: its number among all prompts, whichever are continued
    /// with it [default: its number here].
    pub numbers: Vec<usize>,
}

impl Options {
    pub(super) fn text<'a>(&'a self, given: &'a [i32], written: &'a [i32]) -> Text<'a> {
        Text {
            given,
            written,
            ends: &self.ends,
            most: self.max_new_tokens,
        }
    }

    /// How many sequences are followed for each prompt.
    pub fn beams(&self) -> usize {
        match self.strategy {
            Strategy::Beam { beams, .. } => beams.max(1),
            Strategy::Greedy | Strategy::Sample { .. } => 1,
        }
    }

    /// What steps over so many tokens have to give.
    pub(crate) fn choices(&self, vocabulary: usize) -> Choices {
        /// Tokens that rules may take away before others are asked for.
        const SPARE: usize = 16;
        let wanted = match self.strategy {
            Strategy::Greedy => 1,
            Strategy::Sample { top_k, .. } => top_k,
            Strategy::Beam { beams, .. } => Beams::looked_at(beams, self.ends.len()),
        };
        let spare = if self.rules == Rules::default() {
            0
        } else {
            SPARE
        };
        let decides = (1..=Top::MOST).contains(&wanted) && vocabulary <= Top::WIDEST;
        let top = (wanted + spare).min(Top::MOST).min(vocabulary);
        Choices {
            top: if decides { top } else { 0 },
            log_sum: matches!(self.strategy, Strategy::Beam { .. }),
        }
    }
}

/// Continues every row from what may be its first new token, until it ends: by a token of
/// [`Options::ends`], which is part of it, by its length, or because `stop` says so of its tokens.
/// `given` is what each row has before that: its prompt or, of an encoder-decoder, the start token.
/// `watch` sees each token with its row as it is chosen; a beam search's, at the end.
///
/// A beam search chooses as transformers 5 does.
///
/// # Errors
/// Those of the model's steps.
pub fn search<D: Decode>(
    model: &mut D,
    mut next: Next,
    given: &[Vec<i32>],
    options: &Options,
    mut stop: impl FnMut(usize, &[i32]) -> bool,
    mut watch: impl FnMut(usize, i32),
) -> Result<Vec<Vec<i32>>, D::Error> {
    let rows = given.len();
    if options.max_new_tokens == 0 || rows == 0 || next.vocabulary == 0 {
        return Ok(vec![Vec::new(); rows]);
    }
    if let Strategy::Beam {
        length_penalty,
        early_stopping,
        ..
    } = options.strategy
    {
        let beams = Beams {
            beams: options.beams(),
            length_penalty,
            early_stopping,
            options,
        };
        let found = beams.search(model, next, given, &mut stop)?;
        for (row, tokens) in found.iter().enumerate() {
            tokens.iter().for_each(|&token| watch(row, token));
        }
        return Ok(found);
    }
    let same: Vec<usize> = (0..rows).collect();
    let mut sequences: Vec<Vec<i32>> = vec![Vec::new(); rows];
    let mut open = vec![true; rows];
    loop {
        let mut candidates = Candidates::new(model, next, options, false);
        let mut tokens = Vec::with_capacity(rows);
        for (row, sequence) in sequences.iter_mut().enumerate() {
            // What ended is computed on, and not looked at.
            if !open[row] {
                tokens.push(sequence.last().copied().unwrap_or_default());
                continue;
            }
            let token = choose(&mut candidates, row, &given[row], sequence)?;
            tokens.push(token);
            sequence.push(token);
            watch(row, token);
            open[row] = sequence.len() < options.max_new_tokens
                && !options.ends.contains(&token)
                && !stop(row, sequence);
        }
        if !open.contains(&true) {
            return Ok(sequences);
        }
        next = model.step(&same, &tokens)?;
    }
}

/// The next token of a row.
fn choose<D: Decode>(
    candidates: &mut Candidates<'_, D>,
    row: usize,
    given: &[i32],
    written: &[i32],
) -> Result<i32, D::Error> {
    let options = candidates.options;
    let text = options.text(given, written);
    let strategy = options.strategy;
    let Strategy::Sample { top_k, seed, .. } = strategy else {
        let best = candidates.best(row, text, 1)?;
        return Ok(best.first().map_or(0, |&(token, _)| token));
    };
    let step = written.len() as u64;
    let number = options.numbers.get(row).copied().unwrap_or(row);
    let uniform = Draw { seed, step }.key("sample").uniform(number as u64);
    if top_k > 0 {
        let best = candidates.best(row, text, top_k)?;
        return Ok(draw(strategy, &best, None, uniform).unwrap_or(0));
    }
    Ok(draw_of_all(strategy, &candidates.all(row, text)?, uniform))
}

/// A token of all those that have scores.
fn draw_of_all(strategy: Strategy, scores: &[f32], uniform: f64) -> i32 {
    /// As many as a distribution is seldom wider than.
    const FEW: usize = 256;
    let Strategy::Sample { temperature, .. } = strategy else {
        return 0;
    };
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |&x: &f32| (f64::from(x - largest) / temperature).exp();
    let total = scores.iter().map(weight).sum();
    for count in [FEW, scores.len()] {
        let best = likeliest(scores, count).into_iter();
        let best: Vec<Candidate> = best.map(|i| (i as i32, scores[i])).collect();
        if let Some(token) = draw(strategy, &best, Some(total), uniform) {
            return token;
        }
    }
    0
}

/// A token of candidates in descending order, of whose weights all tokens have `total`; none, if others
/// than these may be drawn.
fn draw(
    strategy: Strategy,
    candidates: &[Candidate],
    total: Option<f64>,
    uniform: f64,
) -> Option<i32> {
    let Strategy::Sample {
        temperature,
        top_p,
        min_p,
        ..
    } = strategy
    else {
        return None;
    };
    let &(first, largest) = candidates.first()?;
    let weights: Vec<f64> = candidates
        .iter()
        .map(|&(_, x)| (f64::from(x - largest) / temperature).exp())
        .collect();
    let known: f64 = weights.iter().sum();
    // What is left of rounding is no token.
    let others = total.is_some_and(|total| total > known * (1.0 + 1e-12));
    let total = total.unwrap_or(known);
    // The likeliest token stays whatever `top_p` is.
    let mut before = 0.0;
    let kept = weights.iter().take_while(|&&weight| {
        let likely = weight > 0.0 && before < top_p * total && weight >= min_p * weights[0];
        let within = before == 0.0 || likely;
        before += weight;
        within
    });
    let kept = kept.count();
    if others && kept == weights.len() {
        return None;
    }
    let mut rest = uniform * weights[..kept].iter().sum::<f64>();
    let drawn = weights[..kept].iter().position(|weight| {
        rest -= weight;
        rest < 0.0
    });
    let drawn = drawn.or(kept.checked_sub(1))?;
    Some(candidates.get(drawn).map_or(first, |&(token, _)| token))
}

#[cfg(test)]
mod tests;
