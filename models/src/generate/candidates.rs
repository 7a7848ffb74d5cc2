//! The tokens that may come next, in the order of their scores: of the largest logits alone, where these
//! decide it, else of all.

use std::cmp::Reverse;

use super::{
    Options,
    rules::{Scores, Text},
    search::{Decode, Next},
};

/// A token with its score.
pub(super) type Candidate = (i32, f32);

/// What may follow each row of a step.
pub(super) struct Candidates<'a, D> {
    pub model: &'a mut D,
    pub next: Next,
    pub options: &'a Options,
    /// Whether scores are log-probabilities, not logits.
    pub as_logs: bool,
    /// `[rows, vocabulary]`, once they are needed.
    logits: Option<Vec<f32>>,
}

impl<'a, D: Decode> Candidates<'a, D> {
    pub fn new(model: &'a mut D, next: Next, options: &'a Options, as_logs: bool) -> Self {
        Self {
            model,
            next,
            options,
            as_logs,
            logits: None,
        }
    }

    /// The `wanted` best tokens of a row behind a text, or as many as there are.
    pub fn best(
        &mut self,
        row: usize,
        text: Text<'_>,
        wanted: usize,
    ) -> Result<Vec<Candidate>, D::Error> {
        if let Some(found) = self.of_few(row, text, wanted) {
            return Ok(found);
        }
        let scores = self.all(row, text)?;
        let best = likeliest(&scores, wanted);
        Ok(best.into_iter().map(|i| (i as i32, scores[i])).collect())
    }

    /// The scores of all tokens behind a text, `[vocabulary]`.
    pub fn all(&mut self, row: usize, text: Text<'_>) -> Result<Vec<f32>, D::Error> {
        let logits = match self.logits.take() {
            Some(logits) => logits,
            None => self.model.logits()?,
        };
        let width = self.next.vocabulary;
        let own = &logits[row * width..][..width];
        let mut scores: Vec<f32> = match self.as_logs {
            true => log_softmax(own).collect(),
            false => own.to_vec(),
        };
        self.logits = Some(logits);
        self.options.rules.apply(&mut scores[..], text);
        if self.as_logs && self.options.rules.renormalize {
            scores = log_softmax(&scores).collect();
        }
        Ok(scores)
    }

    /// The best of the largest logits, if no other token can be among them.
    fn of_few(&self, row: usize, text: Text<'_>, wanted: usize) -> Option<Vec<Candidate>> {
        let rules = &self.options.rules;
        if !rules.only_lower() || (self.as_logs && rules.renormalize) {
            return None;
        }
        let top = self.next.top.get(row)?;
        let log_sum = match self.as_logs {
            true => f64::from(*self.next.log_sums.get(row)?),
            false => 0.0,
        };
        let score = |logit: f32| (f64::from(logit) - log_sum) as f32;
        let mut few = Few {
            found: top.iter().map(|&(token, x)| (token, score(x))).collect(),
            others: top.last().map(|&(_, x)| score(x))?,
            complete: top.len() >= self.next.vocabulary,
            changed: false,
        };
        rules.apply(&mut few, text);
        few.best(wanted)
    }
}

/// The largest scores of a row.
struct Few {
    /// In descending order.
    found: Vec<Candidate>,
    /// No other token had more.
    others: f32,
    /// Whether there are no others.
    complete: bool,
    changed: bool,
}

impl Scores for Few {
    fn of(&mut self, token: i32) -> Option<&mut f32> {
        let found = self.found.iter_mut().find(|(known, _)| *known == token)?;
        self.changed = true;
        Some(&mut found.1)
    }

    fn only(&mut self, tokens: &[i32]) {
        self.found = tokens.iter().map(|&token| (token, 0.0)).collect();
        self.found.sort_unstable_by_key(|(token, _)| *token);
        self.found.dedup();
        self.complete = true;
        self.changed = true;
    }
}

impl Few {
    fn best(mut self, wanted: usize) -> Option<Vec<Candidate>> {
        if self.changed {
            self.found
                .sort_by_key(|&(token, score)| (Reverse(Ordered(score)), token));
        }
        let decided = self.complete
            || wanted
                .checked_sub(1)
                .and_then(|last| self.found.get(last))
                .is_some_and(|&(_, score)| !self.changed || score > self.others);
        self.found.truncate(wanted);
        decided.then_some(self.found)
    }
}

/// Indices of the `count` largest, in descending order; of equal ones the first.
pub(super) fn likeliest(values: &[f32], count: usize) -> Vec<usize> {
    let order = |&i: &usize| (Reverse(Ordered(values[i])), i);
    let mut indices: Vec<usize> = (0..values.len()).collect();
    let count = count.min(values.len());
    if count < values.len() {
        indices.select_nth_unstable_by_key(count, order);
        indices.truncate(count);
    }
    indices.sort_unstable_by_key(order);
    indices
}

/// A float by its total order.
#[derive(PartialEq)]
pub(super) struct Ordered(pub f32);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

pub(super) fn log_softmax(row: &[f32]) -> impl Iterator<Item = f32> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
    let log = f64::from(max) + sum.ln();
    row.iter().map(move |x| (f64::from(*x) - log) as f32)
}
