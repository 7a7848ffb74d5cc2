use std::path::PathBuf;

use ailora_graph::AdaptConfig;
use ailora_models::{dataset::Dataset, embedded};
use ailora_runtime::{
    backend::Precision,
    device::Device,
    optim::{AdamWConfig, ScheduleKind},
    train::Keep,
};
use serde::{Deserialize, Serialize};

use crate::{
    limits,
    run::{Range, Recipe, SettingsError},
};

/// Everything that fixes what a run computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A folder with a pretrained model, its id on the hub, or `embedded`.
    pub model: String,
    /// The name of a task that is built in; empty for data of one's own.
    pub task: String,
    /// The folder with the task's files; those that are built in if absent.
    pub data: Option<PathBuf>,
    /// Data of one's own, instead of a task.
    #[serde(skip_serializing_if = "Dataset::is_nothing")]
    pub dataset: Dataset,
    /// The folder of an adapter to train on; a new one is trained if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
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
    /// The longest sequence, in tokens; if absent the task's.
    pub max_length: Option<usize>,
    /// How many training rows are used; all if absent.
    pub rows: Option<usize>,
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
    /// The held-out metric by which an evaluation is the best; if absent the task's first.
    pub headline: Option<String>,
    /// Which adapter is left; if absent that of the best evaluation where the task has held-out rows,
    /// else the last one.
    pub keep: Option<Keep>,
    /// Stop after this many evaluations in a row that are not the best so far.
    pub patience: Option<usize>,
    /// Whether what is not used of the model's files is an error.
    pub strict: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: embedded::MODEL.to_owned(),
            task: String::new(),
            data: None,
            dataset: Dataset::default(),
            from: None,
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
            max_length: None,
            rows: None,
            max_steps: None,
            checkpoint_every: 200,
            evaluate_every: None,
            gradient_checkpointing: false,
            device: Device::Cpu,
            precision: Precision::F32,
            headline: None,
            keep: None,
            patience: None,
            strict: false,
        }
    }
}

impl Settings {
    /// How parameters are moved.
    pub fn recipe(&self) -> Recipe {
        Recipe {
            epochs: self.epochs,
            batch_size: self.batch_size,
            accumulate: self.accumulate,
            lr: self.lr,
            schedule: self.schedule,
            warmup: self.warmup,
            clip: self.clip,
            optimizer: self.optimizer,
            seed: self.seed,
            max_steps: self.max_steps,
            checkpoint_every: self.checkpoint_every,
            evaluate_every: self.evaluate_every,
            gradient_checkpointing: self.gradient_checkpointing,
            device: self.device,
            precision: self.precision,
            headline: self.headline.clone(),
            keep: self.keep,
            patience: self.patience,
        }
    }

    /// These settings of a run with these adapters and this recipe.
    pub(super) fn with(&self, adapters: &AdaptConfig, recipe: &Recipe) -> Self {
        Self {
            adapters: adapters.clone(),
            epochs: recipe.epochs,
            batch_size: recipe.batch_size,
            accumulate: recipe.accumulate,
            lr: recipe.lr,
            schedule: recipe.schedule,
            warmup: recipe.warmup,
            clip: recipe.clip,
            optimizer: recipe.optimizer,
            seed: recipe.seed,
            max_steps: recipe.max_steps,
            checkpoint_every: recipe.checkpoint_every,
            evaluate_every: recipe.evaluate_every,
            gradient_checkpointing: recipe.gradient_checkpointing,
            device: recipe.device,
            precision: recipe.precision,
            headline: recipe.headline.clone(),
            keep: recipe.keep,
            patience: recipe.patience,
            ..self.clone()
        }
    }

    /// Checks the numbers against their ranges.
    ///
    /// # Errors
    /// The first that is outside, or something that must be given and is not.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.model.is_empty() {
            return Err(SettingsError::Missing("model"));
        }
        match (self.task.is_empty(), self.dataset.is_given()) {
            (true, false) => return Err(SettingsError::NoTask),
            (false, true) => return Err(SettingsError::TwoTasks(self.task.clone())),
            _ => {}
        }
        self.recipe().check()?;
        SettingsError::unless([
            Range::count(
                "max_length",
                self.max_length.unwrap_or(limits::LENGTH),
                4..=limits::LENGTH,
            ),
            Range::at_least_1("rows", self.rows.map(|rows| rows as u64)),
        ])
    }
}
