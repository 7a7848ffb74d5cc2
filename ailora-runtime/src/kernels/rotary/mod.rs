//! Rotary positions: the heads of rows rotated by angles.

mod cpu;
mod cuda;

use ailora_graph::ir::Op;

use super::{
    Node, Operation,
    device::{Actions, Operand, Target},
};
use crate::kernels::host::Call;

/// Reads vectors, cosines and sines; writes the rotated vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotary {
    /// Width of a row of the vectors.
    pub width: usize,
    /// Half the width of a head.
    pub half: usize,
}

impl Operation for Rotary {
    fn label(&self) -> &'static str {
        "rotary positions"
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        matches!(node.op, Op::Rotary(_)).then(|| Self {
            width: node.arguments[0][2],
            half: node.arguments[1][2],
        })
    }

    fn takes_gaps(&self, argument: usize) -> bool {
        argument == 0
    }

    fn is_in_place(&self) -> bool {
        true
    }

    fn run(&self, call: &Call<'_>) {
        let angles = [call.read(1), call.read(2)];
        cpu::rotary(*self, call.source(0), angles, call.target(0));
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::rotary(*self, reads, writes).into()
    }
}
