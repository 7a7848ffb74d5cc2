//! Adapters as data: what a run changes of what a model's annotations say.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{
    adapter::{
        AdapterError, AdapterOption, AdapterSpec, Role, Scaling, Site, Strategy, Trainable, pattern,
    },
    method::{Ailora, Method},
    module::Parameter,
};

/// What is to change at the projections that a pattern names. Absent options stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteOverride {
    /// What happens to them: in files the name of an adapter, `frozen` or `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Strategy>,
    /// Rank of an adapter that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Learning rate, as a multiple of the base rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Numerator of the scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Dropout on the adapter's input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// How `alpha` becomes the scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Learning rate of `B`, as a multiple of `A`'s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b_lr: Option<f64>,
    /// Whether there are trained magnitudes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dora: Option<bool>,
}

/// Adapters as data: what a run changes of what the model's annotations say.
///
/// ```yaml
/// method: ailora          # or another of [`METHODS`](crate::method::METHODS)
/// targets: [q, k, v, o]   # roles or patterns, or `all-linear`; what is annotated if absent
/// rank: 16                # for every adapter that has one; or `budget: 1000000`, which finds it
/// trainable: ["*LayerNorm*"]  # beside the adapters; or `adapters`, or `all`
/// sites:                  # then by name or pattern, in order; the later wins
///   key: { init: random, rank: 4 }
///   encoder.layer.0.*: { init: frozen }
/// ```
///
/// A pattern is a whole module path, or its last segments, with `*` for any run of characters; or a
/// [`Role`], such as `gate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptConfig {
    /// A method for all annotated adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static dyn Method>,
    /// Which projections are adapted: patterns, roles, or [`ALL_LINEAR`]; if empty those that the method
    /// adapts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Rank of all adapters that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// How many numbers of adapters may train: the rank is the largest with which they are no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<usize>,
    /// `alpha` of all annotated adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Dropout of all annotated adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Scaling of all annotated adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Learning rate of all factors `B`, as a multiple of `A`'s (LoRA+).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b_lr: Option<f64>,
    /// Whether all annotated adapters have trained magnitudes (DoRA).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dora: Option<bool>,
    /// Learning rate of all adapters of values, as a multiple of the base rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v_lr: Option<f64>,
    /// What trains: `adapters`, `all`, or patterns of parameters that train beside the adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<Trainable>,
    /// Changes by pattern, applied in order.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub sites: IndexMap<String, SiteOverride>,
}

/// The target that is every projection but those that are annotated `full` and those of heads.
pub const ALL_LINEAR: &str = "all-linear";

/// The largest rank that a budget finds.
const MOST: usize = 1 << 20;

/// What models call what stands behind the pretrained part, by its first segment.
const HEADS: &[&str] = &[
    "classification_head",
    "classifier",
    "cls",
    "lm_head",
    "lm_predictions",
    "qa_outputs",
    "score",
];

impl AdaptConfig {
    /// A configuration that applies a method and a rank to all annotated adapters.
    pub fn method(method: &'static dyn Method, rank: usize) -> Self {
        Self {
            method: Some(method),
            rank: Some(rank),
            ..Self::default()
        }
    }

    /// What trains: what `trainable` says, else what the method does.
    fn trains(&self) -> Trainable {
        let by_method = || self.method.map(Method::trainable).unwrap_or_default();
        self.trainable.clone().unwrap_or_else(by_method)
    }

