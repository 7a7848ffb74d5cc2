use super::CachedAttention;
use crate::kernels::device::{
    Operand, Param, Source,
    text::{BLOCK, Constants, VECTOR, aligned, grid, index},
};

/// Heads of queries that a block computes together, of those that share one of keys.
const TOGETHER: usize = 8;
/// The deepest heads of which it computes as many.
const DEEP: usize = 128;

/// A block for each query and head of keys; its warps share the places.
pub(super) fn forward(kernel: CachedAttention, reads: &[Operand], writes: &[Operand]) -> Source {
    let CachedAttention { op, depth, .. } = kernel;
    let (from, to) = (
        reads[0].row_stride(kernel.width()),
        writes[0].row_stride(kernel.width()),
    );
    let starts = reads[..3].iter().chain(writes).map(|read| read.view.start);
    let n = match aligned(starts.chain([depth, from, to])) {
        true => VECTOR,
        false => 1,
    };
    let most = if depth > DEEP { TOGETHER / 4 } else { TOGETHER };
    let divides = |heads: &usize| kernel.group().is_multiple_of(*heads);
    let group = (1..=most).rev().find(divides).unwrap_or(1);
    let vectors = depth.div_ceil(n);
    let lanes = vectors.next_power_of_two().min(32);
    let rows = kernel.batch * kernel.queries;
    Constants::default()
        .elements("Q", &reads[0])
        .elements("K", &reads[1])
        .elements("V", &reads[2])
        .elements("Y", &writes[0])
        .ty("Index", index(reads[1].view.len().max(rows * from.max(to))))
        .float("SCALE", op.scale.0 as f32 * std::f32::consts::LOG2_E)
        .counts([
            ("DEPTH", depth),
            ("QUERIES", kernel.queries),
            ("LONGEST", kernel.longest),
            ("HEADS", op.heads),
            ("SHARING", kernel.group()),
            ("WIDTH", kernel.kv_width()),
            ("FROM", from),
            ("TO", to),
            ("N", n),
            ("GROUP", group),
            ("LANES", lanes),
            ("PARTS", vectors.div_ceil(lanes)),
        ])
        .kernel(
            include_str!("forward.cu"),
            (0..5).map(Param::Read).chain([Param::Write(0)]),
            grid(rows * op.heads / group),
            BLOCK,
        )
}
