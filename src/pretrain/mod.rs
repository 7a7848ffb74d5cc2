//! A model from text: a tokenizer and a RoBERTa encoder, trained to guess masked tokens.

mod settings;

pub use settings::Settings;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ailora_graph::{AdaptConfig, Trainable};
use ailora_models::{
    batch::Encoded,
    data::Example,
    objective::{Masked, Objective, Predictor},
    pretrained::Pretrained,
    supervised::{Batching, Supervised},
    tokenizer,
};
use ailora_runtime::{
    engine::Engine,
    store,
    train::{Control, Fit, Keep, Progress, Workload, fit},
};
use indexmap::IndexMap;
use serde_json::json;

use crate::{
    finetune::{Error, Manifest, Output, Recipe, Report, Stage, backend},
    output::{Existing, MODEL},
};

/// Rows of held-out text that an evaluation reads at most.
const HELD_OUT: usize = 512;

/// Trains a model as `settings` say and writes its folder: configuration, tokenizer, weights, and the
/// run's files as [`finetune`](crate::finetune::finetune) writes them, to the folder `output`, which
/// holds nothing unless `existing` says what becomes of it. `watch` sees everything and may stop it.
///
/// # Errors
/// Something given is wrong, or a file cannot be written. Whatever was checkpointed is intact.
pub fn pretrain(
    settings: &Settings,
    output: &Path,
    existing: Existing,
    mut watch: impl FnMut(Stage<'_>) -> Control,
) -> Result<Report, Error> {
    settings.check()?;
    let backend = backend(settings.device, settings.precision)?;
    let [train, valid] = [texts(&settings.train)?, texts(&settings.valid)?];

    // The model's folder is written once everything was seen to fit: until then, elsewhere.
    let config = format!("{:#}\n", settings.config());
    let [json, about] = tokenizer::train::train(&train, settings.vocab_size)?;
    let described = [json, about, ("config.json", config)];
    let draft = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir(), "write to it"))?;
    write_all(draft.path(), &described)?;
    let objective = Masked::new(settings.masked);
    let mut base = Pretrained::random(draft.path(), objective.head(), settings.seed)?;
    let tokenizer = base.tokenizer()?;
    let length = settings.length;
    let rows = |texts: Vec<String>| -> Result<Vec<Encoded>, Error> {
        let texts: Vec<Example> = texts.into_iter().map(Example::of).collect();
        Ok(objective.encode(&texts, &tokenizer, length)?)
    };
    let train = rows(train)?;
    let mut held_out = rows(valid)?;
    held_out.truncate(HELD_OUT.max(settings.batch_size));

    let config = AdaptConfig {
        trainable: Some(Trainable::All),
        ..AdaptConfig::default()
    };
    let sites = config.resolve(base.model.sites())?;
    let params = std::mem::take(&mut base.weights);
    let parameters: usize = params.values().map(|array| array.data.len()).sum();
    let _ = watch(Stage::Loaded {
        report: &base.report,
        sites: &sites,
        parameters,
        trainable: parameters,
        rows: train.len(),
    });

    let objective = objective.bound(&tokenizer)?;
    let predictor = Predictor::new(
        base.model.clone(),
        Arc::new(objective),
        sites.clone(),
        Trainable::All,
        tokenizer.pad_id(),
    );
    let batching = Batching {
        batch_size: settings.batch_size,
        accumulate: 1,
        max_len: length,
        seed: settings.seed,
    };
    let held_out = [("valid".to_owned(), held_out)].into();
    let mut workload = Supervised::new(predictor, train, held_out, batching)?;
    let paths = [("train", &settings.train), ("valid", &settings.valid)];
    let paths = paths.map(|(name, path)| (name.to_owned(), path.clone()));
    let manifest = Manifest::new(settings, IndexMap::new(), paths)?;
    let inputs = [&*settings.train, &*settings.valid];
    let mut files = Output::open(output, existing, &manifest, &inputs, MODEL)?;
    let mut engine = Engine::fused(backend, params);
    workload.compile(&mut engine, settings.epochs)?;
    engine.release_unread();
    let total = workload.steps_per_epoch() * settings.epochs as u64;
    let recipe = Recipe {
        optimizer: settings.optimizer,
        lr: settings.lr,
        schedule: settings.schedule,
        warmup: settings.warmup,
        clip: settings.clip,
        seed: settings.seed,
        total,
        max_steps: settings.max_steps,
    };
    let (mut trainer, sizes) =
        recipe.trainer(engine, &Trainable::All, &sites, base.model.parameters());
    let mut progress = Progress::default();
    files.restore(&manifest, &mut trainer, &mut progress, |notice| {
        let _ = watch(Stage::Notice(&notice));
    })?;
    recipe.check_ahead(settings.epochs, &trainer)?;
    write_all(output, &described)?;

    let options = Fit {
        epochs: settings.epochs,
        max_steps: settings.max_steps,
        checkpoint: files.checkpoint_path(),
        checkpoint_every: settings.checkpoint_every,
        fingerprint: files.fingerprint(&manifest),
        headline: workload.headline(),
        keep: Keep::Last,
    };
    files.start(&manifest, &trainer)?;
    let _ = watch(recipe.compiled(sizes, &trainer));
    let outcome = fit(
        &mut trainer,
        &mut workload,
        &options,
        &mut progress,
        |event| {
            files.log(&event)?;
            Ok::<_, Error>(watch(Stage::Training(event)))
        },
    )?;
    let report = Report::new(outcome, progress, &options, trainer.steps_done());
    files.write_metrics(json!({ "seed": settings.seed }), &report)?;
    let save = if settings.half {
        store::save_half
    } else {
        store::save
    };
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    save(
        &output.join("model.safetensors"),
        &trainer.trained()?,
        metadata,
    )?;
    Ok(report)
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
