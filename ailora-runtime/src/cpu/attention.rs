//! Attention, a head of a sequence at a time, whose scores fit in cache. The backward pass computes
//! the probabilities again instead of keeping them.

use std::cell::RefCell;

use ailora_graph::ir::{
    Draw,
    ops::attention::{Attention, Dims},
    random::{Key, drop_threshold},
};
use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use pulp::{Arch, WithSimd};
use rayon::prelude::*;

use super::{memory::Region, rows};

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
    q: Region,
    k: Region,
    v: Region,
    mask: &'a [f32],
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
    fn part(&self, x: Region, b: usize, h: usize, rows: usize) -> MatRef<'a, f32> {
        let stride = x.stride(self.d.heads * self.d.depth);
        let start = b * rows * stride + h * self.d.depth;
        // SAFETY: the plan keeps what attention writes apart from what it reads.
        unsafe { x.matrix(start, rows, self.d.depth, stride) }
    }

    /// The probabilities of a head, before dropout: `[queries, keys]`.
    fn probabilities(&self, b: usize, h: usize, keys: usize, scores: &mut [f32]) {
        let d = self.d;
        matmul(
            MatMut::from_row_major_slice_mut(&mut *scores, d.queries, keys),
            Accum::Replace,
            self.part(self.q, b, h, d.queries),
            self.part(self.k, b, h, d.keys).subrows(0, keys).transpose(),
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
unsafe fn target<'a>(out: Region, (b, h): (usize, usize), d: Dims, rows: usize) -> MatMut<'a, f32> {
    let stride = out.stride(d.heads * d.depth);
    // SAFETY: by the caller's promise; other heads lie in the gaps between the rows.
    unsafe { out.matrix_mut(b * rows * stride + h * d.depth, rows, d.depth, stride) }
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
    heads.for_each(1, |b, h, keys, scratch| {
        // SAFETY: each head is handled once.
        let mut out = unsafe { target(out, (b, h), d, d.queries) };
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
            MatRef::from_row_major_slice(scores, d.queries, keys),
            heads.part(heads.v, b, h, d.keys).subrows(0, keys),
            1.0,
            Par::Seq,
        );
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
    heads.for_each(2, |b, h, keys, scratch| {
        let gradient = |i: usize| {
            // SAFETY: each head is handled once, and the gradients lie apart.
            out[i].map(|out| unsafe { target(out, (b, h), d, rows[i]) })
        };
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
        let part = |x, rows| heads.part(x, b, h, rows);
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
            let dropped = MatRef::from_row_major_slice(ds, d.queries, keys);
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
        let ds = MatRef::from_row_major_slice(ds, d.queries, keys);
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
