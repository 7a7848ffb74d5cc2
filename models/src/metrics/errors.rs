//! Errors of numbers.

use super::ratio;

/// Mean squared error.
pub fn mse(predicted: &[f64], gold: &[f64]) -> f64 {
    let squares = predicted.iter().zip(gold).map(|(p, g)| (p - g) * (p - g));
    ratio(squares.sum(), gold.len() as f64)
}

/// Root of the mean squared error.
pub fn rmse(predicted: &[f64], gold: &[f64]) -> f64 {
    mse(predicted, gold).sqrt()
}

/// Mean absolute error.
pub fn mae(predicted: &[f64], gold: &[f64]) -> f64 {
    let errors = predicted.iter().zip(gold).map(|(p, g)| (p - g).abs());
    ratio(errors.sum(), gold.len() as f64)
}

/// Share of the variance that is predicted: 1 less the squared error over that of the mean. Of a constant
/// it is 1 where it is predicted, and else 0, as scikit-learn has it.
pub fn r2(predicted: &[f64], gold: &[f64]) -> f64 {
    let mean = ratio(gold.iter().sum(), gold.len() as f64);
    let (error, variance) = (mse(predicted, gold), mse(&vec![mean; gold.len()], gold));
    // A constant's mean may be off by a rounding error.
    let is_constant = gold.windows(2).all(|pair| pair[0] == pair[1]);
    match (error == 0.0, is_constant) {
        (true, _) => 1.0,
        (_, true) => 0.0,
        _ => 1.0 - error / variance,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values: scikit-learn 1.9.1.
    #[test]
    fn errors_equal_scikit_learn() {
        let predicted = [
            0.3, -0.3, -0.1, -0.6, 0.8, 0.0, -0.8, 0.0, 0.2, 1.3, 1.0, -0.3,
        ];
        let gold = [
            -0.2, -0.1, -0.3, -0.2, -0.5, 0.4, 0.5, -0.5, 0.4, 1.3, 0.1, 0.5,
        ];
        for (metric, expected) in [
            (mse as fn(&[f64], &[f64]) -> f64, 0.48083333333333345),
            (rmse, 0.6934214687571574),
            (mae, 0.5583333333333333),
            (r2, -0.9001097694840838),
        ] {
            let found = metric(&predicted, &gold);
            assert!((found - expected).abs() < 1e-12, "{found} != {expected}");
        }
    }

    #[test]
    fn a_constant_is_explained_where_it_is_predicted() {
        assert_eq!(r2(&[0.1; 3], &[0.1; 3]), 1.0);
        assert_eq!(r2(&[0.1, 0.2, 0.1], &[0.1; 3]), 0.0);
    }
}
