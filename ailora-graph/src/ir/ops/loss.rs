//! Cross-entropy of class logits, and which labels they choose.

use std::fmt;

use egg::Id;

use super::{arity, softmax::softmax};
use crate::ir::{DType, Draw, Operation, Program, ProgramError, Real, Tensor, Type};

/// The label of a row that does not count.
pub const IGNORED: i32 = -100;

/// The mean over the rows that count of `-sum(t log softmax(logits))`, where `t` is 1 at the label;
/// with label smoothing `e` (Szegedy et al., 2016), `1 - e` there and `e / c` more everywhere.
/// A row whose label is [`IGNORED`] does not count; if none does, the loss is 0.
///
/// # Shapes
/// `logits`: `[n, c]`; `labels`: i32 `[n]`, below `c` or [`IGNORED`]; result: `[]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CrossEntropy {
    /// How much of each target is spread over all classes.
    pub smoothing: Real,
}

impl fmt::Display for CrossEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cross_entropy")?;
        match self.smoothing.0 {
            0.0 => Ok(()),
            smoothing => write!(f, "(smoothing {smoothing})"),
        }
    }
}

/// The rows that count, with their labels.
fn counted<'a>(args: &[&'a Tensor]) -> impl Iterator<Item = (usize, &'a [f64], usize)> + use<'a> {
    let classes = args[0].shape[1].max(1);
    let rows = args[0].data.chunks(classes).zip(&args[1].data).enumerate();
    rows.filter(|(_, (_, label))| **label != f64::from(IGNORED))
        .map(|(i, (row, &label))| (i, row, label as usize))
}

fn check(args: &[&Type]) -> Result<Type, String> {
    let [logits, labels] = arity(args)?;
    if logits.rank() != 2
        || !logits.dtype.is_float()
        || labels.dtype != DType::I32
        || labels.shape != logits.shape[..1]
    {
        return Err("expected logits of floats [n, c] and labels of i32[n]".into());
    }
    Ok(logits)
}

impl Operation for CrossEntropy {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        check(args).map(|_| Type::f32([]))
    }

    fn eval(&self, args: &[&Tensor], _: &Type, _: Draw) -> Tensor {
        let smoothing = self.smoothing.0;
        let loss = |(_, row, label): (usize, &[f64], usize)| {
            let logs: Vec<f64> = softmax(row).iter().map(|p| p.ln()).collect();
            let mean = logs.iter().sum::<f64>() / logs.len() as f64;
            -(1.0 - smoothing) * logs[label]
                - if smoothing > 0.0 {
                    smoothing * mean
                } else {
                    0.0
                }
        };
        let total: f64 = counted(args).map(loss).sum();
        Tensor::scalar(total / counted(args).count().max(1) as f64)
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let grad = p.add(CrossEntropyGrad { forward: *self }, args)?;
        Ok(vec![Some(p.product(grad, dy)?), None])
    }
}

/// The gradient of [`CrossEntropy`] towards the logits: `(softmax(logits) - t) / n` in the `n` rows
/// that count, 0 in the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CrossEntropyGrad {
    /// The loss.
    pub forward: CrossEntropy,
}

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
        let classes = ty.shape[1];
        let smoothing = self.forward.smoothing.0;
        let n = counted(args).count() as f64;
        let mut data = vec![0.0; ty.len()];
        for (i, row, label) in counted(args) {
            let grad = &mut data[i * classes..][..classes];
            for (grad, p) in grad.iter_mut().zip(softmax(row)) {
                *grad = (p - smoothing / classes as f64) / n;
            }
            grad[label] -= (1.0 - smoothing) / n;
        }
        Tensor::new(ty.shape.clone(), data)
    }
}

/// 1 in each row whose label has the largest logit, the first of equals; 0 in the others, also where the
/// label is [`IGNORED`] or a logit is NaN. It has no derivative.
///
/// # Shapes
/// `logits`: `[n, c]`; `labels`: i32 `[n]`, below `c` or [`IGNORED`]; result: f32 `[n]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Matches;

impl fmt::Display for Matches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("matches")
    }
}

impl Operation for Matches {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        check(args).map(|logits| Type::f32([logits.shape[0]]))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let mut data = vec![0.0; ty.len()];
        for (i, row, label) in counted(args) {
            let (before, after) = row.split_at(label);
            let own = row[label];
            let largest = before.iter().all(|x| *x < own) && after.iter().all(|x| *x <= own);
            data[i] = f64::from(u8::from(largest));
        }
        Tensor::new(ty.shape.clone(), data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_matches_where_its_logit_is_the_first_of_the_largest() {
        let nan = f64::NAN;
        let logits = [
            [1.0, 3.0, 2.0],
            [1.0, 3.0, 3.0],
            [1.0, 3.0, 3.0],
            [4.0, 3.0, 3.0],
            [nan, 3.0, 2.0],
            [1.0, nan, 2.0],
            [1.0, 3.0, 2.0],
        ];
        let labels = [1.0, 1.0, 2.0, 1.0, 1.0, 1.0, f64::from(IGNORED)];
        let [logits, labels] = [
            Tensor::new([7, 3], logits.concat()),
            Tensor::new([7], labels.to_vec()),
        ];
        let found = Matches.eval(&[&logits, &labels], &Type::f32([7]), Draw::default());
        assert_eq!(found.data, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