    /// What trains of a model whose projections are as [`resolve`](Self::resolve) makes them.
    ///
    /// # Errors
    /// As [`Trainable::check`]; a `trainable` beside a method that says what trains; a model without the
    /// parameters that the method trains.
    pub fn resolve_trainable(
        &self,
        sites: &[Site],
        parameters: &[Parameter],
    ) -> Result<Trainable, AdapterError> {
        let trainable = self.trains();
        if let Some(method) = self.method
            && ![Trainable::Adapters, trainable.clone()].contains(&method.trainable())
        {
            return Err(AdapterError::TrainsOther {
                method: method.name(),
            });
        }
        let names = || parameters.iter().map(|parameter| parameter.name.as_str());
        if let (None, Some(method)) = (&self.trainable, self.method)
            && let Trainable::Parameters(patterns) = &trainable
            && !names().any(|name| trainable.names(name))
        {
            return Err(AdapterError::TrainsNone {
                method: method.name(),
                patterns: patterns.join("`, `"),
            });
        }
        trainable.check(sites, names())?;
        Ok(trainable)
    }

    /// The projections of a model with this configuration applied and checked.
    ///
    /// # Errors
    /// A pattern that matches nothing, an option that does not fit, a number out of range, or
    /// nothing left to train.
    pub fn resolve(&self, sites: Vec<Site>) -> Result<Vec<Site>, AdapterError> {
        match (self.rank, self.budget) {
            (None, Some(budget)) => self.resolve_within(budget, &sites),
            (Some(_), Some(_)) => Err(AdapterError::RankAndBudget),
            (rank, None) => self.resolve_at(rank, sites),
        }
    }

    /// As [`resolve`](Self::resolve), with the largest rank with which the adapters train no more than
    /// `budget` numbers.
    fn resolve_within(&self, budget: usize, sites: &[Site]) -> Result<Vec<Site>, AdapterError> {
        let at = |rank| self.resolve_at(Some(rank), sites.to_vec());
        let mut best = at(1)?;
        let least = Site::adapters_trainable(&best);
        if least > budget {
            return Err(AdapterError::Budget { budget, least });
        }
        if !best.iter().any(|site| site.spec.has_rank()) {
            return Err(AdapterError::NotTaken {
                option: "budget",
                taken: AdapterOption::takers(&[AdapterOption::Rank]),
            });
        }
        // Doubles the rank until one is too large, then halves what is between it and one that fits.
        let (mut fits, mut exceeds) = (1, None);
        while exceeds.is_none_or(|exceeds| exceeds - fits > 1) && fits < MOST {
            let rank = exceeds.map_or(2 * fits, |exceeds: usize| fits.midpoint(exceeds));
            match at(rank) {
                Ok(sites) if Site::adapters_trainable(&sites) <= budget => {
                    (fits, best) = (rank, sites);
                }
                _ => exceeds = Some(rank),
            }
        }
        Ok(best)
    }

    /// As [`resolve`](Self::resolve), with this rank instead of the configuration's.
    fn resolve_at(
        &self,
        rank: Option<usize>,
        mut sites: Vec<Site>,
    ) -> Result<Vec<Site>, AdapterError> {
        self.check_patterns(&sites)?;
        self.check_all()?;
        for site in &mut sites {
            site.spec = self.spec(rank, site);
        }
        self.check_options(&sites)?;
        for (pattern, change) in &self.sites {
            let named = sites.iter_mut().filter(|site| site.is_named(pattern));
            change.apply(pattern, rank, &mut named.collect::<Vec<_>>())?;
        }
        Site::check_all(&sites)?;
        let by_sites = sites.iter().any(|site| site.spec.trains());
        if !by_sites && self.trains() == Trainable::Adapters {
            return Err(AdapterError::NothingTrains);
        }
        Ok(sites)
    }

    /// Every pattern names a projection.
    fn check_patterns(&self, sites: &[Site]) -> Result<(), AdapterError> {
        let targets = self.targets.iter().filter(|target| *target != ALL_LINEAR);
        for pattern in targets.chain(self.sites.keys()) {
            if !sites.iter().any(|site| site.is_named(pattern)) {
                return Err(AdapterError::NoMatch {
                    pattern: pattern.clone(),
                    hint: pattern::suggest(pattern, sites.iter().map(|site| &*site.path), 1),
                });
            }
        }
        Ok(())
    }

