//! A whole fine-tuning run: from a pretrained folder and a task's files to an adapter folder.

mod about;
mod folder;
mod manifest;
mod output;
mod recipe;
mod settings;
mod yaml;

pub use about::About;
pub use folder::write_model;
pub use manifest::{Manifest, Record};
pub use output::Output;
pub(crate) use recipe::{Recipe, groups};
pub(crate) use settings::Range;
pub use settings::{Settings, SettingsError};
pub use yaml::{read_settings, read_yaml, yaml};

use std::{
    io,
    path::{Path, PathBuf},
};

use ailora_graph::{
    adapter::{AdapterError, Site, Trainable},
    ir::Draw,
};
use ailora_models::{
    batch::Encoded,
    classification::{Batching, Classification, ClassificationError, Predictor},
    closed::Unused,
    config::Config,
    embedded::{self, cache_folder},
    generate::{self, Generator},
    head::Head,
    hub::{self, HubError},
    lengths::Cut,
    model::ModelError,
    peft::{Adapter, Origin, PeftError},
    pretrained::{LoadReport, Pretrained, PretrainedError},
    task::{Example, OtherLabels, Splits, Task, TaskError},
    tokenizer::{Tokenizer, TokenizerError},
};
use ailora_runtime::{
    backend::{Backend, Device, Precision},
    engine::{Engine, EngineError},
    init::{InitError, initialise},
    spectrum::{Options, SpectrumCache},
    store::{Params, StoreError},
    train::{
        CheckpointError, Control, Evaluation, Event, Fit, FitError, Keep, Outcome, Progress,
        TrainError, Workload, fit,
    },
    weights::Weights,
};
use serde_json::json;
use thiserror::Error;

use crate::output::{ADAPTER, Existing, MODEL, OutputError};

/// A run that cannot start or go on.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is the error it wraps")]
pub enum Error {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Hub(Box<HubError>),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Pretrained(#[from] PretrainedError),
    #[error(transparent)]
    Unused(#[from] Unused),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Task(#[from] TaskError),
    #[error(transparent)]
    Generation(#[from] generate::SettingsError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Classification(#[from] ClassificationError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Peft(#[from] PeftError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    /// Prompts that leave no room for what is to be learned.
    #[error(
        "none of the {rows} training rows has room for its answer: each prompt, which is the template \
         with the row's instruction and input, alone is as long as --max-length allows, {limit} \
         tokens; raise it (this model allows up to {longest})"
    )]
    NoAnswers {
        /// Training rows.
        rows: usize,
        /// The longest sequence, in tokens.
        limit: usize,
        /// The longest that the model has positions for.
        longest: usize,
    },
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A run is to go on with other settings or files.
    #[error(
        "{folder} holds a run that cannot go on like this: {}; go on with what it was started with \
         (settings that are not given are taken from its run.json), or choose another folder for a \
         new run", changes.join("; "), folder = folder.display()
    )]
    Changed {
        folder: PathBuf,
        changes: Vec<String>,
    },
    /// A run is to go on that has no whole checkpoint.
    #[error(
        "{0}; and there is no whole one before it: start anew with --force, or in another folder"
    )]
    Damaged(#[source] CheckpointError),
    /// The best epoch is to be left, and is gone.
    #[error(
        "`keep` is best, and epoch {0}, the best so far, was made with `keep` last, so that its adapter \
         is gone; go on with --keep last"
    )]
    NotKept(usize),
    /// A run is to go on to an end that lies behind it.
    #[error(
        "`epochs` is {epochs}, and {done} steps were made already, more than {epochs} epochs have; \
         give at least as many epochs as before"
    )]
    Behind { epochs: usize, done: u64 },
}

impl From<HubError> for Error {
    fn from(error: HubError) -> Self {
        Self::Hub(Box::new(error))
    }
}

