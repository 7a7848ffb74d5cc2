//! Low-rank updates added to the matrix that lies beside them.

use std::fmt;

use super::{arity, floats};
use crate::ir::{Draw, Operation, Real, Tensor, Type};

/// `[W | B; A | _]` becomes `[W + s B A | s B; s A | 0]`: a pack of weights and adapters, with the
/// adapters in the weights.
///
/// # Shapes
/// `[m + r, n + r]` or more for weights of `[m, n]`, zero behind those rows and columns, and the same
/// for the result.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Merge {
    /// `[m, n]`: where the weights end.
    pub corner: [usize; 2],
    /// The adapters; all of `B` and `A` that is not zero.
    pub updates: Vec<Update>,
    /// `s`.
    pub scale: Real,
}

/// An adapter in a pack, and the block of the weights that it is added to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Update {
    /// The block's first row and column: those of `B` and `A` as well.
    pub at: [usize; 2],
    /// The block's rows and columns.
    pub shape: [usize; 2],
    /// The first of its columns of `B` and rows of `A`.
    pub inner: usize,
    /// How many of these there are.
    pub rank: usize,
}

impl Update {
    /// Rows, columns and depth of the product that is added.
    pub fn sizes(&self) -> [usize; 3] {
        [self.shape[0], self.shape[1], self.rank]
    }

    /// Whether the block ends within a matrix of this shape.
    fn is_within(&self, shape: [usize; 2]) -> bool {
        (0..2).all(|axis| self.at[axis] + self.shape[axis] <= shape[axis])
    }

    fn covers(&self, index: [usize; 2]) -> bool {
        (0..2).all(|axis| (self.at[axis]..self.at[axis] + self.shape[axis]).contains(&index[axis]))
    }
}

impl fmt::Display for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m, n] = self.corner;
        write!(f, "merge({m}x{n}")?;
        for own in &self.updates {
            let ([row, column], [height, width, rank]) = (own.at, own.sizes());
            write!(
                f,
                ", {height}x{width} at {row},{column} by {rank} from {}",
                own.inner
            )?;
        }
        write!(f, ", {})", self.scale)
    }
}

impl Operation for Merge {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        floats(args)?;
        let [pack] = arity(args)?;
        let &[rows, columns] = &pack.shape[..] else {
            return Err("expected a matrix".into());
        };
        let fits = |own: &Update| {
            let end = own.inner + own.rank;
            let [bottom, right] = self.corner.map(|corner| corner + end);
            own.is_within(self.corner) && bottom <= rows && right <= columns
        };
        match self.updates.iter().all(fits) {
            true => Ok(pack),
            false => Err("expected adapters of the pack, for blocks of its weights".into()),
        }
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let [m, n] = self.corner;
        let (pack, scale) = (args[0], self.scale.0);
        Tensor::from_fn(&ty.shape, |index| {
            let [i, j] = [index[0], index[1]];
            match (i < m, j < n) {
                (true, true) => {
                    let own = self.updates.iter().filter(|own| own.covers([i, j]));
                    let inner = own.flat_map(|own| own.inner..own.inner + own.rank);
                    let update = inner.map(|k| pack.at(&[i, n + k]) * pack.at(&[m + k, j]));
                    pack.at(index) + scale * update.sum::<f64>()
                }
                (false, false) => 0.0,
                _ => scale * pack.at(index),
            }
        })
    }
}
