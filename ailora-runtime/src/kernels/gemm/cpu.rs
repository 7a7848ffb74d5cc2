//! Matrix products by the crate gemm, on views of faer.
//!
//! An element is summed up in the same order whatever the number of threads: they share rows and
//! columns of the result, and of the depth only parts whose number is fixed.

use std::cell::Cell;

use ailora_graph::ir::ops::matmul::{Dims, MatMul};
use faer::{MatMut, MatRef};
use gemm::{Parallelism, gemm};
use rayon::prelude::*;

use super::{few, thin};
use crate::kernels::host::Region;

/// Multiply-adds below which a product is not worth another thread.
const SERIAL: usize = 64 * 64 * 64;
/// Rows or columns of a thin result.
const THIN: usize = 16;
/// Columns of a wide result, for each of its rows.
const WIDE: usize = 4;
/// The parts of a thin result's long side, and what their widths are multiples of.
const PARTS: usize = 8;
const LANES: usize = 16;

thread_local! {
    /// The transpose of a result, for the next one.
    static TALL: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Copies the rows of what a product is then added to.
pub(super) fn copy(Dims { batch, m, n, .. }: Dims, from: Region, to: Region) {
    (0..batch * m).into_par_iter().for_each(|row| {
        // SAFETY: each row is written by one thread, and the plan keeps both apart.
        let (from, to) = unsafe {
            (
                from.read(row * from.stride(n), n),
                to.write(row * to.stride(n), n),
            )
        };
        to.copy_from_slice(from);
    });
}

/// `c = alpha op(a) op(b)`, or `c += ...`, for each matrix of the stacks.
pub(in crate::kernels) fn run(
    op: MatMul,
    dims: Dims,
    alpha: f32,
    accumulate: bool,
    [a, b, c]: [Region; 3],
) {
    let Dims {
        batch,
        m,
        n,
        k,
        batched_b,
    } = dims;
    let one = |i: usize, threads: bool| {
        // SAFETY: each product of the batch has its own part of the result, and the plan keeps it
        // apart from the operands.
        let (a, b, mut c) = unsafe {
            let stride = c.stride(n);
            (
                operand(a, i, [m, k], op.trans_a),
                operand(b, if batched_b { i } else { 0 }, [k, n], op.trans_b),
                c.matrix_mut(i * m * stride, m, n, stride),
            )
        };
        let is_few = batch == 1 && !op.trans_a && op.trans_b;
        if is_few && few::product(c.as_mut(), accumulate, alpha, a, b) {
            return;
        }
        if threads && op.trans_a && thin::product(c.as_mut(), accumulate, alpha, a, b) {
            return;
        }
        match threads {
            false => product(c, accumulate, alpha, a, b, Parallelism::None),
            true if op.trans_a && m.min(n) <= THIN => in_parts(c, accumulate, alpha, a, b),
            true if op.trans_a && WIDE * m <= n => transposed(c, accumulate, alpha, a, b),
            true => product(c, accumulate, alpha, a, b, Parallelism::Rayon(0)),
        }
    };
    if batch > 1 {
        (0..batch).into_par_iter().for_each(|i| one(i, false));
    } else {
        (0..batch).for_each(|i| one(i, m * n * k >= SERIAL));
    }
}

/// A sum over many rows with a thin result, of sizes that [`thin::product`] does not take. Left to share
/// it among threads, the library takes longer than on one; in parts of the long side, each on one
/// thread, it does not.
fn in_parts(c: MatMut<f32>, accumulate: bool, alpha: f32, a: MatRef<f32>, b: MatRef<f32>) {
    let (m, n) = (c.nrows(), c.ncols());
    let part = m.max(n).div_ceil(PARTS).next_multiple_of(LANES);
    let serial = Parallelism::None;
    if m > n {
        let parts = c.par_row_chunks_mut(part).enumerate();
        parts.for_each(|(i, c)| {
            let a = a.subrows(i * part, c.nrows());
            product(c, accumulate, alpha, a, b, serial);
        });
    } else {
        let parts = c.par_col_chunks_mut(part).enumerate();
        parts.for_each(|(i, c)| {
            let b = b.subcols(i * part, c.ncols());
            product(c, accumulate, alpha, a, b, serial);
        });
    }
}

/// A sum over many rows with a wide result, computed as the tall one that it is the transpose of: the
/// library takes up to half as long for that.
fn transposed(c: MatMut<f32>, accumulate: bool, alpha: f32, a: MatRef<f32>, b: MatRef<f32>) {
    const ROWS: usize = 16;
    const COLUMNS: usize = 256;
    let (m, n) = (c.nrows(), c.ncols());
    let mut kept = TALL.take();
    kept.resize(kept.len().max(m * n), 0.0);
    let tall = MatMut::from_row_major_slice_mut(&mut kept[..m * n], n, m);
    let (a, b) = (b.transpose(), a.transpose());
    product(tall, false, alpha, a, b, Parallelism::Rayon(0));
    let parts = c.par_row_chunks_mut(ROWS).enumerate();
    parts.for_each(|(part, mut c)| {
        // As many of its rows as stay in the first-level cache.
        for start in (0..n).step_by(COLUMNS) {
            let count = COLUMNS.min(n - start);
            let tall = &kept[start * m..(start + count) * m];
            for j in 0..c.nrows() {
                let to = c.as_mut().row_mut(j).subcols_mut(start, count);
                for (to, row) in to.iter_mut().zip(tall.chunks_exact(m)) {
                    *to = row[part * ROWS + j] + if accumulate { *to } else { 0.0 };
                }
            }
        }
    });
    TALL.set(kept);
}

/// `c = alpha a b`, or `c += ...`.
pub(in crate::kernels) fn product(
    c: MatMut<f32>,
    accumulate: bool,
    alpha: f32,
    a: MatRef<f32>,
    b: MatRef<f32>,
    parallelism: Parallelism,
) {
    let (m, n, k) = (c.nrows(), c.ncols(), a.ncols());
    assert!(
        a.nrows() == m && b.nrows() == k && b.ncols() == n,
        "the plan gives products that fit"
    );
    let old = if accumulate { 1.0 } else { 0.0 };
    // SAFETY: the views are of these sizes, and `c` is exclusive.
    unsafe {
        gemm(
            m,
            n,
            k,
            c.as_ptr_mut(),
            c.col_stride(),
            c.row_stride(),
            accumulate,
            a.as_ptr(),
            a.col_stride(),
            a.row_stride(),
            b.as_ptr(),
            b.col_stride(),
            b.row_stride(),
            old,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Matrix `i` of a stack, as `rows x columns`; transposed, it lies in memory as `columns x rows`.
///
/// # Safety
/// Nothing writes it while it is used.
unsafe fn operand<'a>(
    stack: Region,
    i: usize,
    [rows, columns]: [usize; 2],
    transposed: bool,
) -> MatRef<'a, f32> {
    let [height, width] = if transposed {
        [columns, rows]
    } else {
        [rows, columns]
    };
    let stride = stack.stride(width);
    // SAFETY: by the caller's promise.
    let matrix = unsafe { stack.matrix(i * height * stride, height, width, stride) };
    if transposed {
        matrix.transpose()
    } else {
        matrix
    }
}

#[cfg(test)]
mod tests {
    use ailora_graph::ir::{Draw, random::Key};
    use rayon::ThreadPoolBuilder;

    use super::*;

    /// A stack of matrices with gaps between their rows.
    struct Stack {
        data: Vec<f32>,
        width: usize,
        stride: usize,
    }

    impl Stack {
        fn new(key: Key, rows: usize, width: usize, gap: usize) -> Self {
            let stride = width + gap;
            let data = (0..(rows * stride) as u64).map(|i| key.normal(i) as f32);
            Self {
                data: data.collect(),
                width,
                stride,
            }
        }

        fn region(&mut self) -> Region {
            let len = self.data.len() - (self.stride - self.width).min(self.data.len());
            Region::new(&mut self.data[..len], Some(self.stride))
        }

        fn get(&self, row: usize, column: usize) -> f64 {
            f64::from(self.data[row * self.stride + column])
        }
    }

    /// Compares with a sum in float64 and leaves the gaps alone; the result.
    fn check(op: MatMul, dims: Dims, alpha: f32, accumulate: bool, gap: usize) -> Vec<u32> {
        let Dims { batch, m, n, k, .. } = dims;
        let stacks_b = if dims.batched_b { batch } else { 1 };
        let name = format!("{dims:?} {op:?} {alpha} {accumulate}");
        let key = |operand| Draw::default().key(&format!("{operand} {name}"));
        let oriented = |[rows, columns]: [usize; 2], transposed| {
            if transposed {
                [columns, rows]
            } else {
                [rows, columns]
            }
        };
        let [rows_a, width_a] = oriented([m, k], op.trans_a);
        let [rows_b, width_b] = oriented([k, n], op.trans_b);
        let mut a = Stack::new(key("a"), batch * rows_a, width_a, 5 * gap);
        let mut b = Stack::new(key("b"), stacks_b * rows_b, width_b, 3 * gap);
        let mut c = Stack::new(key("c"), batch * m, n, 2 * gap);
        let before = Stack {
            data: c.data.clone(),
            ..c
        };
        if !accumulate {
            // What is replaced is not read.
            for row in c.data.chunks_mut(c.stride) {
                row[..n].fill(f32::NAN);
            }
        }
        let regions = [a.region(), b.region(), c.region()];
        run(op, dims, alpha, accumulate, regions);
        let element = |x: &Stack, i: usize, row, column, height, transposed| {
            let [row, column] = oriented([row, column], transposed);
            x.get(i * height + row, column)
        };
        for row in 0..batch * m {
            let i = row / m;
            for column in 0..n {
                let terms = (0..k).map(|p| {
                    element(&a, i, row % m, p, rows_a, op.trans_a)
                        * element(&b, i % stacks_b, p, column, rows_b, op.trans_b)
                });
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| {
                    (sum + term, size + term.abs())
                });
                let old = if accumulate {
                    before.get(row, column)
                } else {
                    0.0
                };
                let expected = old + f64::from(alpha) * sum;
                // Each of k additions rounds a partial sum, and there are two for alpha and c.
                let rounding = f64::from(f32::EPSILON) * (k as f64 + 3.0);
                let tolerance = rounding * (old.abs() + f64::from(alpha.abs()) * size);
                let found = c.get(row, column);
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{name}: {found} at {row}, {column}, expected {expected}"
                );
            }
            let gap = row * c.stride + n..(row + 1) * c.stride;
            assert_eq!(c.data[gap.clone()], before.data[gap], "{name}: a gap");
        }
        c.data.iter().map(|x| x.to_bits()).collect()
    }

    const LAYOUTS: [MatMul; 4] = [
        MatMul {
            trans_a: false,
            trans_b: false,
        },
        MatMul {
            trans_a: false,
            trans_b: true,
        },
        MatMul {
            trans_a: true,
            trans_b: false,
        },
        MatMul {
            trans_a: true,
            trans_b: true,
        },
    ];

    fn single(m: usize, n: usize, k: usize) -> Dims {
        Dims {
            batch: 1,
            m,
            n,
            k,
            batched_b: false,
        }
    }

    #[test]
    fn products_equal_sums_in_float64() {
        let sizes = [1, 7, 15, 16, 17, 33, 400];
        for (i, &m) in sizes.iter().enumerate() {
            for (j, &n) in sizes.iter().enumerate() {
                let k = sizes[(3 * i + 5 * j) % sizes.len()];
                for op in LAYOUTS {
                    let accumulate = (i + j) % 2 == 1;
                    check(op, single(m, n, k), 1.0, accumulate, i % 2);
                    check(op, single(m, n, k), -1.5, !accumulate, j % 2);
                }
            }
        }
        for op in LAYOUTS {
            for (m, n) in [(0, 3), (3, 0), (3, 4)] {
                for accumulate in [false, true] {
                    check(op, single(m, n, 0), 2.0, accumulate, 1);
                }
            }
        }
    }

    /// Wide and thin sides of the gradients of adapters, on either side of the library's limits.
    #[test]
    fn sums_with_thin_results_equal_sums_in_float64() {
        let op = MatMul {
            trans_a: true,
            trans_b: false,
        };
        for (wide, thin, k) in [
            (384, 8, 300),
            (96, 16, 131),
            (32, 23, 2048),
            (1024, 32, 128),
            (100, 8, 400),
            (64, 1, 400),
            (320, 39, 400),
            (64, 129, 400),
            (4096, 14, 130),
            (300, 70, 400),
        ] {
            for (accumulate, alpha) in [(false, 1.0), (true, -1.5)] {
                check(op, single(wide, thin, k), alpha, accumulate, 1);
                check(op, single(thin, wide, k), alpha, accumulate, 0);
            }
        }
    }

    #[test]
    fn stacks_are_multiplied_one_by_one() {
        for op in LAYOUTS {
            for batched_b in [false, true] {
                let dims = Dims {
                    batch: 3,
                    batched_b,
                    ..single(17, 9, 33)
                };
                check(op, dims, 0.5, false, 0);
                check(op, dims, 1.0, true, 0);
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        for (m, n, k) in [
            (300, 400, 384),
            (16, 384, 600),
            (384, 16, 600),
            (130, 2, 1030),
            (40, 300, 600),
        ] {
            for op in LAYOUTS {
                let bits = [1, 2, 3].map(|threads| {
                    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
                    pool.unwrap()
                        .install(|| check(op, single(m, n, k), 1.5, true, 1))
                });
                assert!(
                    bits[0] == bits[1] && bits[0] == bits[2],
                    "{m} {n} {k} {op:?}"
                );
            }
        }
    }
}
