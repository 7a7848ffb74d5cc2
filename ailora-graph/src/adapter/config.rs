use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{AdapterError, Init, Scaling, Site, Strategy, Trainable, pattern};
use crate::module::Parameter;

/// A way of starting all adapters of a model, as the literature names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// As annotated: principal queries, minor values, values at twice the rate.
    AiLora,
    /// Random `A`, zero `B`, one rate.
    LoRa,
    /// Principal everywhere, one rate.
    PiSsa,
    /// Minor everywhere, one rate.
    MiLoRa,
    /// As annotated with principal and minor exchanged.
    ReAiLora,
    /// LoRA with the rank-stabilised scale.
    RsLora,
    /// No adapter: every parameter of the model is trained.
    Full,
}

impl Method {
    /// Every method, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::AiLora,
        Self::LoRa,
        Self::PiSsa,
        Self::MiLoRa,
        Self::ReAiLora,
        Self::RsLora,
        Self::Full,
    ];

    /// The name used in files and flags.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AiLora => "ailora",
            Self::LoRa => "lora",
            Self::PiSsa => "pissa",
            Self::MiLoRa => "milora",
            Self::ReAiLora => "reailora",
            Self::RsLora => "rslora",
            Self::Full => "full",
        }
    }

    fn apply(self, site: &mut Site) {
        let Strategy::LowRank { init, .. } = &mut site.spec.strategy else {
            return;
        };
        *init = match (self, *init) {
            (Self::AiLora | Self::Full, init) => init,
            (Self::ReAiLora, Init::Principal) => Init::Minor,
            (Self::ReAiLora, Init::Minor) => Init::Principal,
            (Self::ReAiLora, Init::Random) => Init::Random,
            (Self::PiSsa, _) => Init::Principal,
            (Self::MiLoRa, _) => Init::Minor,
            (Self::LoRa | Self::RsLora, _) => Init::Random,
        };
        if !matches!(self, Self::AiLora | Self::ReAiLora) {
            site.spec.lr = 1.0;
        }
        if self == Self::RsLora {
            site.spec.scaling = Scaling::RankStabilized;
        }
    }
}

/// What is to change at the projections that a pattern names. Absent options stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteOverride {
    /// `principal`, `minor`, `random`, `frozen` or `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<StrategyName>,
    /// Rank of a low-rank adapter.
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

/// A strategy without its rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrategyName {
    /// [`Init::Principal`].
    Principal,
    /// [`Init::Minor`].
    Minor,
    /// [`Init::Random`].
    Random,
    /// [`Strategy::Frozen`].
    Frozen,
    /// [`Strategy::Full`].
    Full,
}

impl StrategyName {
    fn with_rank(self, rank: Option<usize>) -> Option<Strategy> {
        let low_rank = |init| rank.map(|rank| Strategy::LowRank { init, rank });
        match self {
            Self::Principal => low_rank(Init::Principal),
            Self::Minor => low_rank(Init::Minor),
            Self::Random => low_rank(Init::Random),
            Self::Frozen => Some(Strategy::Frozen),
            Self::Full => Some(Strategy::Full),
        }
    }
}

/// Adapters as data: what a run changes of what the model's annotations say.
///
/// ```yaml
/// method: ailora          # or lora, pissa, milora, reailora, rslora, full
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
    pub method: Option<Method>,
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
    pub fn method(method: Method, rank: usize) -> Self {
        Self {
            method: Some(method),
            rank: Some(rank),
            ..Self::default()
        }
    }

    /// What trains: what `trainable` says, else what the method does.
    fn trains(&self) -> Trainable {
        let by_method = match self.method {
            Some(Method::Full) => Trainable::All,
            _ => Trainable::Adapters,
        };
        self.trainable.clone().unwrap_or(by_method)
    }

    /// What trains of a model whose projections are as [`resolve`](Self::resolve) makes them.
    ///
    /// # Errors
    /// As [`Trainable::check`], or a method that trains everything beside a `trainable` that does not.
    pub fn resolve_trainable(
        &self,
        sites: &[Site],
        parameters: &[Parameter],
    ) -> Result<Trainable, AdapterError> {
        let trainable = self.trains();
        if self.method == Some(Method::Full) && trainable != Trainable::All {
            return Err(AdapterError::TrainsAll);
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
        if let Some(method) = self.method {
            method.apply(site);
        }
        if self.trains() == Trainable::All {
            site.spec.strategy = Strategy::Full;
        }
        let Strategy::LowRank { rank, .. } = &mut site.spec.strategy else {
            return;
        };
        *rank = self.rank.unwrap_or(*rank);
        site.spec.alpha = self.alpha.or(site.spec.alpha);
        site.spec.dropout = self.dropout.unwrap_or(site.spec.dropout);
        site.spec.scaling = self.scaling.unwrap_or(site.spec.scaling);
    }
}

