//! Elements moved between strided places, as transposes, slices and paddings are.

mod cpu;
mod cuda;

use super::{
    Operation,
    device::{Actions, Operand, Target},
};
use crate::kernels::host::Call;

/// Reads a tensor; writes its elements elsewhere, over zeros if they do not fill the result: element `i` of
/// `shape` goes from `from · i + from_start` to `to · i + to_start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Dimensions of what is moved.
    pub shape: Vec<usize>,
    /// Strides of the source.
    pub from: Vec<usize>,
    /// First element of the source.
    pub from_start: usize,
    /// Strides of the destination.
    pub to: Vec<usize>,
    /// First element of the destination.
    pub to_start: usize,
    /// Whether the destination is zeroed before.
    pub clear: bool,
}

impl Copy {
    /// All elements of `shape`, from strides to strides.
    pub(crate) fn between(shape: &[usize], from: Vec<usize>, to: Vec<usize>) -> Self {
        Self {
            shape: shape.to_vec(),
            from,
            from_start: 0,
            to,
            to_start: 0,
            clear: false,
        }
    }
}

impl Operation for Copy {
    fn label(&self) -> &'static str {
        "copy"
    }

    fn run(&self, call: &Call<'_>) {
        cpu::copy(self, call.source(0), call.target(0));
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::copy(self, reads, writes)
    }
}
