//! Singular triplets of weights: what adapters start from and what `spectrum` shows.
//!
//! Everything is computed in f64: in f32 the subspaces of a 1024 x 1024 Gaussian matrix are off by
//! 1e-4. A matrix whose smaller dimension is at most about [`Options::exact_up_to`] is decomposed
//! in full; beyond that a truncated method computes the wanted end only. Every result is checked
//! against its matrix ([`Accuracy`]), and a truncated one that misses [`Options::tolerance`] is
//! computed again in full.
//!
//! The same matrix and options give the same bits on the same machine and number of threads, with a
//! [`SpectrumCache`] or without, alone or among others.

mod accuracy;
mod batch;
mod cache;
pub(crate) mod dense;
mod error;
mod exact;
mod lanczos;
mod matrix;
mod solver;
#[cfg(test)]
mod tests;
mod triplets;
mod truncated;

pub use accuracy::Accuracy;
pub use ailora_graph::method::End;
pub use batch::{Progress, Request, triplets_of};
pub use cache::SpectrumCache;
pub use error::SpectrumError;
pub use matrix::Matrix;
pub use solver::{Columns, Solver};
pub use triplets::{Method, Triplets};

use std::sync::Arc;

use faer::{MatRef, Par};

/// How triplets are computed.
#[derive(Debug)]
pub struct Options {
    /// Up to this smaller dimension a matrix is decomposed in full: truncated methods gain nothing
    /// below about 1024. The limit holds for up to 48 triplets and grows in proportion beyond.
    /// Where the wanted triplets are too large a share of all for a truncated method, the matrix is
    /// decomposed in full at any size.
    pub exact_up_to: usize,
    /// What [`Accuracy`] must stay within. A residual of 1e-10 leaves the part a set of triplets
    /// spans within 1e-6 of the largest singular value when the next one is as close as 1e-4 of it;
    /// f64 reaches 1e-13 to 1e-15.
    pub tolerance: f64,
    /// Where results are kept.
    pub cache: Option<SpectrumCache>,
    /// What decomposes large matrices, if not the processor.
    pub solver: Option<Arc<dyn Solver>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            exact_up_to: 1024,
            tolerance: 1e-10,
            cache: None,
            solver: None,
        }
    }
}

/// The `k` outermost singular triplets of `matrix` at `end`.
///
/// # Errors
/// [`SpectrumError::Rank`] unless `1 <= k <= min(rows, cols)`; [`SpectrumError::NoConvergence`] and
/// [`SpectrumError::Inaccurate`] if the full decomposition fails.
pub fn triplets(
    matrix: &Matrix<'_>,
    end: End,
    k: usize,
    options: &Options,
) -> Result<Triplets, SpectrumError> {
    let limit = matrix.rank_limit();
    if k == 0 || k > limit {
        return Err(SpectrumError::Rank {
            site: matrix.site().to_owned(),
            k,
            rows: matrix.rows(),
            cols: matrix.cols(),
        });
    }
    // Rounded up, so that nearby ranks share a cached result. Neither this nor the method depends
    // on what is cached, so a result read back has the bits of one computed.
    let rounded = k.next_multiple_of(16);
    let full = in_full(matrix, rounded, options);
    let computed = if full { rounded.max(64) } else { rounded }.min(limit);
    let key = options
        .cache
        .as_ref()
        .map(|cache| (cache, cache.key(matrix, options)));
    if let Some(found) = key
        .as_ref()
        .and_then(|(cache, key)| cache.read(key, matrix, end, computed))
    {
        return Ok(found.outermost(end, k));
    }

    if let Some(found) = elsewhere(matrix, end, rounded.min(limit), options) {
        if let Some((cache, key)) = &key {
            cache.write(key, end, &found);
        }
        return Ok(found.outermost(end, k));
    }
    let (widened, par) = (matrix.widened(), parallelism(matrix));
    let w = MatRef::from_row_major_slice(&widened, matrix.rows(), matrix.cols());
    let result = if full {
        let svd = exact::decompose(matrix, w, par)?;
        let select = |end| exact::select(matrix, w, &svd, (end, computed), Method::Exact, options);
        // The other end costs next to nothing now and a full decomposition later.
        if let Some((cache, key)) = &key {
            let other = if end == End::Principal {
                End::Minor
            } else {
                End::Principal
            };
            if let Ok(triplets) = select(other) {
                cache.write(key, other, &triplets);
            }
        }
        select(end)?
    } else {
        truncated_or_exact(matrix, w, end, computed, options, par)?
    };
    if let Some((cache, key)) = &key {
        cache.write(key, end, &result);
    }
    Ok(result.outermost(end, k))
}

