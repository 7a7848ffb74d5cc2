//! Encoded examples to batches of a few fixed shapes.
//!
//! Every sequence length of a batch is one of a few [`Buckets`], so that each shape is compiled once
//! before training.

use ailora_graph::ir::ops::loss::IGNORED;
use thiserror::Error;

use crate::task::{Example, Label};
use crate::tokenizer::{Encoding, Tokenizer, TokenizerError};

/// An example as the model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Token ids and segments.
    pub encoding: Encoding,
    /// The label, where there is one.
    pub label: Option<Label>,
}

impl Encoded {
    /// Encodes examples in their order.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_batch`].
    pub fn from_examples(
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        let texts: Vec<_> = examples
            .iter()
            .map(|example| (example.text.as_str(), example.pair.as_deref()))
            .collect();
        let encodings = tokenizer.encode_batch(&texts, max_len)?;
        let labelled = encodings.into_iter().zip(examples);
        Ok(labelled
            .map(|(encoding, example)| Encoded {
                encoding,
                label: example.label,
            })
            .collect())
    }

    /// Encodes prompts and what is to be written behind them, ended by the token `end`. What is then
    /// longer than `max_len` is cut at its end.
    ///
    /// # Errors
    /// Texts the tokenizer cannot represent.
    pub fn from_answers(
        examples: &[Example],
        tokenizer: &Tokenizer,
        end: Option<u32>,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        let encode = |example: &Example| {
            let answer = example.pair.as_deref().unwrap_or_default();
            let mut encoding = tokenizer.encode_answer(&example.text, answer, end)?;
            encoding.cut = encoding.ids.len() > max_len;
            encoding.ids.truncate(max_len);
            encoding.type_ids.truncate(max_len);
            let label = example.label;
            Ok(Encoded { encoding, label })
        };
        examples.iter().map(encode).collect()
    }

    /// Whether anything of the text to write is there, where one is to be written.
    pub fn has_answer(&self) -> bool {
        self.label != Some(Label::Text) || self.encoding.type_ids.contains(&1)
    }

    /// Number of tokens, special ones included.
    pub fn tokens(&self) -> usize {
        self.encoding.ids.len()
    }
}

/// Why batches could not be formed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BatchError {
    /// The batch size is zero.
    #[error("batch size is 0; expected at least 1")]
    ZeroBatchSize,
    /// A sequence is longer than the largest bucket.
    #[error("example {index} has {tokens} tokens, more than the limit of {limit}")]
    TooLong {
        /// The example, from 0.
        index: usize,
        /// Its number of tokens.
        tokens: usize,
        /// The largest length allowed.
        limit: usize,
    },
    /// A batch mixes classes, scores and examples without label.
    #[error("example {index} has {found}, but example {first} of its batch has {expected}")]
    MixedLabels {
        /// The batch's first example.
        first: usize,
        /// The first example's kind of label.
        expected: &'static str,
        /// The differing example.
        index: usize,
        /// Its kind of label.
        found: &'static str,
    },
}

/// The sequence lengths that batches are padded to, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets(Vec<usize>);

impl Buckets {
    /// Chooses at most `max_buckets` (at least 1) lengths for sequences of the given lengths.
    ///
    /// Candidates are 8, 16, 24, 32, 48, 64, 96, 128, ... (powers of two and the means of
    /// neighbours), cut at `max_len`; those that no sequence needs are left out. If too many remain,
    /// the one whose sequences need the fewest padding tokens to move one bucket up goes, repeatedly.
    ///
    /// # Errors
    /// [`BatchError::TooLong`] for a sequence longer than `max_len`.
    pub fn choose(
        lengths: &[usize],
        max_len: usize,
        max_buckets: usize,
    ) -> Result<Buckets, BatchError> {
        let mut counts: Vec<(usize, usize)> = Vec::new();
        let mut bucket = 0;
        while bucket < max_len {
            // 8, 16, 24, 32, then steps of half a power of two.
            let step = (bucket + 1).next_power_of_two() / 4;
            bucket = (bucket + step.max(8)).min(max_len);
            counts.push((bucket, 0));
        }
        for (index, &tokens) in lengths.iter().enumerate() {
            let slot = counts.partition_point(|(bucket, _)| *bucket < tokens);
            let limit = max_len;
            let too_long = BatchError::TooLong {
                index,
                tokens,
                limit,
            };
            counts.get_mut(slot).ok_or(too_long)?.1 += 1;
        }
        counts.retain(|(_, count)| *count > 0);
        while counts.len() > max_buckets.max(1) {
            let cost = |i: &usize| counts[*i].1 * (counts[*i + 1].0 - counts[*i].0);
            let cheapest = (0..counts.len() - 1).min_by_key(cost).unwrap_or(0);
            counts[cheapest + 1].1 += counts[cheapest].1;
            counts.remove(cheapest);
        }
        Ok(Buckets(
            counts.into_iter().map(|(bucket, _)| bucket).collect(),
        ))
    }

