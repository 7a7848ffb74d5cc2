use thiserror::Error;

/// A specification of adapters that cannot be carried out.
#[derive(Debug, Error, PartialEq)]
pub enum AdapterError {
    /// A rank of zero.
    #[error("{site}: rank 0 adapts nothing; give a rank of at least 1, or `frozen`")]
    ZeroRank {
        /// Module path of the projection.
        site: String,
    },
    /// A rank above what the projection's shape allows.
    #[error(
        "{site}: rank {rank} is too large for a projection of {out_features} x {in_features}; \
         the largest is {max}"
    )]
    RankTooLarge {
        /// Module path of the projection.
        site: String,
        /// The rank asked for.
        rank: usize,
        /// Rows of the weight.
        out_features: usize,
        /// Columns of the weight.
        in_features: usize,
        /// The smaller of the two.
        max: usize,
    },
    /// A parameter that projections share would have several shapes.
    #[error(
        "{site} and {other} share `{parameter}`, which would be {found:?} for the one and {expected:?} for \
         the other; give both the same rank"
    )]
    Shared {
        /// Module path of the projection.
        site: String,
        /// That of one before it.
        other: String,
        /// The parameter.
        parameter: String,
        /// Its shape at the projection.
        found: Vec<usize>,
        /// That at the other one.
        expected: Vec<usize>,
    },
    /// A number outside its range.
    #[error("{site}: {what} is {found}, expected {expected}")]
    OutOfRange {
        /// Module path of the projection.
        site: String,
        /// The option.
        what: &'static str,
        /// Its range.
        expected: &'static str,
        /// The number given.
        found: f64,
    },
    /// A pattern that names no projection of the model.
    #[error("pattern `{pattern}` matches no projection of the model{hint}")]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// A suggestion, or the names there are.
        hint: String,
    },
    /// An override that gives a rank to what has none, or a strategy without a rank.
    #[error("pattern `{pattern}`: {site} has no rank yet; give `rank` beside `init`")]
    MissingRank {
        /// The pattern.
        pattern: String,
        /// Module path of the projection.
        site: String,
    },
    /// An option that the adapter of a projection does not take.
    #[error(
        "pattern `{pattern}`: {site} is {strategy}, which takes no `{option}`; give `{takers}` \
         beside it"
    )]
    NoOption {
        /// The pattern.
        pattern: String,
        /// The option.
        option: &'static str,
        /// Module path of the projection.
        site: String,
        /// What the projection is instead.
        strategy: &'static str,
        /// The adapters that take it.
        takers: String,
    },
    /// An option for all adapters that none of them takes.
    #[error(
        "`{option}` is given, but no adapter here takes it; the adapters that do are `{taken}`: leave it \
         out, or choose a method that places one of them"
    )]
    NotTaken {
        /// The option.
        option: &'static str,
        /// The adapters that take it.
        taken: String,
    },
    /// Targets that a method places nothing at.
    #[error(
        "`targets` is `{targets}`, but `{method}` places no adapter there: a head is adapted where it is \
         named by its whole path; give other targets, or choose another method"
    )]
    NoTargets {
        /// What is given.
        targets: String,
        /// The method.
        method: &'static str,
    },
    /// What is said of single projections where everything trains.
    #[error(
        "every parameter trains, so that `{given}` says nothing; leave it out, or choose a method with adapters"
    )]
    AllTrains {
        /// The option.
        given: &'static str,
    },
    /// A rate of values where none are adapted.
    #[error(
        "`v_lr` is given, but no projection of values carries an adapter; leave it out, or give `targets: [v]`"
    )]
    NoValues,
    /// Both a rank and what finds it.
    #[error("both `rank` and `budget` are given, and the budget finds the rank; leave one out")]
    RankAndBudget,
    /// A budget that no rank keeps.
    #[error(
        "`budget` is {budget} numbers, but with rank 1 the adapters train {least}; give at least that, or fewer `targets`"
    )]
    Budget {
        /// How many numbers may train.
        budget: usize,
        /// How many do with the least rank.
        least: usize,
    },
    /// A pattern that names no parameter of the model.
    #[error("`trainable`: pattern `{pattern}` names no parameter of the model{hint}")]
    NoParameter {
        /// The pattern.
        pattern: String,
        /// A suggestion, or the names there are.
        hint: String,
    },
    /// A pattern that names the weight of a projection with an adapter.
    #[error(
        "`trainable`: pattern `{pattern}` names `{weight}`, but {site} carries an adapter, beside \
         which its weight stays as it is; give {site} `init: full` or `init: frozen`, or a pattern \
         that does not name it"
    )]
    AdaptedWeight {
        /// The pattern.
        pattern: String,
        /// Module path of the projection.
        site: String,
        /// Its weight.
        weight: String,
    },
    /// Something else is to train than the method trains.
    #[error("method `{method}` says what trains; leave out `trainable`, or choose another method")]
    TrainsOther {
        /// The method.
        method: &'static str,
    },
    /// The method trains parameters that the model has not got.
    #[error(
        "method `{method}` trains the parameters `{patterns}`, of which the model has none; choose another \
         method"
    )]
    TrainsNone {
        /// The method.
        method: &'static str,
        /// What it trains.
        patterns: String,
    },
    /// Nothing would train.
    #[error(
        "nothing would be trained: no projection of the model carries an adapter; \
         annotate one, or give `sites` or `trainable` in the adapter configuration"
    )]
    NothingTrains,
}
