//! Sums of outer products of rows, as adapters' gradients are.

mod cuda;

use ailora_graph::ir::ops::matmul::{Dims, MatMul};

use super::{
    Operation,
    device::{Actions, Operand, Target},
    gemm::{self, flops},
};
use crate::kernels::host::Call;

/// `c = alpha a^T b` for several pairs `a`, `b` of so many rows. Reads `a` and `b` of each pair; writes `c`
/// of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Outer {
    /// Rows of every `a` and `b`.
    pub depth: usize,
    /// The products.
    pub products: Vec<Product>,
}

/// One of several sums of outer products.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Columns of `a` and of `b`.
    pub shape: [usize; 2],
    /// The factor on the product.
    pub alpha: f32,
}

/// `a^T b`.
const OP: MatMul = MatMul {
    trans_a: true,
    trans_b: false,
};

impl Product {
    /// Its sizes as one of matrices.
    fn dims(&self, depth: usize) -> Dims {
        let [m, n] = self.shape;
        Dims {
            batch: 1,
            m,
            n,
            k: depth,
            batched_b: false,
        }
    }
}

impl Operation for Outer {
    fn label(&self) -> &'static str {
        "matrix product"
    }

    fn products(&self) -> usize {
        self.products.len()
    }

    fn gemm_flops(&self) -> u64 {
        let each = self.products.iter();
        each.map(|p| flops([p.shape[0], p.shape[1], self.depth]))
            .sum()
    }

    fn takes_gaps(&self, _: usize) -> bool {
        true
    }

    fn run(&self, call: &Call<'_>) {
        for (i, product) in self.products.iter().enumerate() {
            let operands = [call.source(2 * i), call.source(2 * i + 1), call.target(i)];
            let dims = product.dims(self.depth);
            gemm::cpu::run(OP, dims, product.alpha, false, operands);
        }
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], target: Target) -> Actions {
        cuda::outer(self.depth, &self.products, reads, writes, target)
    }
}
