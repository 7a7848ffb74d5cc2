//! Ranks that train one model together, each with a part of every batch (data parallelism).
//!
//! A [`Collective`] is one rank's view of the group: the number of ranks, its own index, and sums over all
//! ranks. Every rank makes the same calls in the same order; no call may depend on a condition that only
//! some ranks meet. When a rank fails, every waiting rank stops waiting and gets its error.
//!
//! [`Single`] is the one rank of a run without others. `docs/add-a-collective.md` describes how to add one.

mod single;
mod threads;

pub use single::Single;
pub use threads::{Rank, threads};

use std::fmt::Debug;

use thiserror::Error;

/// Ranks that cannot go on together.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CollectiveError {
    /// A rank failed, or is gone.
    #[error("rank {rank} failed: {reason}")]
    Rank {
        /// The rank.
        rank: usize,
        /// What it said last.
        reason: String,
    },
    /// Ranks that call for different things.
    #[error(
        "rank {rank} calls {found} where rank {first} calls {expected}; every rank has to run the \
         same version, settings and data"
    )]
    Mismatch {
        /// The first rank that called.
        first: usize,
        /// What it calls.
        expected: String,
        /// The rank that differs.
        rank: usize,
        /// What that calls.
        found: String,
    },
}

/// Gives every rank all rows, of which each has those that it owns and nothing of the others.
///
/// # Errors
/// A rank failed, or has another number of rows.
pub fn gather(ranks: &dyn Collective, rows: &mut [Vec<f32>]) -> Result<(), CollectiveError> {
    if ranks.world() == 1 {
        return Ok(());
    }
    let mut lens: Vec<f64> = rows.iter().map(|row| row.len() as f64).collect();
    ranks.sum_f64(&mut lens)?;
    for (row, &len) in rows.iter_mut().zip(&lens) {
        row.resize(len as usize, 0.0);
    }
    let mut all = rows.concat();
    ranks.sum_f32(&mut all)?;
    let mut rest = &all[..];
    for row in rows {
        let (own, more) = rest.split_at(row.len());
        row.copy_from_slice(own);
        rest = more;
    }
    Ok(())
}

/// One rank's side of ranks that work together.
///
/// Sums are taken in the order of the ranks: the result has the same bits on all of them, at every run.
pub trait Collective: Debug + Send + Sync {
    /// Which rank this is, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn world(&self) -> usize;

    /// Replaces each value by its sum over the ranks.
    ///
    /// # Errors
    /// A rank failed, or brings another number of values.
    fn sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// As [`sum_f32`](Self::sum_f32), for counts and losses.
    ///
    /// # Errors
    /// As there.
    fn sum_f64(&self, values: &mut [f64]) -> Result<(), CollectiveError>;

    /// Replaces the values by those of the rank `from`.
    ///
    /// # Errors
    /// A rank failed, or brings another number of values.
    fn broadcast(&self, from: usize, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// Waits for all ranks.
    ///
    /// # Errors
    /// A rank failed.
    fn barrier(&self) -> Result<(), CollectiveError>;

    /// Tells all ranks, now and from now on, that this one cannot go on.
    fn fail(&self, reason: &str);

    /// Whether this rank is the one that writes files and speaks to people.
    fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// Whether this rank has the part `index` of what is shared out among the ranks.
    fn owns(&self, index: usize) -> bool {
        index % self.world() == self.rank()
    }
}