impl<W> From<FitError<W, Self>> for Error
where
    W: std::error::Error + 'static,
    Self: From<W>,
{
    fn from(error: FitError<W, Self>) -> Self {
        match error {
            FitError::Train(error) => error.into(),
            FitError::Checkpoint(error) => error.into(),
            FitError::Workload(error) => error.into(),
            FitError::Watcher(error) => error,
        }
    }
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }
}

/// What a run tells whoever watches it.
#[derive(Debug)]
pub enum Stage<'a> {
    /// Model, data and adapters are known; nothing was computed yet.
    Loaded {
        /// What of the model's files was used.
        report: &'a LoadReport,
        /// The projections and what happens to them.
        sites: &'a [Site],
        /// Numbers in all parameters.
        parameters: usize,
        /// Numbers that are trained.
        trainable: usize,
        /// Training rows.
        rows: usize,
    },
    /// An adapter got its start.
    Initialised {
        /// How many did.
        done: usize,
        /// Of how many.
        total: usize,
    },
    /// Every program is compiled.
    Compiled {
        /// How many programs.
        programs: usize,
        /// Peak bytes of parameters, intermediate values, gradients and optimiser.
        peak_bytes: usize,
        /// Steps of the run.
        steps: u64,
        /// Steps that an earlier session made.
        done: u64,
    },
    /// Something that whoever started the run should know.
    Notice(&'a str),
    /// Training.
    Training(Event<'a>),
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whether all steps were made.
    pub outcome: Outcome,
    /// The epochs' figures.
    pub evaluations: Vec<Evaluation>,
    /// The epoch with the largest headline metric, if that was measured.
    pub best: Option<Evaluation>,
    /// The headline metric, if the task has one.
    pub headline: Option<String>,
    /// Which epoch was to be left.
    pub keep: Keep,
    /// The epoch whose parameters were left; none if they are of no epoch's end.
    pub kept: Option<Evaluation>,
    /// Updates made.
    pub steps: u64,
}

impl Report {
    pub(crate) fn new(outcome: Outcome, progress: Progress, fit: &Fit, steps: u64) -> Self {
        let best = progress.best(fit.headline.as_deref()).cloned();
        let last = progress.evaluations.last();
        let last = last.filter(|last| last.step == steps).cloned();
        Self {
            outcome,
            kept: match fit.keep {
                Keep::Best => best.clone().or(last),
                Keep::Last => last,
            },
            best,
            evaluations: progress.evaluations,
            headline: fit.headline.clone(),
            keep: fit.keep,
            steps,
        }
    }
}

/// A pretrained model for a task, with its tokenizer.
#[derive(Debug)]
pub struct Model {
    /// Weights and configuration, with a head for the task.
    pub pretrained: Pretrained,
    /// The model's own tokenizer.
    pub tokenizer: Tokenizer,
    /// For each class of the task, which output of the head it is; in the same order if absent.
    pub order: Option<Vec<usize>>,
    /// How the labels of a complete model differ from the task's, if they do.
    pub other_labels: Option<OtherLabels>,
    /// An adapter, whose tensors are not among the weights yet.
    pub adapter: Option<Adapter>,
}

/// An adapter's folder.
#[derive(Clone, Copy, Debug)]
pub struct AdapterFolder<'a> {
    /// The folder.
    pub path: &'a Path,
    /// Whether it is used for another base or another task than it was trained for.
    pub force: bool,
}

impl Model {
    /// Loads a folder or a hub id as a classifier for `task`. What the files lack, such as a new
    /// head, is drawn from `seed`; if `complete`, nothing may be lacking.
    ///
    /// # Errors
    /// The files are missing, malformed, or of a model that is not supported.
    pub fn open(name: &str, task: &Task, seed: u64, complete: bool) -> Result<Self, Error> {
        let mut model = Self::read(&hub::resolve(name)?, task.head(), seed, complete)?;
        match task.order(model.pretrained.model.config()) {
            Ok(order) => model.order = order,
            Err(other) => model.other_labels = complete.then_some(other),
        }
        Ok(model)
    }

