//! Which examples form a batch, and in which order batches come.

use super::BatchError;

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

/// How the rows of an epoch are put into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Rows of nearly one length together, so that little is padded; the last batch may be short.
    ByLength,
    /// Rows that are all of one length, in batches of whole size: what does not fill one is left out
    /// of the epoch, and other rows the next time.
    Whole,
}

/// Into how many parts an epoch is cut, each sorted by length: few enough that batches hold sequences
/// of nearly one length, enough that an epoch's batches are other ones than the last's.
const PARTS: usize = 8;

/// The batches of one training epoch: a shuffle of all examples. [`Order::Whole`] cuts it into
/// batches. [`Order::ByLength`] cuts it into eighths, each sorted by length, so that little is
/// padded; then the batches come in random order, each padded to the bucket of its longest, and only
/// the last batch may be short.
///
/// The order depends on `seed`, `epoch` and the lengths alone, on every platform: Fisher-Yates from
/// the end, the index below `n` being the high word of `n` times the next output of SplitMix64
/// (Steele et al., 2014), which starts from `mix(seed ^ mix(epoch))`, and from `mix(!seed ^
/// mix(epoch))` for the order of the batches.
///
/// # Errors
/// A batch size of 0, or an example longer than all buckets.
pub fn training_epoch(
    kind: Order,
    lengths: &[usize],
    buckets: &Buckets,
    batch_size: usize,
    seed: u64,
    epoch: u64,
) -> Result<Vec<Plan>, BatchError> {
    let mut order = shuffle(lengths.len(), seed, epoch);
    if kind == Order::Whole {
        order.truncate(whole(lengths.len(), batch_size));
        return batches(&order, lengths, buckets, batch_size);
    }
    let part = (lengths.len() / PARTS).next_multiple_of(batch_size.max(1));
    // Within one batch, order means nothing.
    if part > batch_size {
        for part in order.chunks_mut(part) {
            part.sort_by_key(|index| lengths[*index]);
        }
    }
    let grouped = batches(&order, lengths, buckets, batch_size)?;
    let full = lengths.len() / batch_size.max(1);
    let order = shuffle(full, !seed, epoch)
        .into_iter()
        .chain(full..grouped.len());
    Ok(order.map(|batch| grouped[batch].clone()).collect())
}

/// The rows that fill whole batches.
fn whole(rows: usize, batch_size: usize) -> usize {
    rows - rows % batch_size.max(1)
}

/// The batches of an evaluation: examples by ascending length, so that little is padded; whole
/// batches only with [`Order::Whole`]. [`Plan::indices`] tell where each prediction belongs.
///
/// # Errors
/// As [`training_epoch`].
pub fn evaluation(
    kind: Order,
    lengths: &[usize],
    buckets: &Buckets,
    batch_size: usize,
) -> Result<Vec<Plan>, BatchError> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|index| lengths[*index]);
    if kind == Order::Whole {
        order.truncate(whole(lengths.len(), batch_size));
    }
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
fn shuffle(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
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
            let training = training_epoch(Order::ByLength, &lengths, &buckets, batch_size, seed, epoch).unwrap();
            let evaluation = evaluation(Order::ByLength, &lengths, &buckets, batch_size).unwrap();
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
            prop_assert_eq!(&training, &training_epoch(Order::ByLength, &lengths, &buckets, batch_size, seed, epoch).unwrap());
            if lengths.len() > 20 {
                let next = training_epoch(Order::ByLength, &lengths, &buckets, batch_size, seed, epoch + 1).unwrap();
                let other = training_epoch(Order::ByLength, &lengths, &buckets, batch_size, !seed, epoch).unwrap();
                prop_assert_ne!(&training, &next);
                prop_assert_ne!(&training, &other);
            }
        }
    }

    #[test]
    fn a_batch_size_of_zero_is_refused() {
        let buckets = Buckets::choose(&[1], 8, 1).unwrap();
        assert_eq!(
            evaluation(Order::ByLength, &[1], &buckets, 0),
            Err(BatchError::ZeroBatchSize)
        );
    }
}
