use super::{Accuracy, End, Matrix};

/// Decomposes matrices elsewhere than on the processor.
///
/// What it finds is checked as everything is; where it fails, the processor decomposes the matrix.
pub trait Solver: std::fmt::Debug + Send + Sync {
    /// The `k` triplets of `matrix` at `end`, outermost last at [`End::Minor`].
    ///
    /// # Errors
    /// Why there are none, for the log.
    fn triplets(&self, matrix: &Matrix<'_>, end: End, k: usize) -> Result<Columns, String>;
}

/// Triplets with their vectors as columns, column-major.
#[derive(Clone, Debug)]
pub struct Columns {
    /// `[rows, k]`
    pub u: Vec<f64>,
    /// `[k]`, in non-increasing order.
    pub s: Vec<f64>,
    /// `[cols, k]`
    pub v: Vec<f64>,
    /// How well they fit the matrix.
    pub accuracy: Accuracy,
}

/// What the triplets of a solver must stay within: they become float32 factors, which round at 6e-8.
pub(super) const TOLERANCE: f64 = 1e-8;
/// Below this smaller dimension the processor is as fast.
pub(super) const SMALLEST: usize = 512;
