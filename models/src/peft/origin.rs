//! Which base and which task an adapter is for, as its folder records it.

use std::path::Path;

use serde_json::{Map, Value};

use super::{CONFIG, PeftError, config::LoraConfig, declared::Folder};
use crate::{
    closed::{Field, Note, Table, Unknown, applied, inert, json, shortened},
    head::Head,
    pretrained::Pretrained,
    weights,
};

/// What our adapters have beside PEFT's files.
const FILE: &str = "ailora.json";
/// Bytes of it that are read at most.
const LIMIT: u64 = 16 << 20;

const FIELDS: &[Field] = &[
    applied("model", "what the base was called"),
    applied(
        "base_sha256",
        "the hash of the base's weights; others are refused, unless --force-adapter",
    ),
    applied(
        "task",
        "the task if --task is left out; others are refused, unless --force-adapter",
    ),
    applied(
        "description",
        "the task itself, if it was of data of one's own",
    ),
    applied(
        "max_length",
        "the longest sequence if --max-length is left out",
    ),
    inert("labels", "the task has them"),
    inert("seed", "what the run drew from"),
    applied(
        "sites",
        "how each projection was trained, and trains on where a run starts from the adapter",
    ),
    applied(
        "trainable",
        "what trained beside the adapters, and trains on where a run starts from it",
    ),
    inert("from", "the adapter that training started from"),
];

/// The fields of `ailora.json`, which training leaves beside an adapter.
pub static ABOUT: Table = Table {
    file: FILE,
    fields: &[FIELDS],
    unknown: Unknown::Noted,
};

/// What an adapter's folder records of where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// What the base was called.
    pub model: Option<String>,
    /// The task, by the name it has here.
    pub task: Option<String>,
    /// The task itself, if it is not one that is built in: [`Task::from_value`] reads it.
    ///
    /// [`Task::from_value`]: crate::task::Task::from_value
    pub description: Option<Value>,
    /// SHA-256 of the base's weights, as [`Pretrained::sha256`] has it.
    pub base_sha256: Option<String>,
    /// What PEFT calls the kind of task.
    pub peft_task: Option<String>,
    /// What of the record is not known.
    pub note: Option<Note>,
}

impl Origin {
    /// Reads what a folder records.
    ///
    /// # Errors
    /// It holds no LoRA adapter, or `ailora.json` is damaged.
    pub fn read(folder: &Path) -> Result<Self, PeftError> {
        let opened = Folder::open(folder)?;
        let (base, task) = match opened.kind() {
            None | Some("LORA") => {
                let config = LoraConfig::read(folder)?;
                (config.base, config.task)
            }
            Some(_) => (
                opened.text("base_model_name_or_path")?,
                opened.text("task_type")?,
            ),
        };
        let set = |text: Option<String>| text.filter(|text| !text.is_empty());
        let peft = Self {
            model: set(base),
            peft_task: set(task),
            ..Self::default()
        };
        let path = folder.join(FILE);
        if !path.is_file() {
            return Ok(peft);
        }
        let about = json::object(&path, LIMIT)?;
        let note = ABOUT.check(&path, &about)?;
        let text = |field| text(&path, &about, field);
        Ok(Self {
            model: text("model")?.or(peft.model),
            task: text("task")?,
            description: about.get("description").cloned(),
            base_sha256: text("base_sha256")?,
            peft_task: peft.peft_task,
            note,
        })
    }

    /// Checks that the adapter is for a task of this name and a model with this head.
    ///
    /// # Errors
    /// It was trained for another.
    pub fn check_task(
        &self,
        folder: &Path,
        task: Option<&str>,
        head: Head,
    ) -> Result<(), PeftError> {
        let (field, recorded, wanted) = match (&self.task, task) {
            (Some(recorded), Some(task)) if recorded != task => {
                (FILE, recorded.clone(), format!("task {task}"))
            }
            (Some(_), Some(_)) => return Ok(()),
            _ => match (&self.peft_task, head.peft_task()) {
                (Some(recorded), Some(kind)) if recorded != kind => {
                    (CONFIG, recorded.clone(), format!("{head}, {kind}"))
                }
                _ => return Ok(()),
            },
        };
        Err(PeftError::Config {
            path: folder.join(field),
            reason: format!(
                "the adapter was trained for {recorded}, not for {wanted}: give an adapter for that, \
                 or insist with --force-adapter"
            ),
        })
    }

