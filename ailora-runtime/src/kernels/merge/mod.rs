//! Adapters added to the weights that they lie beside, once in a step.

mod cpu;
mod cuda;

use ailora_graph::ir::{
    Op,
    ops::merge::{self, Update},
};

use super::{
    Node, Operation,
    device::{Actions, Operand, Target},
    gemm::flops,
};
use crate::kernels::host::Call;

/// Reads a pack; writes it with its adapters in its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// The operation.
    pub op: merge::Merge,
    /// The pack's rows and columns.
    pub shape: [usize; 2],
}

impl Operation for Merge {
    fn label(&self) -> &'static str {
        "matrix product"
    }

    fn products(&self) -> usize {
        self.op.updates.len()
    }

    fn gemm_flops(&self) -> u64 {
        self.op.updates.iter().map(Update::sizes).map(flops).sum()
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        match node.op {
            Op::Merge(op) => Some(Self {
                op: op.clone(),
                shape: [node.arguments[0][0], node.arguments[0][1]],
            }),
            _ => None,
        }
    }

    fn run(&self, call: &Call<'_>) {
        cpu::merge(&self.op, self.shape, call.source(0), call.target(0));
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::merge(&self.op, self.shape, reads, writes)
    }
}
