//! The largest of a row, and the sum that makes probabilities of it.

use std::{cmp::Ordering, fmt};

use super::arity;
use crate::ir::{Draw, Operation, Tensor, Type};

/// The largest numbers of each row with their places, in descending order; of equal ones the first. What
/// is not a number comes before all others.
///
/// # Shapes
/// `[b, n]` gives `[b, count, 2]` of float32, each number before its place, which is below 2^24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Top {
    /// How many.
    pub count: usize,
}

impl fmt::Display for Top {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "top({})", self.count)
    }
}

impl Top {
    /// The most that a kernel gives.
    pub const MOST: usize = 64;
    /// The widest row: places above this are no longer whole numbers in float32.
    pub const WIDEST: usize = 1 << 24;
}

impl Operation for Top {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [x] = arity(args)?;
        let fits = x.dtype.is_float()
            && x.rank() == 2
            && (1..=Self::MOST.min(x.shape[1])).contains(&self.count)
            && x.shape[1] <= Self::WIDEST;
        match fits {
            true => Ok(Type::f32([x.shape[0], self.count, 2])),
            false => Err(format!(
                "expected floats of [b, n], with n from {} to {}, and to be asked for at most {}",
                self.count,
                Self::WIDEST,
                Self::MOST
            )),
        }
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let width = args[0].shape[1].max(1);
        let largest = |row: &[f64]| {
            let mut places: Vec<usize> = (0..width).collect();
            places.sort_by(|&a, &b| {
                let (x, y) = (row[a], row[b]);
                let order = y.is_nan().cmp(&x.is_nan());
                order.then(y.partial_cmp(&x).unwrap_or(Ordering::Equal))
            });
            let found = places.into_iter().take(self.count);
            found
                .flat_map(|place| [row[place], place as f64])
                .collect::<Vec<f64>>()
        };
        let data: Vec<f64> = args[0].data.chunks(width).flat_map(largest).collect();
        Tensor::new(ty.shape.clone(), data)
    }
}

/// `ln(sum(e^x))` of each row, which a row's numbers less it are log-probabilities by.
///
/// # Shapes
/// `[b, n]` gives `[b]` of float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogSumExp;

impl fmt::Display for LogSumExp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("log_sum_exp")
    }
}

impl Operation for LogSumExp {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [x] = arity(args)?;
        match x.dtype.is_float() && x.rank() == 2 {
            true => Ok(Type::f32([x.shape[0]])),
            false => Err("expected floats of [b, n]".into()),
        }
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let log_sum = |row: &[f64]| {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if largest == f64::NEG_INFINITY {
                return largest;
            }
            let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
            largest + sum.ln()
        };
        let width = args[0].shape[1].max(1);
        let data: Vec<f64> = args[0].data.chunks(width).map(log_sum).collect();
        Tensor::new(ty.shape.clone(), data)
    }
}
