//! Scaled dot-product attention over padded sequences.

use std::fmt;

use egg::Id;

use super::{
    arity, floats,
    softmax::{softmax, softmax_grad},
};
use crate::ir::{
    Draw, Name, Operation, Program, ProgramError, Real, Tensor, Type, random::drop_threshold,
};

/// For each sequence and head, `softmax(scale Q K^T, keys the mask leaves out) V`
/// (Vaswani et al., 2017), with dropout on the probabilities. The heads lie side by side in the
/// last axis, so that projections need no transposition. With fewer heads of keys and values than
/// of queries, neighbouring queries' heads share one (grouped-query attention, Ainslie et al., 2023).
///
/// No query sees a key whose mask is 0. Under a causal mask, where queries and keys are the same
/// tokens, a sequence may hold several documents: the mask then numbers them, 1, 2, ..., and a query
/// sees the keys of its own document only. A query whose own key is padding sees those of all.
///
/// # Shapes
/// `q`: `[b, s, heads·d]`; `k`, `v`: `[b, t, kv_heads·d]`; `mask`: `[b, t]`, of each key the number
/// of its document, or 0 for padding; result: `[b, s, heads·d]`. A query that sees no key gives zeros.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attention {
    /// How many heads of queries.
    pub heads: usize,
    /// How many heads of keys and values, a divisor of `heads`.
    pub kv_heads: usize,
    /// Whether a query sees no key behind its own: the last query's own is the last key, the query
    /// before has the key before. If not, every query sees all keys that are no padding.
    pub causal: bool,
    /// The factor on the scores, usually `1/sqrt(d)`.
    pub scale: Real,
    /// The probability of dropping a probability.
    pub dropout: Real,
    /// The name of the stream of random numbers.
    pub stream: Name,
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attention({}", self.attributes())?;
        if self.dropout.0 > 0.0 {
            write!(f, ", dropout {}", self.dropout)?;
        }
        f.write_str(")")
    }
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Sequences.
    pub batch: usize,
    /// Queries a sequence.
    pub queries: usize,
    /// Keys a sequence.
    pub keys: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of a head.
    pub depth: usize,
}

impl Dims {
    /// How many heads of queries share one of keys and values.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// How many keys query `i` may see under a causal mask.
    pub fn visible(&self, i: usize) -> usize {
        (i + 1 + self.keys)
            .saturating_sub(self.queries)
            .min(self.keys)
    }
}

impl Attention {
    fn attributes(&self) -> String {
        let mut text = format!("{} heads", self.heads);
        if self.kv_heads != self.heads {
            text += &format!(" over {}", self.kv_heads);
        }
        if self.causal {
            text += ", causal";
        }
        text
    }

    /// The sizes for queries and keys of these shapes, which fit.
    pub fn dims(&self, q: &[usize], k: &[usize]) -> Dims {
        Dims {
            batch: q[0],
            queries: q[1],
            keys: k[1],
            heads: self.heads,
            kv_heads: self.kv_heads,
            depth: q[2] / self.heads,
        }
    }

    fn check(&self, args: &[Type]) -> Result<(), String> {
        let [q, k, v, mask] = args else {
            return Err("expected q, k, v and a mask".into());
        };
        let fits = q.rank() == 3
            && k.rank() == 3
            && k.shape == v.shape
            && q.shape[0] == k.shape[0]
            && mask.shape == k.shape[..2];
        if !fits {
            return Err("expected q of [b, s, w], k and v of [b, t, u], a mask of [b, t]".into());
        }
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        if heads == 0 || q.shape[2] % heads != 0 {
            return Err(format!("expected a width divisible by {heads} heads"));
        }
        if kv_heads == 0 || heads % kv_heads != 0 {
            return Err(format!(
                "expected heads of keys that divide {heads}, not {kv_heads}"
            ));
        }
        if k.shape[2] != q.shape[2] / heads * kv_heads {
            return Err(format!(
                "expected keys of {kv_heads} heads as wide as those of the queries"
            ));
        }
        Ok(())
    }
}

/// One head of one sequence in the reference: its rows as slices.
struct Head<'a> {
    q: Vec<&'a [f64]>,
    k: Vec<&'a [f64]>,
    v: Vec<&'a [f64]>,
    mask: &'a [f64],
    op: &'a Attention,
    d: Dims,
}

impl<'a> Head<'a> {
    fn new(op: &'a Attention, args: &[&'a Tensor], b: usize, h: usize) -> Self {
        let d = op.dims(&args[0].shape, &args[1].shape);
        let kv = h / d.group();
        Self {
            q: head_rows(args[0], b, h, d.depth),
            k: head_rows(args[1], b, kv, d.depth),
            v: head_rows(args[2], b, kv, d.depth),
            mask: &args[3].data[b * d.keys..][..d.keys],
            op,
            d,
        }
    }

    /// Those of query `i`.
    fn probabilities(&self, i: usize) -> Vec<f64> {
        let own = self
            .d
            .visible(i)
            .checked_sub(1)
            .map_or(0.0, |own| self.mask[own]);
        let seen = |j: usize| j < self.d.visible(i) && (own == 0.0 || self.mask[j] == own);
        let sees = |j: usize| self.mask[j] != 0.0 && (!self.op.causal || seen(j));
        if !(0..self.d.keys).any(sees) {
            return vec![0.0; self.d.keys];
        }
        let score = |j: usize| {
            if sees(j) {
                self.op.scale.0 * dot(self.q[i], self.k[j])
            } else {
                f64::NEG_INFINITY
            }
        };
        softmax(&(0..self.d.keys).map(score).collect::<Vec<f64>>())
    }
}

