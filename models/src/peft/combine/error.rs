use thiserror::Error;

use super::Combination;

/// Adapters that cannot be combined as it is asked.
#[derive(Debug, Error)]
pub enum CombineError {
    /// Nothing to combine.
    #[error("no adapter is given to combine")]
    Nothing,
    /// Two adapters of one name.
    #[error("two of the adapters to combine are called `{0}`; give each a name of its own")]
    Repeated(String),
    /// A weight that is no number.
    #[error("the weight of adapter `{name}` is {weight}; expected a finite number")]
    Weight {
        /// The adapter.
        name: String,
        /// Its weight.
        weight: f64,
    },
    /// An option that does not count.
    #[error("`{kind}` has no use for a {option}; leave it out")]
    Unused {
        /// The option.
        option: &'static str,
        /// The way to combine.
        kind: Combination,
    },
    /// A share is missing.
    #[error(
        "`{0}` prunes adapters; say which share of their values is left by a density from 0 to 1"
    )]
    NoDensity(Combination),
    /// A share outside its range.
    #[error("the density is {0}; expected a share from 0 to 1 of an adapter's values")]
    Density(f64),
    /// A rank of nothing.
    #[error("the svd rank is 0; expected at least 1")]
    ZeroRank,
    /// An adapter of parameters alone.
    #[error(
        "adapter `{0}` has no factors that a weight could count for, but parameters in place of the base's \
         alone; leave it out, or merge it into the base first"
    )]
    NoFactors(String),
    /// An adapter that does not come to `W + s B A`.
    #[error(
        "adapter `{name}` has `{strategy}`{magnitudes} at {site}, which is no product of two factors beside the weight: \
         only such can be combined"
    )]
    Kind {
        /// The adapter.
        name: String,
        /// Module path of the projection.
        site: String,
        /// What is there.
        strategy: &'static str,
        /// What is said of it besides.
        magnitudes: &'static str,
    },
    /// Factors of different shapes where they are summed.
    #[error(
        "{site}: adapter `{first}` has rank {rank} and `{other}` rank {other_rank}, and `{kind}` sums factors \
         of one shape; use `cat` or `svd`"
    )]
    Ranks {
        /// Module path of the projection.
        site: String,
        /// An adapter.
        first: String,
        /// Its rank.
        rank: usize,
        /// Another.
        other: String,
        /// Its rank.
        other_rank: usize,
        /// The way to combine.
        kind: Combination,
    },
    /// Parameters held whole that are not the same.
    #[error(
        "`{parameter}` is held whole, and adapter `{other}` has not the values there that `{first}` has: what \
         is held whole, such as a head, is not weighted; choose whose is taken by --head {first}, or --head \
         {other}"
    )]
    Whole {
        /// The parameter.
        parameter: String,
        /// An adapter.
        first: String,
        /// Another.
        other: String,
    },
    /// A name that no adapter has.
    #[error("no adapter is called `{name}`; expected one of {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Numbers that float32 does not have.
    #[error("combined, `{name}` has {found} among its numbers; give smaller weights")]
    NotFinite {
        /// The tensor.
        name: String,
        /// What it has.
        found: f32,
    },
}
