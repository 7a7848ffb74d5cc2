//! The largest numbers of rows.

mod cpu;
mod cuda;

use ailora_graph::ir::Op;

use super::{
    Node, Operation,
    device::{Actions, Operand, Target},
    host::Call,
    last,
};

/// Reads rows; writes the largest of each with their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Top {
    /// Width of a row.
    pub width: usize,
    /// How many.
    pub count: usize,
}

impl Operation for Top {
    fn label(&self) -> &'static str {
        "largest"
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        match node.op {
            Op::Top(op) => Some(Self {
                width: last(node.arguments[0]),
                count: op.count,
            }),
            _ => None,
        }
    }

    fn run(&self, call: &Call<'_>) {
        // SAFETY: nothing else uses the result meanwhile.
        let to = unsafe { call.target(0).write_all() };
        cpu::top(*self, call.read(0), to);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::top(*self, reads, writes)
    }
}
