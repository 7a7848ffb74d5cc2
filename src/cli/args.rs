//! Arguments that several commands share.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use ailora::{
    AdaptConfig, Scaling,
    adapter::{Counts, Site, Trainable},
    config::SiteOverride,
    finetune::Model,
    limits,
    method::{self, METHODS, Method, Unknown},
    models::{
        self,
        closed::{Note, Unused},
        config::Config,
        dataset::Dataset,
        embedded,
        lengths::Cut,
        objective::Predictor,
        pretrained::{Pretrained, PretrainedError},
        task::{TASKS, Task},
        weights::WeightsError,
    },
    output::Existing,
    run::{Error as RunError, Record, backend, read_settings, read_yaml, yaml},
    runtime::{
        backend::{Backend, Platform, Precision},
        device::Device,
    },
};
use clap::Args;
use serde::de::DeserializeOwned;

use super::{Error, dataset::ColumnArgs, print, sources::Given};

/// What becomes of a run that the output folder holds.
#[derive(Clone, Copy, Debug, Args)]
pub struct ExistingArgs {
    /// Continue from the last checkpoint in the output folder, with the settings in its run.json. New values
    /// may be given for --epochs, --max-steps, --checkpoint-every, --evaluate-every, --best-by, --keep,
    /// --patience and --threads, and for where files are.
    #[arg(long, conflicts_with = "force")]
    resume: bool,
    /// Replace the run that the output folder holds; other files in it stay.
    #[arg(long)]
    force: bool,
}

impl ExistingArgs {
    pub fn of(self) -> Existing {
        match self.resume {
            true => Existing::Resume,
            false => existing(self.force),
        }
    }

    /// The threads of the run that goes on, unless the environment says how many.
    pub fn threads(self, output: &Path) -> Option<usize> {
        if !self.resume || std::env::var_os("RAYON_NUM_THREADS").is_some() {
            return None;
        }
        let record = Record::of(output).ok().flatten()?;
        let range = 1..=limits::THREADS;
        record.threads().filter(|threads| range.contains(threads))
    }

    /// The settings that flags change: those of a file, those of the run that goes on, or the defaults.
    pub fn settings<S: Default + DeserializeOwned>(
        self,
        config: Option<&Path>,
        output: &Path,
    ) -> Result<S, Error> {
        let record = match config {
            Some(path) => return Ok(read_settings(path)?),
            None if self.resume => Record::of(output)?,
            None => None,
        };
        Ok(match record {
            Some(record) => record.settings()?,
            None => S::default(),
        })
    }
}

/// What becomes of what is there already.
pub fn existing(force: bool) -> Existing {
    match force {
        true => Existing::Replace,
        false => Existing::Refuse,
    }
}

/// A whole number.
pub fn count<T: FromStr>(text: &str) -> Result<T, String> {
    let expected = |_| "expected a whole number, at least 0".to_owned();
    text.parse().map_err(expected)
}

/// A number.
pub fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number".into())
}

/// A number of rows.
pub fn batch_size(text: &str) -> Result<usize, String> {
    within(text, 1, limits::BATCH)
}

/// A number of tokens.
pub fn tokens(text: &str) -> Result<usize, String> {
    within(text, 1, limits::LENGTH)
}

/// A number of threads.
pub fn threads(text: &str) -> Result<usize, String> {
    within(text, 1, limits::THREADS)
}

fn within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let fits = |number: &usize| (least..=most).contains(number);
    text.parse()
        .ok()
        .filter(fits)
        .ok_or_else(|| format!("expected a whole number, at least {least} and at most {most}"))
}

/// Where something is computed.
#[derive(Clone, Copy, Debug, Args)]
pub struct DeviceArgs {
    /// Compute on cpu, cuda, cuda:ORDINAL, or auto for a device if there is one.
    #[arg(long, default_value_t = Device::Cpu)]
    device: Device,
    /// Compute products on a device in f32, tf32 or bf16.
    #[arg(long, default_value = "f32")]
    precision: Precision,
}

impl DeviceArgs {
    /// What planning has to know of the backend that the flags name; a device need not be there, unless
    /// it is for `auto` to find out.
    pub fn platform(&self) -> Result<Box<dyn Platform>, Error> {
        Ok(self.device.platform(self.precision)?)
    }

