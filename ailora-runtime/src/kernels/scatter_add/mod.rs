//! Sums of rows by id, as gradients of embeddings are.

mod cpu;
mod cuda;

use ailora_graph::ir::Op;

use super::{IdRange, host::Call};
use super::{
    Node, Operation,
    device::{Actions, Operand, Target},
};

/// Reads ids and rows; writes a table of their sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScatterAdd {
    /// Width of a row.
    pub width: usize,
}

impl Operation for ScatterAdd {
    fn label(&self) -> &'static str {
        "embedding"
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        matches!(node.op, Op::EmbeddingGrad(_)).then(|| Self {
            width: node.shape[1],
        })
    }

    fn ids(node: &Node<'_>) -> Option<(usize, IdRange)> {
        match node.op {
            Op::EmbeddingGrad(grad) => Some((0, IdRange::below(grad.rows))),
            _ => None,
        }
    }

    fn run(&self, call: &Call<'_>) {
        // SAFETY: nothing else uses the result meanwhile.
        let to = unsafe { call.target(0).write_all() };
        cpu::scatter_add(self.width, call.ids(0), call.read(1), to);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::scatter_add(self.width, reads, writes)
    }
}
