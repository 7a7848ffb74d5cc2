use super::{Adapter, AdapterSpec};
use crate::method;

/// Something that can be said of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterOption {
    /// The rank of a product of two factors, or the width of a bottleneck.
    Rank,
    /// The numerator of the scale.
    Alpha,
    /// How `alpha` becomes the scale.
    Scaling,
    /// Dropout on the adapter's input.
    Dropout,
    /// The rate of `B`, as a multiple of `A`'s.
    BRate,
    /// Trained magnitudes.
    Dora,
}

impl AdapterOption {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Rank,
        Self::Alpha,
        Self::Scaling,
        Self::Dropout,
        Self::BRate,
        Self::Dora,
    ];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rank => "rank",
            Self::Alpha => "alpha",
            Self::Scaling => "scaling",
            Self::Dropout => "dropout",
            Self::BRate => "b_lr",
            Self::Dora => "dora",
        }
    }

    /// The adapters of the list of methods that take all of `options`, as they are listed in errors.
    pub(crate) fn takers(options: &[Self]) -> String {
        let takes = |adapter: &&dyn Adapter| {
            let own = adapter.options();
            options.iter().all(|option| own.contains(option))
        };
        let names = method::adapters().filter(takes).map(Adapter::name);
        names.collect::<Vec<_>>().join("`, or `")
    }

    /// Sets it to what a plain adapter has.
    pub(crate) fn clear(self, spec: &mut AdapterSpec) {
        let plain = AdapterSpec::frozen();
        match self {
            Self::Rank => spec.rank = plain.rank,
            Self::Alpha => spec.alpha = plain.alpha,
            Self::Scaling => spec.scaling = plain.scaling,
            Self::Dropout => spec.dropout = plain.dropout,
            Self::BRate => spec.b_lr = plain.b_lr,
            Self::Dora => spec.dora = plain.dora,
        }
    }
}
