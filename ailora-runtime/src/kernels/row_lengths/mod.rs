//! The lengths of the rows of a weight with adapters, of which nothing is written.

mod cpu;
mod cuda;

use ailora_graph::ir::Op;

use super::{
    Node, Operation,
    device::{Actions, Operand, Target},
    gemm::flops,
};
use crate::kernels::host::Call;

/// Reads `W` `[out, in]`, and `B` `[out, r]` and `A` `[r, in]` of each pair of factors; writes the length of
/// each row of `W + s B A + ...`.
#[derive(Clone, Debug, PartialEq)]
pub struct RowLengths {
    /// Rows and columns of `W`.
    pub shape: [usize; 2],
    /// The pairs.
    pub factors: Vec<Factors>,
}

/// A pair of factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// `s`.
    pub scale: f32,
    /// `r`.
    pub rank: usize,
}

impl Operation for RowLengths {
    fn label(&self) -> &'static str {
        "row lengths"
    }

    fn gemm_flops(&self) -> u64 {
        let [out, inner] = self.shape;
        let factors = self.factors.iter();
        factors.map(|own| flops([out, inner, own.rank])).sum()
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        let Op::RowLengths(op) = node.op else {
            return None;
        };
        let scales = op.scales.iter().zip(node.arguments[1..].chunks_exact(2));
        Some(Self {
            shape: [node.arguments[0][0], node.arguments[0][1]],
            factors: scales
                .map(|(scale, pair)| Factors {
                    scale: scale.0 as f32,
                    rank: pair[1][0],
                })
                .collect(),
        })
    }

    fn takes_gaps(&self, _: usize) -> bool {
        true
    }

    fn run(&self, call: &Call<'_>) {
        let reads: Vec<_> = (0..call.reads.len()).map(|i| call.source(i)).collect();
        // SAFETY: nothing else uses the result meanwhile.
        let to = unsafe { call.target(0).write_all() };
        cpu::row_lengths(self, &reads, to);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::row_lengths(self, reads, writes).into()
    }
}
