//! The adapters below a folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ailora::{
    adapter::Role,
    models::{
        closed::{brief, json},
        peft::Origin,
    },
    runtime::store::Safetensors,
};
use indexmap::IndexSet;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Error, print::out, table};

/// What every adapter's folder has.
const CONFIG: &str = "adapter_config.json";
/// Bytes of a file that are read at most.
const LIMIT: u64 = 64 << 20;

/// What is listed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder below which adapters are looked for, ours and PEFT's.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Print one JSON object for each adapter.
    #[arg(long)]
    json: bool,
}

/// A folder of an adapter.
#[derive(Debug, Serialize)]
struct Found {
    folder: String,
    #[serde(flatten)]
    state: State,
}

/// What is known of a folder, or why nothing is.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum State {
    Known(Box<About>),
    Broken { error: String },
}

/// What an adapter is.
#[derive(Debug, Serialize)]
struct About {
    /// The method of our run, or PEFT's kind with its variant.
    method: String,
    /// The ranks, in increasing order; none of a kind without.
    ranks: Vec<u64>,
    /// The roles of what is adapted, or the ends of paths.
    targets: Vec<String>,
    base: Option<String>,
    task: Option<String>,
    /// Bytes of the tensors' file.
    bytes: u64,
    /// Numbers in it; none if it is not of safetensors.
    numbers: Option<usize>,
    /// The metrics of what the run left.
    metrics: Map<String, Value>,
    /// The metric that the run was judged by.
    headline: Option<String>,
}

/// Lists the adapters below a folder.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let mut folders = Vec::new();
    find(&args.folder, &mut folders)
        .map_err(|error| format!("{}: cannot list it: {error}", args.folder.display()))?;
    let found: Vec<Found> = folders.iter().map(|folder| Found::read(folder)).collect();
    if args.json {
        for adapter in &found {
            out!("{}", serde_json::to_string(adapter)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if found.is_empty() {
        out!(
            "no adapter below {}: no folder there has an {CONFIG}",
            args.folder.display()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let header = [
        "adapter", "method", "rank", "targets", "base", "task", "numbers", "size", "score",
    ];
    let mut shown = table::table(&header);
    for adapter in &found {
        if let State::Known(about) = &adapter.state {
            shown.add_row(about.row(&adapter.folder));
        }
    }
    if shown.row_count() > 0 {
        out!("{shown}")?;
    }
    for adapter in &found {
        if let State::Broken { error } = &adapter.state {
            out!("{}: not read: {error}", adapter.folder)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Adds the folders that have an adapter's configuration, in order; links to folders are not followed.
fn find(folder: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    if folder.join(CONFIG).is_file() {
        into.push(folder.to_owned());
    }
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let mut below = Vec::new();
    for entry in entries {
        if entry.file_type()?.is_dir() {
            below.push(entry.path());
        }
    }
    below.sort();
    below.iter().try_for_each(|folder| find(folder, into))
}

impl Found {
    fn read(folder: &Path) -> Self {
        Self {
            folder: folder.display().to_string(),
            state: match About::read(folder) {
                Ok(about) => State::Known(Box::new(about)),
                Err(error) => State::Broken {
                    error: brief(error),
                },
            },
        }
    }
}

impl About {
    fn read(folder: &Path) -> Result<Self, Error> {
        let origin = Origin::read(folder)?;
        let config = json::object(&folder.join(CONFIG), LIMIT)?;
        let optional = |name: &str| match folder.join(name) {
            path if path.is_file() => json::object(&path, LIMIT).map(Some),
            _ => Ok(None),
        };
        let (run, metrics) = (optional("run.json")?, optional("metrics.json")?);
        let names = ["adapter_model.safetensors", "adapter_model.bin"];
        let files = names.map(|name| folder.join(name));
        let file = files.iter().find(|file| file.is_file());
        let file = file.ok_or_else(|| format!("no {} beside {CONFIG}", names[0]))?;
        let numbers = match file.extension().is_some_and(|end| end == "safetensors") {
            true => {
                let tensors = Safetensors::open(file)?;
                let sizes = tensors
                    .tensors()
                    .values()
                    .map(|info| info.shape.iter().product::<usize>());
                Some(sizes.sum())
            }
            false => None,
        };
        let of_run = run
            .as_ref()
            .and_then(|run| run["settings"]["adapters"]["method"].as_str());
        let metrics = metrics.unwrap_or_default();
        let last = metrics
            .get("last")
            .and_then(|last| last["metrics"].as_object());
        Ok(Self {
            method: of_run.map_or_else(|| kind(&config), str::to_owned),
            ranks: ranks(&config),
            targets: targets(&config),
            base: origin.model,
            task: origin.task.or(origin.peft_task),
            bytes: fs::metadata(file)?.len(),
            numbers,
            metrics: last.cloned().unwrap_or_default(),
            headline: metrics
                .get("headline")
                .and_then(Value::as_str)
                .map(str::to_owned),
        })
    }

    fn row(&self, folder: &str) -> Vec<String> {
        let text = |text: &Option<String>| text.clone().unwrap_or("-".into());
        let ranks: Vec<String> = self.ranks.iter().map(u64::to_string).collect();
        let or_none = |list: String| if list.is_empty() { "-".into() } else { list };
        let score = self.headline.as_ref().and_then(|name| {
            let score = self.metrics.get(name)?.as_f64()?;
            Some(format!("{name} {score:.4}"))
        });
        vec![
            folder.to_owned(),
            self.method.clone(),
            or_none(ranks.join(",")),
            or_none(self.targets.join(",")),
            text(&self.base),
            text(&self.task),
            self.numbers.map_or("-".into(), table::count),
            table::bytes(usize::try_from(self.bytes).unwrap_or(usize::MAX)),
            text(&score),
        ]
    }
}

/// PEFT's kind, with what is special of a LoRA adapter, such as `rslora` or `dora`.
fn kind(config: &Map<String, Value>) -> String {
    let kind = config.get("peft_type").and_then(Value::as_str);
    let kind = kind.unwrap_or("LORA").to_lowercase();
    let set = |field: &str| config.get(field) == Some(&Value::Bool(true));
    let flags = [("use_rslora", "rslora"), ("use_dora", "dora")];
    let flags = flags.into_iter().filter(|(field, _)| set(field));
    let mut variants: Vec<&str> = flags.map(|(_, name)| name).collect();
    variants.extend(config.get("init_lora_weights").and_then(Value::as_str));
    match variants.is_empty() {
        true => kind,
        false => variants.join("+"),
    }
}

/// The ranks of an adapter, each once, in increasing order.
fn ranks(config: &Map<String, Value>) -> Vec<u64> {
    let own = config.get("r").and_then(Value::as_u64);
    let pattern = config.get("rank_pattern").and_then(Value::as_object);
    let others = pattern.into_iter().flat_map(|pattern| pattern.values());
    let mut ranks: Vec<u64> = own
        .into_iter()
        .chain(others.filter_map(Value::as_u64))
        .collect();
    ranks.sort_unstable();
    ranks.dedup();
    ranks
}

/// What is adapted: the role of each path, or its last part; a regular expression as it is.
fn targets(config: &Map<String, Value>) -> Vec<String> {
    let short = |path: &str| match Role::of(path) {
        Some(role) => role.name().to_owned(),
        None => path.rsplit('.').next().unwrap_or(path).to_owned(),
    };
    match config.get("target_modules") {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(paths)) => {
            let paths = paths.iter().filter_map(Value::as_str);
            let unique: IndexSet<String> = paths.map(short).collect();
            unique.into_iter().collect()
        }
        _ => Vec::new(),
    }
}
