//! What an adapter is: its strategy, its scale, its rate; and which projections carry one.

mod config;
mod error;
mod pattern;
mod site;
mod trainable;

pub use config::{AdaptConfig, Method, SiteOverride};
pub use error::AdapterError;
pub use site::{Layout, Site};
pub use trainable::Trainable;

use serde::{Deserialize, Serialize};

/// Where the factors of a low-rank adapter start.
///
/// With `W = U S V^T` (`W` is `out x in`) and rank `r`, `s·B0 = U_r S_r^(1/2)` up to the split of the
/// scale `s`, and `s·B0·A0` is the chosen part of `W`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// The `r` largest singular triplets (AILoRA's choice for queries; PiSSA everywhere).
    Principal,
    /// The `r` smallest singular triplets (AILoRA's choice for values; MiLoRA everywhere).
    Minor,
    /// Kaiming-uniform `A`, zero `B` (LoRA).
    Random,
}

/// What happens to a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// It stays as it is.
    Frozen,
    /// Its weight and bias are trained.
    Full,
    /// It stays as it is and a product of two thin matrices beside it is trained.
    LowRank {
        /// Where the factors start.
        init: Init,
        /// Their common dimension.
        rank: usize,
    },
}

/// How `alpha` becomes the adapter's scale `s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// `s = alpha / r` (LoRA).
    #[default]
    Classic,
    /// `s = alpha / sqrt(r)` (rsLoRA).
    RankStabilized,
}

/// Everything that is said of one projection's adapter.
///
/// ```
/// # use ailora_graph::AdapterSpec;
/// let v = AdapterSpec::minor(8).with_lr(2.0).with_alpha(16.0);
/// assert_eq!(v.scale(), Some(2.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterSpec {
    /// What happens to the projection.
    pub strategy: Strategy,
    /// Learning rate, as a multiple of the base rate.
    pub lr: f64,
    /// Numerator of the scale; the rank when absent, so that the classic scale is 1.
    pub alpha: Option<f64>,
    /// Probability of dropping an element of the adapter's input while training.
    pub dropout: f64,
    /// How `alpha` becomes the scale.
    pub scaling: Scaling,
}

impl AdapterSpec {
    const fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            lr: 1.0,
            alpha: None,
            dropout: 0.0,
            scaling: Scaling::Classic,
        }
    }

    const fn low_rank(init: Init, rank: usize) -> Self {
        Self::new(Strategy::LowRank { init, rank })
    }

    /// A low-rank adapter from the `rank` largest singular triplets.
    pub const fn principal(rank: usize) -> Self {
        Self::low_rank(Init::Principal, rank)
    }

    /// A low-rank adapter from the `rank` smallest singular triplets.
    pub const fn minor(rank: usize) -> Self {
        Self::low_rank(Init::Minor, rank)
    }

    /// A low-rank adapter from random `A` and zero `B`.
    pub const fn random(rank: usize) -> Self {
        Self::low_rank(Init::Random, rank)
    }

    /// No training.
    pub const fn frozen() -> Self {
        Self::new(Strategy::Frozen)
    }

    /// The projection itself is trained.
    pub const fn full() -> Self {
        Self::new(Strategy::Full)
    }

    /// Sets the learning rate, as a multiple of the base rate.
    pub const fn with_lr(mut self, lr: f64) -> Self {
        self.lr = lr;
        self
    }

    /// Sets `alpha`, the numerator of the scale.
    pub const fn with_alpha(mut self, alpha: f64) -> Self {
        self.alpha = Some(alpha);
        self
    }

    /// Sets the dropout probability on the adapter's input.
    pub const fn with_dropout(mut self, dropout: f64) -> Self {
        self.dropout = dropout;
        self
    }

    /// Sets how `alpha` becomes the scale.
    pub const fn with_scaling(mut self, scaling: Scaling) -> Self {
        self.scaling = scaling;
        self
    }

    /// The rank of a low-rank adapter.
    pub const fn rank(&self) -> Option<usize> {
        match self.strategy {
            Strategy::LowRank { rank, .. } => Some(rank),
            Strategy::Frozen | Strategy::Full => None,
        }
    }

    /// The scale `s` of a low-rank adapter: `alpha / r` or `alpha / sqrt(r)`.
    pub fn scale(&self) -> Option<f64> {
        let rank = self.rank()? as f64;
        let alpha = self.alpha.unwrap_or(rank);
        Some(match self.scaling {
            Scaling::Classic => alpha / rank,
            Scaling::RankStabilized => alpha / rank.sqrt(),
        })
    }

    /// Whether anything of the projection is trained.
    pub const fn trains(&self) -> bool {
        !matches!(self.strategy, Strategy::Frozen)
    }
}
