//! Sums and maxima along axes, which keep size 1.

use std::fmt;

use egg::Id;

use super::{arity, floats};
use crate::ir::{
    Draw, Operation, Program, ProgramError, Tensor, Type,
    shape::{broadcast_strides, for_each_index},
};

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Combine {
    /// Their sum.
    Sum,
    /// The largest.
    Max,
}

/// Combines the elements along some axes, which keep size 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reduce {
    /// How elements are combined.
    pub combine: Combine,
    /// Along which axes.
    pub axes: Vec<usize>,
}

impl Reduce {
    /// The sum along `axes`.
    pub fn sum(axes: impl Into<Vec<usize>>) -> Self {
        Self {
            combine: Combine::Sum,
            axes: axes.into(),
        }
    }

    /// The maximum along `axes`.
    pub fn max(axes: impl Into<Vec<usize>>) -> Self {
        Self {
            combine: Combine::Max,
            axes: axes.into(),
        }
    }
}

impl fmt::Display for Reduce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.combine {
            Combine::Sum => "sum",
            Combine::Max => "max",
        };
        write!(f, "{name}{:?}", self.axes)
    }
}

impl Operation for Reduce {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        floats(args)?;
        let [mut x] = arity(args)?;
        for &axis in &self.axes {
            match x.shape.get_mut(axis) {
                Some(dim) => *dim = 1,
                None => return Err(format!("expected an axis below {}", x.shape.len())),
            }
        }
        Ok(Type::f32(x.shape))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let start = match self.combine {
            Combine::Sum => 0.0,
            Combine::Max => f64::NEG_INFINITY,
        };
        let mut out = vec![start; ty.len()];
        let strides = broadcast_strides(&ty.shape, &args[0].shape);
        let mut elements = args[0].data.iter();
        for_each_index(&args[0].shape, |index| {
            let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
            let Some(&x) = elements.next() else { return };
            out[at] = match self.combine {
                Combine::Sum => out[at] + x,
                // Unlike `f64::max`, keeps NaN.
                Combine::Max if out[at].is_nan() || out[at] > x => out[at],
                Combine::Max => x,
            };
        });
        Tensor::new(ty.shape.clone(), out)
    }

    fn vjp(
        &self,
        p: &mut Program,
        y: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let shape = p.shape(args[0]).to_vec();
        match self.combine {
            Combine::Sum => Ok(vec![Some(p.expand(dy, &shape)?)]),
            Combine::Max => {
                // Every element that equals the maximum takes the whole slope; ties of random
                // numbers have measure zero, and softmax, the use here, is invariant to it.
                let smaller = p.add(super::elementwise::Binary::Less, &[args[0], y])?;
                let one = p.constant(1.0);
                let largest = p.difference(one, smaller)?;
                Ok(vec![Some(p.product(largest, dy)?)])
            }
        }
    }
}
