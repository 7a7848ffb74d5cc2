use serde::{Deserialize, Serialize, Serializer};

use super::{Adapter, AdapterOption};

/// What happens to a projection. In files the name of an adapter, `frozen` or `full`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strategy {
    /// It stays as it is.
    Frozen,
    /// Its weight and bias are trained.
    Full,
    /// It stays as it is, and an adapter beside it is trained.
    Adapted(&'static dyn Adapter),
}

impl Strategy {
    /// The name used in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Full => "full",
            Self::Adapted(adapter) => adapter.name(),
        }
    }
}

impl Serialize for Strategy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
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
/// # use ailora_graph::method::constructors::minor;
/// let v = minor(8).with_lr(2.0).with_alpha(16.0);
/// assert_eq!(v.scale(), Some(2.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterSpec {
    /// What happens to the projection.
    pub strategy: Strategy,
    /// Of an adapter that has one.
    pub rank: Option<usize>,
    /// Learning rate, as a multiple of the base rate.
    pub lr: f64,
    /// Numerator of the scale; the rank when absent, so that the classic scale is 1.
    pub alpha: Option<f64>,
    /// Probability of dropping an element of the adapter's input while training.
    pub dropout: f64,
    /// How `alpha` becomes the scale.
    pub scaling: Scaling,
    /// Learning rate of the factor `B`, as a multiple of `A`'s (LoRA+).
    pub b_lr: f64,
    /// Whether the rows of the adapted weight have trained lengths, its magnitudes (DoRA).
    pub dora: bool,
}

impl AdapterSpec {
    const fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            rank: None,
            lr: 1.0,
            alpha: None,
            dropout: 0.0,
            scaling: Scaling::Classic,
            b_lr: 1.0,
            dora: false,
        }
    }

    /// An adapter of this kind. One that has a rank needs [`with_rank`](Self::with_rank).
    pub const fn adapted(adapter: &'static dyn Adapter) -> Self {
        Self::new(Strategy::Adapted(adapter))
    }

    /// No training.
    pub const fn frozen() -> Self {
        Self::new(Strategy::Frozen)
    }

    /// The projection itself is trained.
    pub const fn full() -> Self {
        Self::new(Strategy::Full)
    }

    /// Sets the rank.
    pub const fn with_rank(mut self, rank: usize) -> Self {
        self.rank = Some(rank);
        self
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

    /// Sets the learning rate of `B`, as a multiple of `A`'s.
    pub const fn with_b_lr(mut self, b_lr: f64) -> Self {
        self.b_lr = b_lr;
        self
    }

    /// Sets whether there are trained magnitudes.
    pub const fn with_dora(mut self, dora: bool) -> Self {
        self.dora = dora;
        self
    }

    /// Sets options of an adapter that has a rank, but for `alpha` where it has its own.
    pub const fn with_shared(
        mut self,
        alpha: Option<f64>,
        dropout: f64,
        scaling: Scaling,
        dora: bool,
    ) -> Self {
        if self.rank.is_some() {
            if self.alpha.is_none() {
                self.alpha = alpha;
            }
            self.dropout = dropout;
            self.scaling = scaling;
            self.dora |= dora;
        }
        self
    }

    /// The rank of an adapter that has one.
    pub const fn rank(&self) -> Option<usize> {
        self.rank
    }

    /// Whether it has a rank.
    pub const fn has_rank(&self) -> bool {
        self.rank.is_some()
    }

    /// Whether its rank, if it has one, lies within these limits.
    pub const fn has_rank_within(&self, least: usize, most: usize) -> bool {
        match self.rank {
            Some(rank) => least <= rank && rank <= most,
            None => true,
        }
    }

    /// The scale `s` of an adapter that has a rank: `alpha / r` or `alpha / sqrt(r)`.
    pub fn scale(&self) -> Option<f64> {
        let rank = self.rank()? as f64;
        let alpha = self.alpha.unwrap_or(rank);
        Some(match self.scaling {
            Scaling::Classic => alpha / rank,
            Scaling::RankStabilized => alpha / rank.sqrt(),
        })
    }

    /// Whether an option counts.
    pub fn takes(&self, option: AdapterOption) -> bool {
        match self.strategy {
            Strategy::Adapted(adapter) => adapter.options().contains(&option),
            Strategy::Frozen | Strategy::Full => false,
        }
    }

    /// Whether anything of the projection is trained.
    pub const fn trains(&self) -> bool {
        !matches!(self.strategy, Strategy::Frozen)
    }
}