    /// The backend that the flags name.
    pub fn open(&self) -> Result<Box<dyn Backend>, Error> {
        Ok(backend(self.device, self.precision)?)
    }
}

/// What is adapted, and how.
#[derive(Clone, Debug, Args)]
pub struct AdapterArgs {
    #[arg(long, value_parser = method, help = methods())]
    method: Option<&'static dyn Method>,
    /// Adapt these projections: roles (q, k, v, o, gate, up, down), names or patterns, separated by commas, or
    /// all-linear [default: those that the method adapts].
    #[arg(long, value_name = "TARGETS", value_parser = pattern, value_delimiter = ',')]
    targets: Vec<String>,
    /// Rank of the adapters, or width of bottlenecks [default: 8; 64 of houlsby and pfeiffer, 256 of vera].
    #[arg(long, value_name = "N", value_parser = count::<usize>, allow_negative_numbers = true)]
    rank: Option<usize>,
    /// Choose the largest rank with which the adapters train no more numbers than this, such as 0.79M.
    #[arg(long, value_name = "N", value_parser = numbers, conflicts_with = "rank", allow_hyphen_values = true)]
    budget: Option<usize>,
    /// Numerator of the adapters' scale [default: the rank].
    #[arg(long, value_name = "X", value_parser = number, allow_hyphen_values = true)]
    alpha: Option<f64>,
    /// Dropout on the adapters' input [default: 0].
    #[arg(long, value_name = "X", value_parser = number, allow_hyphen_values = true)]
    dropout: Option<f64>,
    /// Scale of the adapters: classic (alpha/r) or rank_stabilized (alpha/sqrt r).
    #[arg(long, value_parser = scaling)]
    scaling: Option<Scaling>,
    /// Learning rate of the factors B, as a multiple of A's [default: the method's].
    #[arg(long, value_name = "X", value_parser = number, allow_hyphen_values = true)]
    b_lr: Option<f64>,
    /// Learning rate of the adapters of values, as a multiple of the base rate [default: the method's].
    #[arg(long, value_name = "X", value_parser = number, allow_hyphen_values = true)]
    v_lr: Option<f64>,
    /// Train the lengths of the adapted weights' rows too, as DoRA does.
    #[arg(long)]
    dora: bool,
    /// Train these parameters beside the adapters: names or patterns, such as `*LayerNorm*` or `*.bias`,
    /// separated by commas; or `adapters`, or `all` instead of adapters [default: adapters].
    #[arg(long, value_name = "PATTERNS", value_parser = trainable)]
    trainable: Option<Trainable>,
    /// Read the settings of adapters from a YAML or JSON file, with `sites` by name or pattern.
    #[arg(long, value_name = "FILE")]
    adapter_config: Option<PathBuf>,
    /// Change the adapters of some projections, as `key={init: random, rank: 4}` does; may be repeated.
    #[arg(long = "adapt", value_name = "PATTERN={..}", value_parser = site)]
    sites: Vec<(String, SiteOverride)>,
}

impl AdapterArgs {
    /// The configuration that the flags and their file give, over what `base` says.
    pub fn config(&self, base: AdaptConfig) -> Result<AdaptConfig, Error> {
        let mut config = match &self.adapter_config {
            Some(path) => read_yaml(path)?,
            None => base,
        };
        config.method = self.method.or(config.method);
        if !self.targets.is_empty() {
            config.targets.clone_from(&self.targets);
        }
        // A flag for either replaces both of the file's.
        if self.rank.or(self.budget).is_some() {
            (config.rank, config.budget) = (self.rank, self.budget);
        }
        config.alpha = self.alpha.or(config.alpha);
        config.dropout = self.dropout.or(config.dropout);
        config.scaling = self.scaling.or(config.scaling);
        config.b_lr = self.b_lr.or(config.b_lr);
        config.v_lr = self.v_lr.or(config.v_lr);
        config.dora = self.dora.then_some(true).or(config.dora);
        config.trainable = self.trainable.clone().or(config.trainable);
        config.sites.extend(self.sites.iter().cloned());
        Ok(config)
    }
}

fn method(text: &str) -> Result<&'static dyn Method, Unknown> {
    method::find(text)
}

