//! Adapters as data: what a run changes of what a model's annotations say.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{
    adapter::{AdapterError, AdapterSpec, Scaling, Site, Strategy, Trainable, pattern},
    method::{self, Method},
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
}

/// Adapters as data: what a run changes of what the model's annotations say.
///
/// ```yaml
/// method: ailora          # or another of [`METHODS`](crate::method::METHODS)
/// rank: 16                # for every annotated low-rank adapter
/// trainable: ["*LayerNorm*"]  # beside the adapters; or `adapters`, or `all`
/// sites:                  # then by name or pattern, in order; the later wins
///   key: { init: random, rank: 4 }
///   encoder.layer.0.*: { init: frozen }
/// ```
///
/// A pattern is a whole module path, or its last segments, with `*` for any run of characters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptConfig {
    /// A method for all annotated adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static dyn Method>,
    /// Rank of all annotated adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// `alpha` of all annotated adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Dropout of all annotated adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Scaling of all annotated adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// What trains: `adapters`, `all`, or patterns of parameters that train beside the adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<Trainable>,
    /// Changes by pattern, applied in order.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub sites: IndexMap<String, SiteOverride>,
}

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
    /// As [`Trainable::check`], or a `trainable` beside a method that says what trains.
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
        let names = parameters.iter().map(|parameter| parameter.name.as_str());
        trainable.check(sites, names)?;
        Ok(trainable)
    }

    /// The projections of a model with this configuration applied and checked.
    ///
    /// # Errors
    /// A pattern that matches nothing, an option that does not fit, a number out of range, or
    /// nothing left to train.
    pub fn resolve(&self, sites: Vec<Site>) -> Result<Vec<Site>, AdapterError> {
        let mut sites = sites;
        for site in &mut sites {
            self.apply_method(site);
        }
        for (pattern, change) in &self.sites {
            let mut matched = false;
            for site in &mut sites {
                if pattern::matches(pattern, &site.path) {
                    matched = true;
                    change.apply(pattern, site)?;
                }
            }
            if !matched {
                return Err(AdapterError::NoMatch {
                    pattern: pattern.clone(),
                    hint: pattern::suggest(pattern, sites.iter().map(|site| &*site.path), 1),
                });
            }
        }
        sites.iter().try_for_each(Site::check)?;
        let by_sites = sites.iter().any(|site| site.spec.trains());
        if !by_sites && self.trains() == Trainable::Adapters {
            return Err(AdapterError::NothingTrains);
        }
        Ok(sites)
    }

    fn apply_method(&self, site: &mut Site) {
        if let Some(method) = self.method
            && let Strategy::Adapted(_) = site.spec.strategy
        {
            site.spec = method.spec(site.spec);
        }
        if self.trains() == Trainable::All {
            site.spec = AdapterSpec {
                strategy: Strategy::Full,
                rank: None,
                ..site.spec
            };
        }
        if !site.spec.has_rank() {
            return;
        }
        site.spec.rank = self.rank.or(site.spec.rank);
        site.spec.alpha = self.alpha.or(site.spec.alpha);
        site.spec.dropout = self.dropout.unwrap_or(site.spec.dropout);
        site.spec.scaling = self.scaling.unwrap_or(site.spec.scaling);
    }
}

impl SiteOverride {
    fn apply(&self, pattern: &str, site: &mut Site) -> Result<(), AdapterError> {
        if let Some(init) = self.init {
            let has_rank = matches!(init, Strategy::Adapted(adapter) if adapter.has_rank());
            site.spec.strategy = init;
            site.spec.rank = self.rank.or(site.spec.rank).filter(|_| has_rank);
            if has_rank && site.spec.rank.is_none() {
                return Err(AdapterError::MissingRank {
                    pattern: pattern.to_owned(),
                    site: site.path.clone(),
                });
            }
        }
        let given = [
            ("rank", self.rank.is_some()),
            ("alpha", self.alpha.is_some()),
            ("dropout", self.dropout.is_some()),
            ("scaling", self.scaling.is_some()),
        ];
        if site.spec.has_rank() {
            site.spec.rank = self.rank.or(site.spec.rank);
        } else if let Some((option, _)) = given.into_iter().find(|(_, given)| *given) {
            let ranked = method::adapters().filter(|adapter| adapter.has_rank());
            let ranked: Vec<&str> = ranked.map(|adapter| adapter.name()).collect();
            return Err(AdapterError::NoRank {
                pattern: pattern.to_owned(),
                option,
                site: site.path.clone(),
                strategy: site.spec.strategy.name(),
                ranked: ranked.join("`, or `"),
            });
        }
        site.spec.lr = self.lr.unwrap_or(site.spec.lr);
        site.spec.alpha = self.alpha.or(site.spec.alpha);
        site.spec.dropout = self.dropout.unwrap_or(site.spec.dropout);
        site.spec.scaling = self.scaling.unwrap_or(site.spec.scaling);
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
        assert!(error(r#"{"sites": {"key": {"alpha": 2}}}"#).contains("layer.0.key is frozen"));
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
