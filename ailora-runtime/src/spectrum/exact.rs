//! The full decomposition in f64. A thin SVD rather than an eigendecomposition of `W^T W`: the Gram
//! matrix squares the condition number, and below 1e-8 of the largest singular value its minor
//! vectors are noise.

use super::dense::{ThinSvd, thin_svd};
use super::{Accuracy, End, Matrix, Method, Options, SpectrumError, Triplets};
use faer::{MatRef, Par};

/// All triplets of `w`, the widened entries of `matrix`.
pub(super) fn decompose(
    matrix: &Matrix<'_>,
    w: MatRef<'_, f64>,
    par: Par,
) -> Result<ThinSvd, SpectrumError> {
    thin_svd(w, par).ok_or_else(|| SpectrumError::NoConvergence {
        site: matrix.site().to_owned(),
    })
}

/// The `k` triplets at `end` of `svd`, checked.
pub(super) fn select(
    matrix: &Matrix<'_>,
    w: MatRef<'_, f64>,
    svd: &ThinSvd,
    (end, k): (End, usize),
    method: Method,
    options: &Options,
) -> Result<Triplets, SpectrumError> {
    let first = match end {
        End::Principal => 0,
        End::Minor => svd.s.len() - k,
    };
    let (u, v, s) = (
        svd.u.subcols(first, k),
        svd.v.subcols(first, k),
        &svd.s[first..first + k],
    );
    let found = Accuracy::measure(w, u, s, v);
    if !found.within(options.tolerance) {
        return Err(SpectrumError::Inaccurate {
            site: matrix.site().to_owned(),
            found,
            tolerance: options.tolerance,
        });
    }
    Ok(Triplets {
        residual: found.residual,
        ..Triplets::from_columns(u, s, v, method)
    })
}
