//! Attention, a head of a sequence at a time, whose scores fit in cache. The backward pass computes
//! the probabilities again instead of keeping them.

use std::cell::RefCell;

use ailora_graph::ir::{
    Draw,
    ops::attention::{Attention, Dims},
    random::{Key, drop_threshold},
};
use faer::{Accum, MatMut, Par, linalg::matmul::matmul};
use pulp::{Arch, WithSimd};
use rayon::prelude::*;

use super::{gemm::matrix, memory::Region, rows};

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// What a pass over all heads shares.
struct Heads<'a> {
    d: Dims,
    scale: f32,
    key: Key,
    /// Random words below this drop a probability.
    threshold: u32,
    keep: f32,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    mask: &'a [f32],
}

impl<'a> Heads<'a> {
    fn new(op: &Attention, d: Dims, reads: [&'a [f32]; 4], draw: Draw) -> Self {
        let [q, k, v, mask] = reads;
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

    /// Calls `f` for every head with its sequence, its index, how many keys are not padding behind
    /// the last one that counts, and a scratch of `matrices` score matrices.
    fn for_each(&self, matrices: usize, f: impl Fn(usize, usize, usize, &mut [f32]) + Sync) {
        let d = self.d;
        (0..d.batch * d.heads).into_par_iter().for_each(|i| {
            let (b, h) = (i / d.heads, i % d.heads);
            let mask = &self.mask[b * d.keys..][..d.keys];
            let keys = mask
                .iter()
                .rposition(|&m| m != 0.0)
                .map_or(0, |last| last + 1);
            SCRATCH.with_borrow_mut(|scratch| {
                let needed = matrices * d.queries * d.keys;
                if scratch.len() < needed {
                    scratch.resize(needed, 0.0);
                }
                f(b, h, keys, &mut scratch[..needed]);
            });
        });
    }

    /// A head's part of a tensor of `rows` tokens a sequence.
    fn part<'b>(&self, x: &'b [f32], b: usize, h: usize, rows: usize) -> &'b [f32] {
        let width = self.d.heads * self.d.depth;
        let start = b * rows * width + h * self.d.depth;
        &x[start..start + span(rows, width, self.d.depth)]
    }

    /// The probabilities of a head, before dropout: `[queries, keys]`.
    fn probabilities(&self, b: usize, h: usize, keys: usize, scores: &mut [f32]) {
        let d = self.d;
        let width = d.heads * d.depth;
        matmul(
            MatMut::from_row_major_slice_mut(&mut *scores, d.queries, keys),
            Accum::Replace,
            matrix(
                self.part(self.q, b, h, d.queries),
                d.queries,
                d.depth,
                width,
                false,
            ),
            matrix(
                self.part(self.k, b, h, d.keys),
                d.keys,
                d.depth,
                width,
                false,
            )
            .subrows(0, keys)
            .transpose(),
            self.scale,
            Par::Seq,
        );
        Arch::new().dispatch(Softmax {
            scores,
            mask: &self.mask[b * d.keys..][..keys],
        });
    }

    /// Applies dropout to a head's matrix, in place.
    fn drop(&self, b: usize, h: usize, keys: usize, matrix: &mut [f32]) {
        if self.threshold == 0 {
            return;
        }
        let d = self.d;
        for (i, row) in matrix.chunks_exact_mut(keys).enumerate() {
            let position = ((b * d.heads + h) * d.queries + i) * d.keys;
            Arch::new().dispatch(Drop {
                heads: self,
                position,
                row,
            });
        }
    }
}

/// From the first to the last element of a head's part of `rows` rows.
fn span(rows: usize, width: usize, depth: usize) -> usize {
    rows.saturating_sub(1) * width + depth
}

struct Softmax<'a> {
    scores: &'a mut [f32],
    mask: &'a [f32],
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                for row in self.scores.chunks_exact_mut(self.mask.len()) {
                    for (x, &m) in row.iter_mut().zip(self.mask) {
                        *x = if m == 0.0 { f32::NEG_INFINITY } else { *x };
                    }
                    rows::softmax(row);
                    // The exponential of minus infinity is merely tiny.
                    for (x, &m) in row.iter_mut().zip(self.mask) {
                        *x = if m == 0.0 { 0.0 } else { *x };
                    }
                }
            },
        );
    }
}

struct Drop<'a> {
    heads: &'a Heads<'a>,
    position: usize,
    row: &'a mut [f32],
}

impl WithSimd for Drop<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                let Heads {
                    key,
                    threshold,
                    keep,
                    ..
                } = *self.heads;
                for (i, x) in self.row.iter_mut().enumerate() {
                    let dropped = key.bits((self.position + i) as u32) < threshold;
                    *x *= if dropped { 0.0 } else { keep };
                }
            },
        );
    }
}

