//! Attention, a head of a sequence at a time, whose scores fit in cache. The backward pass computes
//! the probabilities again instead of keeping them. Under a causal mask a head is cut into tiles of
//! queries, so that most of what is masked is not computed.
//!
//! Probabilities stay exponentials, and what would divide each of their rows goes into the far
//! narrower matrix beside them.
//!
//! Both passes are in this one file, as they share tiles, scratch memory and the probabilities.
//!
//! One long file: the backward pass computes again what the forward pass did, in the same tiles.

use std::cell::Cell;

use ailora_graph::ir::{
    Draw,
    ops::attention::{Attention, Dims},
    random::{Key, drop_threshold},
};
use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use pulp::{Arch, WithSimd};
use rayon::prelude::*;

use crate::kernels::host::{Line, Region, math};

/// What rows of scores are padded to a multiple of.
const LANES: usize = 16;
/// Queries of a tile under a causal mask.
const TILE: usize = 64;

thread_local! {
    static SCRATCH: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Queries, keys or values.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub values: Region,
    /// What is added to each row first.
    pub bias: Option<&'a [f32]>,
}

/// What a pass over all heads shares.
struct Heads<'a> {
    d: Dims,
    causal: bool,
    scale: f32,
    key: Key,
    /// Random words below this drop a probability.
    threshold: u32,
    keep: f32,
    q: Operand<'a>,
    k: Operand<'a>,
    v: Operand<'a>,
    mask: &'a [f32],
}

/// Queries of one head of a sequence that are handled together.
#[derive(Clone, Copy)]
struct Tile {
    sequence: usize,
    head: usize,
    /// The first query.
    first: usize,
    queries: usize,
    /// Keys up to the last one that any of them sees.
    keys: usize,
    /// Whether nothing was added to the gradients of its keys before; none later sees more of them.
    leads: bool,
}

/// What a thread works in on a tile.
struct Scratch<'a> {
    /// The document of each key; 0 of those that do not count, as those that pad the last chunk.
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
    /// Also room for the tile's queries, keys and values.
    fn new(
        lines: &'a mut Vec<Line>,
        queries: usize,
        depth: usize,
        mask: &[f32],
    ) -> (Self, [&'a mut [f32]; 3]) {
        let width = mask.len().next_multiple_of(LANES);
        let scores = queries * width;
        let [queries_len, keys_len] = [queries, mask.len()].map(|rows| rows * depth);
        let needed = width + 3 * scores + queries + 2 * (queries_len + keys_len);
        let lines_needed = needed.div_ceil(LANES);
        if lines.len() < lines_needed {
            lines.resize(lines_needed, Line::default());
        }
        let rest: &mut [f32] = bytemuck::cast_slice_mut(lines);
        let (padded, rest) = rest.split_at_mut(width);
        let (all, rest) = rest.split_at_mut(scores);
        let (kept, rest) = rest.split_at_mut(scores);
        let (towards, rest) = rest.split_at_mut(scores);
        let (factors, rest) = rest.split_at_mut(queries);
        let (dy, rest) = rest.split_at_mut(queries_len);
        let (q, rest) = rest.split_at_mut(queries_len);
        let (k, rest) = rest.split_at_mut(keys_len);
        let (counts, padding) = padded.split_at_mut(mask.len());
        counts.copy_from_slice(mask);
        padding.fill(0.0);
        if width > mask.len() {
            // No product writes the padding, and it must not hold NaN.
            towards.fill(0.0);
        }
        let scratch = Self {
            mask: padded,
            all,
            kept,
            towards,
            factors,
            dy,
        };
        (scratch, [q, k, &mut rest[..keys_len]])
    }
}