    /// Loads a folder or a hub id as a classifier for `task` with an adapter. Base and adapter
    /// together must have the whole of the model.
    ///
    /// # Errors
    /// As [`open`](Self::open); the folder holds no adapter for this base and this task.
    pub fn adapted(name: &str, task: &Task, adapter: AdapterFolder<'_>) -> Result<Self, Error> {
        let mut model = Self::bare(&hub::resolve(name)?, task.head())?;
        model.order = task.order(model.pretrained.model.config()).ok().flatten();
        model.adapt(name, Some(task.name), adapter)?;
        Ok(model)
    }

    /// Reads the folder of a model, given as such or by its id on the hub, that writes text: a causal
    /// language model, or an encoder-decoder; with an adapter, if one is given.
    ///
    /// # Errors
    /// As [`adapted`](Self::adapted), and a model that has no such head.
    pub fn generating(name: &str, adapter: Option<AdapterFolder<'_>>) -> Result<Self, Error> {
        let folder = hub::resolve(name)?;
        let config = Config::from_dir(&folder).map_err(PretrainedError::from)?;
        let head = match config.architecture.start_token() {
            Some(_) => Head::Seq2SeqLm { smoothing: 0.0 },
            None => Head::CausalLm,
        };
        let mut model = Self::bare(&folder, head)?;
        match adapter {
            Some(adapter) => model.adapt(name, None, adapter)?,
            None => model.pretrained.check_head()?,
        }
        Ok(model)
    }

    fn read(folder: &Path, head: Head, seed: u64, complete: bool) -> Result<Self, Error> {
        let mut model = Self::bare(folder, head)?;
        if complete {
            model.pretrained.check_head()?;
        } else {
            model.pretrained.initialise_head(seed);
        }
        Ok(model)
    }

    /// A model as its files have it, whose head may be missing.
    fn bare(folder: &Path, head: Head) -> Result<Self, Error> {
        let mut pretrained = Pretrained::open(folder, head)?;
        let tokenizer = pretrained.tokenizer()?;
        pretrained.report.notes.extend_from_slice(tokenizer.notes());
        Ok(Self {
            pretrained,
            tokenizer,
            order: None,
            other_labels: None,
            adapter: None,
        })
    }

    /// How the folder says to generate. What of that is not used is added to the report.
    ///
    /// # Errors
    /// A file that cannot be read, or asks for what is not done.
    pub fn generation(&mut self) -> Result<generate::Settings, Error> {
        let Pretrained { dir, model, .. } = &self.pretrained;
        let (settings, notes) = generate::Settings::read(dir, model.config())?;
        self.pretrained.report.notes.extend(notes);
        Ok(settings)
    }

    /// Reads an adapter for this model, which was asked for as `name`.
    fn adapt(
        &mut self,
        name: &str,
        task: Option<&str>,
        AdapterFolder { path, force }: AdapterFolder<'_>,
    ) -> Result<(), Error> {
        let base = &mut self.pretrained;
        let origin = Origin::read(path)?;
        let mut notes: Vec<_> = origin.note.iter().cloned().collect();
        if !force {
            origin.check_task(path, task, base.model.head())?;
        }
        let adapter = Adapter::load(path, base)?;
        let parameters = base.model.parameters();
        let lacking = parameters.iter().filter(|parameter| {
            let own = adapter.tensors.contains_key(&parameter.name);
            !own && base.weights.get(&parameter.name).map(|w| &w.shape) != Some(&parameter.shape)
        });
        if lacking.count() > 0 {
            // What both together lack is the error.
            base.weights.extend(adapter.tensors);
            base.check_head()?;
            return Ok(());
        }
        if !force {
            notes.extend(origin.check_base(path, name, base)?);
        }
        base.report.notes.extend(notes);
        self.adapter = Some(adapter);
        Ok(())
    }

