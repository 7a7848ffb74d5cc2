//! `adapter_config.json`: every field of PEFT's `LoraConfig`, and what becomes of it.
//!
//! One long file: a line for each field of PEFT's.

use std::path::{Path, PathBuf};

use ailora_graph::method;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::{
    CONFIG, PeftError,
    patterns::{Modules, first_keys},
};
use crate::closed::{Field, Table, Unknown, applied, inert, json, shortened, unset};

/// Bytes of the file that are read at most.
const LIMIT: u64 = 4 << 20;

const FIELDS: &[Field] = &[
    applied("peft_type", "LORA; other methods are refused by name"),
    applied(
        "task_type",
        "an adapter for another kind of task is refused, unless --force-adapter",
    ),
    applied(
        "base_model_name_or_path",
        "another base is refused, unless --force-adapter",
    ),
    applied("r", "the rank"),
    applied("lora_alpha", "the scale is alpha / r"),
    applied("use_rslora", "the scale is alpha / sqrt(r)"),
    applied(
        "rank_pattern",
        "ranks of single modules, by regular expression",
    ),
    applied(
        "alpha_pattern",
        "alphas of single modules, by regular expression",
    ),
    applied(
        "lora_dropout",
        "what is dropped where the adapter trains on",
    ),
    applied(
        "target_modules",
        "which modules have factors: ends of paths, or a regular expression",
    ),
    applied("exclude_modules", "which have none all the same"),
    applied("layers_to_transform", "which layers have factors"),
    applied("layers_pattern", "what the lists of layers are called"),
    applied(
        "modules_to_save",
        "modules that take the base's place whole",
    ),
    applied("bias", "trained biases take the place of the base's"),
    applied(
        "lora_bias",
        "lora_B's bias, scaled, is added to the module's",
    ),
    applied(
        "use_dora",
        "the magnitudes of projections are trained on; those of embeddings are folded into the table",
    ),
    applied(
        "init_lora_weights",
        "pissa and olora: their start is taken from the base, as PEFT does; pissa_niter_*, corda \
         and loftq are refused; others leave the base as it is",
    ),
    applied(
        "trainable_token_indices",
        "rows of the table of tokens take the place of the base's",
    ),
    applied(
        "ensure_weight_tying",
        "what changes the table of tokens changes the output that is tied to it",
    ),
    inert("peft_version", "who wrote it"),
    inert("auto_mapping", "a class of Python"),
    inert("revision", "which commit of the base it was trained on"),
    inert("inference_mode", "whether PEFT trains it"),
    inert("fan_in_fan_out", "PEFT sets it to false for linear layers"),
    inert("runtime_config", "where PEFT keeps weights"),
    inert("megatron_core", "a module of Python"),
    inert("qalora_group_size", "counts with use_qalora alone"),
    inert("loftq_config", "counts with init_lora_weights loftq alone"),
    inert("eva_config", "how factors began"),
    inert("corda_config", "counts with init_lora_weights corda alone"),
    inert("lora_ga_config", "how factors began"),
    unset("megatron_config", "layers of Megatron are not supported"),
    unset(
        "velora_config",
        "VeLoRA is not supported; merge it with PEFT (merge_and_unload), and give the merged model",
    ),
    unset(
        "alora_invocation_tokens",
        "activated LoRA, which counts from these tokens on, is not supported",
    ),
    unset("use_qalora", "QA-LoRA is not supported"),
    unset(
        "monteclora_config",
        "MonteCLoRA is not supported; merge it with PEFT (merge_and_unload), and give the merged \
         model",
    ),
    unset(
        "layer_replication",
        "a base of repeated layers is not supported; save that base as a model of its own",
    ),
    unset(
        "target_parameters",
        "factors of single parameters are not supported; merge it with PEFT (merge_and_unload), \
         and give the merged model",
    ),
    unset(
        "use_bdlora",
        "block-diagonal factors are not supported; merge it with PEFT (merge_and_unload), and give \
         the merged model",
    ),
    unset(
        "arrow_config",
        "routing among several adapters is not supported",
    ),
    unset(
        "kasa_config",
        "KaSA is not supported; merge it with PEFT (merge_and_unload), and give the merged model",
    ),
];

/// The fields of `adapter_config.json`.
pub static LORA: Table = Table {
    file: CONFIG,
    fields: &[FIELDS],
    unknown: Unknown::Refused,
};

