use rayon::prelude::*;

use super::CachedAttention;
use crate::kernels::host::Region;

/// Multiply-adds of a thread, at least.
const SERIAL: usize = 1 << 16;
/// Numbers that are added up beside each other.
const LANES: usize = 16;

/// A head of a query at a time.
pub(super) fn forward(
    kernel: CachedAttention,
    q: Region,
    [k, v]: [&[f32]; 2],
    table: &[i32],
    counts: &[i32],
    to: Region,
) {
    let CachedAttention {
        op,
        batch,
        queries,
        depth,
        longest,
    } = kernel;
    let (width, kv_width) = (kernel.width(), kernel.kv_width());
    let scale = op.scale.0 as f32;
    let heads = 0..batch * queries * op.heads;
    let counted = counts
        .iter()
        .map(|&count| usize::try_from(count).unwrap_or(0));
    let work = counted.max().unwrap_or(0).max(1) * depth;
    let heads = heads.into_par_iter().with_min_len(SERIAL / work.max(1));
    heads.for_each_init(Vec::new, |scores, at| {
        let (row, head) = (at / op.heads, at % op.heads);
        let count = usize::try_from(counts[row]).unwrap_or(0).min(longest);
        let places = &table[row / queries * longest..][..count];
        let from = head / kernel.group() * depth;
        let of = |x: &'_ [f32], place: i32| -> std::ops::Range<usize> {
            let start = place as usize * kv_width + from;
            debug_assert!(start + depth <= x.len());
            start..start + depth
        };
        // SAFETY: the plan keeps what is read apart from the result, of which each head is written once.
        let (q, y) = unsafe {
            (
                q.read(row * q.stride(width) + head * depth, depth),
                to.write(row * to.stride(width) + head * depth, depth),
            )
        };
        y.fill(0.0);
        scores.clear();
        scores.extend(places.iter().map(|&place| scale * dot(q, &k[of(k, place)])));
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for (score, &place) in scores.iter().zip(places) {
            let p = (score - largest).exp();
            sum += p;
            for (y, v) in y.iter_mut().zip(&v[of(v, place)]) {
                *y += p * v;
            }
        }
        if sum > 0.0 {
            y.iter_mut().for_each(|y| *y /= sum);
        }
    });
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.chunks(LANES), b.chunks(LANES));
    let mut sums = [0.0; LANES];
    for (a, b) in a.zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}
