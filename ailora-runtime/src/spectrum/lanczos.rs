//! Thick-restart block Golub-Kahan-Lanczos bidiagonalisation with full reorthogonalisation (Golub,
//! Luk and Overton 1981; Baglama and Reichel 2005): a basis of the space of an operator's
//! leading right singular vectors.
//!
//! A step applies the operator and its transpose to one block, orthogonalises the images against
//! everything held and appends them, keeping `A V = P B` and `A^T P = V B^T + N F E^T`, where `N`
//! is the next block and `E` picks the last columns. With `B = X S Y^T`, the triplets `(P x_i, s_i,
//! V y_i)` fulfil the first equation exactly and miss the second by `|F E^T x_i|`, so convergence
//! is read from small matrices. At capacity the leading triplets are kept as the new bases and `N`
//! follows them, which preserves both equations.
//!
//! A block has more columns than triplets are wanted. A random block of that width meets every
//! direction of a repeated singular value that could matter, so no triplet hides behind its copies,
//! which a narrower block could miss.

use super::dense::{accumulate, product, thin_svd};
use faer::{Mat, MatMut, MatRef, Par};

/// Columns of a block beyond the triplets wanted.
const OVERSAMPLE: usize = 8;
/// Blocks held before a restart.
const CAPACITY: usize = 12;
/// Blocks kept by a restart.
const KEPT: usize = 3;
/// Convergence of a triplet: `|A^T u - s v|` relative to `s`.
const CONVERGED: f64 = 1e-13;
/// The same relative to the largest `s`: rounding forbids more.
const ROUNDING: f64 = 1e-15;