/// What the file says of an adapter.
#[derive(Debug)]
pub struct LoraConfig {
    path: PathBuf,
    /// What PEFT calls the task.
    pub task: Option<String>,
    /// What the base was called.
    pub base: Option<String>,
    rank: usize,
    alpha: f64,
    stabilised: bool,
    /// What its input is dropped with while it trains.
    pub dropout: f64,
    ranks: IndexMap<String, usize>,
    alphas: IndexMap<String, f64>,
    /// The modules with factors; nothing if PEFT chose them.
    pub targets: Option<Targeted>,
    /// Modules without, all the same.
    pub excluded: Option<Modules>,
    /// The layers with factors, where that is said.
    pub layers: Option<Vec<u64>>,
    /// What their list may be called.
    pub layer_lists: Vec<String>,
    /// Modules that are saved whole.
    pub saved: Vec<String>,
    /// Which of the base's biases were trained.
    pub biases: Biases,
    /// Whether `lora_B` has a bias.
    pub lora_bias: bool,
    /// Whether there are magnitudes.
    pub dora: bool,
    /// What the base is less of.
    pub start: Start,
    /// Rows of tables by the end of the module's path; of the table of tokens where that is empty.
    pub tokens: Option<IndexMap<String, Vec<usize>>>,
    /// Whether tied modules change together.
    pub tie: bool,
}

/// The modules with factors.
#[derive(Debug)]
pub enum Targeted {
    /// Every linear layer but the head.
    AllLinear,
    /// These.
    Modules(Modules),
}

/// Which of the base's biases were trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Biases {
    /// None.
    #[default]
    None,
    /// Those of modules with factors.
    Adapted,
    /// All.
    All,
}

impl Biases {
    /// What the field `bias` says.
    pub fn of(value: &Value) -> Option<Self> {
        let all = [Self::None, Self::Adapted, Self::All];
        all.into_iter().find(|biases| value == biases.name())
    }

    /// The value of the field `bias`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Adapted => "lora_only",
            Self::All => "all",
        }
    }
}

/// What PEFT takes from the base when it loads an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing.
    Nothing,
    /// The part of each weight that its largest singular triplets span.
    Pissa,
    /// The projection of each weight onto its first columns.
    Olora,
}

/// The kinds beside LoRA of the adapters that methods have.
fn kinds() -> Vec<&'static str> {
    let forms = method::adapters().filter_map(|adapter| adapter.peft());
    let mut kinds: Vec<&str> = forms
        .map(|form| form.kind)
        .filter(|kind| *kind != "LORA")
        .collect();
    kinds.dedup();
    kinds
}

impl LoraConfig {
    /// Reads the file of a folder.
    ///
    /// # Errors
    /// It is missing, or not of a LoRA adapter that can be applied.
    pub fn read(folder: &Path) -> Result<Self, PeftError> {
        let path = folder.join(CONFIG);
        if !path.is_file() {
            return Err(PeftError::NoFile {
                folder: folder.to_owned(),
                file: CONFIG,
            });
        }
        let json = json::object(&path, LIMIT)?;
        let fields = Fields { path, json };
        // Other methods have other fields: theirs are not to be spoken of.
        match fields.json.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(_) => {
                return Err(fields.wrong(
                    "peft_type",
                    &format!(
                        "LORA, {}, or a kind that the model's annotations have; merge the adapter with \
                         PEFT (merge_and_unload), and give the merged model",
                        kinds().join(", ")
                    ),
                ));
            }
            None => return Err(fields.wrong("peft_type", "\"LORA\"")),
        }
        LORA.check(&fields.path, &fields.json)?;
        fields.config()
    }

    /// Rank and scale of the factors of each module, in their order.
    ///
    /// # Errors
    /// A key of a pattern that cannot be compiled, or a scale that is no number in float32.
    pub fn sizes(&self, modules: &[String]) -> Result<Vec<(usize, f64)>, PeftError> {
        let wrong = |field| move |reason| self.wrong(format!("`{field}`: {reason}"));
        let ranks = first_keys(self.ranks.keys(), modules).map_err(wrong("rank_pattern"))?;
        let alphas = first_keys(self.alphas.keys(), modules).map_err(wrong("alpha_pattern"))?;
        let keys = modules.iter().zip(ranks.into_iter().zip(alphas));
        keys.map(|(module, (rank, alpha))| {
            let rank = rank.and_then(|key| self.ranks.get(key));
            let alpha = alpha.and_then(|key| self.alphas.get(key));
            let rank = *rank.unwrap_or(&self.rank);
            let alpha = *alpha.unwrap_or(&self.alpha);
            let root = if self.stabilised { 0.5 } else { 1.0 };
            let scale = alpha / (rank as f64).powf(root);
            if (scale as f32).is_finite() {
                return Ok((rank, scale));
            }
            Err(self.wrong(format!(
                "`lora_alpha` is {alpha}, which makes a scale of {scale:e} for `{module}`; float32 \
                 has no such number"
            )))
        })
        .collect()
    }

    /// An error about the file.
    pub fn wrong(&self, reason: String) -> PeftError {
        let path = self.path.clone();
        PeftError::Config { path, reason }
    }
}