/// What `--method` does.
fn methods() -> String {
    let names: Vec<&str> = METHODS.iter().map(|method| method.name()).collect();
    format!(
        "What is adapted or trained, and how: {} [default: ailora]",
        names.join(", ")
    )
}

fn trainable(text: &str) -> Result<Trainable, String> {
    let patterns: Vec<&str> = text.split(',').map(str::trim).collect();
    match patterns[..] {
        ["adapters"] => Ok(Trainable::Adapters),
        ["all"] => Ok(Trainable::All),
        _ if patterns.contains(&"") => Err("expected names or patterns, such as `*.bias`".into()),
        _ => {
            let patterns = patterns.into_iter().map(str::to_owned);
            Ok(Trainable::Parameters(patterns.collect()))
        }
    }
}

fn pattern(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("expected a role, a name or a pattern, such as q or *_proj".into()),
        text => Ok(text.to_owned()),
    }
}

/// A number of numbers, such as 500000, 0.79M or 2B.
fn numbers(text: &str) -> Result<usize, String> {
    let units = [('K', 1e3), ('M', 1e6), ('B', 1e9), ('G', 1e9)];
    let unit = units.iter().find_map(|(unit, times)| {
        let number = text.strip_suffix([*unit, unit.to_ascii_lowercase()])?;
        Some((number, *times))
    });
    let (number, times) = unit.unwrap_or((text, 1.0));
    let number = number
        .trim()
        .parse::<f64>()
        .ok()
        .map(|x| (x * times).round());
    match number.filter(|x| (1.0..=1e15).contains(x)) {
        Some(number) => Ok(number as usize),
        None => Err("expected how many numbers may train, such as 500000 or 0.79M".into()),
    }
}

fn scaling(text: &str) -> Result<Scaling, String> {
    match text {
        "classic" => Ok(Scaling::Classic),
        "rank_stabilized" => Ok(Scaling::RankStabilized),
        _ => Err("expected classic or rank_stabilized".into()),
    }
}

fn site(text: &str) -> Result<(String, SiteOverride), String> {
    let (pattern, change) = text
        .split_once('=')
        .ok_or("expected PATTERN={..}, such as `key={init: random, rank: 4}`")?;
    let change: SiteOverride = yaml(change)?;
    if change == SiteOverride::default() {
        return Err(format!(
            "nothing is changed at `{pattern}`; give `init`, `rank`, `lr`, `alpha`, `dropout`, `scaling`, `b_lr` or `dora`"
        ));
    }
    Ok((pattern.to_owned(), change))
}

/// What becomes of fields of a model's files that are not used.
#[derive(Clone, Copy, Debug, Args)]
pub struct StrictArgs {
    /// Refuse a model whose files have fields that are not used, instead of reporting them.
    #[arg(long)]
    pub strict: bool,
}

impl StrictArgs {
    /// Says what is not used of the model's files, or refuses it.
    pub fn check(self, model: &Model) -> Result<(), Error> {
        if self.strict {
            model.strict()?;
        }
        say(&model.pretrained.report.notes);
        Ok(())
    }
}

/// Says how many rows were too long.
pub fn say_cut(rows: &str, cut: &Cut) {
    if cut.is_any() {
        print::say!("note: {rows}: {cut}");
    }
}

/// Says what became of an adapter's tensors.
pub fn say_applied(given: &Given, model: &Model) {
    if let Some(adapter) = &model.adapter {
        print::say!("adapter {given}: {}", adapter.report);
    }
}

/// Says what is not used of files.
pub fn say(notes: &[Note]) {
    for note in notes {
        print::say!("note: {note}");
    }
}

/// What `--task` says, with what is said at its end.
pub fn tasks(end: &str) -> String {
    let names: Vec<&str> = TASKS.iter().map(|task| &*task.name).collect();
    let (last, others) = names.split_last().unwrap_or((&"", &[]));
    format!("Name of the task: {} or {last}{end}", others.join(", "))
}

fn no_task(adapter: Option<&Given>) -> Error {
    match adapter.map(Given::folders).as_deref() {
        Some([folder, ..]) => format!(
            "--task is missing, and {} does not record the adapter's; for data of your own pass --label or \
             --objective",
            folder.display()
        )
        .into(),
        _ => "--task is missing".into(),
    }
}

