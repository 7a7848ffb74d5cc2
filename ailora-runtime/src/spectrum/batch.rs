use super::{End, Matrix, Options, SpectrumError, Triplets, is_small, triplets};
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One matrix of many, and what is wanted of it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The matrix.
    pub matrix: Matrix<'a>,
    /// The end of its spectrum.
    pub end: End,
    /// The number of triplets.
    pub k: usize,
}

/// A matrix has been decomposed.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Matrices done, this one included.
    pub done: usize,
    /// Matrices in all.
    pub total: usize,
    /// The path of this one.
    pub site: &'a str,
    /// Its triplets.
    pub triplets: &'a Triplets,
}

/// The triplets of many matrices, in the order of `requests`: small matrices beside each other, one
/// thread each, large ones after each other, all threads for each. With a solver all are beside each
/// other. `progress` is called from any
/// thread, in the order of completion; the results do not depend on that order.
///
/// # Errors
/// Those of [`triplets()`]; of several, the first in the order of `requests`.
pub fn triplets_of(
    requests: &[Request<'_>],
    options: &Options,
    progress: impl Fn(Progress<'_>) + Sync,
) -> Result<Vec<Triplets>, SpectrumError> {
    let done = AtomicUsize::new(0);
    let compute = |request: &Request<'_>| {
        let result = triplets(&request.matrix, request.end, request.k, options);
        if let Ok(triplets) = &result {
            let done = 1 + done.fetch_add(1, Ordering::Relaxed);
            progress(Progress {
                done,
                total: requests.len(),
                site: request.matrix.site(),
                triplets,
            });
        }
        result
    };
    let beside: Vec<_> = requests
        .par_iter()
        .map(|request| {
            let beside = options.solver.is_some() || is_small(&request.matrix);
            beside.then(|| compute(request))
        })
        .collect();
    requests
        .iter()
        .zip(beside)
        .map(|(request, small)| small.unwrap_or_else(|| compute(request)))
        .collect()
}
