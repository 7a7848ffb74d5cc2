//! Attention, a head of a sequence at a time, whose scores fit in cache. The backward pass computes
//! the probabilities again instead of keeping them.
//!
//! Probabilities stay exponentials, and what would divide each of their rows goes into the far
//! narrower matrix beside them.

use std::cell::Cell;

use ailora_graph::ir::{
    Draw,
    ops::attention::{Attention, Dims},
    random::{Key, drop_threshold},
};
use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use pulp::{Arch, WithSimd};
use rayon::prelude::*;

use super::{Line, math, memory::Region};

/// What rows of scores are padded to a multiple of.
const LANES: usize = 16;

thread_local! {
    static SCRATCH: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// What a pass over all heads shares.
struct Heads<'a> {
    d: Dims,
    scale: f32,
    key: Key,
    /// Random words below this drop a probability.
    threshold: u32,
    keep: f32,
    q: Region,
    k: Region,
    v: Region,
    mask: &'a [f32],
}

/// A head of a sequence.
#[derive(Clone, Copy)]
struct Head {
    sequence: usize,
    index: usize,
    /// Keys up to the last one that is not padding.
    keys: usize,
}

/// What a thread works in on a head.
struct Scratch<'a> {
    /// Whether each key counts; not those that pad the last chunk.
    mask: &'a mut [f32],
    /// The exponentials of the scores.
    all: &'a mut [f32],
    /// The same with 0 for what dropout drops, if there is dropout.
    kept: &'a mut [f32],
    /// The gradient of the scores.
    towards: &'a mut [f32],
    /// What makes a row of `kept` the probabilities after dropout.
    factors: &'a mut [f32],
    /// The gradient of the head's output, times `factors`.
    dy: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    fn new(lines: &'a mut Vec<Line>, d: Dims, mask: &[f32]) -> Self {
        let width = mask.len().next_multiple_of(LANES);
        let scores = d.queries * width;
        let needed = width + 3 * scores + d.queries + d.queries * d.depth;
        let lines_needed = needed.div_ceil(LANES);
        if lines.len() < lines_needed {
            lines.resize(lines_needed, Line::default());
        }
        let rest: &mut [f32] = bytemuck::cast_slice_mut(lines);
        let (padded, rest) = rest.split_at_mut(width);
        let (all, rest) = rest.split_at_mut(scores);
        let (kept, rest) = rest.split_at_mut(scores);
        let (towards, rest) = rest.split_at_mut(scores);
        let (factors, rest) = rest.split_at_mut(d.queries);
        let (counts, padding) = padded.split_at_mut(mask.len());
        counts.copy_from_slice(mask);
        padding.fill(0.0);
        if width > mask.len() {
            // No product writes the padding, and it must not hold NaN.
            towards.fill(0.0);
        }
        Self {
            mask: padded,
            all,
            kept,
            towards,
            factors,
            dy: &mut rest[..d.queries * d.depth],
        }
    }
}

impl<'a> Heads<'a> {
    fn new(op: &Attention, d: Dims, [q, k, v]: [Region; 3], mask: &'a [f32], draw: Draw) -> Self {
        Self {
            d,
            scale: op.scale.0 as f32,
            key: draw.key(&op.stream),
            threshold: drop_threshold(op.dropout.0),
            keep: (1.0 / (1.0 - op.dropout.0)) as f32,
            q,
            k,
            v,
            mask,
        }
    }

    /// Calls `f` for every head.
    fn for_each(&self, f: impl Fn(Head, Scratch) + Sync) {
        let d = self.d;
        (0..d.batch * d.heads).into_par_iter().for_each(|i| {
            let (sequence, index) = (i / d.heads, i % d.heads);
            let mask = &self.mask[sequence * d.keys..][..d.keys];
            let last = mask.iter().rposition(|&m| m != 0.0);
            let keys = last.map_or(0, |last| last + 1);
            let head = Head {
                sequence,
                index,
                keys,
            };
            let mut lines = SCRATCH.take();
            f(head, Scratch::new(&mut lines, d, &mask[..keys]));
            SCRATCH.set(lines);
        });
    }

    /// A head's part of an operand of `rows` tokens a sequence.
    fn part(&self, x: Region, head: Head, rows: usize) -> MatRef<'a, f32> {
        let (start, stride) = place(x, head, self.d, rows);
        // SAFETY: the plan keeps what attention writes apart from what it reads.
        unsafe { x.matrix(start, rows, self.d.depth, stride) }
    }

    /// The keys or values of a head that are not behind the last one that counts.
    fn part_of_keys(&self, x: Region, head: Head) -> MatRef<'a, f32> {
        self.part(x, head, self.d.keys).subrows(0, head.keys)
    }

    /// Fills `all`, `kept` and `factors`.
    fn probabilities(&self, head: Head, scratch: &mut Scratch) {
        multiply(
            scores_mut(scratch.all, self.d, head),
            self.scale,
            self.part(self.q, head, self.d.queries),
            self.part_of_keys(self.k, head).transpose(),
        );
        Arch::new().dispatch(Exponentials {
            heads: self,
            head,
            scratch,
        });
    }

    /// The exponentials after dropout.
    fn kept<'s>(&self, scratch: &'s Scratch) -> &'s [f32] {
        if self.threshold == 0 {
            scratch.all
        } else {
            scratch.kept
        }
    }
}

