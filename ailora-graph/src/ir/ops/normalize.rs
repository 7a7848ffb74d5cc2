//! Layer and root-mean-square normalisation without their affine part, which is a product and a sum
//! beside them.

use std::fmt;

use egg::Id;

use super::{arity, floats};
use crate::ir::{Draw, Operation, Program, ProgramError, Real, Tensor, Type};

/// `(x - mean) / sqrt(variance + eps)` along the last axis, with the biased variance
/// (Ba et al., 2016); without centring, `x / sqrt(mean(x^2) + eps)` (Zhang & Sennrich, 2019).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Normalize {
    /// Whether the mean is subtracted.
    pub centered: bool,
    /// Added to the variance.
    pub eps: Real,
}

impl fmt::Display for Normalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", kind(self.centered), self.eps)
    }
}

fn kind(centered: bool) -> &'static str {
    if centered {
        "normalize"
    } else {
        "rms_normalize"
    }
}

fn mean(row: &[f64]) -> f64 {
    row.iter().sum::<f64>() / row.len() as f64
}

/// The normalised row and the factor it was multiplied by.
fn normalize(row: &[f64], centered: bool, eps: f64) -> (Vec<f64>, f64) {
    let center = if centered { mean(row) } else { 0.0 };
    let squares: Vec<f64> = row.iter().map(|x| (x - center).powi(2)).collect();
    let factor = 1.0 / (mean(&squares) + eps).sqrt();
    (row.iter().map(|x| (x - center) * factor).collect(), factor)
}

impl Operation for Normalize {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        floats(args)?;
        let [x] = arity(args)?;
        if x.rank() == 0 {
            return Err("expected at least one axis".into());
        }
        Ok(x)
    }

    fn eval(&self, args: &[&Tensor], _: &Type, _: Draw) -> Tensor {
        args[0].map_rows(|row| normalize(row, self.centered, self.eps.0).0)
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let Self { centered, eps } = *self;
        let grad = NormalizeGrad { centered, eps };
        Ok(vec![Some(p.add(grad, &[args[0], dy])?)])
    }
}

/// The gradient of [`Normalize`] towards `x`, from `x` and `dy`: with `y` the normalised row and
/// `f` its factor, `f (dy - mean(dy) - y mean(y dy))`, where only centring subtracts `mean(dy)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NormalizeGrad {
    /// Whether the mean is subtracted.
    pub centered: bool,
    /// Added to the variance.
    pub eps: Real,
}

impl fmt::Display for NormalizeGrad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_grad({})", kind(self.centered), self.eps)
    }
}

impl Operation for NormalizeGrad {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let dtype = floats(args)?;
        let [x, dy] = arity(args)?;
        if x.shape != dy.shape || x.rank() == 0 {
            return Err("expected two equal shapes".into());
        }
        Ok(Type::new(dtype, x.shape))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let width = ty.shape[ty.rank() - 1].max(1);
        let rows = args[0].data.chunks(width).zip(args[1].data.chunks(width));
        let data: Vec<f64> = rows
            .flat_map(|(x, dy)| {
                let (y, factor) = normalize(x, self.centered, self.eps.0);
                let center = if self.centered { mean(dy) } else { 0.0 };
                let products: Vec<f64> = y.iter().zip(dy).map(|(y, dy)| y * dy).collect();
                let along = mean(&products);
                y.iter()
                    .zip(dy)
                    .map(|(y, dy)| factor * (dy - center - y * along))
                    .collect::<Vec<_>>()
            })
            .collect();
        Tensor::new(ty.shape.clone(), data)
    }
}
