//! ROUGE (Lin, 2004), as the Python package rouge-score 0.1.2 computes it.
//!
//! A text is put into lower case, and its tokens are the runs of `a` to `z` and `0` to `9`; those of more than
//! three characters are stemmed. The corpus score is the mean over rows, as `evaluate` gives it. The confidence
//! intervals of rouge-score, by resampling, are not computed.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use rayon::prelude::*;
use serde::Serialize;

use super::porter;

/// Precision, recall and their harmonic mean, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// Share of the prediction that is in the target.
    pub precision: f64,
    /// Share of the target that is in the prediction.
    pub recall: f64,
    /// Their harmonic mean, 0 if both are.
    pub f: f64,
}

impl Score {
    /// The score of so many hits among the prediction's and the target's parts; 0 where there are none.
    fn new(hits: usize, of_prediction: usize, of_target: usize) -> Self {
        let precision = hits as f64 / of_prediction.max(1) as f64;
        let recall = hits as f64 / of_target.max(1) as f64;
        let f = match precision + recall > 0.0 {
            true => 2.0 * precision * recall / (precision + recall),
            false => 0.0,
        };
        Self {
            precision,
            recall,
            f,
        }
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs of so many tokens.
    Ngrams(usize),
    /// The longest common subsequence of tokens.
    Lcs,
    /// Of every sentence of the target, the union of its longest common subsequences with each of the
    /// prediction's. A line is a sentence.
    LcsOfSentences,
}

/// The four that are commonly reported.
pub const KINDS: [(&str, Kind); 4] = [
    ("rouge1", Kind::Ngrams(1)),
    ("rouge2", Kind::Ngrams(2)),
    ("rougeL", Kind::Lcs),
    ("rougeLsum", Kind::LcsOfSentences),
];

/// What scores texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rouge {
    /// Whether tokens of more than three characters are stemmed.
    pub stem: bool,
}

/// With the stemmer, as results are commonly reported.
impl Default for Rouge {
    fn default() -> Self {
        Self { stem: true }
    }
}

impl Rouge {
    /// The scores of a prediction, in the order of `kinds`: of each kind that of the target with which F is
    /// highest, the first of equals. Without targets all are 0.
    pub fn score(self, kinds: &[Kind], targets: &[&str], prediction: &str) -> Vec<Score> {
        let mut words = HashMap::new();
        let prediction = self.tokens(prediction, &mut words);
        let targets: Vec<Tokens> = targets
            .iter()
            .map(|target| self.tokens(target, &mut words))
            .collect();
        let best = |kind: &Kind| {
            let scores = targets.iter().map(|target| kind.score(target, &prediction));
            let best = scores.reduce(|best, score| if score.f > best.f { score } else { best });
            best.unwrap_or_default()
        };
        kinds.iter().map(best).collect()
    }

    /// The means of the scores of summaries, each with its references, in the order of `kinds`; 0 of no rows.
    /// Marks that stand for newlines are newlines ([`with_newlines`]). Rows without a partner are not
    /// scored.
    pub fn corpus<T: AsRef<str> + Sync>(
        self,
        kinds: &[Kind],
        references: &[Vec<T>],
        summaries: &[T],
    ) -> Vec<Score> {
        let score = |(references, summary): (&Vec<T>, &T)| {
            let references = references.iter().map(|text| with_newlines(text.as_ref()));
            let references: Vec<String> = references.collect();
            let references: Vec<&str> = references.iter().map(String::as_str).collect();
            self.score(kinds, &references, &with_newlines(summary.as_ref()))
        };
        let rows: Vec<Vec<Score>> = references.par_iter().zip(summaries).map(score).collect();
        let count = rows.len().max(1) as f64;
        let mean = |of: fn(&Score) -> f64, kind: usize| {
            rows.iter().map(|row| of(&row[kind])).sum::<f64>() / count
        };
        let mean = |kind: usize| Score {
            precision: mean(|score| score.precision, kind),
            recall: mean(|score| score.recall, kind),
            f: mean(|score| score.f, kind),
        };
        (0..kinds.len()).map(mean).collect()
    }

    /// The tokens of a text, each by its number in `words`.
    fn tokens(self, text: &str, words: &mut HashMap<String, u32>) -> Tokens {
        let mut tokens = Tokens::default();
        let text = text.to_lowercase();
        for sentence in text.split('\n') {
            let start = tokens.all.len();
            let found = sentence.split(|c: char| !c.is_ascii_alphanumeric());
            for token in found.filter(|token| !token.is_empty()) {
                let word = match self.stem && token.len() > 3 {
                    true => porter::stem(token),
                    false => token.to_owned(),
                };
                let next = words.len() as u32;
                tokens.all.push(*words.entry(word).or_insert(next));
            }
            tokens.sentences.push(start..tokens.all.len());
        }
        tokens
    }
}

