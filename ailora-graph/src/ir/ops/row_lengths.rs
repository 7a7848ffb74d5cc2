//! The lengths of the rows of a weight with adapters, without the weight being formed.

use std::fmt;

use egg::Id;

use super::{arity, floats};
use crate::ir::{Draw, Operation, Program, ProgramError, Real, Tensor, Type};

/// The length (L2 norm) of each row of `W + s_1 B_1 A_1 + s_2 B_2 A_2 + ...`: what DoRA divides by (Liu et
/// al., 2024).
///
/// It has no gradient by definition: in the backward pass it is a constant (section 4.3).
///
/// # Shapes
/// `W` `[out, in]`, and for each factor `B` `[out, r]` and `A` `[r, in]`; the result is `[out]`, float32.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowLengths {
    /// `s` of each pair.
    pub scales: Vec<Real>,
}

impl fmt::Display for RowLengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scales: Vec<String> = self.scales.iter().map(Real::to_string).collect();
        write!(f, "row_lengths({})", scales.join(", "))
    }
}

impl Operation for RowLengths {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        floats(args)?;
        let [weight] = arity(&args[..args.len().min(1)])?;
        let pairs = args.get(1..).unwrap_or_default();
        if pairs.len() != 2 * self.scales.len() {
            let (pairs, found) = (self.scales.len(), args.len());
            return Err(format!(
                "expected a weight and {pairs} pairs of factors, found {found} arguments"
            ));
        }
        let &[out, inner] = &weight.shape[..] else {
            return Err("expected a matrix".into());
        };
        for pair in pairs.chunks_exact(2) {
            match (&pair[0].shape[..], &pair[1].shape[..]) {
                (&[rows, rank], &[depth, columns])
                    if [rows, columns] == [out, inner] && rank == depth => {}
                _ => return Err("expected factors `[out, r]` and `[r, in]` of the weight".into()),
            }
        }
        Ok(Type::f32([out]))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let weight = args[0];
        let inner = weight.shape[1];
        Tensor::from_fn(&ty.shape, |index| {
            let i = index[0];
            let mut row = weight.data[i * inner..][..inner].to_vec();
            for (scale, pair) in self.scales.iter().zip(args[1..].chunks_exact(2)) {
                for k in 0..pair[1].shape[0] {
                    let factor = scale.0 * pair[0].at(&[i, k]);
                    let down = &pair[1].data[k * inner..][..inner];
                    row.iter_mut().zip(down).for_each(|(x, a)| *x += factor * a);
                }
            }
            row.iter().map(|x| x * x).sum::<f64>().sqrt()
        })
    }

    /// Nothing, towards any argument.
    fn vjp(
        &self,
        _: &mut Program,
        _: Id,
        args: &[Id],
        _: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        Ok(vec![None; args.len()])
    }
}