fn head_rows(x: &Tensor, b: usize, h: usize, depth: usize) -> Vec<&[f64]> {
    let [rows, width] = [x.shape[1], x.shape[2]];
    (0..rows)
        .map(|i| &x.data[(b * rows + i) * width + h * depth..][..depth])
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The factor dropout puts on each probability, by position in `[b, heads, s, t]`.
fn dropped(op: &Attention, draw: Draw) -> impl Fn(usize) -> f64 + use<> {
    let key = draw.key(&op.stream);
    let rate = op.dropout.0;
    let threshold = drop_threshold(rate);
    move |index| {
        if key.bits(index as u32) < threshold {
            0.0
        } else {
            1.0 / (1.0 - rate)
        }
    }
}

impl Operation for Attention {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let dtype = floats(args)?;
        let args: [Type; 4] = arity(args)?;
        self.check(&args)?;
        let [q, ..] = args;
        Ok(Type::new(dtype, q.shape))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, draw: Draw) -> Tensor {
        let d = self.dims(&args[0].shape, &args[1].shape);
        let width = d.heads * d.depth;
        let dropped = dropped(self, draw);
        let mut out = vec![0.0; ty.len()];
        for b in 0..d.batch {
            for h in 0..d.heads {
                let head = Head::new(self, args, b, h);
                for i in 0..d.queries {
                    let at = ((b * d.heads + h) * d.queries + i) * d.keys;
                    for (j, p) in head.probabilities(i).iter().enumerate() {
                        let p = p * dropped(at + j);
                        let out = &mut out[(b * d.queries + i) * width + h * d.depth..][..d.depth];
                        for (out, v) in out.iter_mut().zip(head.v[j]) {
                            *out += p * v;
                        }
                    }
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
        let args = [args[0], args[1], args[2], args[3], dy];
        let mut towards = vec![None; 4];
        for of in Operand::ALL {
            if wants[of as usize] {
                let forward = self.clone();
                towards[of as usize] = Some(p.add(AttentionGrad { forward, of }, &args)?);
            }
        }
        Ok(towards)
    }
}

/// What an attention has gradients towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operand {
    /// The queries.
    Q,
    /// The keys.
    K,
    /// The values.
    V,
}

impl Operand {
    /// All of them, in the order of the attention's arguments.
    pub const ALL: [Self; 3] = [Self::Q, Self::K, Self::V];
}

/// The gradient of [`Attention`] towards one operand, from `q, k, v, mask` and `dy`. A plan computes
/// those of one attention together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttentionGrad {
    /// The attention.
    pub forward: Attention,
    /// Towards what.
    pub of: Operand,
}

impl fmt::Display for AttentionGrad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.of {
            Operand::Q => "dq",
            Operand::K => "dk",
            Operand::V => "dv",
        };
        write!(f, "attention_grad({}, {name})", self.forward.attributes())
    }
}

impl Operation for AttentionGrad {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let dtype = floats(args)?;
        let [q, k, v, mask, dy] = arity(args)?;
        self.forward
            .check(&[q.clone(), k.clone(), v.clone(), mask])?;
        if dy.shape != q.shape {
            return Err("expected a gradient of the shape of q".into());
        }
        let of = match self.of {
            Operand::Q => q,
            Operand::K => k,
            Operand::V => v,
        };
        Ok(Type::new(dtype, of.shape))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, draw: Draw) -> Tensor {
        let op = &self.forward;
        let d = op.dims(&args[0].shape, &args[1].shape);
        let width = d.heads * d.depth;
        let dropped = dropped(op, draw);
        let mut grad = vec![0.0; ty.len()];
        for b in 0..d.batch {
            for h in 0..d.heads {
                let head = Head::new(op, &args[..4], b, h);
                let dy = head_rows(args[4], b, h, d.depth);
                for (i, dy) in dy.iter().enumerate() {
                    let at = ((b * d.heads + h) * d.queries + i) * d.keys;
                    let p = head.probabilities(i);
                    let dp: Vec<f64> = (0..d.keys)
                        .map(|j| dropped(at + j) * dot(dy, head.v[j]))
                        .collect();
                    let ds = softmax_grad(&p, &dp);
                    let query = (b * d.queries + i) * width + h * d.depth;
                    let key = |j: usize| ((b * d.keys + j) * d.kv_heads + h / d.group()) * d.depth;
                    for (j, &ds) in ds.iter().enumerate() {
                        for c in 0..d.depth {
                            let ds = ds * op.scale.0;
                            let (row, part) = match self.of {
                                Operand::Q => (query, ds * head.k[j][c]),
                                Operand::K => (key(j), ds * head.q[i][c]),
                                Operand::V => (key(j), p[j] * dropped(at + j) * dy[c]),
                            };
                            grad[row + c] += part;
                        }
                    }
                }
            }
        }
        Tensor::new(ty.shape.clone(), grad)
    }
}
