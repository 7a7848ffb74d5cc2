use super::Accuracy;

/// Why a matrix could not be decomposed. Every variant that concerns one matrix names it by its
/// site, the parameter path the caller gave.
#[derive(Debug, thiserror::Error)]
pub enum SpectrumError {
    /// The data does not fill the stated shape.
    #[error("{site}: a {rows} x {cols} matrix has {} entries, the data has {found}", rows * cols)]
    Length {
        /// Path of the parameter.
        site: String,
        /// Stated number of rows.
        rows: usize,
        /// Stated number of columns.
        cols: usize,
        /// Entries found.
        found: usize,
    },
    /// A dimension is zero.
    #[error(
        "{site}: a {rows} x {cols} matrix has no singular values; both dimensions must be at least 1"
    )]
    Empty {
        /// Path of the parameter.
        site: String,
        /// Number of rows.
        rows: usize,
        /// Number of columns.
        cols: usize,
    },
    /// An entry is infinite or not a number.
    #[error(
        "{site}: entry [{row}, {col}] is {value}; a decomposition needs finite weights, check the file it came from"
    )]
    NonFinite {
        /// Path of the parameter.
        site: String,
        /// Row of the first such entry.
        row: usize,
        /// Its column.
        col: usize,
        /// Its value.
        value: f32,
    },
    /// More triplets were asked for than the matrix has, or none.
    #[error("{site}: rank {k} asked of a {rows} x {cols} matrix; choose a rank from 1 to {}", rows.min(cols))]
    Rank {
        /// Path of the parameter.
        site: String,
        /// Triplets asked for.
        k: usize,
        /// Number of rows.
        rows: usize,
        /// Number of columns.
        cols: usize,
    },
    /// The adapter's scale cannot be divided out of the factors.
    #[error(
        "the adapter scale is {scale}; it must be positive and finite for its factors to reproduce the chosen part of the weight"
    )]
    Scale {
        /// The scale found.
        scale: f64,
    },
    /// Even the full decomposition failed or missed the tolerance.
    #[error(
        "{site}: the full singular value decomposition missed the tolerance {tolerance:e} ({found})"
    )]
    Inaccurate {
        /// Path of the parameter.
        site: String,
        /// What was reached.
        found: Accuracy,
        /// What was asked for.
        tolerance: f64,
    },
    /// The bidiagonal iteration of the full decomposition did not converge.
    #[error("{site}: the full singular value decomposition did not converge")]
    NoConvergence {
        /// Path of the parameter.
        site: String,
    },
}