/// A head's part of an output of `rows` tokens a sequence, to be written.
///
/// # Safety
/// No other thread uses this head of this sequence.
unsafe fn target<'a>(
    out: Region,
    start: usize,
    (b, h): (usize, usize),
    d: Dims,
    rows: usize,
) -> MatMut<'a, f32> {
    let width = d.heads * d.depth;
    let start = start + b * rows * width + h * d.depth;
    // SAFETY: by the caller's promise; other heads lie in the gaps between the rows.
    unsafe { out.matrix(start, rows, d.depth, width) }
}

/// The forward pass.
pub(super) fn forward(op: &Attention, d: Dims, reads: [&[f32]; 4], out: Region, draw: Draw) {
    let heads = Heads::new(op, d, reads, draw);
    let width = d.heads * d.depth;
    heads.for_each(1, |b, h, keys, scratch| {
        // SAFETY: each head is handled once.
        let mut out = unsafe { target(out, 0, (b, h), d, d.queries) };
        if keys == 0 {
            out.fill(0.0);
            return;
        }
        let scores = &mut scratch[..d.queries * keys];
        heads.probabilities(b, h, keys, scores);
        heads.drop(b, h, keys, scores);
        matmul(
            out,
            Accum::Replace,
            matrix(scores, d.queries, keys, keys, false),
            matrix(
                heads.part(heads.v, b, h, d.keys),
                d.keys,
                d.depth,
                width,
                false,
            )
            .subrows(0, keys),
            1.0,
            Par::Seq,
        );
    });
}

/// The backward pass: the wanted ones of `dq, dk, dv`, one behind the other.
pub(super) fn backward(
    op: &Attention,
    d: Dims,
    wants: [bool; 3],
    reads: [&[f32]; 4],
    dy: &[f32],
    out: Region,
    draw: Draw,
) {
    let heads = Heads::new(op, d, reads, draw);
    let width = d.heads * d.depth;
    let rows = [d.queries, d.keys, d.keys];
    let mut starts = [0; 3];
    let mut end = 0;
    for i in (0..3).filter(|&i| wants[i]) {
        starts[i] = end;
        end += d.batch * rows[i] * width;
    }
    heads.for_each(2, |b, h, keys, scratch| {
        // SAFETY: each head is handled once, and the gradients lie behind each other.
        let gradient =
            |i: usize| wants[i].then(|| unsafe { target(out, starts[i], (b, h), d, rows[i]) });
        let [dq, dk, dv] = [gradient(0), gradient(1), gradient(2)];
        if keys == 0 {
            for mut gradient in [dq, dk, dv].into_iter().flatten() {
                gradient.fill(0.0);
            }
            return;
        }
        let size = d.queries * keys;
        let (p, rest) = scratch.split_at_mut(size);
        let ds = &mut rest[..size];
        let part = |x, rows| matrix(heads.part(x, b, h, rows), rows, d.depth, width, false);
        let (q, dy) = (part(heads.q, d.queries), part(dy, d.queries));
        let (k, v) = (
            part(heads.k, d.keys).subrows(0, keys),
            part(heads.v, d.keys).subrows(0, keys),
        );
        heads.probabilities(b, h, keys, p);
        if let Some(mut dv) = dv {
            ds.copy_from_slice(p);
            heads.drop(b, h, keys, ds);
            dv.as_mut().subrows_mut(keys, d.keys - keys).fill(0.0);
            let dropped = matrix(ds, d.queries, keys, keys, false);
            matmul(
                dv.subrows_mut(0, keys),
                Accum::Replace,
                dropped.transpose(),
                dy,
                1.0,
                Par::Seq,
            );
        }
        if dq.is_none() && dk.is_none() {
            return;
        }
        matmul(
            MatMut::from_row_major_slice_mut(&mut *ds, d.queries, keys),
            Accum::Replace,
            dy,
            v.transpose(),
            1.0,
            Par::Seq,
        );
        heads.drop(b, h, keys, ds);
        Arch::new().dispatch(SoftmaxGrad { p, ds, keys });
        let ds = matrix(ds, d.queries, keys, keys, false);
        if let Some(dq) = dq {
            matmul(dq, Accum::Replace, ds, k, heads.scale, Par::Seq);
        }
        if let Some(mut dk) = dk {
            dk.as_mut().subrows_mut(keys, d.keys - keys).fill(0.0);
            let dk = dk.subrows_mut(0, keys);
            matmul(dk, Accum::Replace, ds.transpose(), q, heads.scale, Par::Seq);
        }
    });
}

struct SoftmaxGrad<'a> {
    p: &'a [f32],
    ds: &'a mut [f32],
    keys: usize,
}

impl WithSimd for SoftmaxGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                let rows = self.p.chunks_exact(self.keys);
                for (p, ds) in rows.zip(self.ds.chunks_exact_mut(self.keys)) {
                    rows::softmax_grad(p, ds);
                }
            },
        );
    }
}