/// A linear map `R^cols -> R^rows` and its transpose, applied to blocks of columns.
pub(super) trait Operator {
    /// `A x` for `x: [cols, b]`.
    fn apply(&self, x: MatRef<'_, f64>) -> Mat<f64>;
    /// `A^T x` for `x: [rows, b]`.
    fn apply_transpose(&self, x: MatRef<'_, f64>) -> Mat<f64>;
    /// `(rows, cols)`.
    fn shape(&self) -> (usize, usize);
}

/// Whether a `rows x cols` operator has room for the bases of `k` triplets.
pub(super) fn fits(rows: usize, cols: usize, k: usize) -> bool {
    (CAPACITY + 1) * (k + OVERSAMPLE) <= rows.min(cols)
}

/// An orthonormal basis of a space that contains the `k` leading right singular vectors, a few
/// columns wider than `k`, leading directions first. It is as good as the iteration got, which the
/// caller checks. `None` if numbers overflowed.
pub(super) fn leading_basis(operator: &impl Operator, k: usize) -> Option<Mat<f64>> {
    let (rows, cols) = operator.shape();
    let block = k + OVERSAMPLE;
    let capacity = CAPACITY * block;
    // Beyond as many columns as this, applying the operator costs more than decomposing it.
    let mut blocks_left = 2 * rows.min(cols) / block;
    let mut random = Random(0);
    let (mut p, mut v) = (
        Mat::zeros(rows, capacity),
        Mat::zeros(cols, capacity + block),
    );
    let mut b = Mat::<f64>::zeros(capacity, capacity);
    let mut held = 0;
    append(&mut v, 0, random.block(cols, block), &mut random)?;
    loop {
        let end = held + block;
        let column = append(
            &mut p,
            held,
            operator.apply(v.subcols(held, block)),
            &mut random,
        )?;
        b.submatrix_mut(0, held, end, block).copy_from(&column);
        let row = append(
            &mut v,
            end,
            operator.apply_transpose(p.subcols(held, block)),
            &mut random,
        )?;
        let next = row.submatrix(end, 0, block, block);
        held = end;
        blocks_left = blocks_left.saturating_sub(1);
        if held < capacity && blocks_left > 0 {
            continue;
        }
        let small = thin_svd(b.submatrix(0, 0, held, held), Par::Seq)?;
        let missed = product(next, small.u.submatrix(held - block, 0, block, k));
        let converged = (0..k).all(|i| {
            missed.col(i).norm_l2() <= (CONVERGED * small.s[i]).max(ROUNDING * small.s[0])
        });
        let kept = |basis: &Mat<f64>, small: &Mat<f64>, count| {
            product(basis.subcols(0, held), small.subcols(0, count))
        };
        if converged || blocks_left == 0 {
            return Some(kept(&v, &small.v, block));
        }
        let keep = KEPT * block;
        let (kept_p, kept_v) = (kept(&p, &small.u, keep), kept(&v, &small.v, keep));
        let following = v.subcols(held, block).to_owned();
        p.subcols_mut(0, keep).copy_from(&kept_p);
        v.subcols_mut(0, keep).copy_from(&kept_v);
        v.subcols_mut(keep, block).copy_from(&following);
        b.fill(0.0);
        (0..keep).for_each(|i| b[(i, i)] = small.s[i]);
        held = keep;
    }
}

/// `x` with its columns made orthonormal, in order.
pub(super) fn orthonormal(x: Mat<f64>) -> Option<Mat<f64>> {
    let mut out = Mat::zeros(x.nrows(), x.ncols());
    append(&mut out, 0, x, &mut Random(1))?;
    Some(out)
}

/// Makes the columns of `x` orthonormal to each other and to the first `held` of `basis`, appends
/// them there, and returns the coefficients of the original `x` in the extended basis, `[held + b,
/// b]`. A column that depends on those before it is replaced by a random direction with coefficient
/// zero. `None` if `x` is not finite.
fn append(
    basis: &mut Mat<f64>,
    held: usize,
    mut x: Mat<f64>,
    random: &mut Random,
) -> Option<Mat<f64>> {
    /// A pass that leaves this much of every column has nothing to cancel: once more would change
    /// nothing.
    const SETTLED: f64 = 0.5;
    /// Passes at most: two do unless a replaced column happens to lie in the basis.
    const PASSES: usize = 4;

    let b = x.ncols();
    let mut coefficients = Mat::<f64>::zeros(held + b, b);
    (0..b).for_each(|j| coefficients[(held + j, j)] = 1.0);
    for _ in 0..PASSES {
        let before: Vec<f64> = x.col_iter().map(|column| column.norm_l2()).collect();
        let against = basis.subcols(0, held);
        let projection = product(against.transpose(), x.as_ref());
        accumulate(x.as_mut(), -1.0, against, projection.as_ref());
        let triangle = gram_schmidt(x.as_mut(), &before, random)?;
        let kept = (0..b)
            .map(|j| triangle[(j, j)] / before[j].max(f64::MIN_POSITIVE))
            .fold(1.0, f64::min);
        // The original is `against upper + x lower`, and this pass wrote x as `against projection +
        // x' triangle`.
        let (upper, mut lower) = coefficients.split_at_row_mut(held);
        accumulate(upper, 1.0, projection.as_ref(), lower.as_ref());
        let lower_new = product(triangle.as_ref(), lower.as_ref());
        lower.copy_from(&lower_new);
        if kept >= SETTLED {
            break;
        }
    }
    basis.subcols_mut(held, b).copy_from(&x);
    Some(coefficients)
}

/// Orthonormalises the columns of `x` in order, each twice against those before it, and returns the
/// triangular factor. A column reduced to rounding error of its length `before` becomes a random
/// one with a zero on the diagonal.
fn gram_schmidt(mut x: MatMut<'_, f64>, before: &[f64], random: &mut Random) -> Option<Mat<f64>> {
    let b = x.ncols();
    let mut triangle = Mat::<f64>::zeros(b, b);
    for j in 0..b {
        let (done, mut rest) = x.as_mut().split_at_col_mut(j);
        let mut column = rest.as_mut().col_mut(0);
        let mut dependent = false;
        loop {
            for _ in 0..2 {
                let projection = product(done.as_ref().transpose(), column.as_ref().as_mat());
                accumulate(
                    column.as_mut().as_mat_mut(),
                    -1.0,
                    done.as_ref(),
                    projection.as_ref(),
                );
                if !dependent {
                    (0..j).for_each(|i| triangle[(i, j)] += projection[(i, 0)]);
                }
            }
            let norm = column.norm_l2();
            if !norm.is_finite() {
                return None;
            }
            if norm > f64::EPSILON * before[j] || dependent && norm > 0.0 {
                triangle[(j, j)] = if dependent { 0.0 } else { norm };
                column *= faer::Scale(1.0 / norm);
                break;
            }
            dependent = true;
            column
                .as_mut()
                .iter_mut()
                .for_each(|entry| *entry = random.next());
        }
    }
    Some(triangle)
}

/// A fixed sequence of numbers spread evenly over `[-1, 1)` (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    fn block(&mut self, rows: usize, cols: usize) -> Mat<f64> {
        Mat::from_fn(rows, cols, |_, _| self.next())
    }
}
