//! Matrix products.

use std::fmt;

use egg::Id;

use super::{arity, floats};
use crate::ir::{Draw, Operation, Program, ProgramError, Tensor, Type};

/// `op(a) · op(b)` over the last two axes, where `op` swaps them if asked.
///
/// # Shapes
/// - `a`: `[..., m, k]`, or `[..., k, m]` if `trans_a`
/// - `b`: `[k, n]` for every matrix of `a`, or `[..., k, n]` with the leading axes of `a`; with
///   `n` and `k` exchanged if `trans_b`
/// - result: `[..., m, n]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MatMul {
    /// Whether `a` is transposed.
    pub trans_a: bool,
    /// Whether `b` is transposed.
    pub trans_b: bool,
}

/// The sizes of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// How many independent products.
    pub batch: usize,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// The summed dimension.
    pub k: usize,
    /// Whether every product has a right side of its own.
    pub batched_b: bool,
}

impl MatMul {
    /// The sizes of the product of tensors of these shapes, which fit.
    ///
    /// One right side for all rows of an untransposed `a` is one product, not a batch.
    pub fn dims(&self, a: &[usize], b: &[usize]) -> Dims {
        let swap = |[x, y]: [usize; 2], swapped| if swapped { [y, x] } else { [x, y] };
        let tail = |s: &[usize]| [s[s.len() - 2], s[s.len() - 1]];
        let [m, k] = swap(tail(a), self.trans_a);
        let [_, n] = swap(tail(b), self.trans_b);
        let lead: usize = a[..a.len() - 2].iter().product();
        let batched_b = b.len() > 2;
        let (batch, m) = if batched_b || self.trans_a {
            (lead, m)
        } else {
            (1, lead * m)
        };
        Dims {
            batch,
            m,
            n,
            k,
            batched_b,
        }
    }
}

impl fmt::Display for MatMul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |transposed| if transposed { 't' } else { 'n' };
        write!(f, "matmul_{}{}", letter(self.trans_a), letter(self.trans_b))
    }
}

impl Operation for MatMul {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let dtype = floats(args)?;
        let [a, b] = arity(args)?;
        if a.rank() < 2 || b.rank() < 2 {
            return Err("expected two matrices or stacks of matrices".into());
        }
        let (lead_a, tail_a) = a.shape.split_at(a.rank() - 2);
        let (lead_b, tail_b) = b.shape.split_at(b.rank() - 2);
        if !lead_b.is_empty() && lead_a != lead_b {
            return Err("expected equal leading axes, or one matrix on the right".into());
        }
        let [m, ka] = if self.trans_a {
            [tail_a[1], tail_a[0]]
        } else {
            [tail_a[0], tail_a[1]]
        };
        let [kb, n] = if self.trans_b {
            [tail_b[1], tail_b[0]]
        } else {
            [tail_b[0], tail_b[1]]
        };
        if ka != kb {
            return Err(format!(
                "expected equal inner dimensions, found {ka} and {kb}"
            ));
        }
        Ok(Type::new(dtype, [lead_a, &[m, n]].concat()))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let [a, b] = [args[0], args[1]];
        let Dims {
            batch,
            m,
            n,
            k,
            batched_b,
        } = self.dims(&a.shape, &b.shape);
        let mut out = vec![0.0; ty.len()];
        for i in 0..batch {
            let a = &a.data[i * m * k..][..m * k];
            let b = &b.data[if batched_b { i * k * n } else { 0 }..][..k * n];
            for row in 0..m {
                for col in 0..n {
                    out[(i * m + row) * n + col] = (0..k)
                        .map(|l| {
                            let x = a[if self.trans_a {
                                l * m + row
                            } else {
                                row * k + l
                            }];
                            let y = b[if self.trans_b {
                                col * k + l
                            } else {
                                l * n + col
                            }];
                            x * y
                        })
                        .sum();
                }
            }
        }
        Tensor::new(ty.shape.clone(), out)
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        wants: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let [a, b] = [args[0], args[1]];
        let da = match (wants[0], self.trans_a) {
            (false, _) => None,
            (true, false) => Some(p.matmul(dy, false, b, !self.trans_b)?),
            // One matrix cannot be on the left of many.
            (true, true) if p.ty(b).rank() < p.ty(dy).rank() => {
                let transposed = p.matmul(dy, false, b, !self.trans_b)?;
                Some(p.transpose(transposed)?)
            }
            (true, true) => Some(p.matmul(b, self.trans_b, dy, true)?),
        };
        let db = if !wants[1] {
            None
        } else {
            let (a, trans_a, dy) = self.as_matrices(p, a, b, dy)?;
            Some(if self.trans_b {
                p.matmul(dy, true, a, trans_a)?
            } else {
                p.matmul(a, !trans_a, dy, false)?
            })
        };
        Ok(vec![da, db])
    }
}

impl MatMul {
    /// `a` and `dy` such that one product of them is the gradient of `b`: where one `b` serves many
    /// matrices, these are stacked into one, so that the sum over them is the product's own.
    fn as_matrices(
        &self,
        p: &mut Program,
        a: Id,
        b: Id,
        dy: Id,
    ) -> Result<(Id, bool, Id), ProgramError> {
        let rank = p.ty(a).rank();
        if p.ty(b).rank() > 2 || rank == 2 {
            return Ok((a, self.trans_a, dy));
        }
        let a = if self.trans_a { p.transpose(a)? } else { a };
        let flat = |p: &mut Program, x: Id| {
            let width = p.shape(x)[rank - 1];
            let rows = p.shape(x)[..rank - 1].iter().product();
            p.reshape(x, &[rows, width])
        };
        Ok((flat(p, a)?, false, flat(p, dy)?))
    }
}
