//! The ways to combine adapters, by the names that PEFT gives them.

use std::{fmt, str::FromStr};

use super::CombineError;
use crate::choice::did_you_mean;

/// How adapters become one. The ways that end in `Svd` combine the changes `s B A` of each weight, and
/// take the largest singular triplets of what comes out; the others combine `A` and `B` by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Combination {
    /// The sum of the `A` times the sum of the `B`, each with the square root of its weight. Of several
    /// adapters this has products of one's `A` with another's `B`: it is not the sum of the changes.
    #[default]
    Linear,
    /// The `A` below each other and the `B` beside each other: the weighted sum of the changes, exactly,
    /// of a rank that is the sum of all.
    Cat,
    /// The weighted sum of the changes, as well as the rank allows.
    Svd,
    /// TIES: the largest values of each, of one sign at each place (Yadav et al., 2023).
    Ties,
    /// TIES of the changes.
    TiesSvd,
    /// DARE: values are dropped at random and the others made larger (Yu et al., 2023), then summed.
    DareLinear,
    /// DARE, with the sign of TIES.
    DareTies,
    /// DARE of the changes.
    DareLinearSvd,
    /// DARE of the changes, with the sign of TIES.
    DareTiesSvd,
    /// The weighted sum of the largest values of each.
    MagnitudePrune,
    /// The weighted sum of the largest values of each change.
    MagnitudePruneSvd,
}

/// Which values of an adapter are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pruning {
    /// The largest.
    Magnitude,
    /// Any, made larger so that their mean stays.
    Random,
}

impl Combination {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Linear,
        Self::Cat,
        Self::Svd,
        Self::Ties,
        Self::TiesSvd,
        Self::DareLinear,
        Self::DareTies,
        Self::DareLinearSvd,
        Self::DareTiesSvd,
        Self::MagnitudePrune,
        Self::MagnitudePruneSvd,
    ];

    /// PEFT's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Cat => "cat",
            Self::Svd => "svd",
            Self::Ties => "ties",
            Self::TiesSvd => "ties_svd",
            Self::DareLinear => "dare_linear",
            Self::DareTies => "dare_ties",
            Self::DareLinearSvd => "dare_linear_svd",
            Self::DareTiesSvd => "dare_ties_svd",
            Self::MagnitudePrune => "magnitude_prune",
            Self::MagnitudePruneSvd => "magnitude_prune_svd",
        }
    }

    /// Whether it combines the changes of the weights.
    pub(super) fn is_of_changes(self) -> bool {
        matches!(
            self,
            Self::Svd
                | Self::TiesSvd
                | Self::DareLinearSvd
                | Self::DareTiesSvd
                | Self::MagnitudePruneSvd
        )
    }

    pub(super) fn pruning(self) -> Option<Pruning> {
        match self {
            Self::Linear | Self::Cat | Self::Svd => None,
            Self::Ties | Self::TiesSvd | Self::MagnitudePrune | Self::MagnitudePruneSvd => {
                Some(Pruning::Magnitude)
            }
            Self::DareLinear | Self::DareTies | Self::DareLinearSvd | Self::DareTiesSvd => {
                Some(Pruning::Random)
            }
        }
    }

    /// Whether the adapters elect a sign at each place.
    pub(super) fn elects(self) -> bool {
        matches!(
            self,
            Self::Ties | Self::TiesSvd | Self::DareTies | Self::DareTiesSvd
        )
    }
}

impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Combination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|kind| kind.name());
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let known: Vec<&str> = names().collect();
            let near = did_you_mean(text, names());
            format!("expected one of {}{near}", known.join(", "))
        })
    }
}

/// Who elects the sign of a place, where adapters disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Majority {
    /// The sum of their values.
    #[default]
    Total,
    /// The number of values of each sign.
    Frequency,
}

impl FromStr for Majority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "total" => Ok(Self::Total),
            "frequency" => Ok(Self::Frequency),
            _ => Err("expected total or frequency".into()),
        }
    }
}

/// How adapters are combined.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Combine {
    /// The way.
    pub kind: Combination,
    /// The share of values that is left of each adapter, from 0 to 1; needed where values are pruned.
    pub density: Option<f64>,
    /// Who elects signs; their sum if absent.
    pub majority: Option<Majority>,
    /// The rank of what is left of changes; the largest of the adapters' if absent.
    pub svd_rank: Option<usize>,
    /// What fixes which values DARE drops; 0 if absent.
    pub seed: Option<u64>,
    /// The adapter whose parameters held whole are taken, such as the head's, where they differ.
    pub head: Option<String>,
}

impl Combine {
    /// Checks that what is said counts, and is in its range.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), CombineError> {
        let kind = self.kind;
        let unused = |option| Err(CombineError::Unused { option, kind });
        match (kind.pruning(), self.density) {
            (None, Some(_)) => unused("density")?,
            (Some(_), None) => return Err(CombineError::NoDensity(kind)),
            (_, Some(density)) if !(0.0..=1.0).contains(&density) => {
                return Err(CombineError::Density(density));
            }
            _ => {}
        }
        if self.majority.is_some() && !kind.elects() {
            unused("majority sign")?;
        }
        if self.seed.is_some() && kind.pruning() != Some(Pruning::Random) {
            unused("combine seed")?;
        }
        match self.svd_rank {
            Some(_) if !kind.is_of_changes() => unused("svd rank"),
            Some(0) => Err(CombineError::ZeroRank),
            _ => Ok(()),
        }
    }
}