    /// Where everything trains, nothing else is said of what does.
    fn check_all(&self) -> Result<(), AdapterError> {
        if self.trains() != Trainable::All {
            return Ok(());
        }
        if let Some(method) = self.method
            && method.trainable() != Trainable::All
        {
            return Err(AdapterError::TrainsOther {
                method: method.name(),
            });
        }
        let given = [
            ("targets", self.targets.is_empty()),
            ("sites", self.sites.is_empty()),
        ];
        match given.into_iter().find(|(_, is_empty)| !is_empty) {
            Some((given, _)) => Err(AdapterError::AllTrains { given }),
            None => Ok(()),
        }
    }

    /// Whether a projection is to be adapted. A head is where it is named by its whole path alone: else it
    /// trains as it does without the adapters.
    fn is_target(&self, method: &dyn Method, site: &Site) -> bool {
        let full = site.spec.strategy == Strategy::Full;
        let head = site.path.split('.').next();
        let head = head.is_some_and(|head| HEADS.contains(&head));
        let mut targets = self.targets.iter();
        match targets.len() {
            0 => !full && method.adapts(site),
            _ => targets.any(|target| match target.as_str() {
                ALL_LINEAR => !full && !head,
                pattern => !full && !head && site.is_named(pattern) || site.path == pattern,
            }),
        }
    }

    /// What a projection gets by what is said of all.
    fn spec(&self, rank: Option<usize>, site: &Site) -> AdapterSpec {
        if self.trains() == Trainable::All {
            let lr = match self.method {
                Some(method) if site.is_adapted() => method.spec(site).lr,
                _ => site.spec.lr,
            };
            return AdapterSpec::full().with_lr(lr);
        }
        let method = self.method.unwrap_or(&Ailora);
        let mut spec = match (self.is_target(method, site), site.spec.strategy) {
            (true, _) => method.spec(site),
            (false, Strategy::Adapted(_)) => AdapterSpec::frozen(),
            (false, _) => site.spec,
        };
        let Strategy::Adapted(adapter) = spec.strategy else {
            return spec;
        };
        let takes = |option| adapter.options().contains(&option);
        if takes(AdapterOption::Rank) {
            spec.rank = rank.or(spec.rank);
        }
        if takes(AdapterOption::Alpha) {
            spec.alpha = self.alpha.or(spec.alpha);
        }
        if takes(AdapterOption::Dropout) {
            spec.dropout = self.dropout.unwrap_or(spec.dropout);
        }
        if takes(AdapterOption::Scaling) {
            spec.scaling = self.scaling.unwrap_or(spec.scaling);
        }
        if takes(AdapterOption::BRate) {
            spec.b_lr = self.b_lr.unwrap_or(spec.b_lr);
        }
        if takes(AdapterOption::Dora) {
            spec.dora = self.dora.unwrap_or(spec.dora);
        }
        if site.role() == Some(Role::V) {
            spec.lr = self.v_lr.unwrap_or(spec.lr);
        }
        spec
    }

    /// Some projection takes each option that is given for all; but a rank may be given to methods that
    /// have none, so that runs of several methods can share it.
    fn check_options(&self, sites: &[Site]) -> Result<(), AdapterError> {
        let adapted = || {
            let adapters = sites.iter().filter_map(|site| match site.spec.strategy {
                Strategy::Adapted(adapter) => Some((site, adapter)),
                Strategy::Frozen | Strategy::Full => None,
            });
            adapters.clone()
        };
        let given = [
            (AdapterOption::Alpha, self.alpha.is_some()),
            (
                AdapterOption::Dropout,
                self.dropout.is_some_and(|p| p != 0.0),
            ),
            (AdapterOption::Scaling, self.scaling.is_some()),
            (AdapterOption::BRate, self.b_lr.is_some()),
            (AdapterOption::Dora, self.dora == Some(true)),
        ];
        let given = given
            .into_iter()
            .filter_map(|(option, given)| given.then_some(option));
        for option in given {
            if !adapted().any(|(_, adapter)| adapter.options().contains(&option)) {
                return Err(AdapterError::NotTaken {
                    option: option.name(),
                    taken: AdapterOption::takers(&[option]),
                });
            }
        }
        if !self.targets.is_empty() && adapted().next().is_none() {
            let method = self.method.unwrap_or(&Ailora);
            return Err(AdapterError::NoTargets {
                targets: self.targets.join("`, `"),
                method: method.name(),
            });
        }
        if self.v_lr.is_some() && !adapted().any(|(site, _)| site.role() == Some(Role::V)) {
            return Err(AdapterError::NoValues);
        }
        Ok(())
    }
}

