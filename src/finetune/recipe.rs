use ailora_graph::{
    adapter::{Site, Trainable},
    module::Parameter,
};
use ailora_runtime::{
    engine::Engine,
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    train::Trainer,
    weights::Weights,
};

use super::{Error, Stage};

/// How parameters are updated, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub optimizer: AdamWConfig,
    pub lr: f64,
    pub schedule: ScheduleKind,
    pub warmup: f64,
    pub clip: Option<f64>,
    pub seed: u64,
    /// Steps of the whole schedule.
    pub total: u64,
    /// Stop after this many.
    pub max_steps: Option<u64>,
}

/// What is known once everything is compiled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    programs: usize,
    peak_bytes: usize,
}

impl Recipe {
    /// A trainer of what is `trainable` of a model with these sites and parameters.
    pub fn trainer(
        &self,
        engine: Engine,
        trainable: &Trainable,
        sites: &[Site],
        parameters: &[Parameter],
    ) -> (Trainer, Sizes) {
        let names = parameters.iter().map(|parameter| &*parameter.name);
        let (groups, trained) = groups(trainable.rates(sites, names), engine.weights());
        let optimizer = AdamW::new(self.optimizer, groups, engine.weights());
        let sizes = Sizes {
            programs: engine.programs(),
            peak_bytes: engine.peak_bytes(trained),
        };
        let schedule = Schedule::new(self.schedule, self.warmup, self.total);
        let trainer = Trainer::new(engine, optimizer, self.lr, schedule, self.clip, self.seed);
        (trainer, sizes)
    }

    /// Checks that a run that goes on has not gone beyond its end.
    ///
    /// # Errors
    /// It has.
    pub fn check_ahead(&self, epochs: usize, trainer: &Trainer) -> Result<(), Error> {
        let done = trainer.steps_done();
        match done > self.total {
            true => Err(Error::Behind { epochs, done }),
            false => Ok(()),
        }
    }

    /// What whoever watches is told before the first step.
    pub fn compiled(&self, sizes: Sizes, trainer: &Trainer) -> Stage<'static> {
        Stage::Compiled {
            programs: sizes.programs,
            peak_bytes: sizes.peak_bytes,
            steps: self.max_steps.map_or(self.total, |max| max.min(self.total)),
            done: trainer.steps_done(),
        }
    }
}

/// The optimiser's groups: trained parameters by their multiple of the base rate, but for those that
/// no program reads. And how many numbers are trained.
pub(crate) fn groups(mut rates: Vec<(String, f64)>, weights: &Weights) -> (Vec<Group>, usize) {
    rates.retain(|(name, _)| weights.len(name).is_some());
    let trained = rates.iter().filter_map(|(name, _)| weights.len(name)).sum();
    let mut groups: Vec<Group> = Vec::new();
    for (name, lr) in rates {
        match groups.iter_mut().find(|group| group.lr == lr) {
            Some(group) => group.parameters.push(name),
            None => groups.push(Group {
                lr,
                parameters: vec![name],
            }),
        }
    }
    (groups, trained)
}