impl<'a> Heads<'a> {
    fn new(
        op: &Attention,
        d: Dims,
        [q, k, v]: [Operand<'a>; 3],
        mask: &'a [f32],
        draw: Draw,
    ) -> Self {
        Self {
            d,
            causal: op.causal,
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

    /// Calls `f` for every tile with its queries, keys and values; for those of `group` neighbouring
    /// heads on one thread.
    fn for_each(&self, group: usize, f: impl Fn(Tile, [MatRef<f32>; 3], Scratch) + Sync) {
        let d = self.d;
        let tile = if self.causal { TILE } else { d.queries };
        (0..d.batch * d.heads / group)
            .into_par_iter()
            .for_each(|task| {
                let (sequence, first_head) = (task * group / d.heads, task * group % d.heads);
                let mask = &self.mask[sequence * d.keys..][..d.keys];
                let counting = mask.iter().rposition(|&m| m != 0.0).map_or(0, |i| i + 1);
                let mut lines = SCRATCH.take();
                for head in first_head..first_head + group {
                    // The last queries see the most keys.
                    for first in (0..d.queries).step_by(tile).rev() {
                        let end = (first + tile).min(d.queries);
                        let keys = counting.min(self.visible(end - 1));
                        let leads = head == first_head && end == d.queries;
                        let tile = Tile {
                            sequence,
                            head,
                            first,
                            queries: end - first,
                            keys,
                            leads,
                        };
                        let mask = &mask[..keys];
                        let (scratch, room) = Scratch::new(&mut lines, end - first, d.depth, mask);
                        f(tile, self.operands(tile, room), scratch);
                    }
                }
                SCRATCH.set(lines);
            });
    }

    /// How many keys query `i` may see.
    fn visible(&self, i: usize) -> usize {
        if self.causal {
            self.d.visible(i)
        } else {
            self.d.keys
        }
    }

    /// The document whose keys alone query `i` sees; 0 if it sees those of all.
    fn document(&self, sequence: usize, i: usize) -> f32 {
        match self.visible(i).checked_sub(1) {
            Some(own) if self.causal => self.mask[sequence * self.d.keys + own],
            _ => 0.0,
        }
    }

    /// A tile's part of what is shaped as the queries.
    fn queries(&self, x: Region, tile: Tile) -> MatRef<'a, f32> {
        let (start, stride) = place_of_queries(x, tile, self.d);
        // SAFETY: the plan keeps what attention writes apart from what it reads.
        unsafe { x.matrix(start, tile.queries, self.d.depth, stride) }
    }

    /// The keys or values that a tile sees.
    fn keys(&self, x: Region, tile: Tile) -> MatRef<'a, f32> {
        let (start, stride) = place_of_keys(x, tile, self.d);
        // SAFETY: as above.
        unsafe { x.matrix(start, tile.keys, self.d.depth, stride) }
    }

    /// A tile's queries, keys and values; those with a bias, in the room given for them.
    fn operands<'s>(&self, tile: Tile, room: [&'s mut [f32]; 3]) -> [MatRef<'s, f32>; 3]
    where
        'a: 's,
    {
        let [q, k, v] = room;
        let shared = tile.head / self.d.group();
        [
            biased(self.queries(self.q.values, tile), self.q.bias, tile.head, q),
            biased(self.keys(self.k.values, tile), self.k.bias, shared, k),
            biased(self.keys(self.v.values, tile), self.v.bias, shared, v),
        ]
    }

    /// Fills `all`, `kept` and `factors`.
    fn probabilities(&self, tile: Tile, q: MatRef<f32>, k: MatRef<f32>, scratch: &mut Scratch) {
        multiply(
            scores_mut(scratch.all, tile),
            Accum::Replace,
            self.scale,
            q,
            k.transpose(),
        );
        Arch::new().dispatch(Exponentials {
            heads: self,
            tile,
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

/// A head's rows with its part of the bias, in `room`; without a bias, where they are.
fn biased<'a>(
    x: MatRef<'a, f32>,
    bias: Option<&[f32]>,
    head: usize,
    room: &'a mut [f32],
) -> MatRef<'a, f32> {
    let Some(bias) = bias else {
        return x;
    };
    let depth = x.ncols();
    Arch::new().dispatch(AddBias {
        x,
        bias: &bias[head * depth..][..depth],
        room,
    });
    MatRef::from_row_major_slice(room, x.nrows(), depth)
}

struct AddBias<'a> {
    x: MatRef<'a, f32>,
    bias: &'a [f32],
    room: &'a mut [f32],
}

impl WithSimd for AddBias<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                let (bias, bias_rest) = S::as_simd_f32s(self.bias);
                let rows = self.room.chunks_exact_mut(self.bias.len().max(1));
                for (i, to) in rows.enumerate() {
                    let Some(x) = self.x.row(i).try_as_row_major() else {
                        continue;
                    };
                    let (x, x_rest) = S::as_simd_f32s(x.as_slice());
                    let (to, to_rest) = S::as_mut_simd_f32s(to);
                    for ((to, &x), &bias) in to.iter_mut().zip(x).zip(bias) {
                        *to = simd.add_f32s(x, bias);
                    }
                    for ((to, x), bias) in to_rest.iter_mut().zip(x_rest).zip(bias_rest) {
                        *to = x + bias;
                    }
                }
            },
        );
    }
}

