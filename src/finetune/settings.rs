use std::{ops::RangeInclusive, path::PathBuf};

use ailora_graph::AdaptConfig;
use ailora_models::{closed::brief, embedded};
use ailora_runtime::{
    backend::{Device, Precision},
    optim::{AdamWConfig, ScheduleKind},
    train::Keep,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits;

/// Everything that fixes what a run computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A folder with a pretrained model, its id on the hub, or `embedded`.
    pub model: String,
    /// The task's name.
    pub task: String,
    /// The folder with the task's files; those that are built in if absent.
    pub data: Option<PathBuf>,
    /// What is adapted, and how.
    pub adapters: AdaptConfig,
    /// Number of passes over the training data.
    pub epochs: usize,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step.
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
    /// The longest sequence, in tokens.
    pub max_length: usize,
    /// How many training rows are used; all if absent.
    pub rows: Option<usize>,
    /// Stop after this many steps.
    pub max_steps: Option<u64>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Whether the backward pass computes blocks again instead of keeping what is in them.
    pub gradient_checkpointing: bool,
    /// Where it is computed.
    pub device: Device,
    /// What a device computes in.
    pub precision: Precision,
    /// Which epoch's adapter is left; if absent the best one's where the task has a held-out metric,
    /// else the last one's.
    pub keep: Option<Keep>,
    /// Whether what is not used of the model's files is an error.
    pub strict: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: embedded::MODEL.to_owned(),
            task: String::new(),
            data: None,
            adapters: AdaptConfig::default(),
            epochs: 3,
            batch_size: 32,
            accumulate: 1,
            lr: 5e-4,
            schedule: ScheduleKind::Linear,
            warmup: 0.06,
            clip: Some(1.0),
            optimizer: AdamWConfig::default(),
            seed: 0,
            max_length: 128,
            rows: None,
            max_steps: None,
            checkpoint_every: 200,
            gradient_checkpointing: false,
            device: Device::Cpu,
            precision: Precision::F32,
            keep: None,
            strict: false,
        }
    }
}

/// Settings that mean nothing.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A file that is not settings.
    #[error("{path}: {reason}", path = path.display(), reason = brief(reason))]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// A setting that must be given and is not.
    #[error("`{0}` is not given; pass --{0}, or set it in the file of --config")]
    Missing(&'static str),
    /// The best epoch of a task whose epochs are not measured.
    #[error(
        "--keep best: task {task} has no held-out metric, so that no epoch is the best one; leave \
         --keep out, or pass --keep last"
    )]
    NothingHeldOut {
        /// The task.
        task: String,
    },
    /// A model that does not fit.
    #[error(
        "a model of these `width`, `layers`, `vocab_size` and `length` takes {needed} bytes to \
         train, and there are {there} bytes of memory; make it smaller"
    )]
    Memory {
        /// Bytes of parameters, gradients and the optimiser's state.
        needed: u64,
        /// Bytes of memory.
        there: u64,
    },
    /// A number outside its range.
    #[error("`{name}` is {found}; expected {expected}")]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: f64,
    },
}

impl SettingsError {
    /// An error about the first setting that does not fit.
    pub(crate) fn unless(ranges: impl IntoIterator<Item = Range>) -> Result<(), Self> {
        match ranges.into_iter().find(|range| !range.fits) {
            None => Ok(()),
            Some(range) => Err(Self::OutOfRange {
                name: range.name,
                expected: range.expected,
                found: range.found,
            }),
        }
    }
}

/// A setting beside what it should be.
pub(crate) struct Range {
    name: &'static str,
    found: f64,
    fits: bool,
    expected: String,
}

impl Range {
    /// A whole number within limits.
    pub fn count(name: &'static str, found: usize, range: RangeInclusive<usize>) -> Self {
        Self {
            name,
            found: found as f64,
            fits: range.contains(&found),
            expected: format!("at least {} and at most {}", range.start(), range.end()),
        }
    }

    /// A number that may be left out, and that nothing limits.
    pub fn at_least_1(name: &'static str, found: Option<u64>) -> Self {
        let found = found.unwrap_or(1);
        Self {
            name,
            found: found as f64,
            fits: found > 0,
            expected: "at least 1".into(),
        }
    }

    /// A finite number above 0.
    pub fn positive(name: &'static str, found: f64) -> Self {
        let fits = found.is_finite() && found > 0.0;
        Self::number(name, found, fits, "a positive number")
    }

    /// A part of a whole, which is never reached.
    pub fn share(name: &'static str, found: f64, expected: &str) -> Self {
        Self::number(name, found, (0.0..1.0).contains(&found), expected)
    }

    /// A number that fits or does not.
    pub fn number(name: &'static str, found: f64, fits: bool, expected: &str) -> Self {
        Self {
            name,
            found,
            fits,
            expected: expected.into(),
        }
    }
}

impl Settings {
    /// Which epoch's adapter is left of a run that `measures` a held-out metric or does not.
    pub(crate) fn keep(&self, measures: bool) -> Keep {
        self.keep.unwrap_or(match measures {
            true => Keep::Best,
            false => Keep::Last,
        })
    }

    /// Checks the numbers against their ranges.
    ///
    /// # Errors
    /// The first that is outside, or something that must be given and is not.
    pub fn check(&self) -> Result<(), SettingsError> {
        let given = [
            ("model", !self.model.is_empty()),
            ("task", !self.task.is_empty()),
        ];
        if let Some((name, _)) = given.into_iter().find(|(_, given)| !given) {
            return Err(SettingsError::Missing(name));
        }
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
            Range::count("max_length", self.max_length, 4..=limits::LENGTH),
            Range::at_least_1("rows", self.rows.map(|rows| rows as u64)),
            Range::at_least_1("max_steps", self.max_steps),
            Range::at_least_1("checkpoint_every", Some(self.checkpoint_every)),
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
}
