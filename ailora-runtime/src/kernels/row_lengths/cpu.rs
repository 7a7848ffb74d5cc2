use faer::MatMut;
use gemm::Parallelism;
use pulp::{Scalar512b, Simd};
use rayon::prelude::*;

use super::RowLengths;
use crate::kernels::{
    gemm::cpu::product,
    host::{Region, rows},
};

/// Rows that are formed at a time, by one thread.
const ROWS: usize = 16;

/// Sums here are few and run in lanes that every machine has.
const LANES: Scalar512b = Scalar512b;

pub(super) fn row_lengths(op: &RowLengths, reads: &[Region], to: &mut [f32]) {
    let [_, inner] = op.shape;
    let (weight, factors) = (reads[0], &reads[1..]);
    let parts = to.par_chunks_mut(ROWS).enumerate();
    parts.for_each_init(Vec::new, |formed: &mut Vec<f32>, (part, to)| {
        let (first, count) = (part * ROWS, to.len());
        formed.clear();
        for i in first..first + count {
            // SAFETY: nothing writes it meanwhile.
            formed.extend_from_slice(unsafe { weight.read(i * weight.stride(inner), inner) });
        }
        for (own, pair) in op.factors.iter().zip(factors.chunks_exact(2)) {
            let [up, down] = [pair[0], pair[1]];
            let stride = up.stride(own.rank);
            // SAFETY: as above.
            let (b, a) = unsafe {
                (
                    up.matrix(first * stride, count, own.rank, stride),
                    down.matrix(0, own.rank, inner, down.stride(inner)),
                )
            };
            let sum = MatMut::from_row_major_slice_mut(formed, count, inner);
            product(sum, true, own.scale, b, a, Parallelism::None);
        }
        for (row, to) in formed.chunks_exact(inner.max(1)).zip(to) {
            *to = rows::sum(LANES, row, row, |x, y| LANES.mul_f32s(x, y)).sqrt();
        }
    });
}
