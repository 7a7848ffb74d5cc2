//! Rotary position embeddings.

use std::fmt;

use egg::Id;

use super::{arity, floats, no_derivative};
use crate::ir::{Draw, Operation, Program, ProgramError, Tensor, Type};

/// Turns each head of each token by the token's angles (Su et al., 2021): with `x1` and `x2` the
/// halves of a head, `[x1 cos - x2 sin, x2 cos + x1 sin]`. The angles are the model's to choose.
///
/// # Shapes
/// `x`: `[b, s, heads·d]`; `cos`, `sin`: `[b, s, d/2]`, one for all heads; result: as `x`. There is
/// no derivative towards the angles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rotary;

impl fmt::Display for Rotary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rotary")
    }
}

impl Operation for Rotary {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let dtype = floats(args)?;
        let [x, cos, sin] = arity(args)?;
        let fits = x.rank() == 3
            && cos.rank() == 3
            && cos.shape == sin.shape
            && x.shape[..2] == cos.shape[..2]
            && cos.shape[2] > 0
            && x.shape[2].is_multiple_of(2 * cos.shape[2]);
        if !fits {
            return Err("expected x of [b, s, heads·d], cosines and sines of [b, s, d/2]".into());
        }
        Ok(Type::new(dtype, x.shape))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let [x, cos, sin] = [args[0], args[1], args[2]];
        let half = cos.shape[2];
        let heads = ty.shape[2] / (2 * half);
        let data = x.data.chunks(2 * half).enumerate().flat_map(|(i, head)| {
            let angles = i / heads * half..(i / heads + 1) * half;
            let (cos, sin) = (&cos.data[angles.clone()], &sin.data[angles]);
            let (x1, x2) = head.split_at(half);
            let first = (0..half).map(|j| x1[j] * cos[j] - x2[j] * sin[j]);
            let second = (0..half).map(|j| x2[j] * cos[j] + x1[j] * sin[j]);
            first.chain(second).collect::<Vec<f64>>()
        });
        Tensor::new(ty.shape.clone(), data.collect::<Vec<f64>>())
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        wants: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        if wants[1] || wants[2] {
            return no_derivative(self);
        }
        let back = p.scale(args[2], -1.0)?;
        Ok(vec![Some(p.add(*self, &[dy, args[1], back])?), None, None])
    }
}
