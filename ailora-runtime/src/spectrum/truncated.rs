//! The outermost triplets of a large matrix at a fraction of a full decomposition's cost.
//!
//! Principal triplets lead the matrix itself. Minor ones lead the inverse of its triangular factor:
//! `W = Q R`, and the largest singular values of `R^-T` are the reciprocals of the smallest of `W`,
//! with the same right vectors. Either way [`lanczos`] supplies a basis, which
//! [`refine`] turns into triplets of the matrix itself.

use super::dense::{Qr, ThinSvd, product, solve_upper, solve_upper_transposed, thin_svd};
use super::lanczos::{self, Operator};
use faer::{Mat, MatRef, Par};

/// The `k` principal triplets of `w`, to be checked; `None` if numbers overflowed.
pub(super) fn principal(w: MatRef<'_, f64>, k: usize) -> Option<ThinSvd> {
    Some(select(&refine(&Itself(w), w, k)?, 0, k))
}

/// The `k` minor triplets of `w`, to be checked; `None` if `w` is singular to rounding or numbers
/// overflowed.
pub(super) fn minor(w: MatRef<'_, f64>, k: usize, par: Par) -> Option<ThinSvd> {
    if w.nrows() < w.ncols() {
        let ThinSvd { u, s, v } = minor(w.transpose(), k, par)?;
        return Some(ThinSvd { u: v, s, v: u });
    }
    let qr = Qr::new(w, par)?;
    let refined = refine(&InverseTranspose(qr.triangle()), qr.triangle(), k)?;
    let inner = select(&refined, refined.s.len() - k, k);
    Some(ThinSvd {
        u: qr.apply_q(inner.u.as_ref(), par),
        ..inner
    })
}

/// Triplets of `matrix` in the spaces that lead `operator`. One step of subspace iteration from the
/// Lanczos vectors comes first: what rounding mixed into one of them from outside, the operator
/// damps, and what it mixed in from a more leading one, the orthonormalisation in order removes.
fn refine(operator: &impl Operator, matrix: MatRef<'_, f64>, k: usize) -> Option<ThinSvd> {
    let v = lanczos::leading_basis(operator, k)?;
    let left = lanczos::orthonormal(operator.apply(v.as_ref()))?;
    let right = lanczos::orthonormal(operator.apply_transpose(left.as_ref()))?;
    let core = product(left.transpose(), product(matrix, right.as_ref()).as_ref());
    let ThinSvd { u, s, v } = thin_svd(core.as_ref(), Par::Seq)?;
    Some(ThinSvd {
        u: product(left.as_ref(), u.as_ref()),
        s,
        v: product(right.as_ref(), v.as_ref()),
    })
}

fn select(all: &ThinSvd, first: usize, k: usize) -> ThinSvd {
    ThinSvd {
        u: all.u.subcols(first, k).to_owned(),
        s: all.s[first..first + k].to_vec(),
        v: all.v.subcols(first, k).to_owned(),
    }
}

/// A matrix as an operator.
struct Itself<'a>(MatRef<'a, f64>);

impl Operator for Itself<'_> {
    fn apply(&self, x: MatRef<'_, f64>) -> Mat<f64> {
        product(self.0, x)
    }

    fn apply_transpose(&self, x: MatRef<'_, f64>) -> Mat<f64> {
        product(self.0.transpose(), x)
    }

    fn shape(&self) -> (usize, usize) {
        self.0.shape()
    }
}

/// `R^-T` for an upper triangular `R`.
struct InverseTranspose<'a>(MatRef<'a, f64>);

impl Operator for InverseTranspose<'_> {
    fn apply(&self, x: MatRef<'_, f64>) -> Mat<f64> {
        let mut x = x.to_owned();
        solve_upper_transposed(self.0, &mut x);
        x
    }

    fn apply_transpose(&self, x: MatRef<'_, f64>) -> Mat<f64> {
        let mut x = x.to_owned();
        solve_upper(self.0, &mut x);
        x
    }

    fn shape(&self) -> (usize, usize) {
        self.0.shape()
    }
}
