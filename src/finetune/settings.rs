use std::path::{Path, PathBuf};

use ailora_graph::AdaptConfig;
use ailora_models::embedded;
use ailora_runtime::{
    backend::{Device, Precision},
    optim::{AdamWConfig, ScheduleKind},
    train::Keep,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

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
    /// How often the training rows are gone through.
    pub epochs: usize,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// The base learning rate.
    pub lr: f64,
    /// How the rate falls.
    pub schedule: ScheduleKind,
    /// The part of all steps in which the rate rises.
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
    /// An end before the last epoch's.
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
    #[error("{path}: {reason}", path = path.display())]
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
        task: &'static str,
    },
    /// A number outside its range.
    #[error("`{name}` is {found}; expected {expected}")]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
}

impl SettingsError {
    /// An error about the first setting that does not fit: its name, its value, whether it fits, and
    /// what is expected.
    pub(crate) fn unless(
        settings: impl IntoIterator<Item = (&'static str, f64, bool, &'static str)>,
    ) -> Result<(), Self> {
        match settings.into_iter().find(|(_, _, fits, _)| !fits) {
            Some((name, found, _, expected)) => Err(Self::OutOfRange {
                name,
                expected,
                found,
            }),
            None => Ok(()),
        }
    }
}

/// Reads YAML, of which JSON is a part.
///
/// # Errors
/// The file cannot be read, or has fields that are unknown or of the wrong type.
pub fn read_yaml<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, SettingsError> {
    let bad = |reason: String| SettingsError::File {
        path: path.to_owned(),
        reason,
    };
    let text =
        std::fs::read_to_string(path).map_err(|error| bad(format!("cannot read it: {error}")))?;
    serde_saphyr::from_str(&text).map_err(|error| bad(error.to_string()))
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
        let positive = "a positive number";
        let at_least_1 = "at least 1";
        let positive_number = |x: f64| x.is_finite() && x > 0.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        let AdamWConfig {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = self.optimizer;
        let clip = self.clip.unwrap_or(1.0);
        let ranges = [
            ("epochs", self.epochs as f64, self.epochs > 0, at_least_1),
            (
                "batch_size",
                self.batch_size as f64,
                self.batch_size > 0,
                at_least_1,
            ),
            (
                "accumulate",
                self.accumulate as f64,
                self.accumulate > 0,
                at_least_1,
            ),
            (
                "max_length",
                self.max_length as f64,
                self.max_length > 3,
                "at least 4 tokens",
            ),
            (
                "rows",
                self.rows.unwrap_or(1) as f64,
                self.rows != Some(0),
                at_least_1,
            ),
            (
                "max_steps",
                self.max_steps.unwrap_or(1) as f64,
                self.max_steps != Some(0),
                at_least_1,
            ),
            (
                "checkpoint_every",
                self.checkpoint_every as f64,
                self.checkpoint_every > 0,
                at_least_1,
            ),
            ("lr", self.lr, positive_number(self.lr), positive),
            ("clip", clip, positive_number(clip), positive),
            ("eps", eps, positive_number(eps), positive),
            (
                "warmup",
                self.warmup,
                share(self.warmup),
                "a share of all steps in [0, 1)",
            ),
            ("beta1", beta1, share(beta1), "a number in [0, 1)"),
            ("beta2", beta2, share(beta2), "a number in [0, 1)"),
            (
                "weight_decay",
                weight_decay,
                weight_decay.is_finite() && weight_decay >= 0.0,
                "at least 0",
            ),
        ];
        SettingsError::unless(ranges)
    }
}
