//! Products of few rows by a matrix whose rows lie along the depth, as a token's step has them: the matrix
//! is read once, as it lies, and that is all the time that it takes.

use faer::{MatMut, MatRef};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// The most rows: with more, packing pays.
const MOST: usize = 8;
/// Elements of the matrix that a thread goes over at a time.
const PART: usize = 1 << 15;
/// Sums beside each other, so that one need not wait for the last.
const BESIDE: usize = 4;

/// `c = alpha a b`, or `c += ...`; false if this is not the way to compute it.
pub(super) fn product(
    mut c: MatMut<'_, f32>,
    accumulate: bool,
    alpha: f32,
    a: MatRef<'_, f32>,
    b: MatRef<'_, f32>,
) -> bool {
    let b = b.transpose();
    let (rows, depth) = (a.nrows(), a.ncols());
    let lies_along = |matrix: MatRef<'_, f32>| matrix.col_stride() == 1 && matrix.row_stride() > 0;
    if !(1..=MOST).contains(&rows) || depth == 0 || !lies_along(a) || !lies_along(b) {
        return false;
    }
    let mut left = [&[][..]; MOST];
    for (i, row) in left.iter_mut().enumerate().take(rows) {
        *row = slice(a, i);
    }
    let part = (PART / depth).max(1);
    let parts = c.as_mut().par_col_chunks_mut(part).enumerate();
    parts.for_each(|(i, c)| {
        let right = b.subrows(i * part, c.ncols());
        Arch::new().dispatch(Part {
            c,
            accumulate,
            alpha,
            left: &left[..rows],
            right,
        });
    });
    true
}

fn slice(matrix: MatRef<'_, f32>, i: usize) -> &[f32] {
    let row = matrix.row(i);
    // SAFETY: its elements are side by side, as `product` has seen.
    unsafe { std::slice::from_raw_parts(row.as_ptr(), row.ncols()) }
}

/// Some columns of the result.
struct Part<'a, 'b> {
    c: MatMut<'a, f32>,
    accumulate: bool,
    alpha: f32,
    left: &'b [&'b [f32]],
    right: MatRef<'b, f32>,
}

impl WithSimd for Part<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                let mut first = 0;
                while first < self.left.len() {
                    first = match self.left.len() - first {
                        1 => self.rows::<S, 1, BESIDE>(simd, first),
                        2 | 3 => self.rows::<S, 2, 2>(simd, first),
                        _ => self.rows::<S, 4, 1>(simd, first),
                    };
                }
            },
        );
    }
}

impl Part<'_, '_> {
    /// `N` rows from `first` on, with `M` sums of each; the first of those behind them.
    #[inline(always)]
    fn rows<S: Simd, const N: usize, const M: usize>(&mut self, simd: S, first: usize) -> usize {
        let left: [&[f32]; N] = std::array::from_fn(|i| self.left[first + i]);
        for j in 0..self.c.ncols() {
            let sums = dots::<S, N, M>(simd, left, slice(self.right, j));
            for (i, sum) in sums.into_iter().enumerate() {
                let to = &mut self.c[(first + i, j)];
                *to = self.alpha * sum + if self.accumulate { *to } else { 0.0 };
            }
        }
        first + N
    }
}

/// The products of `N` rows with one, each of `M` sums of every `M`th register.
#[inline(always)]
fn dots<S: Simd, const N: usize, const M: usize>(
    simd: S,
    left: [&[f32]; N],
    right: &[f32],
) -> [f32; N] {
    let (right, right_tail) = S::as_simd_f32s(right);
    let split = left.map(|row| S::as_simd_f32s(row));
    let mut sums = [[simd.splat_f32s(0.0); M]; N];
    let whole = right.len() / M * M;
    for at in (0..whole).step_by(M) {
        for m in 0..M {
            for n in 0..N {
                sums[n][m] = simd.mul_add_f32s(split[n].0[at + m], right[at + m], sums[n][m]);
            }
        }
    }
    for (at, &x) in right.iter().enumerate().skip(whole) {
        for n in 0..N {
            sums[n][0] = simd.mul_add_f32s(split[n].0[at], x, sums[n][0]);
        }
    }
    std::array::from_fn(|n| {
        let [first, others @ ..] = &sums[n][..] else {
            return 0.0;
        };
        let sum = others.iter().fold(*first, |sum, x| simd.add_f32s(sum, *x));
        let tail = split[n].1.iter().zip(right_tail);
        simd.reduce_sum_f32s(sum) + tail.map(|(a, b)| a * b).sum::<f32>()
    })
}
