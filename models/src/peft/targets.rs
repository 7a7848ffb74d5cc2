//! Which modules a configuration gives low-rank factors, and which it saves whole.

use regex::Regex;

use super::{
    PeftError,
    config::{LoraConfig, Targeted},
    patterns::{self, Modules, is_end},
};

/// The rule by which PEFT chooses modules.
#[derive(Debug)]
pub struct Targets<'a> {
    config: &'a LoraConfig,
    saved: Vec<Regex>,
    lists: Vec<Regex>,
}

impl<'a> Targets<'a> {
    /// The rule of a configuration.
    ///
    /// # Errors
    /// A name that PEFT takes as a regular expression is none.
    pub fn new(config: &'a LoraConfig) -> Result<Self, PeftError> {
        let wrong = |field| move |reason| config.wrong(format!("`{field}`: {reason}"));
        let saved = config.saved.iter();
        let saved = saved.map(|module| patterns::inside(module));
        let saved = saved.collect::<Result<_, _>>();
        let lists = match &config.layer_lists[..] {
            [] => patterns::layer_index(None).map(|regex| vec![regex]),
            lists => lists
                .iter()
                .map(|list| patterns::layer_index(Some(list)))
                .collect(),
        };
        Ok(Self {
            config,
            saved: saved.map_err(wrong("modules_to_save"))?,
            lists: lists.map_err(wrong("layers_pattern"))?,
        })
    }

    /// Whether a module, given as PEFT calls it, has factors; `linear` says whether it is a linear
    /// layer and no head. Nothing, if the configuration leaves it open.
    pub fn has_factors(&self, path: &str, linear: bool) -> Option<bool> {
        let excluded = self.config.excluded.as_ref();
        if excluded.is_some_and(|modules| modules.matches(path)) || self.is_inside_saved(path) {
            return Some(false);
        }
        Some(match self.config.targets.as_ref()? {
            Targeted::AllLinear => linear,
            Targeted::Modules(modules @ Modules::Regex(_)) => modules.matches(path),
            Targeted::Modules(Modules::Ends(ends)) => {
                ends.iter().any(|end| end == path)
                    || (ends.iter().any(|end| is_end(path, end)) && self.is_of_layers(path))
            }
        })
    }

    /// Whether a module is one of `modules_to_save`, or inside of one, as the tuner sees it.
    fn is_inside_saved(&self, path: &str) -> bool {
        self.saved.iter().any(|saved| saved.is_match(path))
    }

    /// Whether a parameter belongs to a module that is saved whole: the path of one of the modules
    /// around it ends, at a dot or not, with a name of `modules_to_save`.
    pub fn is_saved(&self, parameter: &str) -> bool {
        let modules = || parameter.match_indices('.').map(|(at, _)| &parameter[..at]);
        let mut saved = self.config.saved.iter();
        saved.any(|end| modules().any(|module| module.ends_with(end.as_str())))
    }

    fn is_of_layers(&self, path: &str) -> bool {
        let Some(layers) = &self.config.layers else {
            return true;
        };
        let found = self.lists.iter().find_map(|list| list.captures(path));
        let index = found.and_then(|found| found.name("idx")?.as_str().parse().ok());
        index.is_some_and(|index| layers.contains(&index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table `b.proj` is no linear layer, and `c.myproj` ends in `proj` at no dot.
    #[test]
    fn whole_names_are_meant_and_ends_are_at_dots() {
        let folder = tempfile::tempdir().unwrap();
        for (targets, expected) in [
            ("\"all-linear\"", [true, false, true]),
            ("[\"proj\"]", [true, true, false]),
        ] {
            let json = format!("{{\"peft_type\": \"LORA\", \"target_modules\": {targets}}}");
            std::fs::write(folder.path().join("adapter_config.json"), json).unwrap();
            let config = LoraConfig::read(folder.path()).unwrap();
            let rule = Targets::new(&config).unwrap();
            let modules = [("a.proj", true), ("b.proj", false), ("c.myproj", true)];
            let found = modules.map(|(path, linear)| rule.has_factors(path, linear));
            assert_eq!(found, expected.map(Some), "{targets}");
        }
    }

    /// Each dictionary is looked up on its own: a broad key of ranks hides no key of alphas.
    #[test]
    fn ranks_and_alphas_are_looked_up_apart() {
        let folder = tempfile::tempdir().unwrap();
        let json = r#"{"peft_type": "LORA", "target_modules": ["foo"], "r": 4, "lora_alpha": 8,
                       "rank_pattern": {"foo": 2}, "alpha_pattern": {"bar.foo": 32}}"#;
        std::fs::write(folder.path().join("adapter_config.json"), json).unwrap();
        let config = LoraConfig::read(folder.path()).unwrap();
        let sizes = config.sizes(&["foo", "bar.foo"].map(str::to_owned));
        assert_eq!(sizes.unwrap(), [(2, 4.0), (2, 16.0)]);
    }
}
