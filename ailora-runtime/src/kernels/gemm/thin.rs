//! Sums over many rows of products of a wide row and a thin one: the gradients of adapters.
//!
//! The library packs both sides, which takes as long as so little arithmetic. Here the wide side is
//! read once, as it lies.

use std::{cell::Cell, ops::Range};

use faer::{MatMut, MatRef};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Threads share blocks of the wide side's columns and parts of the depth, each with a sum of its own;
/// neither depends on how many threads there are. From `PARTS` parts on, sides come from memory, where
/// fewer blocks have longer rows.
const BLOCKS: usize = 4;
const PARTS: usize = 8;
/// Rows of a part, at least.
const PART: usize = 512;
/// Rows and columns of the wide side that are gone over at a time, which stay in the first-level cache
/// for all thin columns.
const ROWS: usize = 32;
const COLUMNS: usize = 128;
/// The most thin columns: with more, packing pays.
const MOST_COLUMNS: usize = 128;
/// Registers of a wide row beside each other, and the most thin columns that they are multiplied with:
/// as many sums as fit in registers.
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
    c: MatMut<'_, f32>,
    accumulate: bool,
    alpha: f32,
    a: MatRef<'_, f32>,
    b: MatRef<'_, f32>,
) -> bool {
    let (a, depth) = (a.transpose(), b.nrows());
    let is_tall = a.ncols() > b.ncols();
    let (wide, thin) = if is_tall { (a, b) } else { (b, a) };
    let (width, count) = (wide.ncols(), thin.ncols());
    let fits = depth >= PART / 2
        && count <= MOST_COLUMNS
        && width.is_multiple_of(WIDE * LANES)
        && [wide, thin]
            .iter()
            .all(|side| side.col_stride() == 1 || side.ncols() == 1);
    if !fits {
        return false;
    }
    let [wide, thin] = [wide, thin].map(|matrix| Rows { matrix });
    let parts = (depth / PART).clamp(1, PARTS);
    let blocks = if parts < PARTS { BLOCKS } else { BLOCKS / 2 };
    let span = width.div_ceil(blocks).next_multiple_of(WIDE * LANES);
    let len = count * span;
    let mut kept = SUMS.take();
    kept.resize(kept.len().max(blocks * parts * len), 0.0);
    let c = if is_tall { c.transpose_mut() } else { c };
    let blocks = c.par_col_chunks_mut(span).enumerate();
    blocks
        .zip(kept.par_chunks_exact_mut(parts * len))
        .for_each(|((block, c), sums)| {
            let start = block * span;
            let each = sums.par_chunks_exact_mut(len).enumerate();
            each.for_each(|(part, sums)| {
                sums.fill(0.0);
                Arch::new().dispatch(Part {
                    wide,
                    thin,
                    rows: part * depth / parts..(part + 1) * depth / parts,
                    columns: start..start + c.ncols(),
                    sums,
                    span,
                });
            });
            let (total, others) = sums.split_at_mut(len);
            for other in others.chunks_exact(len) {
                total.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
            }
            store(c, accumulate, alpha, total, span);
        });
    SUMS.set(kept);
    true
}

/// `c = alpha sums`, or `c += ...`, for rows of sums that are `span` apart.
fn store(mut c: MatMut<'_, f32>, accumulate: bool, alpha: f32, sums: &[f32], span: usize) {
    let (count, width, is_wide) = (c.nrows(), c.ncols(), c.col_stride() == 1);
    let mut one = |i: usize, j: usize| {
        let old = if accumulate { c[(i, j)] } else { 0.0 };
        c[(i, j)] = alpha * sums[i * span + j] + old;
    };
    // Neighbours in memory follow each other.
    if is_wide {
        (0..count).for_each(|i| (0..width).for_each(|j| one(i, j)));
    } else {
        (0..width).for_each(|j| (0..count).for_each(|i| one(i, j)));
    }
}

/// A part of the wide side.
struct Tile {
    rows: Range<usize>,
    columns: Range<usize>,
}

/// A part of the depth, for some columns of the wide side.
struct Part<'a> {
    wide: Rows<'a>,
    thin: Rows<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    /// A row for each column of the thin side, `span` apart.
    sums: &'a mut [f32],
    span: usize,
}

impl Part<'_> {
    /// Adds what a tile comes to for thin columns from `first` on, in groups of `N`; the first of those
    /// that are left.
    #[inline(always)]
    fn groups<S: Simd, const N: usize>(&mut self, simd: S, tile: &Tile, mut first: usize) -> usize {
        let start = tile.columns.start - self.columns.start;
        while first + N <= self.thin.matrix.ncols() {
            let sums = &mut self.sums[first * self.span + start..];
            add::<S, N>(simd, self.wide, (self.thin, first), tile, (sums, self.span));
            first += N;
        }
        first
    }
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                let (last_row, last_column) = (self.rows.end, self.columns.end);
                for row in self.rows.clone().step_by(ROWS) {
                    for column in self.columns.clone().step_by(COLUMNS) {
                        let tile = Tile {
                            rows: row..last_row.min(row + ROWS),
                            columns: column..last_column.min(column + COLUMNS),
                        };
                        let first = self.groups::<S, THIN>(simd, &tile, 0);
                        let first = self.groups::<S, 4>(simd, &tile, first);
                        let first = self.groups::<S, 2>(simd, &tile, first);
                        self.groups::<S, 1>(simd, &tile, first);
                    }
                }
            },
        );
    }
}

/// Adds to `sums` what a tile comes to, for `N` thin columns from `first` on.
#[inline(always)]
fn add<S: Simd, const N: usize>(
    simd: S,
    wide: Rows,
    (thin, first): (Rows, usize),
    tile: &Tile,
    (sums, span): (&mut [f32], usize),
) {
    let step = WIDE * S::F32_LANES;
    for column in tile.columns.clone().step_by(step) {
        let at = |j: usize| j * span + column - tile.columns.start;
        let mut kept = [[simd.splat_f32s(0.0); WIDE]; N];
        for (j, kept) in kept.iter_mut().enumerate() {
            let (sums, _) = S::as_simd_f32s(&sums[at(j)..][..step]);
            kept.copy_from_slice(sums);
        }
        for row in tile.rows.clone() {
            let (x, _) = S::as_simd_f32s(&wide.row(row)[column..][..step]);
            // Loops of known length, whose sums stay in registers.
            let x: [_; WIDE] = std::array::from_fn(|i| x[i]);
            let y = thin.row(row)[first..].first_chunk::<N>();
            let y = y.unwrap_or(&[0.0; N]);
            for j in 0..N {
                let y = simd.splat_f32s(y[j]);
                for i in 0..WIDE {
                    kept[j][i] = simd.mul_add_f32s(y, x[i], kept[j][i]);
                }
            }
        }
        for (j, kept) in kept.iter().enumerate() {
            let (sums, _) = S::as_mut_simd_f32s(&mut sums[at(j)..][..step]);
            sums.copy_from_slice(kept);
        }
    }
}
