//! Elements combined along axes.

mod cpu;
mod cuda;

use ailora_graph::ir::{Op, ops::reduce::Combine, shape::broadcast_strides};

use super::{
    Node, Operation,
    device::{Actions, Operand, Target},
};
use crate::kernels::host::Call;

/// Reads a tensor's rows; writes it combined along axes of `shape` where `strides` is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// How elements are combined.
    pub combine: Combine,
    /// Dimensions of the argument.
    pub shape: Vec<usize>,
    /// Strides of the result along them.
    pub strides: Vec<usize>,
}

impl Operation for Reduce {
    fn label(&self) -> &'static str {
        "reduction"
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        match node.op {
            Op::Reduce(op) => Some(Self {
                combine: op.combine,
                shape: node.arguments[0].to_vec(),
                strides: broadcast_strides(node.shape, node.arguments[0]),
            }),
            _ => None,
        }
    }

    fn takes_gaps(&self, _: usize) -> bool {
        true
    }

    fn run(&self, call: &Call<'_>) {
        // SAFETY: nothing else uses the result meanwhile.
        let to = unsafe { call.target(0).write_all() };
        cpu::reduce(self, call.source(0), to);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::reduce(self, reads, writes)
    }
}
