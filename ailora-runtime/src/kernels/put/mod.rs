//! Rows put into a state at ids, in its place.

mod cuda;

use ailora_graph::ir::{Op, ops::loss::IGNORED};

use super::{
    IdRange, Node, Operation,
    device::{Actions, Operand, Target},
    host::Call,
    last,
};

/// Reads the state, rows and ids; writes the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// Width of a row.
    pub width: usize,
}

/// The argument that is rows, which may have gaps between them.
const ROWS: usize = 1;

impl Operation for Put {
    fn label(&self) -> &'static str {
        "cache"
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        matches!(node.op, Op::Put(_)).then(|| Self {
            width: last(node.shape),
        })
    }

    fn ids(node: &Node<'_>) -> Option<(usize, IdRange)> {
        let range = || IdRange {
            limit: node.shape[..2].iter().product(),
            ignorable: true,
        };
        matches!(node.op, Op::Put(_)).then(|| (2, range()))
    }

    fn takes_gaps(&self, argument: usize) -> bool {
        argument == ROWS
    }

    fn is_in_place(&self) -> bool {
        true
    }

    fn run(&self, call: &Call<'_>) {
        let (rows, to) = (call.source(ROWS), call.target(0));
        for (row, &id) in call.ids(2).iter().enumerate() {
            if id == IGNORED {
                continue;
            }
            // SAFETY: nothing else uses the state meanwhile, and rows are no part of it.
            let (row, to) = unsafe {
                (
                    rows.read(row * rows.stride(self.width), self.width),
                    to.write(id as usize * self.width, self.width),
                )
            };
            to.copy_from_slice(row);
        }
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::put(self.width, reads, writes).into()
    }
}
