use std::cmp::Reverse;

use ailora_graph::ir::Draw;

use super::{Rules, rules::Text};

/// A model that continues sequences.
pub trait Decode {
    /// What a step fails with.
    type Error;

    /// Appends a token to every row and gives the logits of the tokens that follow.
    ///
    /// # Shapes
    /// `[rows]` gives `[rows, vocabulary]`.
    ///
    /// # Errors
    /// A sequence becomes too long, or a token is none of the model's.
    fn step(&mut self, tokens: &[i32]) -> Result<Vec<f32>, Self::Error>;

    /// Makes row `i` what row `rows[i]` was; rows may be repeated or left out.
    fn reorder(&mut self, rows: &[usize]);
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
}

impl Options {
    /// Changes the scores of the token behind `written`, in a row where `given` came before that.
    fn rule(&self, scores: &mut [f32], given: &[i32], written: &[i32]) {
        let text = Text {
            given,
            written,
            ends: &self.ends,
            most: self.max_new_tokens,
        };
        self.rules.apply(scores, text);
    }
}

/// Continues every row from the `logits` of its first new token, until it ends: by a token of
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
    logits: Vec<f32>,
    given: &[Vec<i32>],
    options: &Options,
    mut stop: impl FnMut(usize, &[i32]) -> bool,
    mut watch: impl FnMut(usize, i32),
) -> Result<Vec<Vec<i32>>, D::Error> {
    let rows = given.len();
    if options.max_new_tokens == 0 || rows == 0 || logits.is_empty() {
        return Ok(vec![Vec::new(); rows]);
    }
    if let Strategy::Beam {
        beams,
        length_penalty,
        early_stopping,
    } = options.strategy
    {
        let beams = Beams {
            beams: beams.max(1),
            length_penalty,
            early_stopping,
            options,
        };
        let found = beams.search(model, logits, given, &mut stop)?;
        for (row, tokens) in found.iter().enumerate() {
            tokens.iter().for_each(|&token| watch(row, token));
        }
        return Ok(found);
    }
    let mut logits = logits;
    let mut sequences: Vec<Vec<i32>> = vec![Vec::new(); rows];
    let mut open = vec![true; rows];
    loop {
        let vocabulary = logits.len() / rows;
        let mut tokens = Vec::with_capacity(rows);
        for (row, logits) in logits.chunks_exact_mut(vocabulary).enumerate() {
            let sequence = &mut sequences[row];
            options.rule(logits, &given[row], sequence);
            let token = choose(options.strategy, logits, row, sequence.len());
            tokens.push(token);
            if !open[row] {
                continue;
            }
            sequence.push(token);
            watch(row, token);
            open[row] = sequence.len() < options.max_new_tokens
                && !options.ends.contains(&token)
                && !stop(row, sequence);
        }
        if !open.contains(&true) {
            return Ok(sequences);
        }
        logits = model.step(&tokens)?;
    }
}

