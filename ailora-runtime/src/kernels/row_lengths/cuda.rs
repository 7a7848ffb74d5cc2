use super::RowLengths;
use crate::kernels::device::{
    Operand, Param, Source,
    text::{BLOCK, BUSY, Constants, VECTOR, aligned, grid, index, number},
};

/// Reads every weight once: a block forms some rows, in registers, and sums their squares.
pub(super) fn row_lengths(op: &RowLengths, reads: &[Operand], writes: &[Operand]) -> Source {
    let [out, inner] = op.shape;
    let (weight, factors) = (reads[0], &reads[1..]);
    let pairs = op.factors.iter().zip(factors.chunks_exact(2));
    let is_aligned = |operand: &Operand, width: usize| {
        aligned([operand.view.start, operand.row_stride(width), width])
    };
    let downs = factors.iter().skip(1).step_by(2);
    let wide = downs.chain([&weight]);
    let whole = wide.clone().all(|operand| is_aligned(operand, inner));
    let n = if whole { VECTOR } else { 1 };
    // Rows of a block share what they read of `A`, where there are rows enough for a device.
    let rows = [8, 4, 2].into_iter().find(|rows| out / rows >= BUSY / 2);
    let rows = rows.unwrap_or(1);
    let listed: Vec<String> = pairs
        .enumerate()
        .map(|(i, (own, pair))| {
            let [up, down] = [pair[0], pair[1]];
            let deep = is_aligned(&up, own.rank);
            format!(
                "{i}, {}, {}, {}, {}, {}, {}, {}",
                up.dtype.kernel_name(),
                down.dtype.kernel_name(),
                number(own.scale),
                own.rank,
                if deep { VECTOR } else { 1 },
                up.row_stride(own.rank),
                down.row_stride(inner),
            )
        })
        .collect();
    let span = reads.iter().map(|operand| operand.view.span()).max();
    let block = inner.div_ceil(n).next_multiple_of(32).clamp(32, BLOCK);
    Constants::default()
        .elements("W", &weight)
        .elements("Y", &writes[0])
        .ty("Index", index(span.unwrap_or(0) + BLOCK * VECTOR))
        .counts([
            ("OUT", out),
            ("COLUMNS", inner),
            ("STRIDE", weight.row_stride(inner)),
            ("ROWS", rows),
            ("N", n),
        ])
        .list("PAIRS", &listed)
        .kernel(
            include_str!("row_lengths.cu"),
            (0..reads.len()).map(Param::Read).chain([Param::Write(0)]),
            grid(out.div_ceil(rows)),
            block,
        )
}
