//! Random zeroing of elements while training.

use std::fmt;

use egg::Id;

use super::{arity, floats};
use crate::ir::{
    Draw, Name, Operation, Program, ProgramError, Real, Tensor, Type, random::drop_threshold,
};

/// Zeroes each element with probability `rate` and divides the others by `1 - rate`
/// (Srivastava et al., 2014). Which ones depends on the seed, the stream's name, the step and the
/// position, so the backward pass draws the same again instead of keeping a mask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dropout {
    /// The probability of zeroing.
    pub rate: Real,
    /// The name of the stream of random numbers.
    pub stream: Name,
}

impl fmt::Display for Dropout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dropout({}, {})", self.rate, self.stream)
    }
}

impl Operation for Dropout {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        floats(args)?;
        if !(0.0..1.0).contains(&self.rate.0) {
            return Err("expected a rate in [0, 1)".into());
        }
        let [x] = arity(args)?;
        Ok(x)
    }

    fn eval(&self, args: &[&Tensor], _: &Type, draw: Draw) -> Tensor {
        let key = draw.key(&self.stream);
        let threshold = drop_threshold(self.rate.0);
        let keep = 1.0 / (1.0 - self.rate.0);
        let data = args[0].data.iter().enumerate().map(|(i, x)| {
            if key.bits(i as u32) < threshold {
                0.0
            } else {
                x * keep
            }
        });
        Tensor::new(args[0].shape.clone(), data.collect::<Vec<_>>())
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        _: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        Ok(vec![Some(p.add(self.clone(), &[dy])?)])
    }
}
