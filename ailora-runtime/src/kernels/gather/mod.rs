//! The rows of a table at ids, as embeddings are.

mod cpu;
mod cuda;

use ailora_graph::ir::Op;

use super::{IdRange, host::Call};
use super::{
    Node, Operation,
    device::{Actions, Operand, Target},
};

/// Reads a table and ids; writes the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gather {
    /// Width of a row.
    pub width: usize,
}

impl Operation for Gather {
    fn label(&self) -> &'static str {
        "embedding"
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        matches!(node.op, Op::Embedding(_)).then(|| Self {
            width: node.arguments[0][1],
        })
    }

    fn ids(node: &Node<'_>) -> Option<(usize, IdRange)> {
        matches!(node.op, Op::Embedding(_)).then(|| (1, IdRange::below(node.arguments[0][0])))
    }

    fn run(&self, call: &Call<'_>) {
        // SAFETY: nothing else uses the result meanwhile.
        let to = unsafe { call.target(0).write_all() };
        cpu::gather(self.width, call.read(0), call.ids(1), to);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::gather(self.width, reads, writes).into()
    }
}
