//! Matrix products by faer.

use ailora_graph::ir::ops::matmul::{Dims, MatMul};
use faer::{Accum, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;

use super::memory::Region;

/// Multiply-adds below which a product is not worth another thread.
const SERIAL: usize = 64 * 64 * 64;

/// `c = alpha op(a) op(b)`, or `c += ...`, for each matrix of the stacks.
pub(super) fn run(op: MatMul, dims: Dims, alpha: f32, accumulate: bool, [a, b, c]: [Region; 3]) {
    let Dims {
        batch,
        m,
        n,
        k,
        batched_b,
    } = dims;
    let beta = if accumulate {
        Accum::Add
    } else {
        Accum::Replace
    };
    let one = |i: usize, par: Par| {
        // SAFETY: each product of the batch has its own part of the result, and the plan keeps it
        // apart from the operands.
        let (a, b, c) = unsafe {
            let stride = c.stride(n);
            (
                operand(a, i, [m, k], op.trans_a),
                operand(b, if batched_b { i } else { 0 }, [k, n], op.trans_b),
                c.matrix_mut(i * m * stride, m, n, stride),
            )
        };
        matmul(c, beta, a, b, alpha, par);
    };
    if batch > 1 {
        (0..batch).into_par_iter().for_each(|i| one(i, Par::Seq));
    } else {
        let par = if m * n * k < SERIAL {
            Par::Seq
        } else {
            Par::rayon(0)
        };
        (0..batch).for_each(|i| one(i, par));
    }
}

/// Matrix `i` of a stack, as `rows x columns`; transposed, it lies in memory as `columns x rows`.
///
/// # Safety
/// Nothing writes it while it is used.
unsafe fn operand<'a>(
    stack: Region,
    i: usize,
    [rows, columns]: [usize; 2],
    transposed: bool,
) -> MatRef<'a, f32> {
    let [height, width] = if transposed {
        [columns, rows]
    } else {
        [rows, columns]
    };
    let stride = stack.stride(width);
    // SAFETY: by the caller's promise.
    let matrix = unsafe { stack.matrix(i * height * stride, height, width, stride) };
    if transposed {
        matrix.transpose()
    } else {
        matrix
    }
}