    /// Nothing of the folder's files may be unused.
    ///
    /// # Errors
    /// Something is; [`LoadReport::notes`] says what.
    pub fn strict(&self) -> Result<(), Unused> {
        match &self.pretrained.report.notes[..] {
            [] => Ok(()),
            notes => Err(Unused(notes.to_vec())),
        }
    }

    /// The longest sequence, at most `wanted`.
    pub fn max_len(&self, wanted: usize) -> usize {
        wanted.min(self.pretrained.model.config().architecture.max_len())
    }

    /// Rows as the model sees them.
    ///
    /// # Errors
    /// The tokenizer fails on a row.
    pub fn encode(&self, rows: &[Example], max_len: usize) -> Result<Vec<Encoded>, Error> {
        let tokenizer = &self.tokenizer;
        Ok(match self.pretrained.model.head() {
            Head::CausalLm => {
                let end = self.pretrained.model.config().ends().first().copied();
                let end = end.and_then(|end| u32::try_from(end).ok());
                Encoded::from_answers(rows, tokenizer, end, max_len)?
            }
            _ => Encoded::from_examples(rows, tokenizer, max_len)?,
        })
    }

    /// What generates; the adapter is beside the weights, or merged into them.
    ///
    /// # Errors
    /// A weight is missing.
    pub fn generator(
        self,
        merged: bool,
        backend: Backend,
    ) -> Result<(Generator, Tokenizer), Error> {
        let mut sites = self.pretrained.model.sites();
        let mut params = self.pretrained.weights;
        let mut adapter = self.adapter.unwrap_or_default();
        if merged {
            adapter.merge_into(&mut params)?;
            adapter = Adapter::default();
        }
        sites = adapter.apply_to(sites);
        params.extend(adapter.tensors);
        let generator =
            Generator::new(self.pretrained.model, sites, Engine::fused(backend, params));
        Ok((generator, self.tokenizer))
    }

    /// A predictor with the adapter, if there is one, and an engine with the parameters it needs,
    /// which the model has no longer.
    pub fn predictor(mut self, backend: Backend) -> (Predictor, Engine, Self) {
        let adapter = self.adapter.take().unwrap_or_default();
        let sites = adapter.apply_to(self.pretrained.model.sites());
        let mut params = std::mem::take(&mut self.pretrained.weights);
        params.extend(adapter.tensors);
        let pad = self.tokenizer.pad_id();
        let predictor = Predictor::new(
            self.pretrained.model.clone(),
            sites,
            Trainable::Adapters,
            pad,
        )
        .with_order(self.order.clone());
        (predictor, Engine::fused(backend, params), self)
    }
}

