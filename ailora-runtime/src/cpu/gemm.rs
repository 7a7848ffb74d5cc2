//! Matrix products by faer.

use ailora_graph::ir::ops::matmul::{Dims, MatMul};
use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;

use super::memory::Region;

/// Multiply-adds below which a product is not worth another thread.
const SERIAL: usize = 64 * 64 * 64;

/// A row-major matrix with its row stride, perhaps transposed.
pub(super) fn matrix(
    data: &[f32],
    rows: usize,
    columns: usize,
    stride: usize,
    transposed: bool,
) -> MatRef<'_, f32> {
    if transposed {
        MatRef::from_row_major_slice_with_stride(data, columns, rows, stride).transpose()
    } else {
        MatRef::from_row_major_slice_with_stride(data, rows, columns, stride)
    }
}

/// `c = alpha op(a) op(b)`, or `c += ...`, for each matrix of the stacks.
pub(super) fn run(
    op: MatMul,
    dims: Dims,
    alpha: f32,
    accumulate: bool,
    a: &[f32],
    b: &[f32],
    c: Region,
) {
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
        let a = &a[i * m * k..][..m * k];
        let b = &b[if batched_b { i * k * n } else { 0 }..][..k * n];
        // SAFETY: each product of the batch has its own part of the result.
        let c = unsafe { c.write(i * m * n, m * n) };
        matmul(
            MatMut::from_row_major_slice_mut(c, m, n),
            beta,
            matrix(a, m, k, if op.trans_a { m } else { k }, op.trans_a),
            matrix(b, k, n, if op.trans_b { k } else { n }, op.trans_b),
            alpha,
            par,
        );
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