/// Where a tile's queries begin, and from row to row.
fn place_of_queries(x: Region, tile: Tile, d: Dims) -> (usize, usize) {
    let stride = x.stride(d.heads * d.depth);
    let row = tile.sequence * d.queries + tile.first;
    (row * stride + tile.head * d.depth, stride)
}

/// Where a tile's keys or values begin, and from row to row.
fn place_of_keys(x: Region, tile: Tile, d: Dims) -> (usize, usize) {
    let stride = x.stride(d.kv_heads * d.depth);
    let row = tile.sequence * d.keys;
    (row * stride + tile.head / d.group() * d.depth, stride)
}

/// A tile's part of an output shaped as the queries, to be written.
///
/// # Safety
/// Nothing else uses these queries of this head.
unsafe fn queries_mut<'a>(out: Region, tile: Tile, d: Dims) -> MatMut<'a, f32> {
    let (start, stride) = place_of_queries(out, tile, d);
    // SAFETY: by the caller's promise; other heads lie in the gaps between the rows.
    unsafe { out.matrix_mut(start, tile.queries, d.depth, stride) }
}

/// A head's part of an output shaped as the keys, to be written.
///
/// # Safety
/// Nothing else uses this head of this sequence.
unsafe fn keys_mut<'a>(out: Region, tile: Tile, d: Dims) -> MatMut<'a, f32> {
    let (start, stride) = place_of_keys(out, tile, d);
    // SAFETY: as above.
    unsafe { out.matrix_mut(start, d.keys, d.depth, stride) }
}

/// Scores without their padding.
fn scores(all: &[f32], tile: Tile) -> MatRef<'_, f32> {
    let stride = tile.keys.next_multiple_of(LANES);
    MatRef::from_row_major_slice(all, tile.queries, stride).subcols(0, tile.keys)
}

fn scores_mut(all: &mut [f32], tile: Tile) -> MatMut<'_, f32> {
    let stride = tile.keys.next_multiple_of(LANES);
    MatMut::from_row_major_slice_mut(all, tile.queries, stride).subcols_mut(0, tile.keys)
}

/// `c = alpha a b`, or `c += ...`. On matrices this small faer is no slower than the crate gemm.
fn multiply(c: MatMut<f32>, accum: Accum, alpha: f32, a: MatRef<f32>, b: MatRef<f32>) {
    matmul(c, accum, a, b, alpha, Par::Seq);
}

struct Exponentials<'a, 's> {
    heads: &'a Heads<'a>,
    tile: Tile,
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
                let Tile {
                    sequence,
                    first,
                    keys,
                    ..
                } = self.tile;
                let head = sequence * d.heads + self.tile.head;
                let rows = all
                    .chunks_exact_mut(mask.len())
                    .zip(kept.chunks_exact_mut(mask.len()));
                for (i, (all, kept)) in rows.enumerate() {
                    let visible = self.heads.visible(first + i).min(keys);
                    let mask = &mask[..visible];
                    let document = self.heads.document(sequence, first + i);
                    let sum = if document == 0.0 {
                        exponentials(simd, all, mask, |key| key != 0.0)
                    } else {
                        exponentials(simd, all, mask, |key| key == document)
                    };
                    // A query may see nothing.
                    factors[i] = if sum == 0.0 {
                        0.0
                    } else {
                        self.heads.keep / sum
                    };
                    if self.heads.threshold > 0 {
                        let position = (head * d.queries + first + i) * d.keys;
                        drop(key, self.heads.threshold, position as u32, all, kept);
                    }
                }
            },
        );
    }
}

