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
        let ranked = |sites: &[Site]| {
            let ranked = sites.iter().filter(|site| site.spec.has_rank());
            ranked.map(Site::max_rank).min()
        };
        let Some(most) = ranked(&best) else {
            return Err(AdapterError::NotTaken {
                option: "budget",
                taken: AdapterOption::takers(&[AdapterOption::Rank]),
            });
        };
        // Halves what is between a rank that fits and one that does not.
        let (mut fits, mut exceeds) = (1, most + 1);
        while exceeds - fits > 1 {
            let rank = fits.midpoint(exceeds);
            let sites = at(rank)?;
            match Site::adapters_trainable(&sites) <= budget {
                true => (fits, best) = (rank, sites),
                false => exceeds = rank,
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
        for site in &mut sites {
            site.spec = self.spec(rank, site);
        }
        self.check_options(&sites)?;
        for (pattern, change) in &self.sites {
            for site in sites.iter_mut().filter(|site| site.is_named(pattern)) {
                change.apply(pattern, rank, site)?;
            }
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

    /// Whether a projection is to be adapted.
    fn is_target(&self, method: &dyn Method, site: &Site) -> bool {
        let full = site.spec.strategy == Strategy::Full;
        let head = site.path.split('.').next();
        let head = head.is_some_and(|head| HEADS.contains(&head));
        let mut targets = self.targets.iter();
        match targets.len() {
            0 => !full && method.adapts(site),
            _ => targets.any(|target| match target.as_str() {
                ALL_LINEAR => !full && !head,
                pattern => site.is_named(pattern),
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
        if self.v_lr.is_some() && !adapted().any(|(site, _)| site.role() == Some(Role::V)) {
            return Err(AdapterError::NoValues);
        }
        Ok(())
    }
}

impl SiteOverride {
    fn apply(
        &self,
        pattern: &str,
        rank: Option<usize>,
        site: &mut Site,
    ) -> Result<(), AdapterError> {
        let spec = &mut site.spec;
        spec.strategy = self.init.unwrap_or(spec.strategy);
        let takes: &[AdapterOption] = match spec.strategy {
            Strategy::Adapted(adapter) => adapter.options(),
            Strategy::Frozen | Strategy::Full => &[],
        };
        for option in AdapterOption::ALL
            .iter()
            .filter(|option| !takes.contains(option))
        {
            option.clear(spec);
        }
        if takes.contains(&AdapterOption::Rank) {
            spec.rank = self.rank.or(spec.rank).or(rank);
            if spec.rank.is_none() {
                return Err(AdapterError::MissingRank {
                    pattern: pattern.to_owned(),
                    site: site.path.clone(),
                });
            }
        }
        let given = [
            (AdapterOption::Rank, self.rank.is_some()),
            (AdapterOption::Alpha, self.alpha.is_some()),
            (AdapterOption::Dropout, self.dropout.is_some()),
            (AdapterOption::Scaling, self.scaling.is_some()),
            (AdapterOption::BRate, self.b_lr.is_some()),
            (AdapterOption::Dora, self.dora.is_some()),
        ];
        let mut given = given.into_iter();
        if let Some((option, _)) = given.find(|(option, given)| *given && !takes.contains(option)) {
            return Err(AdapterError::NoOption {
                pattern: pattern.to_owned(),
                option: option.name(),
                site: site.path.clone(),
                strategy: spec.strategy.name(),
                takers: AdapterOption::takers(&[option]),
            });
        }
        spec.lr = self.lr.unwrap_or(spec.lr);
        spec.alpha = self.alpha.or(spec.alpha);
        spec.dropout = self.dropout.unwrap_or(spec.dropout);
        spec.scaling = self.scaling.unwrap_or(spec.scaling);
        spec.b_lr = self.b_lr.unwrap_or(spec.b_lr);
        spec.dora = self.dora.unwrap_or(spec.dora);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::Layout,
        method::{
            Ailora, Full, Lora, Milora, Pissa, Reailora, Rslora,
            constructors::{frozen, full, minor, principal, random},
        },
    };

    fn site(path: &str, spec: AdapterSpec) -> Site {
        Site {
            path: path.into(),
            weight: format!("{path}.weight"),
            bias: None,
            in_features: 16,
            out_features: 12,
            layout: Layout::OutIn,
            spec,
        }
    }

    fn model() -> Vec<Site> {
        vec![
            site("layer.0.query", principal(8)),
            site("layer.0.key", frozen()),
            site("layer.0.value", minor(8).with_lr(2.0)),
            site("layer.1.query", principal(8)),
            site("classifier", full()),
        ]
    }

    fn parse(json: &str) -> AdaptConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn methods_reinterpret_the_annotations() {
        let init = |method: &'static dyn Method, i: usize| {
            let sites = AdaptConfig::method(method, 4).resolve(model()).unwrap();
            assert_eq!(sites[4].spec.strategy, Strategy::Full, "heads stay trained");
            sites[i].spec
        };
        let fast = |spec: AdapterSpec| spec.with_lr(2.0);
        assert_eq!(init(&Ailora, 2), fast(minor(4)));
        assert_eq!(init(&Reailora, 2), fast(principal(4)));
        assert_eq!(init(&Reailora, 0), minor(4));
        assert_eq!(init(&Pissa, 2), principal(4));
        assert_eq!(init(&Milora, 0), minor(4));
        assert_eq!(init(&Lora, 2), random(4));
        assert_eq!(
            init(&Rslora, 0),
            random(4).with_scaling(Scaling::RankStabilized)
        );
        assert_eq!(init(&Rslora, 0).scale(), Some(2.0));
        assert_eq!(init(&Lora, 1), frozen());
        assert_eq!(init(&Full, 1), full());
        assert_eq!(init(&Full, 2), full());
    }

    /// Targets are roles, names or all; what they leave out that is adapted otherwise is frozen.
    #[test]
    fn targets_choose_what_is_adapted() {
        let specs = |json: &str| {
            let sites = parse(json).resolve(model()).unwrap();
            sites.into_iter().map(|site| site.spec).collect::<Vec<_>>()
        };
        let kinds = specs(r#"{"targets": ["k", "layer.0.value"], "rank": 2}"#);
        assert_eq!(
            kinds,
            [frozen(), random(2), minor(2).with_lr(2.0), frozen(), full()]
        );
        let all = specs(r#"{"targets": ["all-linear"], "method": "pissa"}"#);
        assert_eq!(all[..4], [principal(8); 4]);
        assert_eq!(all[4], full(), "a head is no target");
        let rates = specs(r#"{"method": "lora", "v_lr": 3.0, "b_lr": 16.0}"#);
        assert_eq!(rates[0], random(8).with_b_lr(16.0));
        assert_eq!(rates[2], random(8).with_b_lr(16.0).with_lr(3.0));
    }

    /// All linear layers but heads are meant by their whole names: an ending is one at a dot only.
    #[test]
    fn all_linear_goes_by_whole_names() {
        let sites = || {
            let paths = ["a.proj", "c.myproj", "lm_head", "score"];
            paths.map(|path| site(path, frozen())).to_vec()
        };
        let adapted = |targets: &str| {
            let config = parse(&format!(
                r#"{{"targets": ["{targets}"], "method": "lora"}}"#
            ));
            let sites = config.resolve(sites()).unwrap();
            let adapted = sites.into_iter().filter(Site::is_adapted);
            adapted.map(|site| site.path).collect::<Vec<_>>()
        };
        assert_eq!(adapted("all-linear"), ["a.proj", "c.myproj"]);
        assert_eq!(adapted("proj"), ["a.proj"]);
    }

    /// Three adapters of 28 numbers a rank.
    #[test]
    fn a_budget_finds_the_rank() {
        let rank = |budget: usize| {
            let config = AdaptConfig {
                budget: Some(budget),
                ..AdaptConfig::default()
            };
            config.resolve(model()).unwrap()[0].spec.rank()
        };
        assert_eq!(rank(84), Some(1));
        assert_eq!(rank(84 * 5 - 1), Some(4));
        assert_eq!(rank(84 * 5), Some(5));
        assert_eq!(
            rank(usize::MAX),
            Some(12),
            "the largest that the shapes allow"
        );
    }

    /// Rank and alpha are looked up each by itself, as PEFT's two patterns are.
    #[test]
    fn options_of_patterns_do_not_hide_each_other() {
        let sites = vec![site("foo", random(1)), site("bar.foo", random(1))];
        let config = parse(
            r#"{"rank": 4, "alpha": 8.0,
                "sites": {"foo": {"rank": 2}, "bar.foo": {"alpha": 32.0}}}"#,
        );
        let sites = config.resolve(sites).unwrap();
        let found: Vec<_> = sites
            .iter()
            .map(|site| (site.spec.rank(), site.spec.alpha, site.spec.scale()))
            .collect();
        assert_eq!(
            found,
            [
                (Some(2), Some(8.0), Some(4.0)),
                (Some(2), Some(32.0), Some(16.0))
            ]
        );
    }

    #[test]
    fn later_patterns_win() {
        let config = parse(
            r#"{"sites": {"key": {"init": "random", "rank": 3, "alpha": 6.0},
                          "layer.0.*": {"lr": 0.5}}}"#,
        );
        let sites = config.resolve(model()).unwrap();
        assert_eq!(sites[1].spec, random(3).with_alpha(6.0).with_lr(0.5));
        assert_eq!(sites[3].spec, principal(8));
    }

    #[test]
    fn every_mistake_is_named() {
        let error = |json: &str| parse(json).resolve(model()).unwrap_err().to_string();
        assert_eq!(
            error(r#"{"sites": {"qeury": {"rank": 3}}}"#),
            "pattern `qeury` matches no projection of the model; did you mean `query`?"
        );
        assert!(
            error(r#"{"sites": {"zzz": {}}}"#)
                .ends_with("their names end in: query, key, value, classifier")
        );
        assert!(
            error(r#"{"sites": {"key": {"init": "minor"}}}"#).contains("give `rank` beside `init`")
        );
        assert!(error(r#"{"sites": {"key": {"alpha": 2}}}"#).contains(
            "layer.0.key is frozen, which takes no `alpha`; give `init: principal`, or `minor`"
        ));
        assert!(error(r#"{"targets": ["gate"]}"#).contains("pattern `gate` matches no projection"));
        assert!(error(r#"{"rank": 2, "budget": 100}"#).contains("both `rank` and `budget`"));
        assert!(error(r#"{"budget": 83}"#).contains("with rank 1 the adapters train 84"));
        assert!(error(r#"{"targets": ["q"], "v_lr": 2}"#).contains("no projection of values"));
        assert!(error(r#"{"b_lr": 0}"#).contains("b_lr is 0"));
        assert!(
            error(r#"{"targets": ["classifier"], "sites": {"*": {"init": "frozen"}}, "alpha": 2}"#)
                .contains("nothing would be trained")
        );
        let none =
            r#"{"sites": {"*": {"init": "full"}}, "trainable": "all", "rank": 8, "alpha": 2}"#;
        assert!(error(none).contains("`alpha` is given, but no adapter here takes it"));
        assert!(
            error(r#"{"rank": 13}"#)
                .contains("rank 13 is too large for a projection of 12 x 16; the largest is 12")
        );
        assert!(error(r#"{"rank": 0}"#).contains("rank 0"));
        assert!(error(r#"{"dropout": 1.0}"#).contains("a probability in [0, 1)"));
        assert!(error(r#"{"sites": {"value": {"lr": -1}}}"#).contains("lr is -1"));
        assert!(
            error(r#"{"sites": {"*": {"init": "frozen"}}}"#).contains("nothing would be trained")
        );
        assert!(serde_json::from_str::<AdaptConfig>(r#"{"rnak": 1}"#).is_err());
    }
}
