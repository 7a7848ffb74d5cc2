//! Matrix products.

pub(in crate::kernels) mod cpu;
pub(in crate::kernels) mod cuda;
mod few;
mod thin;

use ailora_graph::ir::ops::matmul::{Dims, MatMul};

use super::{
    Operation,
    device::{Actions, Operand, Target},
};
use crate::kernels::host::Call;

/// `c = alpha op(a) op(b)`, or `c += ...`. Reads `a`, `b` and, if it lies elsewhere, what the product is
/// added to; writes `c`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// Which sides are transposed.
    pub op: MatMul,
    /// The sizes.
    pub dims: Dims,
    /// The factor on the product.
    pub alpha: f32,
    /// Whether the product is added to something: what `c` holds, or the third read.
    pub accumulate: bool,
}

/// Multiply-add operations of a product, times two.
pub(in crate::kernels) fn flops([m, n, k]: [usize; 3]) -> u64 {
    2 * (m * n * k) as u64
}

impl Operation for Gemm {
    fn label(&self) -> &'static str {
        "matrix product"
    }

    fn products(&self) -> usize {
        1
    }

    fn gemm_flops(&self) -> u64 {
        let Dims { batch, m, n, k, .. } = self.dims;
        batch as u64 * flops([m, n, k])
    }

    fn takes_gaps(&self, _: usize) -> bool {
        true
    }

    fn run(&self, call: &Call<'_>) {
        if call.reads.len() > 2 {
            cpu::copy(self.dims, call.source(2), call.target(0));
        }
        let operands = [call.source(0), call.source(1), call.target(0)];
        cpu::run(self.op, self.dims, self.alpha, self.accumulate, operands);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::product(
            self.op,
            self.dims,
            self.alpha,
            self.accumulate,
            reads,
            writes[0],
        )
    }
}
