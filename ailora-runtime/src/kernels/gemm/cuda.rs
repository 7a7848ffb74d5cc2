use ailora_graph::ir::DType;

use ailora_graph::ir::ops::matmul::{Dims, MatMul};

use crate::kernels::device::{Action, Actions, Operand, Param, Product, matrix};

/// `c = alpha op(a) op(b)`, or `c += ...`.
pub(in crate::kernels) fn product(
    op: MatMul,
    dims: Dims,
    alpha: f32,
    accumulate: bool,
    reads: &[Operand],
    to: Operand,
) -> Actions {
    let Dims {
        batch,
        m,
        n,
        k,
        batched_b,
    } = dims;
    let mut actions = Actions::default();
    let oriented = |[rows, columns]: [usize; 2], transposed| match transposed {
        true => [columns, rows],
        false => [rows, columns],
    };
    let shapes = [oriented([m, k], op.trans_a), oriented([k, n], op.trans_b)];
    // Both sides have one type, the narrower, to which the other is rounded; and so it is for a
    // narrow result, which the library makes of narrow sides only.
    let mut all = reads[..2].iter().chain([&to]);
    let narrow = all.any(|operand| operand.dtype == DType::Bf16);
    let common = if narrow { DType::Bf16 } else { DType::F32 };
    let mut side = |i: usize| {
        let [rows, width] = shapes[i];
        let (at, read) = actions.of_type(i, reads[i], common);
        let stride = read.row_stride(width);
        (matrix(at, stride, common), rows * stride)
    };
    let [a, b] = [side(0), side(1)];
    let stride = to.row_stride(n);
    let d = (matrix(Param::Write(0), stride, to.dtype), m * stride);
    let c = match reads.get(2) {
        Some(&read) => {
            let (at, read) = actions.of_type(2, read, to.dtype);
            let stride = read.row_stride(n);
            (matrix(at, stride, to.dtype), m * stride)
        }
        None => d.clone(),
    };
    let steps = [a.1, if batched_b { b.1 } else { 0 }, c.1, d.1];
    actions.list.push(Action::product(Product {
        op,
        sizes: [m, n, k],
        alpha,
        accumulate,
        operands: [a.0, b.0, c.0, d.0],
        batches: [(1, [0; 4]), (batch, steps)],
    }));
    actions
}
