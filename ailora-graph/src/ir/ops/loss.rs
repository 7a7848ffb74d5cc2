//! Cross-entropy of class logits.

use std::fmt;

use egg::Id;

use super::{arity, no_derivative, softmax::softmax};
use crate::ir::{DType, Draw, Operation, Program, ProgramError, Tensor, Type};

/// The mean over rows of `-log softmax(logits)[label]`.
///
/// # Shapes
/// `logits`: `[n, c]`; `labels`: i32 `[n]` below `c`; result: `[]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CrossEntropy;

impl fmt::Display for CrossEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cross_entropy")
    }
}

fn check(args: &[&Type]) -> Result<Type, String> {
    let [logits, labels] = arity(args)?;
    if logits.rank() != 2
        || logits.dtype != DType::F32
        || labels.dtype != DType::I32
        || labels.shape != logits.shape[..1]
    {
        return Err("expected logits of f32[n, c] and labels of i32[n]".into());
    }
    Ok(logits)
}

impl Operation for CrossEntropy {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        check(args).map(|_| Type::f32([]))
    }

    fn eval(&self, args: &[&Tensor], _: &Type, _: Draw) -> Tensor {
        let classes = args[0].shape[1];
        let rows = args[0].data.chunks(classes).zip(&args[1].data);
        let total: f64 = rows
            .map(|(row, &label)| -softmax(row)[label as usize].ln())
            .sum();
        Tensor::scalar(total / args[0].shape[0] as f64)
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let grad = p.add(CrossEntropyGrad, args)?;
        Ok(vec![Some(p.product(grad, dy)?), None])
    }
}

/// The gradient of [`CrossEntropy`] towards the logits: `(softmax(logits) - onehot(label)) / n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CrossEntropyGrad;

impl fmt::Display for CrossEntropyGrad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cross_entropy_grad")
    }
}

impl Operation for CrossEntropyGrad {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        check(args)
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let [n, classes] = [ty.shape[0], ty.shape[1]];
        let rows = args[0].data.chunks(classes).zip(&args[1].data);
        let data: Vec<f64> = rows
            .flat_map(|(row, &label)| {
                let mut grad = softmax(row);
                grad[label as usize] -= 1.0;
                grad.into_iter().map(|g| g / n as f64).collect::<Vec<_>>()
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
