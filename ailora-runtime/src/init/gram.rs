//! What LoRA-FA multiplies gradients by.

/// What is added to the diagonal, as PEFT adds it.
const DELTA: f64 = 1e-8;

/// `(A A^T + 1e-8 I)^-1 / scale^2`, `[r, r]`, of `A` `[r, in]`, in float64 and rounded once.
pub fn inverse(a: &[f32], rank: usize, scale: f64) -> Vec<f32> {
    let rows: Vec<&[f32]> = a.chunks_exact((a.len() / rank.max(1)).max(1)).collect();
    let dot = |a: &[f32], b: &[f32]| {
        let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        products.sum::<f64>()
    };
    // Gauss-Jordan elimination of `[A A^T + delta I | I]`, which is positive definite and needs no pivots.
    let mut system: Vec<Vec<f64>> = (0..rank)
        .map(|i| {
            let left = (0..rank).map(|j| dot(rows[i], rows[j]) + if i == j { DELTA } else { 0.0 });
            let right = (0..rank).map(|j| if i == j { 1.0 } else { 0.0 });
            left.chain(right).collect()
        })
        .collect();
    for k in 0..rank {
        let pivot = system[k][k];
        system[k].iter_mut().for_each(|x| *x /= pivot);
        let row = system[k].clone();
        for (_, other) in system.iter_mut().enumerate().filter(|(i, _)| *i != k) {
            let factor = other[k];
            let pairs = other.iter_mut().zip(&row);
            pairs.for_each(|(x, y)| *x -= factor * y);
        }
    }
    let square = scale * scale;
    let inverse = system.iter().flat_map(|row| &row[rank..]);
    inverse.map(|x| (x / square) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_is_that_of_the_gram_matrix() {
        // A A^T = [[5, 2], [2, 8]], of determinant 36; the scale is 2.
        let found = inverse(&[1.0, 2.0, 0.0, 2.0, 0.0, 2.0], 2, 2.0);
        let expected = [8.0, -2.0, -2.0, 5.0].map(|x: f32| x / 36.0 / 4.0);
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-7, "{found:?}");
        }
        assert_eq!(found.len(), 4);
        // Rows that depend on each other: what is added keeps it finite.
        assert!(inverse(&[1.0, 1.0], 2, 1.0).iter().all(|x| x.is_finite()));
    }
}
