//! Ranks that are threads of one process and share its memory.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{Collective, CollectiveError};

/// Ranks `0..world`, each for a thread of its own.
pub fn threads(world: usize) -> Vec<Rank> {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            round: 0,
            brought: (0..world).map(|_| None).collect(),
            result: None,
            failed: None,
        }),
        changed: Condvar::new(),
    });
    (0..world)
        .map(|rank| Rank {
            rank,
            world,
            shared: shared.clone(),
        })
        .collect()
}

/// A rank of [`threads`]. One that is dropped while its thread panics, or while others wait for it, has
/// failed.
pub struct Rank {
    rank: usize,
    world: usize,
    shared: Arc<Shared>,
}

impl fmt::Debug for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.world)
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// One exchange: everybody brings something, and everybody takes what became of it.
#[derive(Debug)]
struct State {
    /// How many exchanges are over.
    round: u64,
    brought: Vec<Option<Call>>,
    /// What the last exchange came to.
    result: Option<Result<Arc<Values>, CollectiveError>>,
    failed: Option<CollectiveError>,
}

/// What is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Broadcast { from: usize },
    Barrier,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

#[derive(Clone, Debug, PartialEq)]
struct Call {
    kind: Kind,
    values: Values,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Sum => f.write_str("a sum of ")?,
            Kind::Broadcast { from } => write!(f, "a broadcast from rank {from} of ")?,
            Kind::Barrier => return f.write_str("a barrier"),
        }
        match &self.values {
            Values::F32(values) => write!(f, "{} float32 values", values.len()),
            Values::F64(values) => write!(f, "{} float64 values", values.len()),
        }
    }
}

/// What an exchange of these calls, one a rank, comes to.
fn exchanged(calls: Vec<Call>) -> Result<Values, CollectiveError> {
    let first = &calls[0];
    let same = |call: &Call| call.to_string() == first.to_string();
    if let Some(rank) = calls.iter().position(|call| !same(call)) {
        return Err(CollectiveError::Mismatch {
            first: 0,
            expected: first.to_string(),
            rank,
            found: calls[rank].to_string(),
        });
    }
    fn added<T: Copy + std::ops::AddAssign>(sum: &mut [T], more: &[T]) {
        for (sum, &x) in sum.iter_mut().zip(more) {
            *sum += x;
        }
    }
    let kind = first.kind;
    let mut all = calls.into_iter().map(|call| call.values);
    let none = Values::F32(Vec::new());
    Ok(match kind {
        Kind::Barrier => none,
        Kind::Broadcast { from } => all.nth(from).unwrap_or(none),
        Kind::Sum => {
            let first = all.next().unwrap_or(none);
            all.fold(first, |mut sum, more| {
                match (&mut sum, &more) {
                    (Values::F32(sum), Values::F32(more)) => added(sum, more),
                    (Values::F64(sum), Values::F64(more)) => added(sum, more),
                    // Refused above.
                    _ => {}
                }
                sum
            })
        }
    })
}

impl Rank {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it.
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a call, waits for everybody's, and takes the result.
    fn exchange(&self, call: Call) -> Result<Arc<Values>, CollectiveError> {
        let mut state = self.state();
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let round = state.round;
        state.brought[self.rank] = Some(call);
        if state.brought.iter().all(Option::is_some) {
            let calls = state.brought.iter_mut().filter_map(Option::take).collect();
            let result = exchanged(calls).map(Arc::new);
            state.failed = result.as_ref().err().cloned();
            state.result = Some(result);
            state.round += 1;
            self.shared.changed.notify_all();
        }
        while state.round == round {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            let woken = self.shared.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        // The next exchange ends only once this rank has brought something to it.
        match &state.result {
            Some(result) => result.clone(),
            None => Err(self.gone("it left no result")),
        }
    }

    fn gone(&self, reason: &str) -> CollectiveError {
        CollectiveError::Rank {
            rank: self.rank,
            reason: reason.to_owned(),
        }
    }
}

impl Collective for Rank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let call = Call {
            kind: Kind::Sum,
            values: Values::F32(values.to_vec()),
        };
        if let Values::F32(sum) = &*self.exchange(call)? {
            values.copy_from_slice(sum);
        }
        Ok(())
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<(), CollectiveError> {
        let call = Call {
            kind: Kind::Sum,
            values: Values::F64(values.to_vec()),
        };
        if let Values::F64(sum) = &*self.exchange(call)? {
            values.copy_from_slice(sum);
        }
        Ok(())
    }

