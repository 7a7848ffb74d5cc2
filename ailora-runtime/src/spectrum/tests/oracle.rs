//! Matrices with known factors, and a decomposition that shares nothing with the code under test.

use crate::spectrum::Matrix;

/// An owned matrix `[rows, cols]`, row-major.
pub struct Weight {
    pub data: Vec<f32>,
    pub rows: usize,
    pub cols: usize,
}

/// Vectors as lists, singular values in non-increasing order. Of a vanishing singular value only
/// the right vector is meaningful.
pub struct Svd {
    pub u: Vec<Vec<f64>>,
    pub s: Vec<f64>,
    pub v: Vec<Vec<f64>>,
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// Approximately normal numbers from a fixed seed.
pub fn normals(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1_u64 << 31) as f64
    };
    move || (0..12).map(|_| uniform()).sum::<f64>() - 6.0
}

/// `count` orthonormal vectors of length `len`.
pub fn orthonormal(len: usize, count: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut normal = normals(seed);
    let mut basis: Vec<Vec<f64>> = Vec::new();
    while basis.len() < count {
        let mut x: Vec<f64> = (0..len).map(|_| normal()).collect();
        for _ in 0..2 {
            for q in &basis {
                let along = dot(q, &x);
                x.iter_mut().zip(q).for_each(|(x, q)| *x -= along * q);
            }
        }
        let length = norm(&x);
        basis.push(x.into_iter().map(|x| x / length).collect());
    }
    basis
}

impl Weight {
    pub fn gaussian(rows: usize, cols: usize, seed: u64) -> Self {
        let mut normal = normals(seed);
        Self {
            data: (0..rows * cols).map(|_| normal() as f32).collect(),
            rows,
            cols,
        }
    }

    /// `sum_i s_i u_i v_i^T` with random orthonormal `u` and `v`, rounded to f32, and its factors
    /// before rounding.
    pub fn with_spectrum(rows: usize, cols: usize, s: &[f64], seed: u64) -> (Self, Svd) {
        let (u, v) = (
            orthonormal(rows, s.len(), seed),
            orthonormal(cols, s.len(), seed + 1),
        );
        let mut sums = vec![0.0; rows * cols];
        for ((u, v), s) in u.iter().zip(&v).zip(s) {
            for (row, u) in sums.chunks_exact_mut(cols).zip(u) {
                row.iter_mut().zip(v).for_each(|(w, v)| *w += s * u * v);
            }
        }
        (
            Self {
                data: sums.iter().map(|&x| x as f32).collect(),
                rows,
                cols,
            },
            Svd {
                u,
                s: s.to_vec(),
                v,
            },
        )
    }

    pub fn matrix(&self) -> Matrix<'_> {
        Matrix::new(
            "encoder.layer.0.attention.self.query",
            &self.data,
            self.rows,
            self.cols,
        )
        .unwrap()
    }

    pub fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.data
            .chunks_exact(self.cols)
            .map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum())
            .collect()
    }

    pub fn apply_transpose(&self, x: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.cols];
        for (row, x) in self.data.chunks_exact(self.cols).zip(x) {
            out.iter_mut()
                .zip(row)
                .for_each(|(out, w)| *out += f64::from(*w) * x);
        }
        out
    }

    /// The decomposition by one-sided Jacobi rotations (Hestenes 1958).
    pub fn jacobi(&self) -> Svd {
        if self.rows < self.cols {
            let data = (0..self.cols)
                .flat_map(|j| (0..self.rows).map(move |i| self.data[i * self.cols + j]))
                .collect();
            let Svd { u, s, v } = Weight {
                data,
                rows: self.cols,
                cols: self.rows,
            }
            .jacobi();
            return Svd { u: v, s, v: u };
        }
        let n = self.cols;
        let mut a: Vec<Vec<f64>> = (0..n)
            .map(|j| {
                self.data
                    .iter()
                    .skip(j)
                    .step_by(n)
                    .map(|&x| f64::from(x))
                    .collect()
            })
            .collect();
        let mut v: Vec<Vec<f64>> = (0..n)
            .map(|j| (0..n).map(|i| f64::from(u8::from(i == j))).collect())
            .collect();
        let negligible = 1e-32 * a.iter().map(|column| dot(column, column)).sum::<f64>();
        for _ in 0..60 {
            let mut rotated = false;
            for p in 0..n {
                for q in p + 1..n {
                    let (alpha, beta, gamma) =
                        (dot(&a[p], &a[p]), dot(&a[q], &a[q]), dot(&a[p], &a[q]));
                    if gamma.abs() <= 1e-15 * (alpha * beta).sqrt() || gamma.abs() <= negligible {
                        continue;
                    }
                    rotated = true;
                    let zeta = (beta - alpha) / (2.0 * gamma);
                    let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                    let cosine = 1.0 / tangent.hypot(1.0);
                    for m in [&mut a, &mut v] {
                        let (left, right) = m.split_at_mut(q);
                        for (x, y) in left[p].iter_mut().zip(&mut right[0]) {
                            (*x, *y) = (cosine * (*x - tangent * *y), cosine * (*y + tangent * *x));
                        }
                    }
                }
            }
            if !rotated {
                break;
            }
        }
        let mut triplets: Vec<_> = a
            .into_iter()
            .zip(v)
            .map(|(a, v)| {
                let s = norm(&a);
                (
                    a.iter()
                        .map(|x| if s > 0.0 { x / s } else { 0.0 })
                        .collect::<Vec<_>>(),
                    s,
                    v,
                )
            })
            .collect();
        triplets.sort_by(|a, b| b.1.total_cmp(&a.1));
        let s = triplets.iter().map(|t| t.1).collect();
        let (u, v) = triplets.into_iter().map(|(u, _, v)| (u, v)).unzip();
        Svd { u, s, v }
    }
}
