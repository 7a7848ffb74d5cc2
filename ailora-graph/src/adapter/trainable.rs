//! Which of a model's parameters train.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{AdapterError, Site, Strategy, pattern};
use crate::module::Parameter;

/// What trains of a model. In files `adapters`, `all`, or patterns of parameters' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trainable {
    /// The adapters, and the weights and biases of projections whose strategy is `full`.
    #[default]
    Adapters,
    /// Those, and the model's parameters that these patterns name: a whole name such as
    /// `encoder.layer.0.output.LayerNorm.weight`, or its last segments, with `*` for any run of
    /// characters. `*.bias` without any adapter is BitFit (Ben Zaken et al. 2021).
    Parameters(Vec<String>),
    /// Every parameter of the model. No adapter is placed.
    All,
}

impl Trainable {
    /// Whether this trains a parameter of the model that no site says anything of.
    pub fn names(&self, parameter: &str) -> bool {
        match self {
            Self::Adapters => false,
            Self::Parameters(patterns) => {
                let mut patterns = patterns.iter();
                patterns.any(|pattern| pattern::matches(pattern, parameter))
            }
            Self::All => true,
        }
    }

    /// Checks the patterns against the names of a model's parameters.
    ///
    /// # Errors
    /// A pattern that names no parameter, or the weight of a projection with an adapter, which is to
    /// stay as it is.
    pub fn check<'a>(
        &self,
        sites: &[Site],
        parameters: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), AdapterError> {
        let Self::Parameters(patterns) = self else {
            return Ok(());
        };
        let names: Vec<&str> = parameters.into_iter().collect();
        for pattern in patterns {
            if !names.iter().any(|name| pattern::matches(pattern, name)) {
                return Err(AdapterError::NoParameter {
                    pattern: pattern.clone(),
                    hint: pattern::suggest(pattern, names.iter().copied(), 2),
                });
            }
            let mut adapted = sites.iter().filter(|site| site.is_adapted());
            if let Some(site) = adapted.find(|site| pattern::matches(pattern, &site.weight)) {
                return Err(AdapterError::AdaptedWeight {
                    pattern: pattern.clone(),
                    site: site.path.clone(),
                    weight: site.weight.clone(),
                });
            }
        }
        Ok(())
    }

    /// The parameters that train, of a model with these, each with its multiple of the base rate: those of adapters by site,
    /// then the model's own; in the model's order where all train.
    pub fn rates<'a>(
        &self,
        sites: &[Site],
        parameters: impl IntoIterator<Item = &'a str>,
    ) -> Vec<(String, f64)> {
        let mut rates: Vec<(String, f64)> = Vec::new();
        if *self != Self::All {
            for site in sites {
                let own = site.parameters(sites).into_iter();
                let trained = own.filter(|parameter| parameter.trains);
                let rate = |rate| rate * site.spec.lr;
                rates.extend(trained.map(|parameter| (parameter.name, rate(parameter.rate))));
                if site.spec.strategy == Strategy::Full {
                    rates.extend(site.trained().into_iter().map(|name| (name, rate(1.0))));
                }
            }
            // What several sites share is one parameter.
            let mut seen = HashSet::new();
            rates.retain(|(name, _)| seen.insert(name.clone()));
        }
        let by_sites = rates.len();
        for name in parameters {
            if self.names(name) && !rates[..by_sites].iter().any(|(other, _)| other == name) {
                rates.push((name.to_owned(), 1.0));
            }
        }
        rates
    }

    /// How many numbers train.
    pub fn count(&self, sites: &[Site], parameters: &[Parameter]) -> usize {
        let own = sites.iter().flat_map(|site| site.parameters(sites));
        let own = own.map(|parameter| (parameter.name.clone(), parameter.count()));
        let model = parameters.iter();
        let model = model.map(|p| (p.name.clone(), p.shape.iter().product()));
        let sizes: HashMap<String, usize> = own.chain(model).collect();
        let names = parameters.iter().map(|parameter| &*parameter.name);
        let rates = self.rates(sites, names);
        rates.iter().filter_map(|(name, _)| sizes.get(name)).sum()
    }
}

impl std::str::FromStr for Trainable {
    type Err = std::convert::Infallible;

    /// `adapters`, `all`, or a pattern.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "adapters" => Self::Adapters,
            "all" => Self::All,
            pattern => Self::Parameters(vec![pattern.to_owned()]),
        })
    }
}

impl Serialize for Trainable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Adapters => serializer.serialize_str("adapters"),
            Self::Parameters(patterns) => patterns.serialize(serializer),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for Trainable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

/// Reads what a file says of what trains.
struct Written;

