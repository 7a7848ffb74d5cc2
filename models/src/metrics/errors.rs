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
