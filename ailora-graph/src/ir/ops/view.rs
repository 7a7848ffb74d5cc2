//! Rearrangements of elements.

use std::fmt;

use egg::Id;

use super::arity;
use crate::ir::{
    Draw, Operation, Program, ProgramError, Tensor, Type,
    shape::{broadcast, strides},
};

/// The same elements in the same order under other dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reshape {
    /// The new dimensions.
    pub shape: Vec<usize>,
}

impl fmt::Display for Reshape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reshape{:?}", self.shape)
    }
}

impl Operation for Reshape {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [x] = arity(args)?;
        if self.shape.iter().product::<usize>() != x.len() {
            return Err(format!("expected {} elements", x.len()));
        }
        Ok(Type {
            dtype: x.dtype,
            shape: self.shape.clone(),
        })
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        Tensor::new(ty.shape.clone(), args[0].data.clone())
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let shape = p.shape(args[0]).to_vec();
        Ok(vec![Some(p.reshape(dy, &shape)?)])
    }
}

/// The axes in another order: axis `i` of the result is axis `axes[i]` of the argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Permute {
    /// The argument's axis for each of the result.
    pub axes: Vec<usize>,
}

impl fmt::Display for Permute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "permute{:?}", self.axes)
    }
}

impl Operation for Permute {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [x] = arity(args)?;
        let mut sorted = self.axes.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..x.rank()) {
            return Err(format!("expected each axis below {} once", x.rank()));
        }
        Ok(Type {
            dtype: x.dtype,
            shape: self.axes.iter().map(|&axis| x.shape[axis]).collect(),
        })
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let own = strides(&args[0].shape);
        Tensor::from_fn(&ty.shape, |index| {
            let at: usize = index.iter().zip(&self.axes).map(|(i, &a)| i * own[a]).sum();
            args[0].data[at]
        })
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        _: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let mut inverse = vec![0; self.axes.len()];
        for (i, &axis) in self.axes.iter().enumerate() {
            inverse[axis] = i;
        }
        Ok(vec![Some(p.permute(dy, &inverse)?)])
    }
}

/// Repetition along new leading axes and axes of size 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expand {
    /// The new dimensions.
    pub shape: Vec<usize>,
}

impl fmt::Display for Expand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expand{:?}", self.shape)
    }
}

impl Operation for Expand {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [x] = arity(args)?;
        if broadcast(&x.shape, &self.shape).as_ref() != Some(&self.shape) {
            return Err(format!(
                "expected a shape that broadcasts to {:?}",
                self.shape
            ));
        }
        Ok(Type {
            dtype: x.dtype,
            shape: self.shape.clone(),
        })
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        args[0].broadcast_to(&ty.shape)
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let shape = p.shape(args[0]).to_vec();
        Ok(vec![Some(p.sum_to(dy, &shape)?)])
    }
}

/// The range `start..end` along one axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slice {
    /// The axis.
    pub axis: usize,
    /// The first index.
    pub start: usize,
    /// The index after the last.
    pub end: usize,
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slice({}, {}..{})", self.axis, self.start, self.end)
    }
}

impl Operation for Slice {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [mut x] = arity(args)?;
        match x.shape.get_mut(self.axis) {
            Some(dim) if self.start < self.end && self.end <= *dim => {
                *dim = self.end - self.start;
                Ok(x)
            }
            _ => Err("expected a range within the axis".into()),
        }
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        Tensor::from_fn(&ty.shape, |index| {
            let mut index = index.to_vec();
            index[self.axis] += self.start;
            args[0].at(&index)
        })
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let whole = p.shape(args[0])[self.axis];
        let pad = Pad {
            axis: self.axis,
            before: self.start,
            after: whole - self.end,
        };
        Ok(vec![Some(p.add(pad, &[dy])?)])
    }
}

/// Zeros before and after along one axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pad {
    /// The axis.
    pub axis: usize,
    /// How many zeros before.
    pub before: usize,
    /// How many after.
    pub after: usize,
}

impl fmt::Display for Pad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pad({}, {}, {})", self.axis, self.before, self.after)
    }
}

impl Operation for Pad {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [mut x] = arity(args)?;
        match x.shape.get_mut(self.axis) {
            Some(dim) => {
                *dim += self.before + self.after;
                Ok(x)
            }
            None => Err("expected an axis of the argument".into()),
        }
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let inside = self.before..self.before + args[0].shape[self.axis];
        Tensor::from_fn(&ty.shape, |index| {
            if !inside.contains(&index[self.axis]) {
                return 0.0;
            }
            let mut index = index.to_vec();
            index[self.axis] -= self.before;
            args[0].at(&index)
        })
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let end = self.before + p.shape(args[0])[self.axis];
        Ok(vec![Some(p.slice(dy, self.axis, self.before, end)?)])
    }
}
