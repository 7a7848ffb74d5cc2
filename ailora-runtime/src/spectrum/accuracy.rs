use super::dense::product;
use faer::MatRef;

/// How well vectors and values fit the definition of singular triplets.
///
/// `residual` alone would not do: after a Rayleigh-Ritz step one of the two equations holds by
/// construction, so both are measured, and vectors that repeat each other satisfy both, so
/// orthonormality is measured too. Together they say that the triplets belong to a matrix within
/// `residual` of this one, whatever the method that found them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// `max_i max(|W v_i - s_i u_i|, |W^T u_i - s_i v_i|)` divided by a lower bound of the largest
    /// singular value: the root mean square of all singular values or `s_1`, whichever is larger.
    pub residual: f64,
    /// The largest entry of `|U^T U - I|` and `|V^T V - I|`.
    pub orthonormality: f64,
}

impl Accuracy {
    /// Measures `u: [rows, k]`, `s: [k]`, `v: [cols, k]` against `w: [rows, cols]`.
    pub(super) fn measure(
        w: MatRef<'_, f64>,
        u: MatRef<'_, f64>,
        s: &[f64],
        v: MatRef<'_, f64>,
    ) -> Self {
        let (right, left) = (product(w, v), product(w.transpose(), u));
        Self::from_images((right.as_ref(), left.as_ref()), u, s, v, w.norm_l2())
    }

    /// Measures from `W V`, `W^T U` and the Frobenius norm of `W`.
    pub(crate) fn from_images(
        (right, left): (MatRef<'_, f64>, MatRef<'_, f64>),
        u: MatRef<'_, f64>,
        s: &[f64],
        v: MatRef<'_, f64>,
        norm: f64,
    ) -> Self {
        let sides = nan_max([residual(right, u, s), residual(left, v, s)].into_iter());
        let mean = norm / (u.nrows().min(v.nrows()) as f64).sqrt();
        let scale = s.iter().copied().fold(mean, f64::max);
        Self {
            residual: if scale > 0.0 { sides / scale } else { sides },
            orthonormality: nan_max([departure(u), departure(v)].into_iter()),
        }
    }

    /// Whether both measures are within `tolerance`; never true of NaN.
    pub fn within(&self, tolerance: f64) -> bool {
        self.residual <= tolerance && self.orthonormality <= tolerance
    }
}

impl std::fmt::Display for Accuracy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "residual {:.1e}, orthonormality {:.1e}",
            self.residual, self.orthonormality
        )
    }
}

/// `max_i |image_i - s_i x_i|`.
fn residual(image: MatRef<'_, f64>, x: MatRef<'_, f64>, s: &[f64]) -> f64 {
    let columns = image.col_iter().zip(x.col_iter()).zip(s);
    nan_max(columns.map(|((image, x), s)| {
        image
            .iter()
            .zip(x.iter())
            .map(|(a, b)| (a - s * b).powi(2))
            .sum::<f64>()
            .sqrt()
    }))
}

/// The largest entry of `|Q^T Q - I|`.
fn departure(q: MatRef<'_, f64>) -> f64 {
    let gram = product(q.transpose(), q);
    nan_max((0..gram.ncols()).flat_map(|j| {
        let gram = &gram;
        (0..gram.nrows()).map(move |i| (gram[(i, j)] - f64::from(u8::from(i == j))).abs())
    }))
}

/// A maximum that NaN wins, unlike [`f64::max`].
fn nan_max(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |max, x| if x > max || x.is_nan() { x } else { max })
}