/// The fields as they are read.
struct Fields {
    path: PathBuf,
    json: Map<String, Value>,
}

impl Fields {
    fn config(self) -> Result<LoraConfig, PeftError> {
        let targets = match self.set("target_modules") {
            Some(Value::String(text)) if text == "all-linear" => Some(Targeted::AllLinear),
            _ => self.modules("target_modules")?.map(Targeted::Modules),
        };
        let layers = match self.set("layers_to_transform") {
            Some(Value::Number(_)) => Some(vec![self.natural("layers_to_transform")?]),
            Some(_) => Some(self.naturals("layers_to_transform")?),
            None => None,
        };
        let tokens = match self.set("trainable_token_indices") {
            Some(Value::Object(tables)) => Some(
                tables
                    .iter()
                    .map(|(table, rows)| {
                        let rows = naturals(rows).ok_or_else(|| self.bad_tokens())?;
                        Ok((table.clone(), rows))
                    })
                    .collect::<Result<_, PeftError>>()?,
            ),
            Some(rows) => {
                let rows = naturals(rows).ok_or_else(|| self.bad_tokens())?;
                Some(IndexMap::from([(String::new(), rows)]))
            }
            None => None,
        };
        let dropout = self.number("lora_dropout", Some(0.0))?;
        if !(0.0..=1.0).contains(&dropout) {
            return Err(self.wrong("lora_dropout", "a probability from 0 to 1"));
        }
        let ranks = self.dictionary("rank_pattern", "whole numbers of at least 1", |value| {
            rank(value)
        })?;
        let alphas = self.dictionary("alpha_pattern", "numbers", Value::as_f64)?;
        let biases = match self.set("bias") {
            None => Biases::None,
            Some(value) => {
                let biases = Biases::of(value);
                biases.ok_or_else(|| self.wrong("bias", "none, lora_only or all"))?
            }
        };
        let rank = match self.json.get("r") {
            None => 8,
            Some(value) => rank(value)
                .ok_or_else(|| self.wrong("r", "a rank: a whole number of at least 1"))?,
        };
        Ok(LoraConfig {
            task: self.text("task_type")?,
            base: self.text("base_model_name_or_path")?,
            rank,
            alpha: self.number("lora_alpha", Some(8.0))?,
            stabilised: self.flag("use_rslora")?,
            dropout,
            ranks,
            alphas,
            targets,
            excluded: self.modules("exclude_modules")?,
            layers: layers.filter(|layers| !layers.is_empty()),
            layer_lists: match self.set("layers_pattern") {
                Some(Value::String(text)) => vec![text.clone()],
                _ => self.texts("layers_pattern")?,
            },
            saved: self.texts("modules_to_save")?,
            biases,
            lora_bias: self.flag("lora_bias")?,
            dora: self.flag("use_dora")?,
            start: self.start()?,
            tokens,
            tie: self.flag("ensure_weight_tying")?,
            path: self.path,
        })
    }

    fn start(&self) -> Result<Start, PeftError> {
        const FIELD: &str = "init_lora_weights";
        let moved = |why: &str| {
            let expected = format!(
                "a start that leaves the base as it is, or pissa or olora: {why}; with PEFT, save the \
                 adapter as plain LoRA (save_pretrained with \
                 path_initial_model_for_weight_conversion), or the merged model (merge_and_unload)"
            );
            Err(self.wrong(FIELD, &expected))
        };
        let text = match self.set(FIELD) {
            None | Some(Value::Bool(_)) => return Ok(Start::Nothing),
            Some(Value::String(text)) => text.to_lowercase(),
            Some(_) => return Err(self.wrong(FIELD, "true, false or the name of a start")),
        };
        match text.as_str() {
            "pissa" => Ok(Start::Pissa),
            "olora" => Ok(Start::Olora),
            "gaussian" | "orthogonal" | "eva" | "mica" | "lora_ga" => Ok(Start::Nothing),
            "loftq" => moved("the base was quantised anew around this one"),
            _ if text.starts_with("pissa_niter_") => {
                moved("what this one takes from the base is drawn at random")
            }
            _ if text.starts_with("corda") => {
                moved("what this one takes from the base depends on data")
            }
            _ => Err(self.wrong(
                FIELD,
                "true, false, gaussian, orthogonal, eva, mica, lora_ga, pissa or olora",
            )),
        }
    }

