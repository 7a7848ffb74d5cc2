//! Keys and values of earlier tokens, as generation reads and adds to them.

use std::fmt;

use super::{arity, floats, softmax::softmax};
use crate::ir::{DType, Draw, Operation, Real, Tensor, Type, ops::loss::IGNORED};

/// A state with some of its places filled anew: row `ids_ij` of `state`, of all its rows in one row, is
/// row `ij` of `new`. Where the id is [`IGNORED`] nothing is put.
///
/// A program that puts into a state reads it as the result alone: what was there before may be gone. Two
/// rows have different places.
///
/// # Shapes
/// `state`: `[n, places, w]`; `new`: `[b, s, w]`; `ids`: `[b, s]` of i32 below `n·places`; result: as
/// `state`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Put;

impl fmt::Display for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("put")
    }
}

impl Operation for Put {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [state, new, ids] = arity(args)?;
        let fits = state.rank() == 3
            && new.rank() == 3
            && state.dtype.is_float()
            && new.dtype.is_float()
            && state.shape[2] == new.shape[2]
            && ids.dtype == DType::I32
            && ids.shape == new.shape[..2];
        if !fits {
            return Err(
                "expected a state of [n, places, w], floats of [b, s, w] and ids of i32[b, s]"
                    .into(),
            );
        }
        Ok(state)
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let width = ty.shape[2].max(1);
        let mut data = args[0].data.clone();
        for (row, &id) in args[1].data.chunks(width).zip(&args[2].data) {
            if id != f64::from(IGNORED) {
                data[id as usize * width..][..width].copy_from_slice(row);
            }
        }
        Tensor::new(ty.shape.clone(), data)
    }
}

/// Attention to keys and values that lie anywhere in a cache: query `bi` sees the first `counts_bi` of
/// the places that row `b` of `table` names, of all the cache's rows in one row. So rows of unlike
/// lengths need no padding, and rows that share their beginning share its places (Kwon et al., 2023, with
/// pages of one token). Heads are as in [`Attention`](super::attention::Attention).
///
/// # Shapes
/// `q`: `[b, s, heads·d]`; `k`, `v`: `[n, places, kv_heads·d]`; `table`: `[b, t]` of i32 below
/// `n·places`; `counts`: `[b, s]` of i32, at most `t`; result: as `q`. A query that sees nothing gives
/// zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CachedAttention {
    /// How many heads of queries.
    pub heads: usize,
    /// How many heads of keys and values, a divisor of `heads`.
    pub kv_heads: usize,
    /// The factor on the scores, usually `1/sqrt(d)`.
    pub scale: Real,
}

impl fmt::Display for CachedAttention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cached_attention({} heads", self.heads)?;
        if self.kv_heads != self.heads {
            write!(f, " over {}", self.kv_heads)?;
        }
        f.write_str(")")
    }
}

impl Operation for CachedAttention {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let dtype = floats(args.get(..3).unwrap_or(args))?;
        let [q, k, v, table, counts] = arity(args)?;
        let fits = q.rank() == 3
            && k.rank() == 3
            && k == v
            && table.dtype == DType::I32
            && table.rank() == 2
            && table.shape[0] == q.shape[0]
            && counts.dtype == DType::I32
            && counts.shape == q.shape[..2];
        if !fits {
            return Err(
                "expected q of [b, s, w], k and v of [n, places, u], a table of i32[b, t] and \
                        counts of i32[b, s]"
                    .into(),
            );
        }
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        let divides = |part: usize, whole: usize| part > 0 && whole.is_multiple_of(part);
        if !divides(heads, q.shape[2])
            || !divides(kv_heads, heads)
            || k.shape[2] != q.shape[2] / heads * kv_heads
        {
            return Err(format!(
                "expected a width of {heads} heads, and keys of {kv_heads} as wide ones"
            ));
        }
        Ok(Type::new(dtype, q.shape))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let [q, k, v, table, counts] = [args[0], args[1], args[2], args[3], args[4]];
        let [_, queries, width] = ty.shape[..] else {
            unreachable!("queries have three axes")
        };
        let depth = width / self.heads;
        let kv_width = depth * self.kv_heads;
        let longest = table.shape[1];
        let mut out = vec![0.0; ty.len()];
        for (row, out) in out.chunks_mut(width).enumerate() {
            let places = &table.data[row / queries * longest..][..counts.data[row] as usize];
            for (h, out) in out.chunks_mut(depth).enumerate() {
                let from = h / (self.heads / self.kv_heads) * depth;
                let head = |x: &Tensor, place: f64| -> Vec<f64> {
                    x.data[place as usize * kv_width + from..][..depth].to_vec()
                };
                let q = &q.data[row * width + h * depth..][..depth];
                let score = |&place: &f64| -> f64 {
                    let key = head(k, place);
                    self.scale.0 * q.iter().zip(key).map(|(q, k)| q * k).sum::<f64>()
                };
                let scores: Vec<f64> = places.iter().map(score).collect();
                for (p, &place) in softmax(&scores).iter().zip(places) {
                    for (out, v) in out.iter_mut().zip(head(v, place)) {
                        *out += p * v;
                    }
                }
            }
        }
        Tensor::new(ty.shape.clone(), out)
    }
}
