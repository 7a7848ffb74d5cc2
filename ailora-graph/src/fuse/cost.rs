//! What a matrix product takes on a device: a roofline whose ceilings are measured there.

use serde::{Deserialize, Serialize};

use crate::ir::{Op, Type, ops::elementwise::Binary};

/// Seconds of what a device does, the sum of which predicts a matrix product `[m, k] [k, n]`:
/// arithmetic, packing both operands, and writing the result, besides a fixed start.
///
/// Thin products are slow because their operands are packed and their results written for little
/// arithmetic: that is what the terms apart from arithmetic say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductCost {
    /// A floating-point operation.
    pub flop: f64,
    /// An element of the left operand.
    pub left: f64,
    /// An element of the right operand.
    pub right: f64,
    /// An element of the result.
    pub result: f64,
    /// Starting a kernel.
    pub start: f64,
}

impl ProductCost {
    /// How many of each there are in a product of these sizes: what is multiplied by the seconds.
    ///
    /// Arithmetic is done in tiles: what is thinner than a tile costs as much as one.
    pub fn counts([m, n, k]: [usize; 3]) -> [f64; 5] {
        const TILE: [usize; 2] = [8, 16];
        let tiled = m.next_multiple_of(TILE[0]) * n.next_multiple_of(TILE[1]);
        let [flops, left, right, result] = [2 * tiled * k, m * k, k * n, m * n].map(|x| x as f64);
        [flops, left, right, result, 1.0]
    }

    /// From seconds in the order of [`counts`](Self::counts).
    pub fn from_seconds([flop, left, right, result, start]: [f64; 5]) -> Self {
        Self {
            flop,
            left,
            right,
            result,
            start,
        }
    }

    /// The predicted seconds of a product.
    pub fn seconds(&self, sizes: [usize; 3]) -> f64 {
        let own = [self.flop, self.left, self.right, self.result, self.start];
        let counts = Self::counts(sizes);
        own.iter().zip(counts).map(|(seconds, n)| seconds * n).sum()
    }
}

/// What the operations of a region take on a device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// Products of rows with a matrix.
    pub product: ProductCost,
    /// Products that sum over rows: gradients of parameters.
    pub outer: ProductCost,
    /// Reading and writing an element.
    pub element: f64,
    /// Whether weights with adapters added to them lose nothing. They do where matrices are kept in
    /// less than float32.
    #[serde(default = "merges")]
    pub merges: bool,
    /// The number of columns of which a left side has a multiple, or its product is slow.
    #[serde(default = "single")]
    pub vector: usize,
}

fn merges() -> bool {
    true
}

fn single() -> usize {
    1
}

impl Default for Costs {
    /// What was measured on two cores with AVX-512, at about 380 GFLOP/s.
    fn default() -> Self {
        Self {
            product: ProductCost::from_seconds([2.6e-12, 1.5e-10, 3e-10, 5e-11, 8e-6]),
            outer: ProductCost::from_seconds([2.8e-12, 4.5e-10, 1.5e-10, 1e-10, 8e-6]),
            element: 2.5e-10,
            merges: true,
            vector: 1,
        }
    }
}

impl Costs {
    /// The predicted seconds of a node of a region, whose operands on the right lie in memory.
    pub fn seconds(&self, op: &Op, args: &[&Type], ty: &Type) -> f64 {
        match op {
            Op::MatMul(product) => {
                let dims = product.dims(&args[0].shape, &args[1].shape);
                let sizes = [dims.m, dims.n, dims.k];
                if product.trans_a {
                    self.outer.seconds(sizes)
                } else {
                    self.product.seconds(sizes)
                }
            }
            // The weights are copied, and the products of the adapters are added to them.
            Op::Merge(merge) => {
                let products = merge.updates.iter();
                let products = products.map(|update| self.product.seconds(update.sizes()));
                products.sum::<f64>() + self.element * ty.len() as f64
            }
            // A product adds onto what its result's memory holds.
            Op::Binary(Binary::Add) => self.element * ty.len() as f64,
            // Its operands are computed into their places.
            Op::Concat(_) => 0.01 * self.element * ty.len() as f64,
            // A factor of a product is part of it.
            _ => 0.0,
        }
    }
}