    fn broadcast(&self, from: usize, values: &mut [f32]) -> Result<(), CollectiveError> {
        if from >= self.world {
            let reason = format!("it is none of the {} that there are", self.world);
            return Err(CollectiveError::Rank { rank: from, reason });
        }
        let call = Call {
            kind: Kind::Broadcast { from },
            values: Values::F32(values.to_vec()),
        };
        if let Values::F32(found) = &*self.exchange(call)? {
            values.copy_from_slice(found);
        }
        Ok(())
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        let values = Values::F32(Vec::new());
        let kind = Kind::Barrier;
        self.exchange(Call { kind, values }).map(drop)
    }

    fn fail(&self, reason: &str) {
        let mut state = self.state();
        if state.failed.is_none() {
            state.failed = Some(self.gone(reason));
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        // Whoever waits for this rank would wait for ever.
        self.fail(match std::thread::panicking() {
            true => "it panicked",
            false => "it ended",
        });
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// What each rank's thread comes to.
    fn on_all<T: Send>(world: usize, work: impl Fn(Rank) -> T + Sync) -> Vec<thread::Result<T>> {
        thread::scope(|scope| {
            let work = &work;
            let ranks = threads(world).into_iter();
            let running: Vec<_> = ranks.map(|rank| scope.spawn(move || work(rank))).collect();
            running.into_iter().map(|thread| thread.join()).collect()
        })
    }

    #[test]
    fn sums_have_the_same_bits_everywhere() {
        // In another order these come to another sum.
        let parts = [1e8_f32, 1.0, -1e8, 0.5];
        let expected = parts.iter().fold(0.0, |sum: f32, x| sum + x);
        let found = on_all(4, |rank| {
            let mut sums = Vec::new();
            for round in 0..100 {
                let mut values = [parts[rank.rank()], (rank.rank() * round) as f32];
                rank.sum_f32(&mut values).unwrap();
                assert_eq!(values[1], 6.0 * round as f32);
                sums.push(values[0].to_bits());
                let mut counts = [1.0, rank.rank() as f64];
                rank.sum_f64(&mut counts).unwrap();
                assert_eq!(counts, [4.0, 6.0]);
                let mut own = [rank.rank() as f32];
                rank.broadcast(2, &mut own).unwrap();
                assert_eq!(own, [2.0]);
                rank.barrier().unwrap();
            }
            sums
        });
        for sums in found {
            let sums = sums.unwrap();
            assert!(sums.iter().all(|&sum| sum == expected.to_bits()));
        }
    }

    #[test]
    fn parts_have_one_owner() {
        for world in 1..5 {
            let ranks = threads(world);
            for part in 0..21 {
                let owners = ranks.iter().filter(|rank| rank.owns(part)).count();
                assert_eq!(owners, 1);
            }
            assert_eq!(ranks.iter().filter(|rank| rank.leads()).count(), 1);
        }
    }

    #[test]
    fn rows_are_gathered_from_their_owners() {
        let row = |i: usize| vec![i as f32 + 0.5; 1 + i % 3];
        let expected: Vec<Vec<f32>> = (0..21).map(row).collect();
        let found = on_all(2, |rank| {
            let own = |i: usize| if rank.owns(i) { row(i) } else { Vec::new() };
            let mut rows: Vec<Vec<f32>> = (0..21).map(own).collect();
            crate::collective::gather(&rank, &mut rows).unwrap();
            rows
        });
        for rows in found {
            assert_eq!(rows.unwrap(), expected);
        }
    }

    #[test]
    fn a_rank_that_fails_ends_the_waiting_of_all() {
        // It says why, panics, or just ends.
        for way in 0..3 {
            let found = on_all(3, |rank| {
                if rank.rank() == 1 {
                    match way {
                        0 => rank.fail("its disk is full"),
                        1 => panic!("step 3"),
                        _ => {}
                    }
                    return Ok(());
                }
                rank.sum_f32(&mut [1.0])?;
                rank.barrier()
            });
            let reason = ["its disk is full", "it panicked", "it ended"][way].to_owned();
            let expected = CollectiveError::Rank { rank: 1, reason };
            for rank in [0, 2] {
                assert_eq!(found[rank].as_ref().unwrap(), &Err(expected.clone()));
            }
        }
    }

    #[test]
    fn ranks_that_call_for_different_things_are_told_so() {
        let found = on_all(2, |rank| match rank.rank() {
            0 => rank.sum_f32(&mut [0.0; 3]),
            _ => rank.sum_f32(&mut [0.0; 4]),
        });
        for error in found {
            let error = error.unwrap().unwrap_err().to_string();
            assert!(
                error.contains("3 float32") && error.contains("4 float32"),
                "{error}"
            );
        }
        let found = on_all(2, |rank| match rank.rank() {
            0 => rank.barrier(),
            _ => rank.sum_f64(&mut [0.0]),
        });
        assert!(found.into_iter().all(|error| error.unwrap().is_err()));
    }
}
