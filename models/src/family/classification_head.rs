//! The classification head of RoBERTa and BART: two projections of one state.

use ailora_graph::{
    adapt,
    nn::{Cx, Linear, Tensor},
};

#[adapt(dense = full, out_proj = full)]
pub(super) struct ClassificationHead {
    dense: Linear,
    out_proj: Linear,
    dropout: f64,
}

impl ClassificationHead {
    pub fn new(cx: &Cx, width: usize, outputs: usize, dropout: f64) -> Self {
        Self {
            dense: Linear::new(cx, width, width, true),
            out_proj: Linear::new(cx, width, outputs, true),
            dropout,
        }
    }

    /// # Shapes
    /// `[b, width]` gives `[b, outputs]`.
    pub fn forward<'g>(&self, state: &Tensor<'g>) -> Tensor<'g> {
        let inner = self.dense.forward(&state.dropout(self.dropout)).tanh();
        self.out_proj.forward(&inner.dropout(self.dropout))
    }
}
