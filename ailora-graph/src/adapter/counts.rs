use std::collections::{HashMap, HashSet};

use super::{Site, Strategy, Trainable};
use crate::module::Parameter;

/// How many numbers train, by what they belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of adapters.
    pub adapters: usize,
    /// Of the projections that the model's annotations train in full, as those of a classifier.
    pub head: usize,
    /// Of all else.
    pub model: usize,
}

impl Counts {
    /// How many of a model with these parameters, whose projections are annotated like this and have become
    /// `sites`.
    pub fn new(
        trainable: &Trainable,
        annotated: &[Site],
        sites: &[Site],
        parameters: &[Parameter],
    ) -> Self {
        let own = parameters.iter();
        let own = own.map(|p| (p.name.clone(), p.shape.iter().product()));
        let mut sizes: HashMap<String, usize> = own.collect();
        let head = annotated.iter();
        let head = head.filter(|site| site.spec.strategy == Strategy::Full);
        let head: HashSet<String> = head.flat_map(Site::trained).collect();
        let beside = sites.iter().flat_map(|site| site.parameters(sites));
        let beside = beside.map(|parameter| (parameter.name.clone(), parameter.count()));
        let beside: HashMap<String, usize> = beside.collect();
        sizes.extend(beside.clone());
        let names = parameters.iter().map(|parameter| &*parameter.name);
        let mut counts = Self::default();
        for (name, _) in trainable.rates(sites, names) {
            let count = match (beside.contains_key(&name), head.contains(&name)) {
                (true, _) => &mut counts.adapters,
                (false, true) => &mut counts.head,
                (false, false) => &mut counts.model,
            };
            *count += sizes.get(&name).copied().unwrap_or_default();
        }
        counts
    }

    /// How many in all.
    pub fn total(&self) -> usize {
        self.adapters + self.head + self.model
    }
}