/// A model for a task.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// Use a pretrained model: a folder, a GGUF file, a hub id, or the built-in one.
    #[arg(long, value_name = "DIR_OR_ID", default_value = embedded::MODEL)]
    pub model: String,
    #[arg(long, help = tasks(" [default: the adapter's, where it records one]"))]
    pub task: Option<String>,
    #[command(flatten)]
    pub strict: StrictArgs,
}

impl ModelArgs {
    /// Loads the model; if `complete`, its files must hold a head for the task.
    fn open_for(&self, task: Task, complete: bool) -> Result<(Model, Task), Error> {
        let model = Model::open(&self.model, &task, 0, complete)?;
        self.strict.check(&model)?;
        Ok((model, task))
    }

    /// Says what is not used of a file of rows, or refuses it.
    pub fn say(&self, notes: &[Note]) -> Result<(), Error> {
        if self.strict.strict && !notes.is_empty() {
            return Err(Unused(notes.to_vec()).into());
        }
        say(notes);
        Ok(())
    }

    /// Loads the model with an adapter, or with its own head without one, and says what was applied. The
    /// task is the one of --task, else the adapter's; without either it is what is understood of `data`.
    pub fn open_with(
        &self,
        adapter: Option<&Given>,
        columns: &ColumnArgs,
        data: &[PathBuf],
    ) -> Result<(Model, Task), Error> {
        let task = match &self.task {
            Some(task) => Some(Task::parse(task)?),
            None => adapter.map(Given::task).transpose()?.flatten(),
        };
        // What is given is what is scored: nothing is held out of it.
        let given = Dataset {
            hold_out: Some(0.0),
            ..Dataset::of(data)
        };
        let dataset = columns.over(given);
        let task = match task {
            Some(task) => dataset.changed(task)?,
            // What an adapter was trained for is not guessed.
            None if data.is_empty() || adapter.is_some() && !columns.say_what_is_learned() => {
                return Err(no_task(adapter));
            }
            None => {
                let understood = dataset.understand()?;
                understood
                    .decisions
                    .iter()
                    .for_each(|decision| print::say!("{decision}"));
                dataset.task(&understood, 0)?
            }
        };
        let Some(given) = adapter else {
            return self.open_for(task, true);
        };
        let model = Model::adapted(&self.model, &task, given.chosen())?;
        self.strict.check(&model)?;
        say_applied(given, &model);
        Ok((model, task))
    }

    /// The model with adapters, where nothing is computed with it: its folder may lack the weights.
    pub fn outlined(&self, adapters: &AdapterArgs) -> Result<Outline, Error> {
        let task = Task::parse(self.task.as_deref().ok_or("--task is missing")?)?;
        let (model, objective, pad_id, dir) = match Model::open(&self.model, &task, 0, false) {
            Ok(model) => {
                self.strict.check(&model)?;
                let pad_id = model.tokenizer.pad_id();
                let Pretrained {
                    model: own, dir, ..
                } = model.pretrained;
                (own, model.objective, pad_id, dir)
            }
            Err(RunError::Pretrained(PretrainedError::Weights(WeightsError::None { dir }))) => {
                let config = Config::from_dir(&dir)?;
                self.say(&config.notes)?;
                let model = models::model::Model::new(config, task.head())?;
                (model, task.objective.clone(), 0, dir)
            }
            Err(error) => return Err(error.into()),
        };
        let config = adapters.config(AdaptConfig::default())?;
        let sites = config.resolve(model.sites())?;
        let trainable = config.resolve_trainable(&sites, model.parameters())?;
        Ok(Outline {
            dir,
            counts: Counts::new(&trainable, &model.sites(), &sites, model.parameters()),
            predictor: Predictor::new(model, objective, sites.clone(), trainable, pad_id),
            sites,
        })
    }
}

/// A model with adapters, without its weights.
pub struct Outline {
    /// The model's folder.
    pub dir: PathBuf,
    /// Its projections.
    pub sites: Vec<Site>,
    /// How many numbers train.
    pub counts: Counts,
    /// Its programs.
    pub predictor: Predictor,
}
