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
    let uniform = Draw { seed, step }.key("sample").uniform(row as u64);
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
        let key = Draw { seed: 3, step: 0 }.key("test");
        let draws = (0..4000).map(|i| {
            let uniform = key.uniform(i);
            match top_k {
                0 => draw_of_all(strategy, logits, uniform),
                k => {
                    let best = likeliest(logits, k).into_iter();
                    let best: Vec<Candidate> = best.map(|i| (i as i32, logits[i])).collect();
                    draw(strategy, &best, None, uniform).unwrap()
                }
            }
        });
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

    /// PITFALLS: filters that are skipped for large vocabularies.
    #[test]
    fn filters_keep_what_they_say_of_a_large_vocabulary() {
        let key = Draw { seed: 5, step: 0 }.key("logits");
        let logits: Vec<f32> = (0..50_000).map(|i| 3.0 * key.normal(i) as f32).collect();
        for (top_k, top_p, min_p) in [
            (0, 1.0, 0.05),
            (40, 1.0, 0.0),
            (0, 0.3, 0.0),
            (0, 0.9, 0.0),
            (0, 0.95, 0.02),
            (300, 0.8, 0.01),
        ] {
            let found = drawn(&logits, [0.7, top_p, min_p], top_k);
            // In the order of transformers: temperature, top-k, top-p, min-p.
            let weight = |i: usize| (f64::from(logits[i]) / 0.7).exp();
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            if top_k > 0 {
                order.truncate(top_k);
            }
            let total: f64 = order.iter().map(|&i| weight(i)).sum();
            let mut before = 0.0;
            let within = order.iter().filter(|&&i| {
                let kept = before < top_p * total;
                before += weight(i);
                kept && weight(i) >= min_p * weight(order[0])
            });
            let mut kept: Vec<i32> = within.map(|&i| i as i32).collect();
            kept.sort_unstable();
            assert!(found.iter().all(|token| kept.binary_search(token).is_ok()));
            // Of few, all are drawn at some time.
            if kept.len() < 100 {
                assert_eq!(found, kept, "{top_k} {top_p} {min_p}");
            } else {
                assert!(found.len() > 100);
            }
        }
    }

    /// A model whose logits are a table of what was written.
    struct Table {
        written: Vec<Vec<i32>>,
        /// Log-probabilities of tokens behind a text; of all others it is close to none.
        says: fn(&[i32]) -> Vec<(i32, f32)>,
        /// How many of the largest logits a step gives.
        top: usize,
    }

    impl Table {
        const VOCABULARY: usize = 8;

        fn next(&self) -> Next {
            let logits = self.written.iter().map(|row| self.row(row));
            let logits: Vec<Vec<f32>> = logits.collect();
            let best = |row: &Vec<f32>| {
                let best = likeliest(row, self.top).into_iter();
                best.map(|i| (i as i32, row[i])).collect()
            };
            let sum = |row: &Vec<f32>| row.iter().map(|x| x.exp()).sum::<f32>().ln();
            Next {
                vocabulary: Self::VOCABULARY,
                top: match self.top {
                    0 => Vec::new(),
                    _ => logits.iter().map(best).collect(),
                },
                log_sums: logits.iter().map(sum).collect(),
            }
        }

        fn row(&self, text: &[i32]) -> Vec<f32> {
            let mut row = vec![-30.0; Self::VOCABULARY];
            for (token, log) in (self.says)(text) {
                row[token as usize] = log;
            }
            row
        }
    }

    impl Decode for Table {
        type Error = std::convert::Infallible;

        fn step(&mut self, parents: &[usize], tokens: &[i32]) -> Result<Next, Self::Error> {
            let rows = parents.iter().zip(tokens);
            let longer = rows.map(|(&row, &token)| [&self.written[row][..], &[token]].concat());
            self.written = longer.collect();
            Ok(self.next())
        }

        fn logits(&mut self) -> Result<Vec<f32>, Self::Error> {
            let rows = self.written.iter().flat_map(|row| self.row(row));
            Ok(rows.collect())
        }
    }

    fn found(
        says: fn(&[i32]) -> Vec<(i32, f32)>,
        rows: usize,
        top: usize,
        options: &Options,
    ) -> Vec<Vec<i32>> {
        let mut table = Table {
            written: vec![Vec::new(); rows],
            says,
            top,
        };
        let next = table.next();
        let given = vec![vec![0; 10]; rows];
        search(&mut table, next, &given, options, |_, _| false, |_, _| {}).unwrap()
    }

    fn beams(beams: usize, length_penalty: f64) -> Options {
        Options {
            strategy: Strategy::Beam {
                beams,
                length_penalty,
                early_stopping: false,
            },
            max_new_tokens: 5,
            ends: vec![7],
            rules: Rules::default(),
        }
    }

    /// PITFALLS: a score's length is that of the new tokens, their end among them, and not the prompt's. A
    /// text of two tokens has -1.2, one of four -2.0: -0.6 and -0.5 a token.
    #[test]
    fn the_prompt_is_no_part_of_a_beams_length() {
        fn says(text: &[i32]) -> Vec<(i32, f32)> {
            match text {
                [] => vec![(1, (0.6_f32).ln()), (2, (0.4_f32).ln())],
                // -1.2 in all behind the first.
                [1] => vec![(7, -1.2 - (0.6_f32).ln()), (3, -0.776)],
                [2] => vec![(4, -0.35), (5, -1.22)],
                [2, 4] => vec![(4, -0.35), (5, -1.22)],
                [2, 4, 4] => vec![(7, -2.0 - (0.4_f32).ln() + 0.7), (5, -1.14)],
                // Nothing worth going on with.
                _ => [3, 4, 5, 6].map(|token| (token, (0.25_f32).ln())).to_vec(),
            }
        }
        for top in [0, 4, 8] {
            let by = |penalty| found(says, 1, top, &beams(2, penalty));
            assert_eq!(by(1.0), [vec![2, 4, 4, 7]], "{top}");
            assert_eq!(by(0.0), [vec![1, 7]], "{top}");
        }
    }

    /// PITFALLS: rows of a batch have no part in each other's lengths. And what the largest logits decide is
    /// what all decide, whatever the rules take away.
    #[test]
    fn equal_rows_give_equal_texts_however_many_logits_are_looked_at() {
        fn says(text: &[i32]) -> Vec<(i32, f32)> {
            let key = Draw { seed: 9, step: 0 }.key(&format!("{text:?}"));
            (0..8).map(|i| (i, key.normal(i as u64) as f32)).collect()
        }
        let rules = [
            Rules::default(),
            Rules {
                repetition_penalty: 1.7,
                no_repeat_ngram_size: 2,
                min_new_tokens: 3,
                ..Rules::default()
            },
            Rules {
                repetition_penalty: 0.6,
                suppressed: vec![1, 2, 3, 4],
                forced_eos: vec![7],
                ..Rules::default()
            },
            Rules {
                renormalize: true,
                bad_words: vec![vec![2], vec![3, 4]],
                forced_bos: Some(6),
                ..Rules::default()
            },
        ];
        let strategies = [
            Strategy::Greedy,
            beams(4, 1.0).strategy,
            beams(2, 0.4).strategy,
            Strategy::Sample {
                temperature: 0.8,
                top_k: 3,
                top_p: 0.9,
                min_p: 0.0,
                seed: 1,
            },
        ];
        for rules in rules {
            for strategy in strategies {
                let options = Options {
                    strategy,
                    rules: rules.clone(),
                    ..beams(1, 1.0)
                };
                let alone = found(says, 1, 0, &options);
                for top in 1..=8 {
                    let all = found(says, 3, top, &options);
                    assert_eq!(all[0], alone[0], "{top} {options:?}");
                    if !matches!(strategy, Strategy::Sample { .. }) {
                        assert_eq!([&all[1], &all[2]], [&alone[0]; 2], "{top} {options:?}");
                    }
                }
            }
        }
    }
}