impl SiteOverride {
    fn apply(&self, pattern: &str, site: &mut Site) -> Result<(), AdapterError> {
        let rank = self.rank.or(site.spec.rank());
        if let Some(init) = self.init {
            site.spec.strategy = init
                .with_rank(rank)
                .ok_or_else(|| AdapterError::MissingRank {
                    pattern: pattern.to_owned(),
                    site: site.path.clone(),
                })?;
        }
        let given = [
            ("rank", self.rank.is_some()),
            ("alpha", self.alpha.is_some()),
            ("dropout", self.dropout.is_some()),
            ("scaling", self.scaling.is_some()),
        ];
        match &mut site.spec.strategy {
            Strategy::LowRank { rank, .. } => *rank = self.rank.unwrap_or(*rank),
            other => {
                let strategy = match other {
                    Strategy::Full => "full",
                    _ => "frozen",
                };
                if let Some((option, _)) = given.into_iter().find(|(_, given)| *given) {
                    return Err(AdapterError::NotLowRank {
                        pattern: pattern.to_owned(),
                        option,
                        site: site.path.clone(),
                        strategy,
                    });
                }
            }
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
    use crate::adapter::{AdapterSpec, Layout};

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
            site("layer.0.query", AdapterSpec::principal(8)),
            site("layer.0.key", AdapterSpec::frozen()),
            site("layer.0.value", AdapterSpec::minor(8).with_lr(2.0)),
            site("layer.1.query", AdapterSpec::principal(8)),
            site("classifier", AdapterSpec::full()),
        ]
    }

    fn parse(json: &str) -> AdaptConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn methods_reinterpret_the_annotations() {
        let init = |method, i: usize| {
            let sites = AdaptConfig::method(method, 4).resolve(model()).unwrap();
            assert_eq!(sites[4].spec.strategy, Strategy::Full, "heads stay trained");
            (
                sites[i].spec.strategy,
                sites[i].spec.lr,
                sites[i].spec.scale(),
            )
        };
        let low = |init| Strategy::LowRank { init, rank: 4 };
        assert_eq!(init(Method::AiLora, 2), (low(Init::Minor), 2.0, Some(1.0)));
        assert_eq!(
            init(Method::ReAiLora, 2),
            (low(Init::Principal), 2.0, Some(1.0))
        );
        assert_eq!(
            init(Method::ReAiLora, 0),
            (low(Init::Minor), 1.0, Some(1.0))
        );
        assert_eq!(
            init(Method::PiSsa, 2),
            (low(Init::Principal), 1.0, Some(1.0))
        );
        assert_eq!(init(Method::MiLoRa, 0), (low(Init::Minor), 1.0, Some(1.0)));
        assert_eq!(init(Method::LoRa, 2), (low(Init::Random), 1.0, Some(1.0)));
        assert_eq!(init(Method::RsLora, 0), (low(Init::Random), 1.0, Some(2.0)));
        assert_eq!(init(Method::LoRa, 1).0, Strategy::Frozen);
        assert_eq!(init(Method::Full, 1).0, Strategy::Full);
    }

    #[test]
    fn later_patterns_win() {
        let config = parse(
            r#"{"sites": {"key": {"init": "random", "rank": 3, "alpha": 6.0},
                          "layer.0.*": {"lr": 0.5}}}"#,
        );
        let sites = config.resolve(model()).unwrap();
        assert_eq!(
            sites[1].spec,
            AdapterSpec::random(3).with_alpha(6.0).with_lr(0.5)
        );
        assert_eq!(sites[3].spec, AdapterSpec::principal(8));
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
