use super::{Cx, Param, Tensor};
use crate::{Module, Projection, Visitor, adapter::Layout};

/// `y = x W^T + b`.
///
/// # Shapes
/// `weight`: `[out, in]`; `bias`: `[out]`; `x`: `[..., in]`; `y`: `[..., out]`
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param,
    /// `[out]`
    pub bias: Option<Param>,
}

impl Linear {
    /// A projection from `inputs` to `outputs` features.
    pub fn new(cx: &Cx, inputs: usize, outputs: usize, bias: bool) -> Self {
        Self {
            weight: cx.param([outputs, inputs]),
            bias: bias.then(|| cx.param([outputs])),
        }
    }

    /// Applies it to the last axis.
    pub fn forward<'g>(&self, x: &Tensor<'g>) -> Tensor<'g> {
        let product = x.matmul_t(&x.cx().value(&self.weight));
        match &self.bias {
            Some(bias) => &product + &x.cx().value(bias),
            None => product,
        }
    }
}

impl Module for Linear {
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("weight", &self.weight);
        visitor.child("bias", &self.bias);
        if let [outputs, inputs] = *self.weight.shape() {
            let bias = self.bias.as_ref().map(|_| "bias");
            visitor.projection("weight", bias, [outputs, inputs], Layout::OutIn);
        }
    }
}

impl Projection for Linear {}

/// Zero mean and unit variance along the last axis, then `weight` times it plus `bias`
/// (Ba et al., 2016).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `[width]`
    pub weight: Param,
    /// `[width]`
    pub bias: Param,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// A normalisation of rows of `width`.
    pub fn new(cx: &Cx, width: usize, eps: f64) -> Self {
        Self {
            weight: cx.param([width]),
            bias: cx.param([width]),
            eps,
        }
    }

    /// Applies it to the last axis.
    pub fn forward<'g>(&self, x: &Tensor<'g>) -> Tensor<'g> {
        let scaled = &x.normalize(self.eps) * &x.cx().value(&self.weight);
        &scaled + &x.cx().value(&self.bias)
    }
}

impl Module for LayerNorm {
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("weight", &self.weight);
        visitor.child("bias", &self.bias);
    }
}

/// A mean square of 1 along the last axis, then `weight` times it (Zhang & Sennrich, 2019).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[width]`
    pub weight: Param,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// A normalisation of rows of `width`.
    pub fn new(cx: &Cx, width: usize, eps: f64) -> Self {
        Self {
            weight: cx.param([width]),
            eps,
        }
    }

    /// Applies it to the last axis.
    pub fn forward<'g>(&self, x: &Tensor<'g>) -> Tensor<'g> {
        &x.rms_normalize(self.eps) * &x.cx().value(&self.weight)
    }
}

impl Module for RmsNorm {
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("weight", &self.weight);
    }
}

/// A table of rows, read by id.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// `[count, width]`
    pub weight: Param,
}

impl Embedding {
    /// A table of `count` rows of `width`.
    pub fn new(cx: &Cx, count: usize, width: usize) -> Self {
        Self {
            weight: cx.param([count, width]),
        }
    }

    /// The rows at `ids`.
    pub fn forward<'g>(&self, ids: &Tensor<'g>) -> Tensor<'g> {
        ids.cx().value(&self.weight).rows(ids)
    }
}

impl Module for Embedding {
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("weight", &self.weight);
    }
}

/// A convolution along the tokens, as many out as in:
/// `y_t = sum_j W_j x_(t + j - (k - 1) / 2) + b`, with zeros around `x`.
///
/// # Shapes
/// `weight`: `[out, in, k]`; `bias`: `[out]`; `x`: `[b, s, in]`; `y`: `[b, s, out]`
#[derive(Clone, Debug)]
pub struct Conv1d {
    /// `[out, in, k]`
    pub weight: Param,
    /// `[out]`
    pub bias: Param,
}

impl Conv1d {
    /// A convolution of windows of `kernel` tokens.
    pub fn new(cx: &Cx, inputs: usize, outputs: usize, kernel: usize) -> Self {
        Self {
            weight: cx.param([outputs, inputs, kernel]),
            bias: cx.param([outputs]),
        }
    }

    /// Applies it along axis 1.
    pub fn forward<'g>(&self, x: &Tensor<'g>) -> Tensor<'g> {
        let (weight, bias) = (x.cx().value(&self.weight), x.cx().value(&self.bias));
        let ([outputs, inputs, kernel], [_, len, _]) = (weight.shape(), x.shape()) else {
            // Reports that `x` has not three axes.
            return x.matmul_t(&weight);
        };
        let before = (kernel - 1) / 2;
        let padded = x.pad(1, before, kernel - 1 - before);
        let windows = (0..*kernel).map(|j| {
            let part = weight.slice(2, j, j + 1).reshape([*outputs, *inputs]);
            padded.slice(1, j, j + len).matmul_t(&part)
        });
        windows.fold(bias, |sum, product| &product + &sum)
    }
}

impl Module for Conv1d {
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("weight", &self.weight);
        visitor.child("bias", &self.bias);
    }
}
