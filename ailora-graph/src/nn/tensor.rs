use luminal::prelude::{GraphTensor, NodeIndex, Shape};

use super::Cx;
use crate::dialect::tracker;
use crate::ir::{
    Name, Op, Real, Type,
    ops::{
        attention::Attention,
        cache::{CachedAttention, Put},
        concat::Concat,
        dropout::Dropout,
        elementwise::{Binary, Unary},
        embedding::Embedding,
        loss::{CrossEntropy, Matches},
        matmul::MatMul,
        normalize::Normalize,
        reduce::Reduce,
        rotary::Rotary,
        softmax::Softmax,
        take_along::TakeAlong,
        top::{LogSumExp, Top},
        view::{Pad, Permute, Reshape, Slice},
    },
};

/// A value in a graph under construction, of a known type.
#[derive(Clone, Debug)]
pub struct Tensor<'g> {
    cx: &'g Cx,
    node: NodeIndex,
    ty: Type,
}

impl<'g> Tensor<'g> {
    pub(super) fn new(cx: &'g Cx, node: NodeIndex, ty: Type) -> Self {
        Self { cx, node, ty }
    }

    /// The graph it is in.
    pub fn cx(&self) -> &'g Cx {
        self.cx
    }

    /// The node that computes it.
    pub fn node(&self) -> NodeIndex {
        self.node
    }

    /// Its type.
    pub fn ty(&self) -> &Type {
        &self.ty
    }

    /// Its dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.ty.shape
    }

    /// This value for luminal's own operators.
    ///
    /// The graph must outlive the result, as luminal asks of every `GraphTensor`.
    pub fn graph_tensor<S: Shape>(&self) -> GraphTensor<S> {
        GraphTensor::from_id(self.node, tracker(self.shape()), self.cx.graph.as_ptr())
    }

    fn with(&self, op: impl Into<Op>, others: &[&Self]) -> Self {
        let args: Vec<&Tensor<'_>> = std::iter::once(self)
            .chain(others.iter().copied())
            .collect();
        self.cx.add(op.into(), &args)
    }

    fn constant(&self, value: f64) -> Self {
        self.cx.add(Op::Const(Real(value)), &[])
    }

    /// `op(self)`, element by element.
    pub fn unary(&self, op: Unary) -> Self {
        self.with(op, &[])
    }

    /// `op(self, other)`, element by element, broadcasting.
    pub fn binary(&self, op: Binary, other: &Self) -> Self {
        self.with(op, &[other])
    }

    /// Every element times `factor`.
    pub fn scale(&self, factor: f64) -> Self {
        self.binary(Binary::Mul, &self.constant(factor))
    }

    /// Every element plus `term`.
    pub fn shift(&self, term: f64) -> Self {
        self.binary(Binary::Add, &self.constant(term))
    }

    /// `x Phi(x)` (Hendrycks & Gimpel, 2016), exactly.
    pub fn gelu(&self) -> Self {
        self.unary(Unary::Gelu)
    }

    /// The approximation `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` of GELU.
    pub fn gelu_tanh(&self) -> Self {
        let cube = &(self * self) * self;
        let inner = (self + &cube.scale(0.044715)).scale((2.0 / std::f64::consts::PI).sqrt());
        &self.scale(0.5) * &inner.unary(Unary::Tanh).shift(1.0)
    }

    /// `x sigmoid(x)`.
    pub fn silu(&self) -> Self {
        self * &self.unary(Unary::Sigmoid)
    }

    /// Hyperbolic tangent.
    pub fn tanh(&self) -> Self {
        self.unary(Unary::Tanh)
    }

    /// `max(x, 0)`.
    pub fn relu(&self) -> Self {
        self.unary(Unary::Relu)
    }

    /// `self · other` over the last two axes.
    ///
    /// # Shapes
    /// `[..., m, k]` and `[k, n]` or `[..., k, n]` give `[..., m, n]`.
    pub fn matmul(&self, other: &Self) -> Self {
        let op = MatMul {
            trans_a: false,
            trans_b: false,
        };
        self.with(op, &[other])
    }

    /// `self · other^T` over the last two axes.
    ///
    /// # Shapes
    /// `[..., m, k]` and `[n, k]` or `[..., n, k]` give `[..., m, n]`.
    pub fn matmul_t(&self, other: &Self) -> Self {
        let op = MatMul {
            trans_a: false,
            trans_b: true,
        };
        self.with(op, &[other])
    }

    /// The same elements under other dimensions.
    pub fn reshape(&self, shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        self.with(Reshape { shape }, &[])
    }

    /// The axes in another order: axis `i` of the result is axis `axes[i]` of this.
    pub fn permute(&self, axes: impl Into<Vec<usize>>) -> Self {
        let axes = axes.into();
        self.with(Permute { axes }, &[])
    }

    /// The range `start..end` along `axis`.
    pub fn slice(&self, axis: usize, start: usize, end: usize) -> Self {
        self.with(Slice { axis, start, end }, &[])
    }

    /// Zeros before and after along `axis`.
    pub fn pad(&self, axis: usize, before: usize, after: usize) -> Self {
        let op = Pad {
            axis,
            before,
            after,
        };
        self.with(op, &[])
    }

    /// This and `other` behind it along `axis`, in which alone they may differ.
    pub fn concat(&self, other: &Self, axis: usize) -> Self {
        self.with(Concat { axis }, &[other])
    }

    /// The sum along `axes`, which keep size 1.
    pub fn sum(&self, axes: impl Into<Vec<usize>>) -> Self {
        self.with(Reduce::sum(axes), &[])
    }

    /// The mean along `axes`, which keep size 1.
    pub fn mean(&self, axes: impl Into<Vec<usize>>) -> Self {
        let axes = axes.into();
        let count: usize = axes
            .iter()
            .filter_map(|&axis| self.shape().get(axis))
            .product();
        self.sum(axes).scale(1.0 / count.max(1) as f64)
    }

    /// Softmax along the last axis.
    pub fn softmax(&self) -> Self {
        self.with(Softmax, &[])
    }

    /// Zero mean and unit variance along the last axis.
    pub fn normalize(&self, eps: f64) -> Self {
        let (centered, eps) = (true, Real(eps));
        self.with(Normalize { centered, eps }, &[])
    }

    /// A mean square of 1 along the last axis.
    pub fn rms_normalize(&self, eps: f64) -> Self {
        let (centered, eps) = (false, Real(eps));
        self.with(Normalize { centered, eps }, &[])
    }

    /// Every head rotated by its token's angles; see [`Rotary`].
    ///
    /// # Shapes
    /// `[b, s, heads·d]`, and `cos` and `sin` of `[b, s, d/2]`.
    pub fn rotary(&self, cos: &Self, sin: &Self) -> Self {
        self.with(Rotary, &[cos, sin])
    }

    /// The rows of this table at `ids`.
    ///
    /// # Shapes
    /// `[n, d]` and i32 `[...]` give `[..., d]`.
    pub fn rows(&self, ids: &Self) -> Self {
        self.with(Embedding, &[ids])
    }

    /// From each row `i`, the elements at row `i` of `ids`.
    ///
    /// # Shapes
    /// `[..., s, n]` and i32 `[s, t]` give `[..., s, t]`.
    pub fn take_along(&self, ids: &Self) -> Self {
        self.with(TakeAlong { transposed: false }, &[ids])
    }

    /// From each row `j`, the elements at column `j` of `ids`, as a column.
    ///
    /// # Shapes
    /// `[..., t, n]` and i32 `[s, t]` give `[..., s, t]`.
    pub fn take_along_t(&self, ids: &Self) -> Self {
        self.with(TakeAlong { transposed: true }, &[ids])
    }

    /// In a training graph, zeroes each element with probability `rate` and scales up the others.
    pub fn dropout(&self, rate: f64) -> Self {
        if !self.cx.training || rate == 0.0 {
            return self.clone();
        }
        let stream = Name::from(self.cx.stream());
        let rate = Real(rate);
        self.with(Dropout { rate, stream }, &[])
    }

    /// Attention of these queries over `keys` and `values` where `mask` is not 0, with dropout on
    /// the probabilities in a training graph; scores are divided by the square root of a head's
    /// width.
    ///
    /// # Shapes
    /// queries `[b, s, heads·d]`, keys and values `[b, t, g·d]` with `g` a divisor of `heads` (each
    /// head of keys serves `heads / g` of queries), mask `[b, t]`; result as the queries.
    pub fn attention(
        &self,
        keys: &Self,
        values: &Self,
        mask: &Self,
        heads: usize,
        dropout: f64,
    ) -> Self {
        self.attend([keys, values, mask], heads, dropout, false)
    }

    /// [`attention`](Self::attention) in which a query does not see the keys behind its own. The
    /// last query is the last key's, so that fewer queries than keys are the last ones. Where a row
    /// holds several documents, which the mask numbers from 1, a query sees its own document only.
    pub fn causal_attention(
        &self,
        keys: &Self,
        values: &Self,
        mask: &Self,
        heads: usize,
        dropout: f64,
    ) -> Self {
        self.attend([keys, values, mask], heads, dropout, true)
    }

    fn attend(&self, others: [&Self; 3], heads: usize, dropout: f64, causal: bool) -> Self {
        let width = |x: &Self| x.shape().last().copied().unwrap_or(1);
        let depth = (width(self) / heads.max(1)).max(1);
        let dropout = if self.cx.training { dropout } else { 0.0 };
        let stream = if dropout > 0.0 {
            self.cx.stream()
        } else {
            String::new()
        };
        let op = Attention {
            heads,
            kv_heads: width(others[0]) / depth,
            causal,
            scale: Real(1.0 / (depth as f64).sqrt()),
            dropout: Real(dropout),
            stream: stream.into(),
        };
        self.with(op, &others)
    }

    /// Attention of these queries to the places of a cache that a table names; see [`CachedAttention`].
    /// Scores are divided by the square root of a head's width.
    ///
    /// # Shapes
    /// queries `[b, s, heads·d]`, keys and values `[n, places, g·d]` with `g` a divisor of `heads`, table
    /// i32 `[b, t]`, counts i32 `[b, s]`; result as the queries.
    pub fn cached_attention(
        &self,
        keys: &Self,
        values: &Self,
        [table, counts]: [&Self; 2],
        heads: usize,
    ) -> Self {
        let width = |x: &Self| x.shape().last().copied().unwrap_or(1);
        let depth = (width(self) / heads.max(1)).max(1);
        let op = CachedAttention {
            heads,
            kv_heads: width(keys) / depth,
            scale: Real(1.0 / (depth as f64).sqrt()),
        };
        self.with(op, &[keys, values, table, counts])
    }

    /// This state with the rows `new` at the places `ids`; see [`Put`].
    ///
    /// # Shapes
    /// `[n, places, w]`, `[b, s, w]` and i32 `[b, s]` give `[n, places, w]`.
    pub fn put(&self, new: &Self, ids: &Self) -> Self {
        self.with(Put, &[new, ids])
    }

    /// The `count` largest numbers of each row, each before its place; see [`Top`].
    ///
    /// # Shapes
    /// `[b, n]` gives `[b, count, 2]`.
    pub fn top(&self, count: usize) -> Self {
        self.with(Top { count }, &[])
    }

    /// `ln(sum(e^x))` of each row.
    ///
    /// # Shapes
    /// `[b, n]` gives `[b]`.
    pub fn log_sum_exp(&self) -> Self {
        self.with(LogSumExp, &[])
    }

    /// The mean cross-entropy of these logits against class ids, over the rows whose label is not
    /// [`IGNORED`](crate::ir::ops::loss::IGNORED).
    ///
    /// # Shapes
    /// `[n, c]` and i32 `[n]` give `[]`.
    pub fn cross_entropy(&self, labels: &Self) -> Self {
        self.smoothed_cross_entropy(labels, 0.0)
    }

    /// The same with label smoothing: `smoothing` of each target is spread over all classes.
    pub fn smoothed_cross_entropy(&self, labels: &Self, smoothing: f64) -> Self {
        let smoothing = Real(smoothing);
        self.with(CrossEntropy { smoothing }, &[labels])
    }

    /// 1 where the label has the largest of a row's logits, the first of equals, else 0; see [`Matches`].
    ///
    /// # Shapes
    /// `[n, c]` and i32 `[n]` give `[n]`.
    pub fn matches(&self, labels: &Self) -> Self {
        self.with(Matches, &[labels])
    }

    /// `ln(1 + e^x)`.
    pub fn softplus(&self) -> Self {
        self.unary(Unary::Softplus)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $op:ident),*) => {
        $(impl<'g> std::ops::$trait<&Tensor<'g>> for &Tensor<'g> {
            type Output = Tensor<'g>;

            fn $method(self, other: &Tensor<'g>) -> Tensor<'g> {
                self.binary(Binary::$op, other)
            }
        })*
    };
}
operators!(Add add Add, Sub sub Sub, Mul mul Mul, Div div Div);
