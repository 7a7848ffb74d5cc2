//! Low-rank updates added to the matrix that lies beside them.

use std::fmt;

use super::{arity, floats};
use crate::ir::{Draw, Operation, Real, Tensor, Type};

/// `[W | B; A | _]` becomes `[W + s B A | s B; s A | 0]`: a pack of weights and adapters, with the
/// adapters in the weights.
///
/// # Shapes
/// `[m + r, p]` for weights of `[m, n]` with p at least n + r, of which the columns behind n + r are
/// zero, and the same for the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Merge {
    /// `[m, n]`: where the weights end.
    pub corner: [usize; 2],
    /// `s`.
    pub scale: Real,
}

impl Merge {
    /// `r`, for a pack of this shape.
    pub fn rank(&self, shape: &[usize]) -> usize {
        shape[0] - self.corner[0]
    }
}

impl fmt::Display for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m, n] = self.corner;
        write!(f, "merge({m}x{n}, {})", self.scale)
    }
}

impl Operation for Merge {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        floats(args)?;
        let [pack] = arity(args)?;
        let ranks: Vec<Option<usize>> = pack
            .shape
            .iter()
            .zip(self.corner)
            .map(|(whole, corner)| whole.checked_sub(corner))
            .collect();
        match ranks[..] {
            [Some(a), Some(b)] if a <= b && pack.rank() == 2 => Ok(pack),
            _ => Err("expected no more rows below the weights than columns beside them".into()),
        }
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let [m, n] = self.corner;
        let (pack, scale) = (args[0], self.scale.0);
        let rank = self.rank(&ty.shape);
        Tensor::from_fn(&ty.shape, |index| {
            let [i, j] = [index[0], index[1]];
            match (i < m, j < n) {
                (true, true) => {
                    let update = (0..rank).map(|k| pack.at(&[i, n + k]) * pack.at(&[m + k, j]));
                    pack.at(index) + scale * update.sum::<f64>()
                }
                (false, false) => 0.0,
                _ => scale * pack.at(index),
            }
        })
    }
}
