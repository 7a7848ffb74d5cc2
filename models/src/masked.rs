//! Masked language modelling as a workload: a text's tokens, some of which are to be guessed
//! (Devlin et al., 2019), other ones each time (Liu et al., 2019).

use ailora_graph::ir::{Draw, ops::loss::IGNORED};
use ailora_runtime::{
    engine::{Engine, EngineError, PlanId},
    train::{Batches, MicroBatch, Workload},
};
use indexmap::IndexMap;
use rayon::prelude::*;

use crate::{
    batch::{Batch, Targets, shuffle},
    classification::{ClassificationError, Predictor},
    family::Inputs,
    tokenizer::{Tokenizer, TokenizerError, train::MASK},
};

/// The metric of the best epoch: how many of the masked tokens are guessed.
pub const HEADLINE: &str = "masked_accuracy";

/// Texts as rows of equally many tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    ids: Vec<i32>,
    len: usize,
}

impl Blocks {
    /// Texts one after the other, each followed by what separates texts, cut into rows of `len` tokens
    /// that begin as any text does. What does not fill a row is left out.
    ///
    /// # Errors
    /// Texts the tokenizer cannot represent; a `len` without room for text.
    pub fn new<S: AsRef<str>>(
        texts: &[S],
        tokenizer: &Tokenizer,
        len: usize,
    ) -> Result<Self, TokenizerError> {
        let texts: Vec<_> = texts.iter().map(|text| (text.as_ref(), None)).collect();
        let encoded = tokenizer.encode_batch(&texts, usize::MAX)?;
        let start = encoded.first().and_then(|text| text.ids.first());
        let special = 2;
        let start = match start {
            _ if len <= special => {
                let max_len = len;
                return Err(TokenizerError::TooShort { max_len, special });
            }
            Some(&start) => start as i32,
            None => 0,
        };
        let stream: Vec<i32> = encoded
            .iter()
            .flat_map(|text| text.ids.iter().skip(1).map(|&id| id as i32))
            .collect();
        let rows = stream.chunks_exact(len - 1);
        let ids = rows.flat_map(|row| std::iter::once(start).chain(row.iter().copied()));
        let ids = ids.collect();
        Ok(Self { ids, len })
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.ids.len() / self.len
    }

    /// At most the first `rows` rows.
    #[must_use]
    pub fn first(mut self, rows: usize) -> Self {
        self.ids.truncate(rows.saturating_mul(self.len));
        self
    }

    fn row(&self, i: usize) -> &[i32] {
        &self.ids[i * self.len..][..self.len]
    }
}

/// What tokens are masked with.
#[derive(Clone, Copy, Debug)]
struct Masking {
    /// The share of tokens to be guessed.
    rate: f64,
    mask: i32,
    /// The tokens from which a wrong one is drawn, and which may have to be guessed: those that are not
    /// special.
    ordinary: (i32, i32),
}

impl Masking {
    /// Of the tokens to be guessed, 8 in 10 are masked, 1 is another one and 1 is as it was.
    fn apply(&self, ids: &mut [i32], draw: Draw) -> Vec<i32> {
        let key = draw.key("masked tokens");
        let (first, end) = self.ordinary;
        let hide = |(i, id): (usize, &mut i32)| {
            let chosen = *id >= first && key.uniform(2 * i as u64) < self.rate;
            if !chosen {
                return IGNORED;
            }
            let label = *id;
            // The first digit decides what happens, the others which token it becomes.
            let tenth = 10.0 * key.uniform(2 * i as u64 + 1);
            *id = match tenth {
                8.0..9.0 => first + (f64::from(end - first) * tenth.fract()) as i32,
                9.0.. => label,
                _ => self.mask,
            };
            label
        };
        ids.iter_mut().enumerate().map(hide).collect()
    }
}

/// Texts through a model that guesses masked tokens.
#[derive(Debug)]
pub struct MaskedLanguage {
    predictor: Predictor,
    masking: Masking,
    train: Blocks,
    held_out: Blocks,
    batch_size: usize,
    seed: u64,
    plan: Option<PlanId>,
}

