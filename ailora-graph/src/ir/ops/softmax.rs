//! Softmax along the last axis.

use std::fmt;

use egg::Id;

use super::{arity, floats};
use crate::ir::{Draw, Operation, Program, ProgramError, Tensor, Type};

/// `y_i = e^(x_i) / sum_j e^(x_j)` along the last axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Softmax;

impl fmt::Display for Softmax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("softmax")
    }
}

/// The softmax of one row.
pub(super) fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|x| x / sum).collect()
}

impl Operation for Softmax {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        floats(args)?;
        let [x] = arity(args)?;
        if x.rank() == 0 {
            return Err("expected at least one axis".into());
        }
        Ok(x)
    }

    fn eval(&self, args: &[&Tensor], _: &Type, _: Draw) -> Tensor {
        args[0].map_rows(softmax)
    }

    fn vjp(
        &self,
        p: &mut Program,
        y: Id,
        _: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        Ok(vec![Some(p.add(SoftmaxGrad, &[y, dy])?)])
    }
}

/// The gradient of [`Softmax`] towards `x`, from `y` and `dy`: `y (dy - sum(y dy))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SoftmaxGrad;

impl fmt::Display for SoftmaxGrad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("softmax_grad")
    }
}

/// The gradient of softmax in one row.
pub(super) fn softmax_grad(y: &[f64], dy: &[f64]) -> Vec<f64> {
    let dot: f64 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
    y.iter().zip(dy).map(|(y, dy)| y * (dy - dot)).collect()
}

impl Operation for SoftmaxGrad {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let dtype = floats(args)?;
        let [y, dy] = arity(args)?;
        if y.shape != dy.shape || y.rank() == 0 {
            return Err("expected two equal shapes".into());
        }
        Ok(Type::new(dtype, y.shape))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let width = ty.shape[ty.rank() - 1].max(1);
        let rows = args[0].data.chunks(width).zip(args[1].data.chunks(width));
        let data: Vec<f64> = rows.flat_map(|(y, dy)| softmax_grad(y, dy)).collect();
        Tensor::new(ty.shape.clone(), data)
    }
}
