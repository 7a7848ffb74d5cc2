//! Tensors side by side.

use std::fmt;

use egg::Id;

use super::floats;
use crate::ir::{Draw, Operation, Program, ProgramError, Tensor, Type};

/// The arguments one behind the other along an axis, in which alone their dimensions may differ.
///
/// A plan makes it free where it can: the arguments are computed into their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Concat {
    /// The axis.
    pub axis: usize,
}

impl fmt::Display for Concat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "concat({})", self.axis)
    }
}

impl Operation for Concat {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let dtype = floats(args)?;
        let Some((&first, rest)) = args.split_first() else {
            return Err("expected at least one argument".into());
        };
        let mut whole = first.shape.clone();
        for other in rest {
            let mut other = other.shape.clone();
            let (Some(sum), Some(own)) = (whole.get_mut(self.axis), other.get_mut(self.axis))
            else {
                return Err("expected an axis of every argument".into());
            };
            *sum += *own;
            *own = *sum;
            if other != whole {
                return Err("expected dimensions that differ only along the axis".into());
            }
        }
        Ok(Type::new(dtype, whole))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        Tensor::from_fn(&ty.shape, |index| {
            let mut index = index.to_vec();
            for arg in args {
                let own = arg.shape[self.axis];
                if index[self.axis] < own {
                    return arg.at(&index);
                }
                index[self.axis] -= own;
            }
            unreachable!("an index within the sum of the arguments is within one of them")
        })
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        wants: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let mut start = 0;
        let mut towards = Vec::with_capacity(args.len());
        for (&arg, &wanted) in args.iter().zip(wants) {
            let end = start + p.shape(arg)[self.axis];
            towards.push(if wanted {
                Some(p.slice(dy, self.axis, start, end)?)
            } else {
                None
            });
            start = end;
        }
        Ok(towards)
    }
}
