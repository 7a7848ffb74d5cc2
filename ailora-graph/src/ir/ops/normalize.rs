//! Layer normalisation without its affine part, which is a product and a sum beside it.

use std::fmt;

use egg::Id;

use super::{arity, floats, no_derivative};
use crate::ir::{Draw, Operation, Program, ProgramError, Real, Tensor, Type};

/// `(x - mean) / sqrt(variance + eps)` along the last axis, with the biased variance
/// (Ba et al., 2016).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Normalize {
    /// Added to the variance.
    pub eps: Real,
}

impl fmt::Display for Normalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "normalize({})", self.eps)
    }
}

/// The normalised row and the factor it was multiplied by.
fn normalize(row: &[f64], eps: f64) -> (Vec<f64>, f64) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let factor = 1.0 / (variance + eps).sqrt();
    (row.iter().map(|x| (x - mean) * factor).collect(), factor)
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
        args[0].map_rows(|row| normalize(row, self.eps.0).0)
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let grad = NormalizeGrad { eps: self.eps };
        Ok(vec![Some(p.add(grad, &[args[0], dy])?)])
    }
}

/// The gradient of [`Normalize`] towards `x`, from `x` and `dy`: with `y` the normalised row and
/// `f` its factor, `f (dy - mean(dy) - y mean(y dy))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NormalizeGrad {
    /// Added to the variance.
    pub eps: Real,
}

impl fmt::Display for NormalizeGrad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "normalize_grad({})", self.eps)
    }
}

impl Operation for NormalizeGrad {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        floats(args)?;
        let [x, dy] = arity(args)?;
        if x != dy || x.rank() == 0 {
            return Err("expected two equal types".into());
        }
        Ok(x)
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let width = ty.shape[ty.rank() - 1].max(1);
        let n = width as f64;
        let rows = args[0].data.chunks(width).zip(args[1].data.chunks(width));
        let data: Vec<f64> = rows
            .flat_map(|(x, dy)| {
                let (y, factor) = normalize(x, self.eps.0);
                let mean = dy.iter().sum::<f64>() / n;
                let along = y.iter().zip(dy).map(|(y, dy)| y * dy).sum::<f64>() / n;
                y.iter()
                    .zip(dy)
                    .map(|(y, dy)| factor * (dy - mean - y * along))
                    .collect::<Vec<_>>()
            })
            .collect();
        Tensor::new(ty.shape.clone(), data)
    }

    fn vjp(
        &self,
        _: &mut Program,
        _: Id,
        _: &[Id],
        _: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        no_derivative(self)
    }
}
