//! Attention: in fused kernels where they take its shapes and types, else as products with a softmax
//! between them.

mod flash;
mod products;
mod softmax;

use ailora_graph::ir::ops::attention::{Attention, Dims};

use crate::kernels::device::{Actions, Operand, Target};

/// An attention, and what it reads: `q, k, v, mask`, for the backward pass `dy`, then the biases of
/// those of the first three that have one.
#[derive(Clone, Copy)]
pub(in crate::kernels::attention) struct Task<'a> {
    op: &'a Attention,
    dims: Dims,
    biases: [bool; 3],
    reads: &'a [Operand],
}

impl<'a> Task<'a> {
    pub fn new(op: &'a Attention, dims: Dims, biases: [bool; 3], reads: &'a [Operand]) -> Self {
        Self {
            op,
            dims,
            biases,
            reads,
        }
    }

    /// The read that is the bias of operand `i`, if there is one, where biases come from `first` on.
    fn bias(&self, i: usize, first: usize) -> Option<usize> {
        let before = self.biases.iter().take(i).filter(|has| **has).count();
        let has = self.biases.get(i).copied().unwrap_or(false);
        has.then_some(first + before)
    }
}

/// The forward pass writes the output.
pub(in crate::kernels::attention) fn forward(
    task: Task<'_>,
    to: Operand,
    target: Target,
) -> Actions {
    flash::forward(task, to, target).unwrap_or_else(|| products::forward(task, to))
}

/// The backward pass writes the wanted gradients.
pub(in crate::kernels::attention) fn backward(
    task: Task<'_>,
    wants: [bool; 3],
    writes: &[Operand],
    target: Target,
) -> Actions {
    flash::backward(task, wants, writes, target)
        .unwrap_or_else(|| products::backward(task, wants, writes))
}