    fn bad_tokens(&self) -> PeftError {
        self.wrong(
            "trainable_token_indices",
            "a list of token ids, or such lists by module",
        )
    }

    /// A value, unless it is null.
    fn set(&self, field: &str) -> Option<&Value> {
        self.json.get(field).filter(|value| !value.is_null())
    }

    fn wrong(&self, field: &str, expected: &str) -> PeftError {
        let found = self.json.get(field).map_or("missing".into(), shortened);
        PeftError::Config {
            path: self.path.clone(),
            reason: format!("`{field}` is {found}; expected {expected}"),
        }
    }

    fn flag(&self, field: &str) -> Result<bool, PeftError> {
        match self.set(field) {
            None => Ok(false),
            Some(Value::Bool(set)) => Ok(*set),
            Some(_) => Err(self.wrong(field, "true or false")),
        }
    }

    fn text(&self, field: &str) -> Result<Option<String>, PeftError> {
        match self.set(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(field, "a text")),
        }
    }

    fn number(&self, field: &str, default: Option<f64>) -> Result<f64, PeftError> {
        let value = match self.set(field) {
            None => default,
            Some(value) => value.as_f64(),
        };
        let value = value.filter(|value| value.is_finite());
        value.ok_or_else(|| self.wrong(field, "a number"))
    }

    fn natural(&self, field: &str) -> Result<u64, PeftError> {
        let value = self.set(field).and_then(Value::as_u64);
        value.ok_or_else(|| self.wrong(field, "a whole number of at least 0"))
    }

    fn naturals(&self, field: &str) -> Result<Vec<u64>, PeftError> {
        let items = self.set(field).and_then(Value::as_array);
        let numbers = items.and_then(|items| items.iter().map(Value::as_u64).collect());
        numbers.ok_or_else(|| self.wrong(field, "a whole number of at least 0, or a list of them"))
    }

    fn texts(&self, field: &str) -> Result<Vec<String>, PeftError> {
        let Some(value) = self.set(field) else {
            return Ok(Vec::new());
        };
        texts(value).ok_or_else(|| self.wrong(field, "a list of texts"))
    }

    /// Modules by a regular expression or a list of ends.
    fn modules(&self, field: &str) -> Result<Option<Modules>, PeftError> {
        let Some(value) = self.set(field) else {
            return Ok(None);
        };
        if let Value::String(text) = value {
            let modules = Modules::regex(text);
            return modules.map(Some).map_err(|reason| PeftError::Config {
                path: self.path.clone(),
                reason: format!("`{field}`: {reason}"),
            });
        }
        let ends = texts(value).map(Modules::Ends);
        let ends = ends.ok_or_else(|| {
            self.wrong(field, "a list of modules' names, or a regular expression")
        })?;
        Ok(Some(ends))
    }

    fn dictionary<T>(
        &self,
        field: &str,
        kind: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<IndexMap<String, T>, PeftError> {
        let Some(value) = self.set(field) else {
            return Ok(IndexMap::new());
        };
        let read = |(key, value): (&String, &Value)| Some((key.clone(), read(value)?));
        let pairs = value.as_object();
        let pairs = pairs.and_then(|pairs| pairs.iter().map(read).collect());
        pairs.ok_or_else(|| self.wrong(field, &format!("an object of {kind} by module")))
    }
}

fn rank(value: &Value) -> Option<usize> {
    let rank = value.as_u64().filter(|&rank| rank > 0);
    rank.and_then(|rank| usize::try_from(rank).ok())
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let text = |item: &Value| Some(item.as_str()?.to_owned());
    value.as_array()?.iter().map(text).collect()
}

fn naturals(value: &Value) -> Option<Vec<usize>> {
    let natural = |item: &Value| usize::try_from(item.as_u64()?).ok();
    value.as_array()?.iter().map(natural).collect()
}