    /// Checks that `base`, which was asked for as `given`, is the base that the adapter was trained
    /// on: by the hash of its weights if it is recorded, by its name otherwise. A note says so
    /// where names alone cannot tell.
    ///
    /// # Errors
    /// It was trained on another.
    pub fn check_base(
        &self,
        folder: &Path,
        given: &str,
        base: &Pretrained,
    ) -> Result<Option<Note>, PeftError> {
        let recorded = self.model.as_deref();
        let same = match &self.base_sha256 {
            Some(hash) => Some(
                *hash == base.sha256 || {
                    let there = recorded.map(Path::new).filter(|there| there.is_dir());
                    there.is_some_and(|there| {
                        sha256(there).as_ref() == Some(hash) && is_rounded(there, base)
                    })
                },
            ),
            None => recorded.map_or(Some(true), |recorded| is_base(recorded, given, base)),
        };
        let recorded = recorded.unwrap_or("a base of another hash");
        match same {
            Some(true) => Ok(None),
            Some(false) => Err(PeftError::Config {
                path: folder.join(CONFIG),
                reason: format!(
                    "the adapter was trained on {recorded}, whose weights are others than those of \
                     {given}: give that base, or, where it is only applied, insist with --force-adapter"
                ),
            }),
            None => Ok(Some(Note {
                path: folder.join(CONFIG),
                text: format!(
                    "the adapter was trained on {recorded}; whether {given} has the same weights \
                     cannot be told from here"
                ),
            })),
        }
    }
}

/// Whether the base that is recorded under a name is this one, if that can be told.
fn is_base(recorded: &str, given: &str, base: &Pretrained) -> Option<bool> {
    let clean = |name: &str| name.trim_end_matches('/').to_owned();
    if clean(recorded) == clean(given) {
        return Some(true);
    }
    let there = Path::new(recorded);
    if there.is_dir() {
        let same = |path: &Path| path.canonicalize().ok();
        if same(there).is_some() && same(there) == same(&base.dir) {
            return Some(true);
        }
        return Some(sha256(there)? == base.sha256 || is_rounded(there, base));
    }
    // A folder of the hub's cache: models--ORG--NAME/snapshots/COMMIT.
    let cached = format!("models--{}", recorded.replace('/', "--"));
    let mut parts = base.dir.components();
    if parts.any(|part| part.as_os_str() == cached.as_str()) {
        return Some(true);
    }
    let own = base.model.config().json.get("_name_or_path");
    if own.and_then(Value::as_str) == Some(recorded) {
        return Some(true);
    }
    let last = |name: &str| clean(name).rsplit('/').next().map(str::to_owned);
    let on_hub = |name: &str| clean(name).split('/').count() <= 2 && !name.starts_with(['/', '.']);
    let hub = on_hub(recorded) && on_hub(given) && !Path::new(given).is_dir();
    (hub && last(recorded) != last(given)).then_some(false)
}

fn sha256(folder: &Path) -> Option<String> {
    weights::sha256(&weights::files(folder).ok()?).ok()
}

/// Whether the weights of a folder are those of a base but for their precision: rounded to bfloat16
/// or float16, on one side or on both.
fn is_rounded(there: &Path, base: &Pretrained) -> bool {
    // Rounding to 8 bits of mantissa; below float16's normal numbers, to multiples of 6e-8.
    let near = |(a, b): (&f32, &f32)| {
        let most = a.abs().max(b.abs());
        (a - b).abs() <= (most / 128.0).max(1e-7)
    };
    let open = |folder| Pretrained::open(folder, base.model.head());
    let (Ok(there), Ok(here)) = (open(there), open(&base.dir)) else {
        return false;
    };
    here.weights.len() == there.weights.len()
        && here.weights.iter().all(|(name, array)| {
            there.weights.get(name).is_some_and(|other| {
                other.shape() == array.shape()
                    && array.floats().iter().zip(other.floats().iter()).all(near)
            })
        })
}

fn text(path: &Path, about: &Map<String, Value>, field: &str) -> Result<Option<String>, PeftError> {
    match about.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(PeftError::Config {
            path: path.to_owned(),
            reason: format!("`{field}` is {}; expected a text", shortened(other)),
        }),
    }
}
