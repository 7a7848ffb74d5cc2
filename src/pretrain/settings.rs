use std::path::PathBuf;

use ailora_models::tokenizer::train::MIN_VOCABULARY;
use ailora_runtime::{
    backend::Precision,
    device::Device,
    optim::{AdamWConfig, ScheduleKind},
    train::Keep,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    limits,
    run::{Range, Recipe, SettingsError},
};

/// Everything that fixes what pretraining computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A file of text to train on, a paragraph a line.
    pub train: PathBuf,
    /// A file of held-out text, a paragraph a line.
    pub valid: PathBuf,
    /// Tokens of the vocabulary, special ones included.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Tokens of a row, and the longest sequence that the model will read.
    pub length: usize,
    /// The rate of dropout, of hidden states and of attention.
    pub dropout: f64,
    /// The share of tokens to be guessed.
    pub masked: f64,
    /// Number of passes over the text.
    pub epochs: usize,
    /// Rows of a step.
    pub batch_size: usize,
    /// The largest learning rate.
    pub lr: f64,
    /// How the rate falls.
    pub schedule: ScheduleKind,
    /// Fraction of steps over which the learning rate warms up.
    pub warmup: f64,
    /// The largest norm of the gradients; none to leave them.
    pub clip: Option<f64>,
    /// The optimiser's constants.
    pub optimizer: AdamWConfig,
    /// What fixes initialisation, masks, dropout and the order of rows.
    pub seed: u64,
    /// Stop after this many steps.
    pub max_steps: Option<u64>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Steps between evaluations, beside those at each epoch's end; if absent there are only these.
    pub evaluate_every: Option<u64>,
    /// Whether the weights are written in float16.
    pub half: bool,
    /// Where it is computed.
    pub device: Device,
    /// What a device computes in.
    pub precision: Precision,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            valid: PathBuf::new(),
            vocab_size: 6144,
            width: 256,
            layers: 4,
            heads: 4,
            length: 128,
            dropout: 0.0,
            masked: 0.15,
            epochs: 10,
            batch_size: 256,
            lr: 1e-3,
            schedule: ScheduleKind::Linear,
            warmup: 0.06,
            clip: Some(1.0),
            // As RoBERTa was trained.
            optimizer: AdamWConfig {
                beta1: 0.9,
                beta2: 0.98,
                eps: 1e-6,
                weight_decay: 0.01,
            },
            seed: 0,
            max_steps: None,
            checkpoint_every: 1000,
            evaluate_every: None,
            half: false,
            device: Device::Cpu,
            precision: Precision::F32,
        }
    }
}

impl Settings {
    /// Checks the numbers against their ranges; those of the model are checked where it is built.
    ///
    /// # Errors
    /// The first that is outside, or something that must be given and is not.
    pub fn check(&self) -> Result<(), SettingsError> {
        for (name, path) in [("train", &self.train), ("valid", &self.valid)] {
            if path.as_os_str().is_empty() {
                return Err(SettingsError::Missing(name));
            }
        }
        SettingsError::unless([
            Range::count(
                "vocab_size",
                self.vocab_size,
                MIN_VOCABULARY..=limits::VOCABULARY,
            ),
            Range::count("width", self.width, 1..=limits::WIDTH),
            Range::count("layers", self.layers, 1..=limits::LAYERS),
            Range::count("heads", self.heads, 1..=self.width.max(1)),
            Range::number(
                "heads",
                self.heads as f64,
                self.width.is_multiple_of(self.heads),
                "a divisor of `width`",
            ),
            Range::count("length", self.length, 8..=limits::LENGTH),
            Range::share("dropout", self.dropout, "a probability in [0, 1)"),
            Range::number(
                "masked",
                self.masked,
                self.masked > 0.0 && self.masked < 1.0,
                "a share between 0 and 1",
            ),
        ])?;
        self.recipe().check()?;
        let there = limits::memory().unwrap_or(u64::MAX);
        let needed = self.bytes();
        match needed > there {
            true => Err(SettingsError::Memory { needed, there }),
            false => Ok(()),
        }
    }

    /// How parameters are moved.
    pub fn recipe(&self) -> Recipe {
        Recipe {
            epochs: self.epochs,
            batch_size: self.batch_size,
            accumulate: 1,
            lr: self.lr,
            schedule: self.schedule,
            warmup: self.warmup,
            clip: self.clip,
            optimizer: self.optimizer,
            seed: self.seed,
            max_steps: self.max_steps,
            checkpoint_every: self.checkpoint_every,
            evaluate_every: self.evaluate_every,
            gradient_checkpointing: false,
            device: self.device,
            precision: self.precision,
            headline: None,
            keep: Some(Keep::Last),
            patience: None,
        }
    }

    /// These settings of a run with this recipe.
    pub(super) fn with(&self, recipe: &Recipe) -> Self {
        Self {
            epochs: recipe.epochs,
            batch_size: recipe.batch_size,
            lr: recipe.lr,
            schedule: recipe.schedule,
            warmup: recipe.warmup,
            clip: recipe.clip,
            optimizer: recipe.optimizer,
            seed: recipe.seed,
            max_steps: recipe.max_steps,
            checkpoint_every: recipe.checkpoint_every,
            evaluate_every: recipe.evaluate_every,
            device: recipe.device,
            precision: recipe.precision,
            ..self.clone()
        }
    }

    /// Bytes of the parameters, their gradients and the optimiser's state.
    fn bytes(&self) -> u64 {
        let [vocabulary, width, layers, length] =
            [self.vocab_size, self.width, self.layers, self.length].map(|n| n as u64);
        // In a layer four products of attention, and two that are four times as wide.
        let parameters = width * (vocabulary + length + 12 * width * layers);
        4 * size_of::<f32>() as u64 * parameters
    }

    /// The `config.json` of the model.
    pub fn config(&self) -> Value {
        json!({
            "architectures": ["RobertaForMaskedLM"],
            "model_type": "roberta",
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": 4 * self.width,
            // Positions start behind the padding's id.
            "max_position_embeddings": self.length + 2,
            "type_vocab_size": 1,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "gelu",
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
            "layer_norm_eps": 1e-5,
            "initializer_range": 0.02,
            "tie_word_embeddings": true,
        })
    }
}
