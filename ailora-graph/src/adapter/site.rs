use super::{AdapterError, AdapterSpec, Strategy};

/// How a projection's weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[out, in]`, as Hugging Face stores it: `y = x W^T`.
    OutIn,
    /// `[in, out]`, as luminal stores it: `y = x W`.
    InOut,
}

/// A projection of a model and what is to happen to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Module path, such as `encoder.layer.0.attention.self.query`.
    pub path: String,
    /// Name of the weight parameter.
    pub weight: String,
    /// Name of the bias parameter, if there is one.
    pub bias: Option<String>,
    /// Columns of `W` as the papers write it.
    pub in_features: usize,
    /// Rows of `W` as the papers write it.
    pub out_features: usize,
    /// How the weight lies in memory.
    pub layout: Layout,
    /// What is to happen to it.
    pub spec: AdapterSpec,
}

impl Site {
    /// Name of the down projection `A`, `[r, in]`.
    pub fn lora_a(&self) -> String {
        format!("{}.lora_A.weight", self.path)
    }

    /// Name of the up projection `B`, `[out, r]`.
    pub fn lora_b(&self) -> String {
        format!("{}.lora_B.weight", self.path)
    }

    /// Name of the frozen start of `A`.
    pub fn lora_a0(&self) -> String {
        format!("{}.lora_A0.weight", self.path)
    }

    /// Name of the frozen start of `B`.
    pub fn lora_b0(&self) -> String {
        format!("{}.lora_B0.weight", self.path)
    }

    /// The largest rank the shape allows.
    pub fn max_rank(&self) -> usize {
        self.in_features.min(self.out_features)
    }

    /// The names of the parameters that train.
    pub fn trained(&self) -> Vec<String> {
        match self.spec.strategy {
            Strategy::Frozen => Vec::new(),
            Strategy::Full => std::iter::once(&self.weight)
                .chain(&self.bias)
                .cloned()
                .collect(),
            Strategy::LowRank { .. } => vec![self.lora_a(), self.lora_b()],
        }
    }

    /// How many numbers are trained here.
    pub fn trainable(&self) -> usize {
        match self.spec.strategy {
            Strategy::Frozen => 0,
            Strategy::Full => {
                let bias = if self.bias.is_some() {
                    self.out_features
                } else {
                    0
                };
                self.in_features * self.out_features + bias
            }
            Strategy::LowRank { rank, .. } => rank * (self.in_features + self.out_features),
        }
    }

    /// Checks the specification against the shape and the ranges of its numbers.
    ///
    /// # Errors
    /// A rank of zero or above `min(in, out)`; a rate or `alpha` that is not positive and finite; a
    /// dropout outside `[0, 1)`.
    pub fn check(&self) -> Result<(), AdapterError> {
        if let Some(rank) = self.spec.rank() {
            if rank == 0 {
                return Err(AdapterError::ZeroRank {
                    site: self.path.clone(),
                });
            }
            if rank > self.max_rank() {
                return Err(AdapterError::RankTooLarge {
                    site: self.path.clone(),
                    rank,
                    out_features: self.out_features,
                    in_features: self.in_features,
                    max: self.max_rank(),
                });
            }
        }
        let positive = |what, found: f64| {
            if found.is_finite() && found > 0.0 {
                Ok(())
            } else {
                Err(AdapterError::OutOfRange {
                    site: self.path.clone(),
                    what,
                    expected: "a positive number",
                    found,
                })
            }
        };
        positive("lr", self.spec.lr)?;
        if let Some(alpha) = self.spec.alpha {
            positive("alpha", alpha)?;
        }
        if !(0.0..1.0).contains(&self.spec.dropout) {
            return Err(AdapterError::OutOfRange {
                site: self.path.clone(),
                what: "dropout",
                expected: "a probability in [0, 1)",
                found: self.spec.dropout,
            });
        }
        Ok(())
    }
}
