use super::{End, SpectrumError};
use faer::MatRef;
use serde::{Deserialize, Serialize};

/// How triplets were computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A full decomposition.
    Exact,
    /// Block Lanczos on the matrix.
    Lanczos,
    /// Block Lanczos on the inverse of the matrix's triangular factor.
    InverseLanczos,
    /// Eigenvectors of the Gram matrix, refined on the matrix, by a [`Solver`](super::Solver).
    Gram,
    /// A full decomposition, after a truncated method missed the tolerance.
    Fallback,
}

/// Some singular triplets of a matrix `W`: `W v_i = s_i u_i`, `W^T u_i = s_i v_i`.
///
/// Singular values are sorted in non-increasing order at both ends, so [`End::Minor`] ends with the
/// smallest. The sign of a pair is fixed by making the component of `u_i` that is largest in
/// magnitude (the first of equals) positive. Within a repeated singular value the vectors are an
/// orthonormal basis, otherwise unspecified.
#[derive(Debug, Clone, PartialEq)]
pub struct Triplets {
    /// Left singular vectors as columns, `[rows, k]`, row-major.
    pub u: Vec<f64>,
    /// Singular values, `[k]`.
    pub s: Vec<f64>,
    /// Right singular vectors as columns, `[cols, k]`, row-major.
    pub v: Vec<f64>,
    /// The largest `|W v_i - s_i u_i|` or `|W^T u_i - s_i v_i|`, relative to the largest singular
    /// value (an upper bound: see [`Accuracy`](super::Accuracy)).
    pub residual: f64,
    /// How they were computed.
    pub method: Method,
}

impl Triplets {
    /// From vectors as columns, fixing their signs.
    pub(super) fn from_columns(
        u: MatRef<'_, f64>,
        s: &[f64],
        v: MatRef<'_, f64>,
        method: Method,
    ) -> Self {
        let signs: Vec<f64> = u.col_iter().map(sign).collect();
        let row_major = |m: MatRef<'_, f64>| {
            m.row_iter()
                .flat_map(|row| (0..signs.len()).map(move |j| row[j]))
                .collect()
        };
        let signed = |m: MatRef<'_, f64>| {
            let mut flat: Vec<f64> = row_major(m);
            for row in flat.chunks_exact_mut(signs.len()) {
                row.iter_mut().zip(&signs).for_each(|(x, sign)| *x *= sign);
            }
            flat
        };
        // A vanishing singular value may come out with either sign.
        let s = s.iter().map(|s| s.max(0.0)).collect();
        Self {
            u: signed(u),
            s,
            v: signed(v),
            residual: f64::NAN,
            method,
        }
    }

    /// The number of triplets.
    pub fn k(&self) -> usize {
        self.s.len()
    }

    /// The outermost `k` of these triplets at `end`.
    pub(super) fn outermost(self, end: End, k: usize) -> Self {
        let held = self.k();
        if k >= held {
            return self;
        }
        let kept = match end {
            End::Principal => 0..k,
            End::Minor => held - k..held,
        };
        let columns = |m: &[f64]| {
            m.chunks_exact(held)
                .flat_map(|row| &row[kept.clone()])
                .copied()
                .collect()
        };
        Self {
            u: columns(&self.u),
            v: columns(&self.v),
            s: self.s[kept.clone()].to_vec(),
            ..self
        }
    }

    /// The factors `(B, A)` of an adapter which, scaled by `scale`, equals the part of the weight
    /// these triplets span: `scale * B A = U S V^T` with `B = U S^1/2 / scale^1/2` and `A = S^1/2
    /// V^T / scale^1/2`.
    ///
    /// # Shapes
    /// `B: [rows, k]`, `A: [k, cols]`, row-major.
    ///
    /// # Errors
    /// [`SpectrumError::Scale`] unless `scale` is positive and finite.
    pub fn factors(&self, scale: f64) -> Result<(Vec<f32>, Vec<f32>), SpectrumError> {
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(SpectrumError::Scale { scale });
        }
        let k = self.k();
        let roots: Vec<f64> = self.s.iter().map(|s| (s / scale).sqrt()).collect();
        let b = self
            .u
            .chunks_exact(k)
            .flat_map(|row| row.iter().zip(&roots).map(|(u, root)| (u * root) as f32))
            .collect();
        let a = (0..k)
            .flat_map(|i| {
                self.v
                    .iter()
                    .skip(i)
                    .step_by(k)
                    .map(|v| (v * roots[i]) as f32)
                    .collect::<Vec<_>>()
            })
            .collect();
        Ok((b, a))
    }
}

/// The sign of the component of largest magnitude, the first of equals.
fn sign(column: faer::ColRef<'_, f64>) -> f64 {
    let largest = column.iter().fold(
        0.0_f64,
        |best, &x| if x.abs() > best.abs() { x } else { best },
    );
    if largest < 0.0 { -1.0 } else { 1.0 }
}
