//! Attention to the places of a cache that a table names.

mod cpu;
mod cuda;

use ailora_graph::ir::{Op, ops::cache};

use super::{
    IdRange, Node, Operation,
    device::{Actions, Operand, Target},
    host::Call,
};

/// Reads `q, k, v`, the table and the counts; writes the output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CachedAttention {
    /// The operation.
    pub op: cache::CachedAttention,
    /// Sequences.
    pub batch: usize,
    /// Queries a sequence.
    pub queries: usize,
    /// Width of a head.
    pub depth: usize,
    /// Places a row of the table names.
    pub longest: usize,
}

impl CachedAttention {
    /// How many heads of queries share one of keys and values.
    fn group(&self) -> usize {
        self.op.heads / self.op.kv_heads
    }

    /// Width of a row of queries.
    fn width(&self) -> usize {
        self.op.heads * self.depth
    }

    /// Width of a row of keys.
    fn kv_width(&self) -> usize {
        self.op.kv_heads * self.depth
    }
}

impl Operation for CachedAttention {
    fn label(&self) -> &'static str {
        "attention"
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        match node.op {
            Op::CachedAttention(op) => Some(Self {
                op: *op,
                batch: node.shape[0],
                queries: node.shape[1],
                depth: node.shape[2] / op.heads,
                longest: node.arguments[3][1],
            }),
            _ => None,
        }
    }

    fn ids(node: &Node<'_>) -> Option<(usize, IdRange)> {
        let places = || node.arguments[1][..2].iter().product();
        matches!(node.op, Op::CachedAttention(_)).then(|| (3, IdRange::below(places())))
    }

    fn takes_gaps(&self, argument: usize) -> bool {
        argument == 0
    }

    fn run(&self, call: &Call<'_>) {
        let cache = [call.read(1), call.read(2)];
        let (table, counts) = (call.ids(3), call.ids(4));
        cpu::forward(*self, call.source(0), cache, table, counts, call.target(0));
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::forward(*self, reads, writes).into()
    }
}
