//! The first columns of a QR decomposition, from which OLoRA starts.

use rayon::prelude::*;

/// `Q_r` and `R_r` of `W = Q R`, for the first `r` columns of `Q`.
#[derive(Clone, Debug)]
pub struct Qr {
    /// `Q_r`, `[out, r]`: an orthonormal basis of the first `r` columns of `W`.
    pub q: Vec<f32>,
    /// `R_r = Q_r^T W`, `[r, in]`.
    pub r: Vec<f32>,
    /// The smallest part of one of these columns that is not in those before it, as a part of its
    /// length: near 0 they depend on each other, and rounding decides on the basis.
    pub independence: f64,
}

impl Qr {
    /// Of a weight `[out, in]`, row-major, with `rank <= min(out, in)`, in float64. The signs are LAPACK's,
    /// and so PyTorch's: each Householder reflection takes its column to the sign that the column's
    /// first number has not.
    pub fn of(weight: &[f32], inputs: usize, rank: usize) -> Self {
        let rows = weight.len() / inputs.max(1);
        let mut columns: Vec<Vec<f64>> = (0..rank)
            .map(|k| {
                let column = weight.iter().skip(k).step_by(inputs.max(1));
                column.copied().map(f64::from).collect()
            })
            .collect();
        let mut reflections: Vec<Vec<f64>> = Vec::with_capacity(rank);
        let mut independence = 1.0_f64;
        for k in 0..rank {
            let length = norm(&columns[k]);
            let (reflection, left) = reflection(&columns[k], k);
            independence = independence.min(if length > 0.0 { left / length } else { 0.0 });
            for column in &mut columns[k..] {
                reflect(column, &reflection, k);
            }
            reflections.push(reflection);
        }
        let basis: Vec<Vec<f64>> = (0..rank)
            .map(|k| {
                let mut vector = vec![0.0; rows];
                vector[k] = 1.0;
                for (j, reflection) in reflections.iter().enumerate().rev() {
                    reflect(&mut vector, reflection, j);
                }
                vector
            })
            .collect();
        let parts: Vec<Vec<f32>> = basis
            .par_iter()
            .map(|vector| {
                let mut row = vec![0.0_f64; inputs];
                for (&v, w) in vector.iter().zip(weight.chunks_exact(inputs.max(1))) {
                    let pairs = row.iter_mut().zip(w);
                    pairs.for_each(|(sum, &w)| *sum += v * f64::from(w));
                }
                row.into_iter().map(|x| x as f32).collect()
            })
            .collect();
        let q = (0..rows).flat_map(|row| basis.iter().map(move |vector| vector[row] as f32));
        Self {
            q: q.collect(),
            r: parts.concat(),
            independence,
        }
    }
}

/// The vector `v` with which `x - 2 v (v . x) / (v . v)` takes a column's elements from `k` on to the first
/// of them, and how long they are. It is empty where they are that already, which LAPACK leaves alone.
fn reflection(column: &[f64], k: usize) -> (Vec<f64>, f64) {
    let mut v = column[k..].to_vec();
    let length = norm(&v);
    if norm(&v[1..]) == 0.0 {
        return (Vec::new(), length);
    }
    v[0] += length.copysign(v[0]);
    (v, length)
}

fn reflect(x: &mut [f64], v: &[f64], k: usize) {
    if v.is_empty() {
        return;
    }
    let x = &mut x[k..];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let factor = 2.0 * dot(v, x) / dot(v, v);
    x.iter_mut().zip(v).for_each(|(x, v)| *x -= factor * v);
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From PyTorch 2.15: `torch.linalg.qr` of these numbers, of which the last column of a square has no
    /// elements to reflect.
    #[test]
    fn signs_are_those_of_pytorch() {
        let near = |found: &[f32], expected: &[f32]| {
            assert_eq!(found.len(), expected.len());
            for (a, b) in found.iter().zip(expected) {
                assert!((a - b).abs() < 1e-5, "{found:?} is not {expected:?}");
            }
        };
        let qr = Qr::of(&[0.75, 0.25, 0.0, 0.5, -0.5, -0.25, -1.5, 0.5, -1.0], 3, 3);
        near(
            &qr.q,
            &[
                -0.42857, 0.76225, 0.48507, -0.28571, -0.62366, 0.72761, 0.85714, 0.17324, 0.48507,
            ],
        );
        near(
            &qr.r,
            &[
                -1.75, 0.46429, -0.78571, 0.0, 0.58902, -0.01732, 0.0, 0.0, -0.66697,
            ],
        );
        let qr = Qr::of(
            &[
                -0.5, -1.0, -0.0, -0.25, -1.0, 0.5, 0.25, -0.5, -0.5, -1.5, -0.0, 3.5,
            ],
            3,
            2,
        );
        near(
            &qr.q,
            &[
                -0.30861, -0.60774, -0.1543, -0.64881, 0.1543, -0.386, -0.92582, 0.24638,
            ],
        );
        near(&qr.r, &[1.62019, 0.38576, -3.39467, 0.0, 1.44955, 0.73093]);
        let qr = Qr::of(
            &[
                -1.75, 1.5, -1.25, 0.25, -0.5, 1.5, 2.5, 0.5, -1.0, -1.0, 0.5, 0.0, -2.25, 0.5,
                -0.25,
            ],
            5,
            3,
        );
        near(
            &qr.q,
            &[
                -0.742, -0.64458, 0.18427, 0.636, -0.76373, -0.11056, 0.212, 0.03516, 0.97664,
            ],
        );
        near(
            &qr.r,
            &[
                2.3585, 0.477, 0.7685, -0.7155, -0.317_999, 0.0, -2.87619, 0.34475, 0.62016,
                1.07723, 0.0, 0.0, -2.48305, 0.64495, -0.22573,
            ],
        );
    }

    #[test]
    fn columns_that_depend_on_each_other_are_noticed() {
        assert!(Qr::of(&[1.0, 2.0, 2.0, 4.0, 3.0, 6.0], 2, 2).independence < 1e-12);
        assert!(Qr::of(&[0.0; 4], 2, 1).independence == 0.0);
        assert!(Qr::of(&[1.0, 0.0, 0.0, 1.0], 2, 2).independence == 1.0);
    }
}