/// The next token of a row, of which there are `count` so far.
fn choose(strategy: Strategy, logits: &[f32], row: usize, count: usize) -> i32 {
    let Strategy::Sample {
        temperature,
        top_k,
        top_p,
        min_p,
        seed,
    } = strategy
    else {
        return likeliest(logits, 1)[0] as i32;
    };
    let limit = if top_k == 0 { logits.len() } else { top_k };
    let candidates = likeliest(logits, limit);
    let largest = f64::from(logits[candidates[0]]);
    let weights: Vec<f64> = candidates
        .iter()
        .map(|&i| ((f64::from(logits[i]) - largest) / temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    // The likeliest token stays whatever `top_p` is.
    let mut before = 0.0;
    let kept = weights.iter().take_while(|&&weight| {
        let likely = weight > 0.0 && before < top_p * total && weight >= min_p * weights[0];
        let within = before == 0.0 || likely;
        before += weight;
        within
    });
    let kept: Vec<f64> = kept.copied().collect();
    let step = count as u64;
    let key = Draw { seed, step }.key("sample");
    let mut rest = key.uniform(row as u64) * kept.iter().sum::<f64>();
    let drawn = kept.iter().position(|weight| {
        rest -= weight;
        rest < 0.0
    });
    candidates[drawn.unwrap_or(kept.len() - 1)] as i32
}

/// Indices of the `count` largest, in descending order; of equal ones the first.
fn likeliest(values: &[f32], count: usize) -> Vec<usize> {
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
struct Ordered(f32);

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

struct Beams<'a> {
    beams: usize,
    length_penalty: f64,
    early_stopping: bool,
    options: &'a Options,
}

/// The search of one row.
struct Search {
    /// The sequences that go on, in descending order of their log-probability.
    running: Vec<(f32, Vec<i32>)>,
    /// The best of those that ended, in descending order of their score.
    finished: Vec<(f32, Vec<i32>)>,
    /// Whether one that goes on may become better than those.
    improvable: bool,
}

impl Beams<'_> {
    fn search<D: Decode>(
        &self,
        model: &mut D,
        logits: Vec<f32>,
        given: &[Vec<i32>],
        stop: &mut impl FnMut(usize, &[i32]) -> bool,
    ) -> Result<Vec<Vec<i32>>, D::Error> {
        let start = || Search {
            running: vec![(0.0, Vec::new())],
            finished: Vec::new(),
            improvable: true,
        };
        let mut searches: Vec<Search> = given.iter().map(|_| start()).collect();
        let mut logits = logits;
        loop {
            let sequences: usize = searches.iter().map(|search| search.running.len()).sum();
            let vocabulary = logits.len() / sequences;
            let mut order = Vec::new();
            let mut first = 0;
            for (row, search) in searches.iter_mut().enumerate() {
                let count = search.running.len();
                let own = &logits[first * vocabulary..][..count * vocabulary];
                let parents = self.advance(search, own, &given[row], |tokens| stop(row, tokens));
                order.extend(parents.into_iter().map(|parent| first + parent));
                first += count;
            }
            let improvable = searches.iter().any(|search| search.improvable);
            let full = |search: &Search| search.finished.len() == self.beams;
            let stopped = self.early_stopping && searches.iter().all(full);
            if !improvable || stopped || order.is_empty() {
                let best = |search: Search| {
                    let mut all = search.finished.into_iter().chain(search.running);
                    all.next().map(|(_, tokens)| tokens).unwrap_or_default()
                };
                return Ok(searches.into_iter().map(best).collect());
            }
            model.reorder(&order);
            let running = searches.iter().flat_map(|search| &search.running);
            let tokens: Vec<i32> = running
                .filter_map(|(_, tokens)| tokens.last().copied())
                .collect();
            logits = model.step(&tokens)?;
        }
    }

    /// Makes every running sequence a token longer; for each that then runs, which one it was.
    fn advance(
        &self,
        search: &mut Search,
        logits: &[f32],
        given: &[i32],
        mut stop: impl FnMut(&[i32]) -> bool,
    ) -> Vec<usize> {
        let vocabulary = logits.len() / search.running.len();
        let rows = logits.chunks_exact(vocabulary).zip(&search.running);
        let scores: Vec<f32> = rows
            .flat_map(|(row, (score, tokens))| {
                let mut logs: Vec<f32> = log_softmax(row).collect();
                self.options.rule(&mut logs, given, tokens);
                if self.options.rules.renormalize {
                    logs = log_softmax(&logs).collect();
                }
                logs.into_iter().map(move |log| log + score)
            })
            .collect();
        // Enough that as many as there are beams go on, whichever token ends the others.
        let kept = (1 + self.options.ends.len()).max(2) * self.beams;
        let full = self.early_stopping && search.finished.len() == self.beams;
        let (mut running, mut parents) = (Vec::new(), Vec::new());
        for (rank, candidate) in likeliest(&scores, kept).into_iter().enumerate() {
            if scores[candidate] == f32::NEG_INFINITY {
                break;
            }
            let (parent, token) = (candidate / vocabulary, (candidate % vocabulary) as i32);
            let mut tokens = search.running[parent].1.clone();
            tokens.push(token);
            let ends = self.options.ends.contains(&token)
                || tokens.len() >= self.options.max_new_tokens
                || stop(&tokens);
            if !ends && running.len() < self.beams {
                running.push((scores[candidate], tokens));
                parents.push(parent);
            } else if ends && rank < self.beams && search.improvable && !full {
                let score = scores[candidate] / self.penalty(tokens.len());
                search.finished.push((score, tokens));
            }
        }
        search
            .finished
            .sort_by_key(|(score, _)| Reverse(Ordered(*score)));
        search.finished.truncate(self.beams);
        search.running = running;
        // As if the best of those that go on ended here.
        if let (Some((best, tokens)), Some((worst, _))) =
            (search.running.first(), search.finished.get(self.beams - 1))
        {
            search.improvable &= best / self.penalty(tokens.len()) > *worst;
        }
        parents
    }

    fn penalty(&self, len: usize) -> f32 {
        (len as f64).powf(self.length_penalty) as f32
    }
}

fn log_softmax(row: &[f32]) -> impl Iterator<Item = f32> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
    let log = f64::from(max) + sum.ln();
    row.iter().map(move |x| (f64::from(*x) - log) as f32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The tokens that are ever drawn, of [temperature, top_p, min_p] and `top_k`.
    fn drawn(logits: &[f32], [temperature, top_p, min_p]: [f64; 3], top_k: usize) -> Vec<i32> {
        let strategy = Strategy::Sample {
            temperature,
            top_k,
            top_p,
            min_p,
            seed: 3,
        };
        let draws = (0..4000).map(|count| choose(strategy, logits, count % 3, count));
        draws.collect::<BTreeSet<i32>>().into_iter().collect()
    }

    /// Expected: the warpers of transformers, one after the other.
    #[test]
    fn tokens_are_drawn_of_those_that_transformers_keeps() {
        let logs = |shares: &[f32]| -> Vec<f32> { shares.iter().map(|x| x.ln()).collect() };
        let three = logs(&[0.5, 0.41, 0.09]);
        let four = logs(&[0.3, 0.1, 0.1, 0.5]);
        assert_eq!(drawn(&three, [1.0, 1.0, 0.0], 0), [0, 1, 2]);
        assert_eq!(drawn(&three, [1.0, 0.9, 0.0], 0), [0, 1]);
        assert_eq!(drawn(&three, [1.0, 0.45, 0.0], 0), [0]);
        assert_eq!(drawn(&four, [1.0, 0.75, 0.0], 0), [0, 3]);
        for least in [0.0, 1e-8] {
            assert_eq!(drawn(&four, [1.0, least, 0.0], 0), [3]);
        }
        assert_eq!(drawn(&four, [1.0, 1.0, 0.0], 2), [0, 3]);
        // The temperature comes first.
        assert_eq!(drawn(&[3.0, 2.0, 1.0], [0.5, 0.8, 0.0], 0), [0]);
        assert_eq!(drawn(&[3.0, 2.0, 1.0, 0.0], [0.5, 1.0, 0.3], 0), [0]);
        assert_eq!(drawn(&[3.0, 2.0, 1.0, 0.0], [1.0, 1.0, 0.3], 0), [0, 1]);
        // What is banned is never drawn.
        assert_eq!(
            drawn(&[0.0, f32::NEG_INFINITY, 0.0], [9.0, 1.0, 0.0], 0),
            [0, 2]
        );
    }
}
