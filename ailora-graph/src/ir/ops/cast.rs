//! Conversion to another type of elements.

use std::fmt;

use egg::Id;

use super::{arity, floats};
use crate::ir::{DType, Draw, Operation, Program, ProgramError, Tensor, Type};

/// The nearest values of another type of floats. Its gradient is that of the identity.
///
/// A type bounds what a value is kept in from below: a backend may keep it wider. So a cast of a
/// product to float32 makes the product's own result float32, which nothing has rounded before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cast {
    /// The type of the result.
    pub to: DType,
}

impl fmt::Display for Cast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cast({})", self.to)
    }
}

impl Operation for Cast {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        floats(args)?;
        let [x] = arity(args)?;
        match self.to.is_float() {
            true => Ok(Type::new(self.to, x.shape)),
            false => Err("expected a type of floats to convert to".into()),
        }
    }

    /// Rounded as every value is by its type.
    fn eval(&self, args: &[&Tensor], _: &Type, _: Draw) -> Tensor {
        args[0].clone()
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let dtype = p.ty(args[0]).dtype;
        Ok(vec![Some(p.cast(dy, dtype)?)])
    }
}