/// Runs what `settings` say, writing to the folder `output`, which holds nothing unless `existing` says
/// what becomes of it. `watch` sees everything and may stop it.
///
/// # Errors
/// Something given is wrong, or a file cannot be written. Whatever was checkpointed is intact.
pub fn finetune(
    settings: &Settings,
    output: &Path,
    existing: Existing,
    mut watch: impl FnMut(Stage<'_>) -> Control + Send,
) -> Result<Report, Error> {
    settings.check()?;
    let task = Task::parse(&settings.task)?;
    if settings.keep == Some(Keep::Best) && (task.headline().is_none() || task.dev.is_empty()) {
        return Err(SettingsError::NothingHeldOut { task: task.name }.into());
    }
    let mut model = Model::open(&settings.model, task, settings.seed, false)?;
    if settings.strict {
        model.strict()?;
    }
    let sites = settings.adapters.resolve(model.pretrained.model.sites())?;
    let all = model.pretrained.model.parameters();
    let trainable = settings.adapters.resolve_trainable(&sites, all)?;
    let backend = backend(settings.device, settings.precision)?;
    let data = data(task, settings.data.as_deref())?;
    let Splits { train, dev, notes } = task.load_dir(&data)?;
    model.pretrained.report.notes.extend(notes);
    if settings.strict {
        model.strict()?;
    }
    let train = subset(train, settings.rows);

    let max_len = model.max_len(settings.max_length);
    let mut cuts = Vec::new();
    let mut encode = |split: &str, rows: &[Example]| -> Result<Vec<Encoded>, Error> {
        let rows = model.encode(rows, max_len)?;
        let cut = Cut::of(&rows, max_len);
        if cut.is_any() {
            cuts.push(format!("note: {split}: {cut}"));
        }
        Ok(rows)
    };
    let mut encoded = encode(task.train.name, &train)?;
    // Of a prompt without any of its answer there is nothing to learn.
    encoded.retain(Encoded::has_answer);
    if encoded.is_empty() {
        return Err(Error::NoAnswers {
            rows: train.len(),
            limit: max_len,
            longest: model.max_len(usize::MAX),
        });
    }
    let held_out = dev
        .into_iter()
        .map(|(name, rows)| Ok((name, encode(name, &rows)?)))
        .collect::<Result<_, Error>>()?;

    let hashed = task.files().map(|file| (file.to_owned(), data.join(file)));
    let manifest = Manifest::new(settings, manifest::base(&model.pretrained)?, hashed)?;
    let writes = match trainable {
        Trainable::All => MODEL,
        _ => {
            Adapter::check(&sites)?;
            ADAPTER
        }
    };
    let inputs = [&*model.pretrained.dir, &*data];
    let mut files = Output::open(output, existing, &manifest, &inputs, writes)?;

    let drawn: Vec<String> = (model.pretrained.report.initialised.iter())
        .map(|initialised| initialised.name.clone())
        .collect();
    let mut params = std::mem::take(&mut model.pretrained.weights);
    let held: Params = Adapter::held(&model.pretrained.model, &sites, &trainable, &drawn)
        .into_iter()
        .filter_map(|name| params.get(&name).cloned().map(|array| (name, array)))
        .collect();
    let parameters: usize = params.values().map(|array| array.data.len()).sum();
    let _ = watch(Stage::Loaded {
        report: &model.pretrained.report,
        sites: &sites,
        parameters,
        trainable: trainable.count(&sites, model.pretrained.model.parameters()),
        rows: train.len(),
    });

    for cut in &cuts {
        let _ = watch(Stage::Notice(cut));
    }
    let options = Options {
        cache: spectrum_cache(),
        solver: backend.solver(),
        ..Options::default()
    };
    {
        let watch = std::sync::Mutex::new(&mut watch);
        initialise(&sites, &mut params, settings.seed, &options, |progress| {
            if let Ok(mut watch) = watch.lock() {
                let (done, total) = (progress.done, progress.total);
                let _ = watch(Stage::Initialised { done, total });
            }
        })?;
    }

    let pad = model.tokenizer.pad_id();
    let predictor = Predictor::new(
        model.pretrained.model.clone(),
        sites.clone(),
        trainable.clone(),
        pad,
    )
    .with_order(model.order.clone());
    let batching = Batching {
        batch_size: settings.batch_size,
        accumulate: settings.accumulate,
        max_len,
        seed: settings.seed,
    };
    let mut workload = Classification::new(task, predictor, encoded, held_out, batching)?;
    let headline = workload.headline();
    let mut engine = Engine::fused(backend, params).checkpointing(settings.gradient_checkpointing);
    workload.compile(&mut engine, settings.epochs)?;
    let starts = starts(&sites, engine.weights());
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
    let parameters = model.pretrained.model.parameters();
    let (mut trainer, sizes) = recipe.trainer(engine, &trainable, &sites, parameters);
    let mut progress = Progress::default();
    files.restore(&manifest, &mut trainer, &mut progress, |notice| {
        let _ = watch(Stage::Notice(&notice));
    })?;
    recipe.check_ahead(settings.epochs, &trainer)?;

    let options = Fit {
        epochs: settings.epochs,
        max_steps: settings.max_steps,
        checkpoint: files.checkpoint_path(),
        checkpoint_every: settings.checkpoint_every,
        fingerprint: files.fingerprint(&manifest),
        keep: settings.keep(headline.is_some()),
        headline,
    };
    if let Some(best) = progress.best(options.headline.as_deref())
        && options.keep == Keep::Best
        && progress.kept != Some(best.epoch)
    {
        return Err(Error::NotKept(best.epoch));
    }
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
    let about = json!({
        "task": settings.task,
        "method": settings.adapters.method,
        "seed": settings.seed,
    });
    files.write_metrics(about, &report)?;
    let mut params = match report.keep {
        Keep::Best => trainer.kept()?,
        Keep::Last => trainer.trained()?,
    };
    if trainable == Trainable::All {
        files.write_model(&model, task, &params)?;
    } else {
        params.extend(starts);
        for (name, array) in held {
            params.entry(name).or_insert(array);
        }
        let adapter =
            Adapter::from_trained(&model.pretrained.model, &sites, &params, &trainable, &drawn)?;
        files.write_adapter(&adapter, settings, task, &sites, &model.pretrained.sha256)?;
    }
    Ok(report)
}

/// The longest sequence that an adapter was trained with, if its folder says so.
pub fn trained_length(adapter: &Path) -> Option<usize> {
    let about = std::fs::read(adapter.join("ailora.json")).ok()?;
    let about: serde_json::Value = serde_json::from_slice(&about).ok()?;
    usize::try_from(about["max_length"].as_u64()?).ok()
}

/// The folder of a task's files: the given one or, without, what is built in.
///
/// # Errors
/// Nothing is given and nothing is built in, or that cannot be written to a folder.
pub fn data(task: &Task, given: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let built_in = embedded::data(task.name)?;
    Ok(built_in.ok_or(SettingsError::Missing("data"))?)
}

/// The backend that `device` names, with what it compiles in the user's cache.
///
/// # Errors
/// There is no such device, or what it needs is not installed.
pub fn backend(device: Device, precision: Precision) -> Result<Backend, EngineError> {
    let cache = cache_folder().map(|folder| folder.join("cuda"));
    Backend::open(device, precision, cache)
}

/// The cache of spectra.
pub fn spectrum_cache() -> Option<SpectrumCache> {
    Some(SpectrumCache::open(cache_folder()?.join("spectrum")))
}

/// Some of the rows, always the same ones, in file order.
fn subset(rows: Vec<Example>, wanted: Option<usize>) -> Vec<Example> {
    let Some(wanted) = wanted.filter(|&wanted| wanted < rows.len()) else {
        return rows;
    };
    let key = Draw::default().key("rows");
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| key.uniform(a as u64).total_cmp(&key.uniform(b as u64)));
    let mut kept = vec![false; rows.len()];
    order[..wanted].iter().for_each(|&row| kept[row] = true);
    rows.into_iter()
        .zip(kept)
        .filter_map(|(row, kept)| kept.then_some(row))
        .collect()
}

/// The frozen parameters of the adapters, which the saved adapter may need.
fn starts(sites: &[Site], weights: &Weights) -> Params {
    let parameters = sites.iter().flat_map(|site| site.parameters(sites));
    parameters
        .filter(|parameter| !parameter.trains)
        .filter_map(|parameter| {
            let array = weights.get(&parameter.name)?;
            Some((parameter.name, array))
        })
        .collect()
}

/// Reads a whole file's bytes for its hash.
pub(crate) fn sha256(path: &Path) -> Result<String, Error> {
    use sha2::{Digest, Sha256};
    let mut file = std::fs::File::open(path).map_err(Error::io(path, "open it"))?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut HashWriter(&mut hash)).map_err(Error::io(path, "read it"))?;
    Ok(hex(&hash.finalize()))
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sha2::Digest::update(self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