impl SiteOverride {
    /// The options that are given.
    fn given(&self) -> impl Iterator<Item = AdapterOption> + use<> {
        let given = [
            (AdapterOption::Rank, self.rank.is_some()),
            (AdapterOption::Alpha, self.alpha.is_some()),
            (AdapterOption::Dropout, self.dropout.is_some()),
            (AdapterOption::Scaling, self.scaling.is_some()),
            (AdapterOption::BRate, self.b_lr.is_some()),
            (AdapterOption::Dora, self.dora.is_some()),
        ];
        given
            .into_iter()
            .filter_map(|(option, given)| given.then_some(option))
    }

    /// Changes the projections that a pattern names. An option counts at those that take it, of which there
    /// has to be one.
    fn apply(
        &self,
        pattern: &str,
        rank: Option<usize>,
        named: &mut [&mut Site],
    ) -> Result<(), AdapterError> {
        for site in &mut *named {
            self.apply_to(pattern, rank, site)?;
        }
        let Some(first) = named.first() else {
            return Ok(());
        };
        let untaken = |option: &AdapterOption| !named.iter().any(|site| site.spec.takes(*option));
        let option = self.given().find(untaken).map(|option| {
            let takers = AdapterOption::takers(&[option]);
            (option.name(), format!("init: {takers}"))
        });
        let trains = named.iter().any(|site| site.spec.trains());
        let rate = (self.lr.is_some() && !trains).then(|| ("lr", "init: full".to_owned()));
        match option.or(rate) {
            None => Ok(()),
            Some((option, takers)) => Err(AdapterError::NoOption {
                pattern: pattern.to_owned(),
                option,
                site: first.path.clone(),
                strategy: first.spec.strategy.name(),
                takers,
            }),
        }
    }

    fn apply_to(
        &self,
        pattern: &str,
        rank: Option<usize>,
        site: &mut Site,
    ) -> Result<(), AdapterError> {
        let spec = &mut site.spec;
        spec.strategy = self.init.unwrap_or(spec.strategy);
        let takes: Vec<AdapterOption> = AdapterOption::ALL.to_vec();
        let (takes, others): (Vec<_>, Vec<_>) =
            takes.into_iter().partition(|&option| spec.takes(option));
        for option in others {
            option.clear(spec);
        }
        spec.lr = self.lr.filter(|_| spec.trains()).unwrap_or(spec.lr);
        for option in takes {
            match option {
                AdapterOption::Rank => spec.rank = self.rank.or(spec.rank).or(rank),
                AdapterOption::Alpha => spec.alpha = self.alpha.or(spec.alpha),
                AdapterOption::Dropout => spec.dropout = self.dropout.unwrap_or(spec.dropout),
                AdapterOption::Scaling => spec.scaling = self.scaling.unwrap_or(spec.scaling),
                AdapterOption::BRate => spec.b_lr = self.b_lr.unwrap_or(spec.b_lr),
                AdapterOption::Dora => spec.dora = self.dora.unwrap_or(spec.dora),
            }
        }
        if spec.takes(AdapterOption::Rank) && spec.rank.is_none() {
            return Err(AdapterError::MissingRank {
                pattern: pattern.to_owned(),
                site: site.path.clone(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
