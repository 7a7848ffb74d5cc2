//! Elements of rows by id, a matrix at a time, as relative positions want them; and the gradient.

mod cpu;
mod cuda;

use ailora_graph::ir::{Op, ops::take_along};

use super::{IdRange, host::Call};
use super::{
    Node, Operation,
    device::{Actions, Operand, Target},
    last,
};

/// Reads matrices and ids `[s, t]`, the same for all; writes the elements `[s, t]` of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeAlong {
    /// Which row of a matrix is read for which place.
    pub op: take_along::TakeAlong,
    /// Columns of a matrix and of the ids.
    pub widths: [usize; 2],
}

/// Reads ids `[s, t]` and elements; writes matrices of their sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeAlongGrad {
    /// Which row of a matrix is added to for which place.
    pub op: take_along::TakeAlong,
    /// Columns of a matrix and of the ids.
    pub widths: [usize; 2],
}

const LABEL: &str = "relative positions";

/// How many elements a matrix has of which as many ids, at least one, choose.
fn matrix(op: take_along::TakeAlong, [width, columns]: [usize; 2], ids: usize) -> usize {
    width
        * if op.transposed {
            columns
        } else {
            ids / columns.max(1)
        }
}

impl Operation for TakeAlong {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        match node.op {
            Op::TakeAlong(op) => Some(Self {
                op: *op,
                widths: [last(node.arguments[0]), last(node.arguments[1])],
            }),
            _ => None,
        }
    }

    fn ids(node: &Node<'_>) -> Option<(usize, IdRange)> {
        matches!(node.op, Op::TakeAlong(_)).then(|| (1, IdRange::below(last(node.arguments[0]))))
    }

    fn run(&self, call: &Call<'_>) {
        // SAFETY: nothing else uses the result meanwhile.
        let to = unsafe { call.target(0).write_all() };
        cpu::Places::new(self.op, self.widths, call.ids(1)).take(call.read(0), to);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::take_along(*self, reads, writes).into()
    }
}

impl Operation for TakeAlongGrad {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        match node.op {
            Op::TakeAlongGrad(op) => Some(Self {
                op: op.forward,
                widths: [op.width, last(node.arguments[0])],
            }),
            _ => None,
        }
    }

    fn ids(node: &Node<'_>) -> Option<(usize, IdRange)> {
        match node.op {
            Op::TakeAlongGrad(grad) => Some((0, IdRange::below(grad.width))),
            _ => None,
        }
    }

    fn run(&self, call: &Call<'_>) {
        // SAFETY: nothing else uses the result meanwhile.
        let to = unsafe { call.target(0).write_all() };
        cpu::Places::new(self.op, self.widths, call.ids(0)).add(call.read(1), to);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::take_along_grad(*self, reads, writes)
    }
}
