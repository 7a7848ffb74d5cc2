//! Sums over many rows of products of a wide row and a thin one: the gradients of adapters.
//!
//! The library packs both sides, which takes as long as so little arithmetic. Here the wide side is
//! read once, as it lies.

use std::cell::Cell;

use faer::{MatMut, MatRef};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// The parts of the depth, each with a sum of its own, whatever the threads.
const PARTS: usize = 8;
/// Rows that are gone over at a time, which then stay in the first-level cache.
const ROWS: usize = 16;
/// The most elements of a result: the sums of a part stay in the second-level cache.
const MOST: usize = 32 * 1024;
/// Registers of a wide row beside each other, by thin columns that they are multiplied with: as many
/// sums as fit in registers.
const WIDE: usize = 2;
const THIN: usize = 8;
/// Elements of the widest registers.
const LANES: usize = 16;

thread_local! {
    /// The sums of all parts, for the next product.
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// A matrix whose rows lie apart.
#[derive(Clone, Copy)]
struct Rows<'a> {
    matrix: MatRef<'a, f32>,
}

impl<'a> Rows<'a> {
    fn row(self, i: usize) -> &'a [f32] {
        let row = self.matrix.row(i);
        // SAFETY: its elements are side by side, as `product` has seen.
        unsafe { std::slice::from_raw_parts(row.as_ptr(), row.ncols()) }
    }
}

/// `c = alpha a b`, or `c += ...`, where both sides have their rows along the depth; false if this is
/// not the way to compute it.
pub(super) fn product(
    mut c: MatMut<'_, f32>,
    accumulate: bool,
    alpha: f32,
    a: MatRef<'_, f32>,
    b: MatRef<'_, f32>,
) -> bool {
    let (a, depth) = (a.transpose(), b.nrows());
    let is_tall = a.ncols() > b.ncols();
    let (wide, thin) = if is_tall { (a, b) } else { (b, a) };
    let (width, count) = (wide.ncols(), thin.ncols());
    let fits = depth >= PARTS * ROWS
        && width * count <= MOST
        && width.is_multiple_of(WIDE * LANES)
        && count.is_multiple_of(THIN)
        && [wide, thin].iter().all(|side| side.col_stride() == 1);
    if !fits {
        return false;
    }
    let [wide, thin] = [wide, thin].map(|matrix| Rows { matrix });
    let mut kept = SUMS.take();
    kept.resize(kept.len().max(PARTS * count * width), 0.0);
    let sums = &mut kept[..PARTS * count * width];
    let parts = sums.par_chunks_exact_mut(count * width).enumerate();
    parts.for_each(|(part, sums)| {
        sums.fill(0.0);
        let rows = part * depth / PARTS..(part + 1) * depth / PARTS;
        Arch::new().dispatch(Part {
            wide,
            thin,
            rows,
            sums,
        });
    });
    let (first, others) = sums.split_at_mut(count * width);
    for part in others.chunks_exact(count * width) {
        first.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    for (i, sums) in first.chunks_exact(width).enumerate() {
        for (j, sum) in sums.iter().enumerate() {
            let to = if is_tall {
                &mut c[(j, i)]
            } else {
                &mut c[(i, j)]
            };
            *to = alpha * sum + if accumulate { *to } else { 0.0 };
        }
    }
    SUMS.set(kept);
    true
}

/// A part of the depth.
struct Part<'a> {
    wide: Rows<'a>,
    thin: Rows<'a>,
    rows: std::ops::Range<usize>,
    /// A row for each column of the thin side.
    sums: &'a mut [f32],
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                let width = self.wide.matrix.ncols();
                for start in self.rows.clone().step_by(ROWS) {
                    let rows = start..self.rows.end.min(start + ROWS);
                    let groups = self.sums.chunks_exact_mut(THIN * width);
                    for (group, sums) in groups.enumerate() {
                        add(
                            simd,
                            self.wide,
                            (self.thin, THIN * group),
                            rows.clone(),
                            sums,
                        );
                    }
                }
            },
        );
    }
}

/// Adds to `sums` what some rows come to, for the thin columns from `first` on.
#[inline(always)]
fn add<S: Simd>(
    simd: S,
    wide: Rows,
    (thin, first): (Rows, usize),
    rows: std::ops::Range<usize>,
    sums: &mut [f32],
) {
    let width = wide.matrix.ncols();
    let step = WIDE * S::F32_LANES;
    for column in (0..width).step_by(step) {
        let mut kept = [[simd.splat_f32s(0.0); WIDE]; THIN];
        for (j, kept) in kept.iter_mut().enumerate() {
            let (sums, _) = S::as_simd_f32s(&sums[j * width + column..][..step]);
            kept.copy_from_slice(sums);
        }
        for row in rows.clone() {
            let (x, _) = S::as_simd_f32s(&wide.row(row)[column..][..step]);
            // Loops of known length, whose sums stay in registers.
            let x: [_; WIDE] = std::array::from_fn(|i| x[i]);
            let y = thin.row(row)[first..].first_chunk::<THIN>();
            let y = y.unwrap_or(&[0.0; THIN]);
            for j in 0..THIN {
                let y = simd.splat_f32s(y[j]);
                for i in 0..WIDE {
                    kept[j][i] = simd.mul_add_f32s(y, x[i], kept[j][i]);
                }
            }
        }
        for (j, kept) in kept.iter().enumerate() {
            let (sums, _) = S::as_mut_simd_f32s(&mut sums[j * width + column..][..step]);
            sums.copy_from_slice(kept);
        }
    }
}
