use std::collections::HashMap;

use super::{AdapterError, AdapterParameter, AdapterSpec, Strategy, pattern};

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
    /// The largest rank the shape allows.
    pub fn max_rank(&self) -> usize {
        self.in_features.min(self.out_features)
    }

    /// Whether an adapter goes beside it.
    pub fn is_adapted(&self) -> bool {
        matches!(self.spec.strategy, Strategy::Adapted(_))
    }

    /// Whether a pattern names it: its role, its path, or the last segments of that.
    pub fn is_named(&self, pattern: &str) -> bool {
        let role = self.role();
        role.is_some_and(|role| role.name() == pattern) || pattern::matches(pattern, &self.path)
    }

    /// How many numbers the adapters of a model's projections train.
    pub fn adapters_trainable(sites: &[Self]) -> usize {
        let adapted = sites.iter().filter(|site| site.is_adapted());
        let parameters = adapted.flat_map(|site| site.parameters(sites));
        let trained = parameters.filter(|parameter| parameter.trains);
        let sizes: HashMap<String, usize> = trained
            .map(|parameter| (parameter.name.clone(), parameter.count()))
            .collect();
        sizes.values().sum()
    }

    /// Checks all projections of a model, and that what they share is one parameter.
    ///
    /// # Errors
    /// As [`check`](Self::check); a parameter of several shapes.
    pub fn check_all(sites: &[Self]) -> Result<(), AdapterError> {
        sites.iter().try_for_each(Self::check)?;
        let mut known: HashMap<String, (&Self, Vec<usize>)> = HashMap::new();
        for site in sites {
            for AdapterParameter { name, shape, .. } in site.parameters(sites) {
                match known.get(&name) {
                    Some((other, expected)) if *expected != shape => {
                        return Err(AdapterError::Shared {
                            site: site.path.clone(),
                            other: other.path.clone(),
                            parameter: name,
                            found: shape,
                            expected: expected.clone(),
                        });
                    }
                    _ => _ = known.insert(name, (site, shape)),
                }
            }
        }
        Ok(())
    }

    /// The parameters of its adapter, of a model with these projections.
    pub fn parameters(&self, sites: &[Self]) -> Vec<AdapterParameter> {
        match self.spec.strategy {
            Strategy::Frozen | Strategy::Full => Vec::new(),
            Strategy::Adapted(adapter) => adapter.parameters(self, sites),
        }
    }

    /// The names of the parameters that train.
    pub fn trained(&self) -> Vec<String> {
        let own = [Some(&self.weight), self.bias.as_ref()]
            .into_iter()
            .flatten();
        match self.spec.strategy {
            Strategy::Frozen => Vec::new(),
            Strategy::Full => own.cloned().collect(),
            Strategy::Adapted(_) => {
                let parameters = self.parameters(std::slice::from_ref(self)).into_iter();
                let trained = parameters.filter(|parameter| parameter.trains);
                trained.map(|parameter| parameter.name).collect()
            }
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
            Strategy::Adapted(_) => {
                let parameters = self.parameters(std::slice::from_ref(self)).into_iter();
                let trained = parameters.filter(|parameter| parameter.trains);
                trained.map(|parameter| parameter.count()).sum()
            }
        }
    }

    /// Checks the specification against the shape and the ranges of its numbers.
    ///
    /// # Errors
    /// What the adapter does not take, such as a rank above `min(in, out)`; a rate or `alpha` that is not positive and finite; a
    /// dropout outside `[0, 1)`.
    pub fn check(&self) -> Result<(), AdapterError> {
        if let Strategy::Adapted(adapter) = self.spec.strategy {
            adapter.check(self)?;
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
        positive("b_lr", self.spec.b_lr)?;
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
