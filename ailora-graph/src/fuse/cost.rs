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
    pub fn counts([m, n, k]: [usize; 3]) -> [f64; 5] {
        let [m, n, k] = [m, n, k].map(|x| x as f64);
        [2.0 * m * n * k, m * k, k * n, m * n, 1.0]
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
}

impl Default for Costs {
    /// A processor of two cores with AVX-512: 300 GFLOP/s, 16 GB/s.
    fn default() -> Self {
        let product = ProductCost {
            flop: 1.0 / 300e9,
            left: 0.4e-9,
            right: 0.4e-9,
            result: 0.4e-9,
            start: 4e-6,
        };
        Self {
            product,
            outer: product,
            element: 0.5e-9,
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
            // A product adds onto what its result's memory holds.
            Op::Binary(Binary::Add) => self.element * ty.len() as f64,
            // Its operands are computed into their places.
            Op::Concat(_) => 0.01 * self.element * ty.len() as f64,
            // A factor of a product is part of it.
            _ => 0.0,
        }
    }
}
