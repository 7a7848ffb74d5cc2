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
        numbers: Vec::new(),
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