/// Exponentials of a row's differences to the largest score of the keys that it sees, by their
/// documents; 0 for other keys and those behind the mask. Their sum.
#[inline(always)]
fn exponentials<S: pulp::Simd>(
    simd: S,
    row: &mut [f32],
    mask: &[f32],
    sees: impl Fn(f32) -> bool,
) -> f32 {
    row[mask.len()..].fill(f32::NEG_INFINITY);
    for (x, &mask) in row.iter_mut().zip(mask) {
        *x = if sees(mask) { *x } else { f32::NEG_INFINITY };
    }
    // Whether or not a maximum keeps NaN, the sum does.
    let max = fold(simd, f32::NEG_INFINITY, row, |max, x| simd.max_f32s(max, x));
    let max = simd.reduce_max_f32s(max);
    for (x, &mask) in row.iter_mut().zip(mask) {
        // The exponential of minus infinity is merely tiny.
        let exp = math::exp(*x - max);
        *x = if sees(mask) { exp } else { 0.0 };
    }
    row[mask.len()..].fill(0.0);
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
    operands: [Operand; 3],
    mask: &[f32],
    out: Region,
    draw: Draw,
) {
    let heads = Heads::new(op, d, operands, mask, draw);
    heads.for_each(1, |tile, [q, k, v], mut scratch| {
        // SAFETY: each tile is handled once.
        let mut out = unsafe { queries_mut(out, tile, d) };
        if tile.keys == 0 {
            out.fill(0.0);
            return;
        }
        heads.probabilities(tile, q, k, &mut scratch);
        multiply(
            out.as_mut(),
            Accum::Replace,
            1.0,
            scores(heads.kept(&scratch), tile),
            v,
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
    operands: [Operand; 3],
    mask: &[f32],
    dy: Region,
    out: [Option<Region>; 3],
    draw: Draw,
) {
    let heads = Heads::new(op, d, operands, mask, draw);
    // The heads that share keys add to the same gradients.
    heads.for_each(d.group(), |tile, [q, k, v], mut scratch| {
        // SAFETY: each tile is handled once, and the gradients lie apart.
        let dq = out[0].map(|out| unsafe { queries_mut(out, tile, d) });
        let [dk, dv] = [out[1], out[2]].map(|out| {
            // SAFETY: the tiles of one head of keys are handled on one thread.
            let gradient = unsafe { keys_mut(out?, tile, d) };
            let (seen, mut unseen) = gradient.split_at_row_mut(tile.keys);
            if tile.leads {
                unseen.fill(0.0);
            }
            Some(seen)
        });
        if tile.keys == 0 {
            if let Some(mut dq) = dq {
                dq.fill(0.0);
            }
            return;
        }
        let accum = if tile.leads {
            Accum::Replace
        } else {
            Accum::Add
        };
        heads.probabilities(tile, q, k, &mut scratch);
        let scaled = MatMut::from_row_major_slice_mut(scratch.dy, tile.queries, d.depth);
        let rows = scaled
            .row_iter_mut()
            .zip(heads.queries(dy, tile).row_iter());
        for ((to, from), &factor) in rows.zip(&*scratch.factors) {
            if let (Some(to), Some(from)) = (to.try_as_row_major_mut(), from.try_as_row_major()) {
                let pairs = to.as_slice_mut().iter_mut().zip(from.as_slice());
                pairs.for_each(|(to, from)| *to = factor * from);
            }
        }
        let dy = MatRef::from_row_major_slice(&*scratch.dy, tile.queries, d.depth);
        if let Some(dv) = dv {
            let kept = scores(heads.kept(&scratch), tile);
            multiply(dv, accum, 1.0, kept.transpose(), dy);
        }
        if dq.is_none() && dk.is_none() {
            return;
        }
        multiply(
            scores_mut(scratch.towards, tile),
            Accum::Replace,
            1.0,
            dy,
            v.transpose(),
        );
        Arch::new().dispatch(SoftmaxGrad {
            heads: &heads,
            scratch: &mut scratch,
        });
        let ds = scores(scratch.towards, tile);
        if let Some(dq) = dq {
            multiply(dq, Accum::Replace, heads.scale, ds, k);
        }
        if let Some(dk) = dk {
            multiply(dk, accum, heads.scale, ds.transpose(), q);
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
