use std::path::PathBuf;

use ailora_graph::module::Parameter;
use ailora_models::{cache, choice::did_you_mean};
use ailora_runtime::{
    backend::{Backend, Precision},
    device::Device,
    engine::{Engine, EngineError},
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    spectrum::SpectrumCache,
    train::{Headline, Keep, Trainer},
    weights::Weights,
};
use serde::{Deserialize, Serialize};

use super::{Adapted, Range, SettingsError, Stage};
use crate::limits;

/// How parameters are moved, for how long, and where that is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Number of passes over the training data.
    pub epochs: usize,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step, on each rank.
    pub accumulate: usize,
    /// The base learning rate.
    pub lr: f64,
    /// How the rate falls.
    pub schedule: ScheduleKind,
    /// Fraction of steps over which the learning rate warms up.
    pub warmup: f64,
    /// The largest norm of the gradients; none to leave them.
    pub clip: Option<f64>,
    /// The optimiser's constants.
    pub optimizer: AdamWConfig,
    /// What fixes initialisation, dropout and the order of rows.
    pub seed: u64,
    /// Stop after this many steps.
    pub max_steps: Option<u64>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Steps between evaluations of the held-out rows, beside those at each epoch's end; if absent
    /// there are only these.
    pub evaluate_every: Option<u64>,
    /// Whether the backward pass computes blocks again instead of keeping what is in them.
    pub gradient_checkpointing: bool,
    /// Where it is computed.
    pub device: Device,
    /// What a device computes in.
    pub precision: Precision,
    /// The metric by which an evaluation is the best; if absent the task's first.
    pub headline: Option<String>,
    /// Which parameters are left; if absent those of the best evaluation where anything is held out,
    /// else the last ones.
    pub keep: Option<Keep>,
    /// Stop after this many evaluations in a row that are not the best so far.
    pub patience: Option<usize>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 3,
            batch_size: 32,
            accumulate: 1,
            lr: 5e-4,
            schedule: ScheduleKind::Linear,
            warmup: 0.06,
            clip: Some(1.0),
            optimizer: AdamWConfig::default(),
            seed: 0,
            max_steps: None,
            checkpoint_every: 200,
            evaluate_every: None,
            gradient_checkpointing: false,
            device: Device::Cpu,
            precision: Precision::F32,
            headline: None,
            keep: None,
            patience: None,
        }
    }
}

/// What is known once everything is compiled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    programs: usize,
    peak_bytes: usize,
}

impl Recipe {
    /// Checks the numbers against their ranges.
    ///
    /// # Errors
    /// The first that is outside.
    pub fn check(&self) -> Result<(), SettingsError> {
        let AdamWConfig {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = self.optimizer;
        SettingsError::unless([
            Range::count("epochs", self.epochs, 1..=limits::EPOCHS),
            Range::count("batch_size", self.batch_size, 1..=limits::BATCH),
            Range::count("accumulate", self.accumulate, 1..=limits::ACCUMULATE),
            Range::at_least_1("max_steps", self.max_steps),
            Range::at_least_1("patience", self.patience.map(|n| n as u64)),
            Range::at_least_1("checkpoint_every", Some(self.checkpoint_every)),
            Range::at_least_1("evaluate_every", self.evaluate_every),
            Range::positive("lr", self.lr),
            Range::positive("clip", self.clip.unwrap_or(1.0)),
            Range::positive("eps", eps),
            Range::share("warmup", self.warmup, "a share of all steps in [0, 1)"),
            Range::share("beta1", beta1, "a number in [0, 1)"),
            Range::share("beta2", beta2, "a number in [0, 1)"),
            Range::number(
                "weight_decay",
                weight_decay,
                weight_decay.is_finite() && weight_decay >= 0.0,
                "at least 0",
            ),
        ])
    }

    /// The backend that the recipe names.
    ///
    /// # Errors
    /// There is no such device, or what it needs is not installed.
    pub fn backend(&self) -> Result<Box<dyn Backend>, EngineError> {
        backend(self.device, self.precision)
    }

    /// The metric by which an evaluation is the best, of those that are reported; none without any.
    ///
    /// # Errors
    /// The one that is set is not reported, or something is set that needs held-out rows, and there
    /// are none.
    pub(crate) fn headline(
        &self,
        reported: &[Headline],
    ) -> Result<Option<Headline>, SettingsError> {
        if reported.is_empty() {
            let needing = [
                ("patience", "--patience", self.patience.is_some()),
                (
                    "evaluate_every",
                    "--evaluate-every",
                    self.evaluate_every.is_some(),
                ),
                ("headline", "--best-by", self.headline.is_some()),
            ];
            return match needing.into_iter().find(|(.., is_set)| *is_set) {
                Some((setting, flag, _)) => Err(SettingsError::NothingToMeasure { setting, flag }),
                None => Ok(None),
            };
        }
        let Some(name) = &self.headline else {
            return Ok(reported.first().cloned());
        };
        let found = reported.iter().find(|reported| reported.name == *name);
        let names = || reported.iter().map(|reported| &*reported.name);
        let unknown = || SettingsError::Headline {
            name: name.clone(),
            known: names().collect::<Vec<_>>().join(", "),
            suggestion: did_you_mean(name, names()),
        };
        found.cloned().map(Some).ok_or_else(unknown)
    }

    /// Which parameters are left of a run that `measures` held-out rows or does not.
    pub(super) fn keep(&self, measures: bool) -> Keep {
        self.keep.unwrap_or(match measures {
            true => Keep::Best,
            false => Keep::Last,
        })
    }

    /// A trainer of what trains in a model with these parameters, for `total` steps.
    pub(super) fn trainer(
        &self,
        engine: Engine,
        adapted: &Adapted,
        parameters: &[Parameter],
        total: u64,
    ) -> (Trainer, Sizes) {
        let names = parameters.iter().map(|parameter| &*parameter.name);
        let rates = adapted.trainable.rates(&adapted.sites, names);
        let (groups, trained) = groups(rates, engine.weights());
        let optimizer = AdamW::new(self.optimizer, groups, engine.weights());
        let sizes = Sizes {
            programs: engine.programs(),
            peak_bytes: engine.peak_bytes(trained),
        };
        let schedule = Schedule::new(self.schedule, self.warmup, total);
        let trainer = Trainer::new(engine, optimizer, self.lr, schedule, self.clip, self.seed);
        (trainer, sizes)
    }

    /// What whoever watches is told before the first step of `total`.
    pub(super) fn compiled(&self, sizes: Sizes, trainer: &Trainer, total: u64) -> Stage<'static> {
        Stage::Compiled {
            programs: sizes.programs,
            peak_bytes: sizes.peak_bytes,
            steps: self.max_steps.map_or(total, |max| max.min(total)),
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

/// The backend that `device` names, with what it compiles in the user's cache.
///
/// # Errors
/// There is no such device, or what it needs is not installed.
pub fn backend(device: Device, precision: Precision) -> Result<Box<dyn Backend>, EngineError> {
    let cache: Option<PathBuf> = cache::folder().map(|folder| folder.join("cuda"));
    Ok(device.open(precision, cache)?)
}

/// The cache of spectra.
pub fn spectrum_cache() -> Option<SpectrumCache> {
    Some(SpectrumCache::open(cache::folder()?.join("spectrum")))
}
