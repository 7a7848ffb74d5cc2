//! Elements of rows by id, such as the scores of relative positions.

use std::fmt;

use egg::Id;

use super::arity;
use crate::ir::{DType, Draw, Operation, Program, ProgramError, Tensor, Type};

/// From each matrix of `x`, `y_ij = x_i,ids_ij`, or `y_ij = x_j,ids_ij` if transposed: what numpy
/// calls `take_along_axis` on the last axis.
///
/// # Shapes
/// `x`: `[..., s, n]`, or `[..., t, n]` if transposed; `ids`: `[s, t]` of i32 below `n`, for every
/// matrix of `x`; result: `[..., s, t]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TakeAlong {
    /// Whether a row of `x` serves a column of the result.
    pub transposed: bool,
}

impl fmt::Display for TakeAlong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.transposed {
            "take_along.t"
        } else {
            "take_along"
        })
    }
}

impl TakeAlong {
    /// For each place of `[s, t]`, the element of a matrix `[.., n]` with that id.
    fn places<'a>(self, ids: &'a Tensor, n: usize) -> impl Iterator<Item = usize> + 'a {
        let columns = ids.shape[1];
        ids.data.iter().enumerate().map(move |(at, &id)| {
            let row = if self.transposed {
                at % columns
            } else {
                at / columns
            };
            row * n + id as usize
        })
    }

    /// How many rows a matrix of `x` has.
    fn rows(self, ids: &Type) -> usize {
        ids.shape[usize::from(self.transposed)]
    }
}

impl Operation for TakeAlong {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [x, ids] = arity(args)?;
        let fits = x.dtype.is_float()
            && x.rank() >= 2
            && ids.dtype == DType::I32
            && ids.rank() == 2
            && x.shape[x.rank() - 2] == self.rows(&ids);
        if !fits {
            return Err("expected x of floats [..., s, n] and ids of i32[s, t]; \
                        x of floats [..., t, n] if transposed"
                .into());
        }
        let shape = [&x.shape[..x.rank() - 2], &ids.shape[..]].concat();
        Ok(Type::new(x.dtype, shape))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let [x, ids] = [args[0], args[1]];
        let [.., rows, n] = x.shape[..] else {
            unreachable!("x has at least two axes")
        };
        let matrices = x.data.chunks((rows * n).max(1));
        let data: Vec<f64> = matrices
            .flat_map(|x| self.places(ids, n).map(|at| x[at]))
            .collect();
        Tensor::new(ty.shape.clone(), data)
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let grad = TakeAlongGrad {
            forward: *self,
            width: p.shape(args[0])[p.ty(args[0]).rank() - 1],
        };
        Ok(vec![Some(p.add(grad, &[args[1], dy])?), None])
    }
}

/// The gradient of [`TakeAlong`] towards `x`: each element of `dy` added where it was taken.
///
/// # Shapes
/// `ids`: `[s, t]`; `dy`: `[..., s, t]`; result: `[..., s, width]`, or `[..., t, width]` if
/// transposed
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TakeAlongGrad {
    /// The operation.
    pub forward: TakeAlong,
    /// The last dimension of `x`.
    pub width: usize,
}

impl fmt::Display for TakeAlongGrad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transposed = if self.forward.transposed { ".t" } else { "" };
        write!(f, "take_along_grad{transposed}({})", self.width)
    }
}

impl Operation for TakeAlongGrad {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [ids, dy] = arity(args)?;
        let fits = ids.dtype == DType::I32
            && ids.rank() == 2
            && dy.dtype.is_float()
            && dy.shape.ends_with(&ids.shape);
        if !fits {
            return Err("expected ids of i32[s, t] and a gradient of floats [..., s, t]".into());
        }
        let lead = &dy.shape[..dy.rank() - 2];
        let shape = [lead, &[self.forward.rows(&ids), self.width]].concat();
        Ok(Type::new(dy.dtype, shape))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let [ids, dy] = [args[0], args[1]];
        let [.., rows, n] = ty.shape[..] else {
            unreachable!("x has at least two axes")
        };
        let mut dx = vec![0.0; ty.len()];
        let matrices = dx.chunks_mut((rows * n).max(1));
        for (dx, dy) in matrices.zip(dy.data.chunks(ids.data.len().max(1))) {
            for (at, dy) in self.forward.places(ids, n).zip(dy) {
                dx[at] += dy;
            }
        }
        Tensor::new(ty.shape.clone(), dx)
    }
}