    /// The lengths, ascending.
    pub fn lengths(&self) -> &[usize] {
        &self.0
    }

    /// The smallest bucket that holds `tokens`, if any does.
    pub fn fit(&self, tokens: usize) -> Option<usize> {
        self.0.iter().copied().find(|bucket| *bucket >= tokens)
    }

    fn plan(&self, indices: &[usize], lengths: &[usize]) -> Result<Plan, BatchError> {
        let mut len = 0;
        for &index in indices {
            let fit = self.fit(lengths[index]).ok_or(BatchError::TooLong {
                index,
                tokens: lengths[index],
                limit: self.0.last().copied().unwrap_or(0),
            })?;
            len = len.max(fit);
        }
        let indices = indices.to_vec();
        Ok(Plan { len, indices })
    }
}

/// Which examples form a batch, and the length they are padded to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Sequence length, one of the buckets.
    pub len: usize,
    /// The examples; fewer than the batch size only in the last batch.
    pub indices: Vec<usize>,
}

/// Into how many parts an epoch is cut, each sorted by length: few enough that batches hold sequences
/// of nearly one length, enough that an epoch's batches are other ones than the last's.
const PARTS: usize = 8;

/// The batches of one training epoch: a shuffle of all examples, of which every eighth part is
/// sorted by length, so that little is padded; then the batches in random order, each padded to the
/// bucket of its longest. Only the last batch may be short.
///
/// The order depends on `seed`, `epoch` and the lengths alone, on every platform: Fisher-Yates from
/// the end, the index below `n` being the high word of `n` times the next output of SplitMix64
/// (Steele et al., 2014), which starts from `mix(seed ^ mix(epoch))`, and from `mix(!seed ^
/// mix(epoch))` for the order of the batches.
///
/// # Errors
/// A batch size of 0, or an example longer than all buckets.
pub fn training_epoch(
    lengths: &[usize],
    buckets: &Buckets,
    batch_size: usize,
    seed: u64,
    epoch: u64,
) -> Result<Vec<Plan>, BatchError> {
    let mut order = shuffle(lengths.len(), seed, epoch);
    let part = (lengths.len() / PARTS).next_multiple_of(batch_size.max(1));
    // Within one batch, order means nothing.
    if part > batch_size {
        for part in order.chunks_mut(part) {
            part.sort_by_key(|index| lengths[*index]);
        }
    }
    let grouped = batches(&order, lengths, buckets, batch_size)?;
    let whole = lengths.len() / batch_size.max(1);
    let order = shuffle(whole, !seed, epoch)
        .into_iter()
        .chain(whole..grouped.len());
    Ok(order.map(|batch| grouped[batch].clone()).collect())
}

/// The batches of an evaluation: examples by ascending length, so that little is padded.
/// [`Plan::indices`] tell where each prediction belongs.
///
/// # Errors
/// As [`training_epoch`].
pub fn evaluation(
    lengths: &[usize],
    buckets: &Buckets,
    batch_size: usize,
) -> Result<Vec<Plan>, BatchError> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|index| lengths[*index]);
    batches(&order, lengths, buckets, batch_size)
}