/// Where a head's part of `rows` tokens a sequence begins, and from row to row.
fn place(x: Region, head: Head, d: Dims, rows: usize) -> (usize, usize) {
    let stride = x.stride(d.heads * d.depth);
    let start = head.sequence * rows * stride + head.index * d.depth;
    (start, stride)
}

/// A head's part of an output of `rows` tokens a sequence, to be written.
///
/// # Safety
/// Nothing else uses this head of this sequence.
unsafe fn target<'a>(out: Region, head: Head, d: Dims, rows: usize) -> MatMut<'a, f32> {
    let (start, stride) = place(out, head, d, rows);
    // SAFETY: by the caller's promise; other heads lie in the gaps between the rows.
    unsafe { out.matrix_mut(start, rows, d.depth, stride) }
}

/// Scores without their padding.
fn scores<'a>(all: &'a [f32], d: Dims, head: Head) -> MatRef<'a, f32> {
    let stride = head.keys.next_multiple_of(LANES);
    MatRef::from_row_major_slice(all, d.queries, stride).subcols(0, head.keys)
}

fn scores_mut<'a>(all: &'a mut [f32], d: Dims, head: Head) -> MatMut<'a, f32> {
    let stride = head.keys.next_multiple_of(LANES);
    MatMut::from_row_major_slice_mut(all, d.queries, stride).subcols_mut(0, head.keys)
}

/// `c = alpha a b`. On matrices this small faer is no slower than the crate gemm.
fn multiply(c: MatMut<f32>, alpha: f32, a: MatRef<f32>, b: MatRef<f32>) {
    matmul(c, Accum::Replace, a, b, alpha, Par::Seq);
}

struct Exponentials<'a, 's> {
    heads: &'a Heads<'a>,
    head: Head,
    scratch: &'a mut Scratch<'s>,
}

impl WithSimd for Exponentials<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                let Heads { d, key, .. } = *self.heads;
                let Scratch {
                    mask,
                    all,
                    kept,
                    factors,
                    ..
                } = self.scratch;
                let head = self.head.sequence * d.heads + self.head.index;
                let rows = all
                    .chunks_exact_mut(mask.len())
                    .zip(kept.chunks_exact_mut(mask.len()));
                for (i, (all, kept)) in rows.enumerate() {
                    let sum = exponentials(simd, all, mask);
                    factors[i] = self.heads.keep / sum;
                    if self.heads.threshold > 0 {
                        let position = (head * d.queries + i) * d.keys;
                        drop(key, self.heads.threshold, position as u32, all, kept);
                    }
                }
            },
        );
    }
}

/// Exponentials of a row's differences to the largest score, 0 where the mask is; their sum.
#[inline(always)]
fn exponentials<S: pulp::Simd>(simd: S, row: &mut [f32], mask: &[f32]) -> f32 {
    for (x, &mask) in row.iter_mut().zip(mask) {
        *x = if mask == 0.0 { f32::NEG_INFINITY } else { *x };
    }
    // Whether or not a maximum keeps NaN, the sum does.
    let max = fold(simd, f32::NEG_INFINITY, row, |max, x| simd.max_f32s(max, x));
    let max = simd.reduce_max_f32s(max);
    for (x, &mask) in row.iter_mut().zip(mask) {
        // The exponential of minus infinity is merely tiny.
        let exp = math::exp(*x - max);
        *x = if mask == 0.0 { 0.0 } else { exp };
    }
    simd.reduce_sum_f32s(fold(simd, 0.0, row, |sum, x| simd.add_f32s(sum, x)))
}

/// Combines the registers of a row, which is padded to whole ones.
#[inline(always)]
fn fold<S: pulp::Simd>(
    simd: S,
    start: f32,
    row: &[f32],
    f: impl Fn(S::f32s, S::f32s) -> S::f32s,
) -> S::f32s {
    let (registers, _) = S::as_simd_f32s(row);
    registers
        .iter()
        .fold(simd.splat_f32s(start), |a, &x| f(a, x))
}

/// A row with 0 for what is dropped.
#[inline(always)]
fn drop(key: Key, threshold: u32, position: u32, all: &[f32], kept: &mut [f32]) {
    for (i, (kept, &all)) in kept.iter_mut().zip(all).enumerate() {
        let dropped = key.bits(position.wrapping_add(i as u32)) < threshold;
        *kept = if dropped { 0.0 } else { all };
    }
}