impl MaskedLanguage {
    /// A workload over texts for training and held-out ones, each a whole number of batches: what
    /// does not fill one is left out of an epoch. Of the tokens, `rate` are to be guessed.
    ///
    /// # Errors
    /// The tokenizer has no mask, or one of the texts fill no batch.
    pub fn new(
        predictor: Predictor,
        tokenizer: &Tokenizer,
        [train, held_out]: [Blocks; 2],
        batch_size: usize,
        rate: f64,
        seed: u64,
    ) -> Result<Self, TokenizerError> {
        let mask = tokenizer.id(MASK).ok_or(TokenizerError::NoMask)?;
        for blocks in [&train, &held_out] {
            if blocks.rows() < batch_size {
                return Err(TokenizerError::TooFewTexts {
                    rows: blocks.rows(),
                    len: blocks.len,
                    expected: batch_size,
                });
            }
        }
        Ok(Self {
            predictor,
            masking: Masking {
                rate,
                mask: mask as i32,
                ordinary: (mask as i32 + 1, tokenizer.vocab_size() as i32),
            },
            train,
            held_out,
            batch_size,
            seed,
            plan: None,
        })
    }

    /// Compiles the programs of a step and of an evaluation.
    ///
    /// # Errors
    /// One of them cannot be built.
    pub fn compile(&mut self, engine: &mut Engine) -> Result<(), ClassificationError> {
        let (rows, len) = (self.batch_size, self.train.len);
        self.plan = Some(self.predictor.plan(engine, rows, len, true)?);
        self.predictor.plan(engine, rows, len, false)?;
        Ok(())
    }

    /// Rows with masks; which, is up to `draw`.
    fn batch(&self, blocks: &Blocks, rows: &[usize], draw: Draw) -> Batch {
        let mut ids: Vec<i32> = rows.iter().flat_map(|&i| blocks.row(i)).copied().collect();
        let labels = self.masking.apply(&mut ids, draw);
        Batch {
            rows: rows.len(),
            len: blocks.len,
            type_ids: vec![0; ids.len()],
            mask: vec![1.0; ids.len()],
            ids,
            targets: Targets::Tokens(labels),
            indices: rows.to_vec(),
        }
    }
}

/// The inputs of a step, and of how many rows.
#[derive(Debug)]
pub struct Prepared {
    plan: PlanId,
    inputs: Inputs,
    rows: usize,
    targets: usize,
}

impl Workload for MaskedLanguage {
    type Batch = Prepared;
    type Error = ClassificationError;

    fn steps_per_epoch(&self) -> u64 {
        (self.train.rows() / self.batch_size) as u64
    }

    fn epoch(
        &mut self,
        epoch: usize,
        skip: u64,
    ) -> Result<Batches<'_, Prepared, ClassificationError>, ClassificationError> {
        let (rows, len) = (self.batch_size, self.train.len);
        let plan = self.plan;
        let plan = plan.ok_or(ClassificationError::NotCompiled { rows, len })?;
        let before = epoch as u64 * self.steps_per_epoch();
        let order = shuffle(self.train.rows(), self.seed, epoch as u64);
        let steps = self.steps_per_epoch();
        Ok(Box::new((skip..steps).map(move |i| {
            let draw = Draw {
                seed: self.seed,
                step: before + i,
            };
            let chosen = &order[i as usize * rows..][..rows];
            let batch = self.batch(&self.train, chosen, draw);
            let model = self.predictor.model();
            Ok(Prepared {
                plan,
                inputs: model.inputs(&batch),
                rows,
                targets: model.targets(&batch),
            })
        })))
    }

    fn micro_batches<'a>(batch: &'a Prepared) -> Vec<MicroBatch<'a>> {
        vec![MicroBatch {
            plan: batch.plan,
            inputs: batch.inputs.values(),
            rows: batch.rows,
            targets: batch.targets,
        }]
    }

    /// The share of masked tokens that are guessed, and the mean cross-entropy, in nats, over them.
    /// The same tokens are masked each time.
    fn evaluate(
        &mut self,
        engine: &mut Engine,
    ) -> Result<IndexMap<String, f64>, ClassificationError> {
        let mut score = Score::default();
        let whole = self.held_out.rows() / self.batch_size;
        for step in 0..whole {
            let first = step * self.batch_size;
            let rows: Vec<usize> = (first..first + self.batch_size).collect();
            // Not the draws of training, whose steps count from 0.
            let draw = Draw {
                seed: !self.seed,
                step: step as u64,
            };
            let batch = self.batch(&self.held_out, &rows, draw);
            let plan = self.predictor.plan(engine, batch.rows, batch.len, false)?;
            let inputs = self.predictor.model().inputs(&batch);
            let results = engine.run(plan, &inputs.values(), Draw::default())?;
            let Targets::Tokens(labels) = &batch.targets else {
                continue;
            };
            let logits = results.output("logits").map_err(EngineError::from)?;
            score = score.and(Score::of(logits, labels));
        }
        let share = |sum: f64| sum / score.tokens as f64;
        Ok(IndexMap::from([
            (HEADLINE.to_owned(), share(score.guessed as f64)),
            ("loss".to_owned(), share(score.loss)),
        ]))
    }
}