/// What the solver finds, if there is one and it finds it well enough.
fn elsewhere(matrix: &Matrix<'_>, end: End, k: usize, options: &Options) -> Option<Triplets> {
    let solver = options.solver.as_ref()?;
    if matrix.rank_limit() < solver::SMALLEST {
        return None;
    }
    let why = match solver.triplets(matrix, end, k) {
        Ok(found) if found.accuracy.within(solver::TOLERANCE) => {
            let u = MatRef::from_column_major_slice(&found.u, matrix.rows(), k);
            let v = MatRef::from_column_major_slice(&found.v, matrix.cols(), k);
            return Some(Triplets {
                residual: found.accuracy.residual,
                ..Triplets::from_columns(u, &found.s, v, Method::Gram)
            });
        }
        Ok(found) => found.accuracy.to_string(),
        Err(why) => why,
    };
    tracing::warn!(site = matrix.site(), why, "decomposed by the processor");
    None
}

/// All singular values of `matrix`, in non-increasing order.
///
/// # Errors
/// [`SpectrumError::NoConvergence`].
pub fn spectrum(matrix: &Matrix<'_>) -> Result<Vec<f64>, SpectrumError> {
    let widened = matrix.widened();
    let w = MatRef::from_row_major_slice(&widened, matrix.rows(), matrix.cols());
    dense::singular_values(w, parallelism(matrix)).ok_or_else(|| SpectrumError::NoConvergence {
        site: matrix.site().to_owned(),
    })
}

/// Whether a full decomposition is the method of choice for `k` triplets of `matrix`.
fn in_full(matrix: &Matrix<'_>, k: usize, options: &Options) -> bool {
    /// Beyond as many triplets, the size at which truncated methods begin to win grows in
    /// proportion.
    const FEW: usize = 48;
    let limit = matrix.rank_limit();
    limit <= options.exact_up_to.saturating_mul(k.max(FEW)) / FEW
        || !lanczos::fits(matrix.rows(), matrix.cols(), k)
}

fn truncated_or_exact(
    matrix: &Matrix<'_>,
    w: MatRef<'_, f64>,
    end: End,
    k: usize,
    options: &Options,
    par: Par,
) -> Result<Triplets, SpectrumError> {
    let (method, found) = match end {
        End::Principal => (Method::Lanczos, truncated::principal(w, k)),
        End::Minor => (Method::InverseLanczos, truncated::minor(w, k, par)),
    };
    let reached = found
        .as_ref()
        .map(|t| Accuracy::measure(w, t.u.as_ref(), &t.s, t.v.as_ref()));
    if let (Some(found), Some(reached)) = (found, reached)
        && reached.within(options.tolerance)
    {
        let triplets = Triplets::from_columns(found.u.as_ref(), &found.s, found.v.as_ref(), method);
        return Ok(Triplets {
            residual: reached.residual,
            ..triplets
        });
    }
    let why = reached.map_or_else(
        || "singular to rounding".to_owned(),
        |reached| reached.to_string(),
    );
    tracing::debug!(
        site = matrix.site(),
        ?method,
        k,
        why,
        "truncated method failed, decomposing in full"
    );
    exact::select(
        matrix,
        w,
        &exact::decompose(matrix, w, par)?,
        (end, k),
        Method::Fallback,
        options,
    )
}

/// Whether a matrix is best decomposed on one thread, beside others.
fn is_small(matrix: &Matrix<'_>) -> bool {
    matrix.rows() * matrix.cols() <= 1024 * 2048
}

/// The threads of one decomposition. It depends on the shape alone, as the bits of the result
/// depend on it.
fn parallelism(matrix: &Matrix<'_>) -> Par {
    if is_small(matrix) {
        Par::Seq
    } else {
        Par::rayon(0)
    }
}
