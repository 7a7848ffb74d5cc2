//! Places in the arena: buffers that are alive at the same time never overlap.

use ailora_graph::ir::{Name, Type};
use indexmap::IndexMap;

use super::{
    Buffer, Input, Plan, Step, View,
    lower::{Kind, Lowered},
};

/// Buffers start at multiples of this many elements, a cache line.
const ALIGNMENT: usize = 16;

/// What must have a place: how large it is, and the times of its first write and last access.
#[derive(Clone, Copy, Debug)]
struct Lifetime {
    size: usize,
    first: usize,
    last: usize,
}

impl Lifetime {
    /// Of what nothing uses yet.
    fn unused(size: usize) -> Self {
        Self {
            size,
            first: usize::MAX,
            last: 0,
        }
    }

    fn include(&mut self, time: usize) {
        self.first = self.first.min(time);
        self.last = self.last.max(time);
    }
}

/// Where everything lies, the largest first, each as low as what lives beside it allows (Pisarchyk
/// & Lee, 2020, greedy by size); and how much there is in all.
fn arrange(lifetimes: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lifetimes[i].size), lifetimes[i].first));
    let mut starts = vec![0; lifetimes.len()];
    let mut total = 0;
    for (done, &i) in order.iter().enumerate() {
        let own = lifetimes[i];
        let mut beside: Vec<(usize, usize)> = order[..done]
            .iter()
            .filter(|&&other| {
                lifetimes[other].first <= own.last && own.first <= lifetimes[other].last
            })
            .map(|&other| (starts[other], starts[other] + lifetimes[other].size))
            .collect();
        beside.sort_unstable();
        let mut start = 0;
        for (from, to) in beside {
            if start + own.size <= from {
                break;
            }
            start = start.max(to);
        }
        starts[i] = start;
        total = total.max(start + own.size);
    }
    (starts, total)
}

/// When each buffer of `sizes` is used. Inputs are written before time 0, and outputs are read after
/// all.
fn lifetimes(
    sizes: impl Iterator<Item = usize>,
    inputs: &[Input],
    steps: &[Step],
    outputs: &IndexMap<Name, (View, Type)>,
) -> Vec<Lifetime> {
    let mut lifetimes: Vec<Lifetime> = sizes.map(Lifetime::unused).collect();
    for input in inputs {
        lifetimes[input.view.buffer].include(0);
    }
    for (time, step) in steps.iter().enumerate() {
        for view in step.reads.iter().chain(&step.writes) {
            lifetimes[view.buffer].include(time);
        }
    }
    for (view, _) in outputs.values() {
        lifetimes[view.buffer].last = usize::MAX;
    }
    lifetimes
}

/// Gives every buffer its place in the arena.
pub(super) fn allocate(lowered: Lowered) -> Plan {
    let Lowered {
        steps,
        buffers,
        inputs,
        outputs,
        parameters,
        states,
    } = lowered;
    let sizes = buffers.iter().map(|storage| match storage.kind {
        Kind::Parameter(_) | Kind::State(_) => 0,
        Kind::Value => storage.len.next_multiple_of(ALIGNMENT),
    });
    let (starts, arena_len) = arrange(&lifetimes(sizes, &inputs, &steps, &outputs));
    let placed = buffers.into_iter().zip(starts);
    let buffers = placed.map(|(storage, start)| match storage.kind {
        Kind::Parameter(name) => Buffer::Parameter {
            name,
            len: storage.len,
            dtype: storage.dtype,
        },
        Kind::State(name) => Buffer::State {
            name,
            len: storage.len,
            dtype: storage.dtype,
        },
        Kind::Value => Buffer::Arena {
            start,
            len: storage.len,
            dtype: storage.dtype,
        },
    });
    Plan {
        buffers: buffers.collect(),
        steps,
        inputs,
        outputs,
        arena_len,
        parameters,
        states,
    }
}

/// Places on a device whose elements are not all of one size.
#[derive(Clone, Debug)]
pub struct Places {
    /// The first byte of each buffer in the arena.
    pub buffers: Vec<usize>,
    /// The first byte of what each step works in.
    pub scratch: Vec<usize>,
    /// Bytes of the arena.
    pub bytes: usize,
}

impl Plan {
    /// Places for buffers of as many bytes, 0 for those that lie elsewhere, and for as many bytes
    /// that each step works in.
    pub fn places(&self, buffers: &[usize], scratch: &[usize]) -> Places {
        let (inputs, outputs) = (&self.inputs, &self.outputs);
        let mut all = lifetimes(buffers.iter().copied(), inputs, &self.steps, outputs);
        all.extend(scratch.iter().enumerate().map(|(time, &size)| Lifetime {
            size,
            first: time,
            last: time,
        }));
        let (mut starts, bytes) = arrange(&all);
        Places {
            scratch: starts.split_off(buffers.len()),
            buffers: starts,
            bytes,
        }
    }
}