fn batches(
    order: &[usize],
    lengths: &[usize],
    buckets: &Buckets,
    batch_size: usize,
) -> Result<Vec<Plan>, BatchError> {
    if batch_size == 0 {
        return Err(BatchError::ZeroBatchSize);
    }
    let runs = order.chunks(batch_size);
    runs.map(|indices| buckets.plan(indices, lengths)).collect()
}

/// An order of `n` things, as `training_epoch` documents it.
pub(crate) fn shuffle(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut state = splitmix64(seed ^ splitmix64(epoch));
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let random = u128::from(splitmix64(state));
        state = state.wrapping_add(GOLDEN_GAMMA);
        let j = (random * (i as u128 + 1)) >> 64;
        order.swap(i, j as usize);
    }
    order
}

/// The increment of SplitMix64's state.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output of SplitMix64 in the given state.
fn splitmix64(state: u64) -> u64 {
    let z = state.wrapping_add(GOLDEN_GAMMA);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A padded batch, ready to be fed to a program.
///
/// # Shapes
/// `ids`, `type_ids` and `mask` are row-major `[rows, len]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Number of examples.
    pub rows: usize,
    /// Padded sequence length.
    pub len: usize,
    /// Token ids, the padding id behind each sequence.
    pub ids: Vec<i32>,
    /// Segment ids, 0 in the padding.
    pub type_ids: Vec<i32>,
    /// 1 for tokens, 0 for padding.
    pub mask: Vec<f32>,
    /// One target an example.
    pub targets: Targets,
    /// Where each row's example is in the data.
    pub indices: Vec<usize>,
}

/// What the rows of a batch should be predicted as.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// The data have no labels.
    Unlabelled,
    /// Class indices.
    Classes(Vec<i32>),
    /// Regression targets.
    Scores(Vec<f32>),
    /// The first and last token of each row's answer; past the end where it has none.
    Spans {
        /// First tokens.
        starts: Vec<i32>,
        /// Last tokens.
        ends: Vec<i32>,
    },
    /// Token ids, -100 where none is to be predicted: those of the row itself, `[rows, len]`, or of
    /// the text to generate, `[rows, target_len]`.
    Tokens(Vec<i32>),
}

/// The sizes that a program is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// Number of examples.
    pub rows: usize,
    /// Padded sequence length.
    pub len: usize,
    /// Padded length of the texts to generate; 0 where none are.
    pub target_len: usize,
}

impl Shape {
    /// Sequences without texts to generate.
    pub const fn new(rows: usize, len: usize) -> Self {
        Self {
            rows,
            len,
            target_len: 0,
        }
    }
}

impl Batch {
    /// Its sizes.
    pub fn shape(&self) -> Shape {
        let target_len = match &self.targets {
            Targets::Tokens(labels) => labels.len() / self.rows.max(1),
            _ => 0,
        };
        Shape {
            rows: self.rows,
            len: self.len,
            target_len,
        }
    }

    /// Pads the examples of a plan.
    ///
    /// # Errors
    /// A plan made for longer sequences or other data ([`BatchError::TooLong`]), and labels of
    /// several kinds.
    ///
    /// # Panics
    /// If the plan was made for more examples than there are.
    pub fn new(plan: &Plan, examples: &[Encoded], pad_id: u32) -> Result<Batch, BatchError> {
        let (rows, len) = (plan.indices.len(), plan.len);
        let mut batch = Batch {
            rows,
            len,
            ids: vec![pad_id as i32; rows * len],
            type_ids: vec![0; rows * len],
            mask: vec![0.0; rows * len],
            targets: targets(plan, examples)?,
            indices: plan.indices.clone(),
        };
        for (row, &index) in plan.indices.iter().enumerate() {
            let Encoding { ids, type_ids, .. } = &examples[index].encoding;
            if ids.len() > len {
                let (tokens, limit) = (ids.len(), len);
                return Err(BatchError::TooLong {
                    index,
                    tokens,
                    limit,
                });
            }
            let at = row * len;
            for (i, (id, type_id)) in ids.iter().zip(type_ids).enumerate() {
                batch.ids[at + i] = *id as i32;
                batch.type_ids[at + i] = *type_id as i32;
                batch.mask[at + i] = 1.0;
            }
        }
        Ok(batch)
    }
}