/// A text with newlines for the marks that stand for them, `<n>` and `<q>`: some files of summaries have a
/// summary a line, and others write that between sentences. Without it ROUGE-Lsum is ROUGE-L, and
/// the marks are tokens.
pub fn with_newlines(text: &str) -> String {
    text.replace("<n>", "\n").replace("<q>", "\n")
}

/// A text's tokens.
#[derive(Debug, Default)]
struct Tokens {
    all: Vec<u32>,
    /// The parts of it that are sentences, which may be empty.
    sentences: Vec<Range<usize>>,
}

impl Tokens {
    fn sentences(&self) -> impl Iterator<Item = &[u32]> {
        self.sentences.iter().map(|range| &self.all[range.clone()])
    }
}

impl Kind {
    fn score(self, target: &Tokens, prediction: &Tokens) -> Score {
        let hits = match self {
            Self::Ngrams(n) => {
                let n = n.max(1);
                let hits = common_ngrams(&target.all, &prediction.all, n);
                let count = |tokens: &[u32]| (tokens.len() + 1).saturating_sub(n);
                return Score::new(hits, count(&prediction.all), count(&target.all));
            }
            Self::Lcs => common_subsequence(&target.all, &prediction.all, |_| ()),
            Self::LcsOfSentences => union_of_sentences(target, prediction),
        };
        Score::new(hits, prediction.all.len(), target.all.len())
    }
}

/// How many runs of `n` tokens both have, each as often as it is in both.
fn common_ngrams(target: &[u32], prediction: &[u32], n: usize) -> usize {
    let mut counts: HashMap<&[u32], usize> = HashMap::new();
    for ngram in target.windows(n) {
        *counts.entry(ngram).or_default() += 1;
    }
    let mut hits = 0;
    for ngram in prediction.windows(n) {
        if let Some(left @ 1..) = counts.get_mut(ngram) {
            *left -= 1;
            hits += 1;
        }
    }
    hits
}

/// The length of the longest common subsequence. Of its table two rows are kept; `left` gets the number of
/// every pair of places, row by row, where the table goes on to the left: the column before has more.
fn common_subsequence(rows: &[u32], columns: &[u32], mut left: impl FnMut(usize)) -> usize {
    let width = columns.len();
    let mut above = vec![0_usize; width + 1];
    let mut row = above.clone();
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in columns.iter().enumerate() {
            row[j + 1] = match a == b {
                true => above[j] + 1,
                false => row[j].max(above[j + 1]),
            };
            if row[j] > above[j + 1] {
                left(i * width + j);
            }
        }
        std::mem::swap(&mut above, &mut row);
    }
    above[width]
}

/// The places in `rows` of the common subsequence that rouge-score reads out of the table.
fn places(rows: &[u32], columns: &[u32]) -> Vec<usize> {
    let width = columns.len();
    let mut is_left = vec![0_u64; (rows.len() * width).div_ceil(64)];
    common_subsequence(rows, columns, |at| is_left[at / 64] |= 1 << (at % 64));
    let (mut i, mut j) = (rows.len(), width);
    let mut places = Vec::new();
    while i > 0 && j > 0 {
        let at = (i - 1) * width + j - 1;
        if rows[i - 1] == columns[j - 1] {
            i -= 1;
            j -= 1;
            places.push(i);
        } else if is_left[at / 64] >> (at % 64) & 1 == 1 {
            j -= 1;
        } else {
            i -= 1;
        }
    }
    places
}

/// The hits of ROUGE-Lsum: no token of the prediction counts twice.
fn union_of_sentences(target: &Tokens, prediction: &Tokens) -> usize {
    let count = |tokens: &[u32]| {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for token in tokens {
            *counts.entry(*token).or_default() += 1;
        }
        counts
    };
    let mut left = count(&prediction.all);
    let mut hits = 0;
    for sentence in target.sentences() {
        let common = prediction
            .sentences()
            .flat_map(|other| places(sentence, other));
        let union: HashSet<usize> = common.collect();
        for place in union {
            if let Some(left @ 1..) = left.get_mut(&sentence[place]) {
                *left -= 1;
                hits += 1;
            }
        }
    }
    hits
}

#[cfg(test)]
mod tests;