impl<'de> de::Visitor<'de> for Written {
    type Value = Trainable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`adapters`, `all`, or a list of patterns of parameters' names")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Trainable, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Trainable, A::Error> {
        let mut patterns = Vec::new();
        while let Some(pattern) = items.next_element()? {
            patterns.push(pattern);
        }
        Ok(match patterns.is_empty() {
            true => Trainable::Adapters,
            false => Trainable::Parameters(patterns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::Layout,
        method::constructors::{frozen, full, random},
    };

    fn model() -> (Vec<Site>, Vec<Parameter>) {
        let site = |path: &str, spec| Site {
            path: path.into(),
            weight: format!("{path}.weight"),
            bias: Some(format!("{path}.bias")),
            in_features: 16,
            out_features: 12,
            layout: Layout::OutIn,
            spec,
        };
        let sites = vec![
            site("layer.0.query", random(2).with_lr(3.0)),
            site("layer.0.key", frozen()),
            site("classifier", full()),
        ];
        let mut parameters = Vec::new();
        for (module, weight) in [
            ("layer.0.query", vec![12, 16]),
            ("layer.0.key", vec![12, 16]),
            ("layer.0.LayerNorm", vec![12]),
            ("classifier", vec![12, 16]),
        ] {
            for (name, shape) in [("weight", weight), ("bias", vec![12])] {
                parameters.push(Parameter {
                    name: format!("{module}.{name}"),
                    node: Default::default(),
                    shape,
                });
            }
        }
        (sites, parameters)
    }

    #[test]
    fn what_trains_is_named_with_its_rate_and_counted_once() {
        let (sites, parameters) = model();
        let names = || parameters.iter().map(|parameter| parameter.name.as_str());
        let factors = ["layer.0.query.lora_A.weight", "layer.0.query.lora_B.weight"];
        let own = factors.map(|name| (name.to_owned(), 3.0));
        let full = ["classifier.weight", "classifier.bias"].map(|name| (name.to_owned(), 1.0));
        let adapters = [&own[..], &full].concat();
        assert_eq!(Trainable::Adapters.rates(&sites, names()), adapters);
        assert_eq!(
            Trainable::Adapters.count(&sites, &parameters),
            2 * 28 + 12 * 16 + 12
        );

        let biases: Trainable = "*.bias".parse().unwrap();
        biases.check(&sites, names()).unwrap();
        let more = ["query", "key", "LayerNorm"].map(|module| format!("layer.0.{module}.bias"));
        let more = more.map(|name| (name, 1.0));
        let expected = [&adapters[..], &more].concat();
        assert_eq!(biases.rates(&sites, names()), expected);
        assert_eq!(
            biases.count(&sites, &parameters),
            2 * 28 + 12 * 16 + 12 + 36
        );

        let all = parameters.iter().map(|p| (p.name.clone(), 1.0));
        let all: Vec<_> = all.collect();
        assert_eq!(Trainable::All.rates(&sites, names()), all);
        assert_eq!(
            Trainable::All.count(&sites, &parameters),
            3 * (192 + 12) + 24
        );
    }

    #[test]
    fn patterns_that_fit_nothing_or_an_adapted_weight_are_refused() {
        let (sites, parameters) = model();
        let names = || parameters.iter().map(|parameter| parameter.name.as_str());
        let error = |pattern: &str| {
            let trainable: Trainable = pattern.parse().unwrap();
            let error = trainable.check(&sites, names()).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            error("*.LayerNrom.weight"),
            "`trainable`: pattern `*.LayerNrom.weight` names no parameter of the model; did you mean \
             `LayerNorm.weight`?"
        );
        assert!(error("zzz").contains("their names end in: query.weight, query.bias"));
        assert!(error("*query*").contains("layer.0.query carries an adapter"));
    }

    #[test]
    fn files_say_it_with_a_word_or_a_list() {
        for (json, expected) in [
            ("\"adapters\"", Trainable::Adapters),
            ("\"all\"", Trainable::All),
            (
                "[\"*.bias\",\"a\"]",
                Trainable::Parameters(vec!["*.bias".into(), "a".into()]),
            ),
        ] {
            let read: Trainable = serde_json::from_str(json).unwrap();
            assert_eq!(read, expected);
            assert_eq!(serde_json::to_string(&read).unwrap(), json);
        }
        let one: Trainable = serde_json::from_str("\"*.bias\"").unwrap();
        assert_eq!(one, Trainable::Parameters(vec!["*.bias".into()]));
        let error = serde_json::from_str::<Trainable>("3").unwrap_err();
        assert!(error.to_string().contains("patterns of parameters' names"));
    }
}