/// The forward pass.
pub(super) fn forward(
    op: &Attention,
    d: Dims,
    operands: [Region; 3],
    mask: &[f32],
    out: Region,
    draw: Draw,
) {
    let heads = Heads::new(op, d, operands, mask, draw);
    heads.for_each(|head, mut scratch| {
        // SAFETY: each head is handled once.
        let mut out = unsafe { target(out, head, d, d.queries) };
        if head.keys == 0 {
            out.fill(0.0);
            return;
        }
        heads.probabilities(head, &mut scratch);
        multiply(
            out.as_mut(),
            1.0,
            scores(heads.kept(&scratch), d, head),
            heads.part_of_keys(heads.v, head),
        );
        for (row, &factor) in out.row_iter_mut().zip(&*scratch.factors) {
            if let Some(row) = row.try_as_row_major_mut() {
                row.as_slice_mut().iter_mut().for_each(|x| *x *= factor);
            }
        }
    });
}

/// The backward pass: the gradients towards `q, k, v` that are wanted.
pub(super) fn backward(
    op: &Attention,
    d: Dims,
    operands: [Region; 3],
    mask: &[f32],
    dy: Region,
    out: [Option<Region>; 3],
    draw: Draw,
) {
    let heads = Heads::new(op, d, operands, mask, draw);
    let rows = [d.queries, d.keys, d.keys];
    heads.for_each(|head, mut scratch| {
        let gradient = |i: usize| {
            // SAFETY: each head is handled once, and the gradients lie apart.
            let gradient = unsafe { target(out[i]?, head, d, rows[i]) };
            let computed = match i {
                0 if head.keys > 0 => d.queries,
                _ => head.keys,
            };
            let (gradient, mut padding) = gradient.split_at_row_mut(computed);
            padding.fill(0.0);
            Some(gradient)
        };
        let [dq, dk, dv] = [gradient(0), gradient(1), gradient(2)];
        if head.keys == 0 {
            return;
        }
        heads.probabilities(head, &mut scratch);
        let scaled = MatMut::from_row_major_slice_mut(scratch.dy, d.queries, d.depth);
        let rows = scaled
            .row_iter_mut()
            .zip(heads.part(dy, head, d.queries).row_iter());
        for ((to, from), &factor) in rows.zip(&*scratch.factors) {
            if let (Some(to), Some(from)) = (to.try_as_row_major_mut(), from.try_as_row_major()) {
                let pairs = to.as_slice_mut().iter_mut().zip(from.as_slice());
                pairs.for_each(|(to, from)| *to = factor * from);
            }
        }
        let dy = MatRef::from_row_major_slice(&*scratch.dy, d.queries, d.depth);
        if let Some(dv) = dv {
            multiply(
                dv,
                1.0,
                scores(heads.kept(&scratch), d, head).transpose(),
                dy,
            );
        }
        if dq.is_none() && dk.is_none() {
            return;
        }
        multiply(
            scores_mut(scratch.towards, d, head),
            1.0,
            dy,
            heads.part_of_keys(heads.v, head).transpose(),
        );
        Arch::new().dispatch(SoftmaxGrad {
            heads: &heads,
            scratch: &mut scratch,
        });
        let ds = scores(scratch.towards, d, head);
        if let Some(dq) = dq {
            multiply(dq, heads.scale, ds, heads.part_of_keys(heads.k, head));
        }
        if let Some(dk) = dk {
            let q = heads.part(heads.q, head, d.queries);
            multiply(dk, heads.scale, ds.transpose(), q);
        }
    });
}

struct SoftmaxGrad<'a, 's> {
    heads: &'a Heads<'a>,
    scratch: &'a mut Scratch<'s>,
}

impl WithSimd for SoftmaxGrad<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                let width = self.scratch.mask.len();
                let dropout = self.heads.threshold > 0;
                let rows = self.scratch.towards.chunks_exact_mut(width);
                for (i, towards) in rows.enumerate() {
                    let row = i * width..(i + 1) * width;
                    let all = &self.scratch.all[row.clone()];
                    let kept = if dropout {
                        &self.scratch.kept[row]
                    } else {
                        all
                    };
                    let factor = self.scratch.factors[i] / self.heads.keep;
                    softmax_grad(simd, all, kept, factor, towards);
                }
            },
        );
    }
}

/// From the gradient of a row of probabilities, times its factor, to that of the scores.
#[inline(always)]
fn softmax_grad<S: pulp::Simd>(
    simd: S,
    all: &[f32],
    kept: &[f32],
    factor: f32,
    towards: &mut [f32],
) {
    let (all, _) = S::as_simd_f32s(all);
    let (kept, _) = S::as_simd_f32s(kept);
    let (towards, _) = S::as_mut_simd_f32s(towards);
    let mut sum = simd.splat_f32s(0.0);
    for (towards, &kept) in towards.iter_mut().zip(kept) {
        *towards = simd.mul_f32s(*towards, kept);
        sum = simd.add_f32s(sum, *towards);
    }
    let mean = simd.splat_f32s(-factor * simd.reduce_sum_f32s(sum));
    for (towards, &all) in towards.iter_mut().zip(all) {
        *towards = simd.mul_add_f32s(mean, all, *towards);
    }
}