/// How well masked tokens are guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Score {
    tokens: usize,
    guessed: usize,
    /// The sum of the cross-entropies.
    loss: f64,
}

impl Score {
    fn of(logits: &[f32], labels: &[i32]) -> Self {
        let classes = logits.len() / labels.len().max(1);
        let one = |(logits, &label): (&[f32], &i32)| {
            let own = *logits.get(usize::try_from(label).ok()?)?;
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let shifted = logits.iter().map(|&x| f64::from(x - most).exp());
            Some(Self {
                tokens: 1,
                guessed: usize::from(own == most),
                loss: shifted.sum::<f64>().ln() - f64::from(own - most),
            })
        };
        let rows = logits.par_chunks_exact(classes.max(1)).zip(labels);
        let scores: Vec<Self> = rows.filter_map(one).collect();
        scores.into_iter().fold(Self::default(), Self::and)
    }

    fn and(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            guessed: self.guessed + other.guessed,
            loss: self.loss + other.loss,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_masked_as_often_as_asked_and_special_ones_never() {
        let masking = Masking {
            rate: 0.15,
            mask: 4,
            ordinary: (5, 1005),
        };
        let before: Vec<i32> = (0..100_000).map(|i| i % 1005).collect();
        let mut ids = before.clone();
        let labels = masking.apply(&mut ids, Draw { seed: 1, step: 2 });
        let (mut chosen, mut masked, mut kept) = (0.0, 0.0, 0.0);
        for ((&id, &label), &was) in ids.iter().zip(&labels).zip(&before) {
            if label == IGNORED {
                assert_eq!(id, was);
                continue;
            }
            assert_eq!(label, was);
            assert!(was >= 5 && (id == 4 || (5..1005).contains(&id)));
            chosen += 1.0;
            masked += f64::from(u8::from(id == 4));
            kept += f64::from(u8::from(id == was));
        }
        assert!((chosen / 1e5_f64 - 0.15).abs() < 0.005, "{chosen}");
        assert!((masked / chosen - 0.8).abs() < 0.02, "{masked}");
        assert!((kept / chosen - 0.1).abs() < 0.02, "{kept}");
        let again = masking.apply(&mut before.clone(), Draw { seed: 1, step: 2 });
        assert_eq!(again, labels);
        let other = masking.apply(&mut before.clone(), Draw { seed: 1, step: 3 });
        assert_ne!(other, labels);
    }

    #[test]
    fn the_score_is_the_softmax_of_the_labelled_rows() {
        let logits = [0.0, 2.0, 1.0, 5.0, 5.5, 1.0, 9.0, 9.0, 9.0];
        let score = Score::of(&logits, &[1, 0, IGNORED]);
        assert_eq!((score.tokens, score.guessed), (2, 1));
        let one = |row: [f64; 3], label: usize| {
            let total: f64 = row.iter().map(|x| x.exp()).sum();
            -(row[label].exp() / total).ln()
        };
        let expected = one([0.0, 2.0, 1.0], 1) + one([5.0, 5.5, 1.0], 0);
        assert!((score.loss - expected).abs() < 1e-12, "{score:?}");
    }
}