/// The tokens of the second segment, which are to be written.
fn answers(plan: &Plan, examples: &[Encoded]) -> Vec<i32> {
    let row = |&index: &usize| {
        let Encoding { ids, type_ids, .. } = &examples[index].encoding;
        let answer = ids
            .iter()
            .zip(type_ids)
            .map(|(&id, &segment)| match segment {
                1 => id as i32,
                _ => IGNORED,
            });
        answer.chain(std::iter::repeat(IGNORED)).take(plan.len)
    };
    plan.indices.iter().flat_map(row).collect()
}

fn targets(plan: &Plan, examples: &[Encoded]) -> Result<Targets, BatchError> {
    let kind = |label: Option<Label>| match label {
        None => "no label",
        Some(Label::Class(_)) => "a class",
        Some(Label::Score(_)) => "a score",
        Some(Label::Text) => "a text",
    };
    let labels = || plan.indices.iter().map(|index| examples[*index].label);
    let first = labels().next().flatten();
    if let Some(odd) = labels().position(|label| kind(label) != kind(first)) {
        return Err(BatchError::MixedLabels {
            first: plan.indices[0],
            expected: kind(first),
            index: plan.indices[odd],
            found: kind(examples[plan.indices[odd]].label),
        });
    }
    let classes = labels().filter_map(|label| match label {
        Some(Label::Class(class)) => Some(class as i32),
        _ => None,
    });
    let scores = labels().filter_map(|label| match label {
        Some(Label::Score(score)) => Some(score),
        _ => None,
    });
    Ok(match first {
        None => Targets::Unlabelled,
        Some(Label::Class(_)) => Targets::Classes(classes.collect()),
        Some(Label::Score(_)) => Targets::Scores(scores.collect()),
        Some(Label::Text) => Targets::Tokens(answers(plan, examples)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Expected orders: a Python implementation of the documented procedure.
    #[test]
    fn shuffles_never_change() {
        assert_eq!(shuffle(12, 0, 0), [3, 6, 11, 4, 0, 7, 9, 5, 8, 2, 10, 1]);
        assert_eq!(shuffle(12, 0, 1), [6, 11, 3, 0, 1, 9, 5, 2, 7, 4, 10, 8]);
        assert_eq!(shuffle(12, 42, 3), [0, 5, 8, 3, 4, 1, 2, 6, 7, 10, 11, 9]);
    }

    #[test]
    fn shuffles_are_uniform() {
        // Each of the 24 orders of 4 is expected 1000 times, with a deviation of about 31.
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..24_000 {
            *counts.entry(shuffle(4, 7, epoch)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(
            counts.values().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn buckets_are_the_used_rungs_up_to_the_limit() {
        let all: Vec<usize> = (1..=1024).collect();
        let ladder = [
            8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
        ];
        assert_eq!(Buckets::choose(&all, 1024, 99).unwrap().lengths(), ladder);
        let some = Buckets::choose(&[3, 8, 9, 100, 100], 100, 99).unwrap();
        assert_eq!(some.lengths(), [8, 16, 100]);
        assert_eq!(some.fit(9), Some(16));
        assert_eq!(some.fit(17), Some(100));
        assert_eq!(some.fit(101), None);
        let error = Buckets::choose(&[5, 101], 100, 9).unwrap_err();
        assert_eq!(
            error,
            BatchError::TooLong {
                index: 1,
                tokens: 101,
                limit: 100
            }
        );
    }

    #[test]
    fn the_cheapest_bucket_is_merged_first() {
        // Moving up costs 3 * 8 for 8, 1 * 16 for 16, nothing is above 32.
        let buckets = Buckets::choose(&[4, 5, 6, 12, 30], 64, 2).unwrap();
        assert_eq!(buckets.lengths(), [8, 32]);
        assert_eq!(
            Buckets::choose(&[4, 12, 30], 64, 1).unwrap().lengths(),
            [32]
        );
    }

    fn example(ids: &[u32], label: Option<Label>) -> Encoded {
        let (ids, type_ids) = (ids.to_vec(), (0..ids.len() as u32).map(|i| i / 2).collect());
        let encoding = Encoding {
            ids,
            type_ids,
            cut: false,
        };
        Encoded { encoding, label }
    }

    #[test]
    fn a_batch_is_padded_and_masked() {
        let class = |class| Some(Label::Class(class));
        let examples = [
            example(&[5, 6, 7], class(1)),
            example(&[9], class(0)),
            example(&[4, 4], None),
        ];
        let plan = Plan {
            len: 4,
            indices: vec![1, 0],
        };
        let batch = Batch::new(&plan, &examples, 11).unwrap();
        assert_eq!(batch.ids, [9, 11, 11, 11, 5, 6, 7, 11]);
        assert_eq!(batch.type_ids, [0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(batch.mask, [1., 0., 0., 0., 1., 1., 1., 0.]);
        assert_eq!(batch.targets, Targets::Classes(vec![0, 1]));
        assert_eq!(
            (batch.rows, batch.len, &batch.indices),
            (2, 4, &plan.indices)
        );

        let mixed = Plan {
            len: 4,
            indices: vec![0, 2],
        };
        let message = Batch::new(&mixed, &examples, 0).unwrap_err().to_string();
        assert_eq!(
            message,
            "example 2 has no label, but example 0 of its batch has a class"
        );
        let unlabelled = Plan {
            len: 4,
            indices: vec![2],
        };
        assert_eq!(
            Batch::new(&unlabelled, &examples, 0).unwrap().targets,
            Targets::Unlabelled
        );
        let short = Plan {
            len: 2,
            indices: vec![0],
        };
        assert!(matches!(
            Batch::new(&short, &examples, 0),
            Err(BatchError::TooLong { index: 0, .. })
        ));
        let scores = [example(&[1], Some(Label::Score(2.5)))];
        let plan = Plan {
            len: 1,
            indices: vec![0],
        };
        assert_eq!(
            Batch::new(&plan, &scores, 0).unwrap().targets,
            Targets::Scores(vec![2.5])
        );
    }

    proptest! {
        #[test]
        fn batches_hold_each_example_once_and_fit(
            lengths in prop::collection::vec(1..200usize, 0..300),
            batch_size in 1..40usize,
            max_buckets in 1..12usize,
            seed: u64,
            epoch in 0..1000u64,
        ) {
            let buckets = Buckets::choose(&lengths, 200, max_buckets).unwrap();
            prop_assert!(buckets.lengths().len() <= max_buckets);
            let training = training_epoch(&lengths, &buckets, batch_size, seed, epoch).unwrap();
            let evaluation = evaluation(&lengths, &buckets, batch_size).unwrap();
            for plans in [&training, &evaluation] {
                let mut seen: Vec<usize> = plans.iter().flat_map(|p| p.indices.clone()).collect();
                seen.sort_unstable();
                prop_assert!(seen.into_iter().eq(0..lengths.len()));
                for (i, plan) in plans.iter().enumerate() {
                    let longest = plan.indices.iter().map(|i| lengths[*i]).max().unwrap();
                    prop_assert_eq!(Some(plan.len), buckets.fit(longest));
                    prop_assert!(plan.indices.len() == batch_size || i + 1 == plans.len());
                }
            }
            prop_assert!(evaluation.windows(2).all(|w| w[0].len <= w[1].len));
            prop_assert_eq!(&training, &training_epoch(&lengths, &buckets, batch_size, seed, epoch).unwrap());
            if lengths.len() > 20 {
                let next = training_epoch(&lengths, &buckets, batch_size, seed, epoch + 1).unwrap();
                let other = training_epoch(&lengths, &buckets, batch_size, !seed, epoch).unwrap();
                prop_assert_ne!(&training, &next);
                prop_assert_ne!(&training, &other);
            }
        }
    }

    #[test]
    fn a_batch_size_of_zero_is_refused() {
        let buckets = Buckets::choose(&[1], 8, 1).unwrap();
        assert_eq!(
            evaluation(&[1], &buckets, 0),
            Err(BatchError::ZeroBatchSize)
        );
    }
}
