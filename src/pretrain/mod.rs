//! Pretraining: a tokenizer and a RoBERTa encoder from text, by masked language modelling.

mod settings;

pub use settings::Settings;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ailora_graph::{AdaptConfig, Trainable, adapter::Site, module::Parameter};
use ailora_models::{
    batch::Encoded,
    data::Example,
    objective::{Masked, Objective, Predictor},
    pretrained::{LoadReport, Pretrained},
    supervised::{Batching, Supervised, Train},
    tokenizer::{self, Tokenizer},
};
use ailora_runtime::{
    collective::Single,
    store::{self, Params},
};
use serde_json::{Value, json};

use crate::{
    output::MODEL,
    run::{Adapted, Error, Identity, Learner, Recipe, Run, hash},
};

/// Rows of held-out text that an evaluation reads at most.
const HELD_OUT: usize = 512;

/// A new model that learns from text. What it leaves is a model's folder: configuration, tokenizer and
/// weights.
#[derive(Debug)]
pub struct Pretraining {
    settings: Settings,
    base: Pretrained,
    tokenizer: Tokenizer,
    objective: Masked,
    /// Training rows.
    rows: usize,
    train: Vec<Encoded>,
    held_out: Vec<Encoded>,
    /// The files of the model beside its weights.
    described: [(&'static str, String); 3],
}

impl Settings {
    /// The run that these settings say: the tokenizer is trained, and the text is read.
    ///
    /// # Errors
    /// Something given is wrong, or a file cannot be read.
    pub fn run(&self) -> Result<Run<Pretraining>, Error> {
        self.check()?;
        let [train, valid] = [texts(&self.train)?, texts(&self.valid)?];
        // The model's folder is written once everything was seen to fit: until then, elsewhere.
        let config = format!("{:#}\n", self.config());
        let [json, about] = tokenizer::train::train(&train, self.vocab_size)?;
        let described = [json, about, ("config.json", config)];
        let draft = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir(), "write to it"))?;
        write_all(draft.path(), &described)?;
        let objective = Masked::new(self.masked);
        let base = Pretrained::random(draft.path(), objective.head(), self.seed)?;
        let tokenizer = base.tokenizer()?;
        let rows = |texts: Vec<String>| -> Result<Vec<Encoded>, Error> {
            let texts: Vec<Example> = texts.into_iter().map(Example::of).collect();
            Ok(objective.encode(&texts, &tokenizer, self.length)?)
        };
        let train = rows(train)?;
        let mut held_out = rows(valid)?;
        held_out.truncate(HELD_OUT.max(self.batch_size));
        let learner = Pretraining {
            settings: self.clone(),
            objective: objective.bound(&tokenizer)?,
            base,
            tokenizer,
            rows: train.len(),
            train,
            held_out,
            described,
        };
        Ok(Run {
            learner,
            adapters: AdaptConfig {
                trainable: Some(Trainable::All),
                ..AdaptConfig::default()
            },
            recipe: self.recipe(),
            ranks: Arc::new(Single),
        })
    }
}

impl Learner for Pretraining {
    type Workload = Supervised;

    fn parameters(&self) -> &[Parameter] {
        self.base.model.parameters()
    }

    fn sites(&self) -> Vec<Site> {
        self.base.model.sites()
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn report(&self) -> Option<&LoadReport> {
        Some(&self.base.report)
    }

    fn identity(&mut self, _: &AdaptConfig, recipe: &Recipe) -> Result<Identity, Error> {
        self.settings = self.settings.with(recipe);
        let Settings { train, valid, .. } = &self.settings;
        let hashed = [("train", train), ("valid", valid)];
        let hashed = hashed.map(|(name, path)| Ok((name.to_owned(), hash::file(path)?)));
        Ok(Identity {
            settings: serde_json::to_value(&self.settings).unwrap_or_default(),
            data: hashed.into_iter().collect::<Result<_, Error>>()?,
            inputs: vec![train.clone(), valid.clone()],
            ..Identity::default()
        })
    }

    fn take_weights(&mut self) -> Params {
        std::mem::take(&mut self.base.weights)
    }

    fn workload(&mut self, adapted: &Adapted, recipe: &Recipe) -> Result<Supervised, Error> {
        let predictor = Predictor::new(
            self.base.model.clone(),
            Arc::new(self.objective.clone()),
            adapted.sites.clone(),
            adapted.trainable.clone(),
            self.tokenizer.pad_id(),
        );
        let batching = Batching {
            batch_size: recipe.batch_size,
            accumulate: recipe.accumulate,
            max_len: self.settings.length,
            seed: recipe.seed,
        };
        let train = std::mem::take(&mut self.train);
        let held_out = std::mem::take(&mut self.held_out);
        let held_out = [("valid".to_owned(), held_out)].into();
        Ok(Supervised::new(
            predictor,
            Train::Held(train),
            held_out,
            batching,
        )?)
    }

    fn kept(&self, _: &Adapted) -> Vec<String> {
        Vec::new()
    }

    fn writes(&self, _: &Adapted) -> &'static [&'static str] {
        MODEL
    }

    fn begin(&self, folder: &Path) -> Result<(), Error> {
        write_all(folder, &self.described)
    }

    fn about(&self) -> Value {
        json!({ "seed": self.settings.seed })
    }

    fn save(&self, folder: &Path, _: &Adapted, params: Params) -> Result<(), Error> {
        let save = if self.settings.half {
            store::save_half
        } else {
            store::save
        };
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        Ok(save(&folder.join("model.safetensors"), &params, metadata)?)
    }
}

/// Writes files by name to a folder.
fn write_all(folder: &Path, files: &[(&str, String)]) -> Result<(), Error> {
    for (name, text) in files {
        store::write_atomically(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// The lines of a file that hold text, one a paragraph.
fn texts(path: &PathBuf) -> Result<Vec<String>, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read it as text"))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}
