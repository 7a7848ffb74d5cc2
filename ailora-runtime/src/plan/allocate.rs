//! Places in the arena: buffers that are alive at the same time never overlap.

use super::{
    Buffer, Plan,
    lower::{Kind, Lowered},
};

/// Buffers start at multiples of this many elements, a cache line.
const ALIGNMENT: usize = 16;

/// A buffer's demand on the arena.
struct Lifetime {
    buffer: usize,
    len: usize,
    /// Times of the first write and the last access; inputs are written before time 0.
    first: usize,
    last: usize,
}

/// Gives every buffer its place: the largest first, each as low as what lives beside it allows
/// (Pisarchyk & Lee, 2020, greedy by size).
pub(super) fn allocate(lowered: Lowered) -> Plan {
    let mut lifetimes: Vec<Lifetime> = lowered
        .buffers
        .iter()
        .enumerate()
        .filter(|(_, storage)| !matches!(storage.kind, Kind::Parameter(_)))
        .map(|(buffer, storage)| Lifetime {
            buffer,
            len: storage.len.next_multiple_of(ALIGNMENT),
            first: if storage.kind == Kind::Input {
                0
            } else {
                usize::MAX
            },
            last: 0,
        })
        .collect();
    let mut index = vec![None; lowered.buffers.len()];
    for (i, lifetime) in lifetimes.iter().enumerate() {
        index[lifetime.buffer] = Some(i);
    }
    for (time, step) in lowered.steps.iter().enumerate() {
        for view in step.reads.iter().chain(&step.writes) {
            if let Some(i) = index[view.buffer] {
                let lifetime = &mut lifetimes[i];
                lifetime.first = lifetime.first.min(time);
                lifetime.last = lifetime.last.max(time);
            }
        }
    }
    for (view, _) in lowered.outputs.values() {
        if let Some(i) = index[view.buffer] {
            lifetimes[i].last = usize::MAX;
        }
    }
    lifetimes.sort_by_key(|lifetime| (std::cmp::Reverse(lifetime.len), lifetime.first));

    let mut placed: Vec<(usize, Lifetime)> = Vec::new();
    let mut arena_len = 0;
    for lifetime in lifetimes {
        let mut beside: Vec<(usize, usize)> = placed
            .iter()
            .filter(|(_, other)| other.first <= lifetime.last && lifetime.first <= other.last)
            .map(|(start, other)| (*start, *start + other.len))
            .collect();
        beside.sort_unstable();
        let mut start = 0;
        for (from, to) in beside {
            if start + lifetime.len <= from {
                break;
            }
            start = start.max(to);
        }
        arena_len = arena_len.max(start + lifetime.len);
        placed.push((start, lifetime));
    }

    let mut starts = vec![0; lowered.buffers.len()];
    for (start, lifetime) in placed {
        starts[lifetime.buffer] = start;
    }
    let buffers = lowered
        .buffers
        .into_iter()
        .zip(starts)
        .map(|(storage, start)| match storage.kind {
            Kind::Parameter(name) => Buffer::Parameter {
                name,
                len: storage.len,
            },
            Kind::Input | Kind::Value => Buffer::Arena {
                start,
                len: storage.len,
            },
        })
        .collect();
    Plan {
        steps: lowered.steps,
        buffers,
        inputs: lowered.inputs,
        outputs: lowered.outputs,
        arena_len,
        parameters: lowered.parameters,
    }
}
