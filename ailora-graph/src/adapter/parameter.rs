//! How an adapter declares its parameters.

use serde::{Deserialize, Serialize};

use crate::ir::Type;

/// A parameter of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterParameter {
    /// Its name among the model's parameters: the projection's path and one of the adapter's own, such
    /// as `PATH.lora_A.weight`; without a path if it is shared by projections.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// What it starts from.
    pub start: Start,
    /// Whether it trains.
    pub trains: bool,
    /// Learning rate, as a multiple of the projection's.
    pub rate: f64,
}

impl AdapterParameter {
    /// One that trains.
    pub fn trained(name: String, shape: impl Into<Vec<usize>>, start: Start) -> Self {
        Self {
            name,
            shape: shape.into(),
            start,
            trains: true,
            rate: 1.0,
        }
    }

    /// One that stays as it starts.
    pub fn frozen(name: String, shape: impl Into<Vec<usize>>, start: Start) -> Self {
        Self {
            trains: false,
            ..Self::trained(name, shape, start)
        }
    }

    /// How many numbers it has.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its type in a program.
    pub fn ty(&self) -> Type {
        Type::f32(self.shape.clone())
    }
}

/// What a parameter starts from. What is drawn depends on the run's seed and the parameter's name alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// The same number everywhere.
    Constant(f32),
    /// Drawn evenly from `[-bound, bound)`.
    Uniform {
        /// Half of the range.
        bound: f64,
    },
    /// Drawn evenly from `[-bound, bound)` as PyTorch draws on a CPU, whatever the run's seed.
    AsPytorch {
        /// The generator's seed.
        seed: u64,
        /// How many numbers are drawn before.
        skip: usize,
        /// Half of the range.
        bound: f64,
    },
    /// Drawn from a normal distribution around 0.
    Normal {
        /// Its standard deviation.
        deviation: f64,
    },
    /// A factor of a part `U_k S_k V_k^T` of the weight, which `k` singular triplets span: with the scale
    /// `s` of the adapter, `U_k S_k^(1/2) / s^(1/2)` or `S_k^(1/2) V_k^T / s^(1/2)`.
    Triplets {
        /// Which triplets.
        end: End,
        /// Which factor.
        side: Side,
    },
    /// Left singular vectors of the weight, `[out, k]`.
    LeftVectors {
        /// Which.
        end: End,
    },
    /// A factor of the QR decomposition of the weight `[out, in]`: the first `k` columns of `Q`, or the
    /// first `k` rows of `R`.
    Qr {
        /// Which factor.
        side: Side,
    },
    /// `(A A^T + 1e-8 I)^-1 / s^2`, `[k, k]`, of the projection's [`lora_a`](super::Site::lora_a), which
    /// is declared before it, and the adapter's scale `s`.
    InverseGram,
    /// The length of each row of the weight, `[out]`.
    RowLengths,
}

/// An end of the spectrum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The largest singular values.
    Principal,
    /// The smallest singular values.
    Minor,
}

/// A factor of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The left one, `[out, k]`.
    Left,
    /// The right one, `[k, in]`.
    Right,
}
