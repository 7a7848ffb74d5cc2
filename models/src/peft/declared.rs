//! Reading a folder of an adapter that declares its form: what is there is as declared, or refused.

use std::path::{Path, PathBuf};

use ailora_graph::{
    AdapterSpec,
    adapter::Site,
    method::{Adapter as Kind, Field, Peft},
};
use ailora_runtime::store::Array;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::{
    Adapter, Applied, CONFIG, PeftError, WEIGHTS, fold,
    names::PREFIX,
    patterns::{Modules, is_end},
};
use crate::{
    closed::{json, shortened},
    pretrained::{Names, Pretrained},
    weights,
};

/// Bytes of `adapter_config.json` that are read at most.
const LIMIT: u64 = 4 << 20;

/// Fields of all kinds that say nothing of what is computed, or that are checked elsewhere.
const COMMON: [&str; 9] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "revision",
    "target_modules",
    "task_type",
];

/// What a folder says of a kind of adapter before it is read.
pub struct Folder {
    path: PathBuf,
    json: Map<String, Value>,
}

impl Folder {
    /// Reads the configuration of a folder.
    ///
    /// # Errors
    /// It is missing, or no JSON object.
    pub fn open(folder: &Path) -> Result<Self, PeftError> {
        let path = folder.join(CONFIG);
        if !path.is_file() {
            return Err(PeftError::NoFile {
                folder: folder.to_owned(),
                file: CONFIG,
            });
        }
        let json = json::object(&path, LIMIT)?;
        Ok(Self { path, json })
    }

    /// What PEFT calls the kind of adapter.
    pub fn kind(&self) -> Option<&str> {
        self.json.get("peft_type").and_then(Value::as_str)
    }

    /// A field that is a text, unless it is not set.
    ///
    /// # Errors
    /// It is something else.
    pub fn text(&self, field: &str) -> Result<Option<String>, PeftError> {
        match self.json.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(field, "a text")),
        }
    }

    /// A list of texts; none if it is not set.
    fn texts(&self, field: &str) -> Result<Vec<String>, PeftError> {
        let items = match self.json.get(field) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(items) => items.as_array(),
        };
        let text = |item: &Value| item.as_str().map(str::to_owned);
        let texts = items.and_then(|items| items.iter().map(text).collect());
        texts.ok_or_else(|| self.wrong(field, "a list of texts"))
    }

    fn wrong(&self, field: &str, expected: &str) -> PeftError {
        let found = self.json.get(field).map_or("missing".into(), shortened);
        self.error(format!("`{field}` is {found}; expected {expected}"))
    }

    fn error(&self, reason: String) -> PeftError {
        let path = self.path.clone();
        PeftError::Config { path, reason }
    }

    /// What is said of each projection with an adapter of this kind.
    fn spec(&self, kind: &'static dyn Kind, form: &Peft) -> Result<AdapterSpec, PeftError> {
        let mut spec = AdapterSpec::adapted(kind);
        for &(name, field) in form.fields {
            let Some(value) = self.json.get(name).filter(|value| !value.is_null()) else {
                continue;
            };
            let positive = value.as_f64().filter(|x| *x > 0.0);
            let (fits, expected) = match field {
                Field::Rank => {
                    let rank = value.as_u64().and_then(|rank| usize::try_from(rank).ok());
                    let rank = rank.filter(|rank| *rank > 0);
                    spec = rank.map_or(spec, |rank| spec.with_rank(rank));
                    (rank.is_some(), "a whole number of at least 1".to_owned())
                }
                Field::Alpha => {
                    spec = positive.map_or(spec, |alpha| spec.with_alpha(alpha));
                    (positive.is_some(), "a positive number".to_owned())
                }
                Field::Biases => (value == "none", "\"none\"".to_owned()),
                Field::Ranks | Field::Alphas => (is_unset(value), "none by module".to_owned()),
                Field::Bool(only) => (*value == only, only.to_string()),
                Field::Number(only) => (value.as_f64() == Some(only), only.to_string()),
                Field::Empty => (is_unset(value), "an empty list".to_owned()),
            };
            if !fits {
                return Err(self.wrong(name, &expected));
            }
        }
        let own = |name: &str| form.fields.iter().any(|(field, _)| *field == name);
        let other = self.json.iter();
        let mut other = other.filter(|(name, value)| {
            !COMMON.contains(&name.as_str()) && !own(name) && !is_unset(value)
        });
        match other.next() {
            None => Ok(spec),
            Some((name, _)) => Err(self.wrong(
                name,
                &format!(
                    "nothing: it is no field that a folder of kind {} has here",
                    form.kind
                ),
            )),
        }
    }

    /// Which modules have an adapter.
    fn targets(&self) -> Result<Modules, PeftError> {
        const FIELD: &str = "target_modules";
        let expected = "a list of modules' names, or a regular expression";
        match self.json.get(FIELD) {
            Some(Value::String(text)) => {
                Modules::regex(text).map_err(|reason| self.error(format!("`{FIELD}`: {reason}")))
            }
            Some(Value::Array(_)) => Ok(Modules::Ends(self.texts(FIELD)?)),
            _ => Err(self.wrong(FIELD, expected)),
        }
    }
}

/// Whether a field says nothing.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Reads a folder for this base, whose adapter is of this kind.
///
/// # Errors
/// A field that is not as declared; tensors that do not fit the model, are missing, left over or not
/// finite.
pub fn load(
    folder: &Folder,
    kind: &'static dyn Kind,
    base: &Pretrained,
) -> Result<Adapter, PeftError> {
    let form = kind.peft().filter(|form| folder.kind() == Some(form.kind));
    let form = form.ok_or_else(|| {
        let expected = kind
            .peft()
            .map_or("a kind that PEFT knows", |form| form.kind);
        folder.wrong("peft_type", expected)
    })?;
    let spec = folder.spec(kind, form)?;
    let targets = folder.targets()?;
    let targeted = |path: &str| match &targets {
        Modules::Ends(ends) => ends.iter().any(|end| end == path || is_end(path, end)),
        regex => regex.matches(path),
    };
    let sites = base.model.sites().into_iter();
    let sites: Vec<Site> = sites
        .filter(|site| targeted(&site.path))
        .map(|site| Site { spec, ..site })
        .collect();
    let mut tensors = folder.tensors()?;
    let mut adapter = Adapter::default();
    adapter.report.tensors = tensors.len();
    folder.take_own(&sites, &mut tensors, &mut adapter)?;
    folder.take_whole(base, form, tensors, &mut adapter)?;
    adapter.report = Applied {
        adapted: adapter.sites.len(),
        untouched: (base.model.parameters().len()).saturating_sub(adapter.report.replaced),
        ..adapter.report
    };
    Ok(adapter)
}

impl Folder {
    fn weights(&self) -> PathBuf {
        self.path.with_file_name(WEIGHTS)
    }

    /// The folder's tensors, by their names without PEFT's prefix.
    fn tensors(&self) -> Result<IndexMap<String, Array>, PeftError> {
        let path = self.weights();
        let mut tensors = IndexMap::new();
        for (origin, array) in weights::load(std::slice::from_ref(&path))? {
            if let Some(found) = fold::not_finite(&array) {
                return Err(PeftError::NotFinite {
                    path,
                    name: origin,
                    found,
                });
            }
            let name = origin.strip_prefix(PREFIX).unwrap_or(&origin).to_owned();
            tensors.insert(name, array);
        }
        Ok(tensors)
    }

    fn misfit(&self, name: &str, array: &Array, expected: String) -> PeftError {
        PeftError::Tensor {
            path: self.weights(),
            name: format!("{PREFIX}{name}"),
            found: array.shape().to_vec(),
            expected,
        }
    }

    fn missing(&self, name: &str, field: &str) -> PeftError {
        self.error(format!(
            "tensor `{PREFIX}{name}` is missing: `{field}` names its module; the adapter is not whole: \
             save it again"
        ))
    }

    /// Takes the parameters of adapters at these sites out of the tensors.
    fn take_own(
        &self,
        sites: &[Site],
        tensors: &mut IndexMap<String, Array>,
        adapter: &mut Adapter,
    ) -> Result<(), PeftError> {
        for site in sites {
            let checked = site.check();
            checked.map_err(|error| self.error(error.to_string()))?;
            for parameter in site.parameters(sites) {
                let Some(array) = tensors.shift_remove(&parameter.name) else {
                    if adapter.tensors.contains_key(&parameter.name) {
                        continue;
                    }
                    return Err(self.missing(&parameter.name, "target_modules"));
                };
                if array.shape() != parameter.shape {
                    let expected = format!("expected {:?}", parameter.shape);
                    return Err(self.misfit(&parameter.name, &array, expected));
                }
                adapter.tensors.insert(parameter.name, array);
            }
            adapter.sites.insert(site.path.clone(), site.clone());
        }
        Ok(())
    }

    /// Takes the other tensors as parameters in place of the base's, among them all of the modules that
    /// are saved whole.
    fn take_whole(
        &self,
        base: &Pretrained,
        form: &Peft,
        tensors: IndexMap<String, Array>,
        adapter: &mut Adapter,
    ) -> Result<(), PeftError> {
        let names = Names::of(&base.model);
        let parameters = base.model.parameters();
        for (origin, array) in tensors {
            let name = names.resolve(&origin.replace(".base_layer.", "."));
            let parameter = name.and_then(|name| parameters.iter().find(|p| p.name == name));
            let Some(parameter) = parameter else {
                let expected = format!(
                    "neither the model nor an adapter of kind {} at its `target_modules` has it",
                    form.kind
                );
                return Err(self.misfit(&origin, &array, expected));
            };
            if parameter.shape != array.shape() {
                let expected = format!("expected {:?}", parameter.shape);
                return Err(self.misfit(&origin, &array, expected));
            }
            adapter.tensors.insert(parameter.name.clone(), array);
            adapter.report.replaced += 1;
        }
        let saved = self.texts("modules_to_save")?;
        let is_saved = |name: &str| {
            let mut modules = name.match_indices('.').map(|(at, _)| &name[..at]);
            modules.any(|module| saved.iter().any(|end| module.ends_with(end.as_str())))
        };
        let held = parameters.iter().filter(|parameter| is_saved(&parameter.name));
        adapter.moved = held.map(|parameter| parameter.name.clone()).collect();
        let mut lacking = parameters.iter();
        let lacking = lacking.find(|parameter| {
            is_saved(&parameter.name) && !adapter.tensors.contains_key(&parameter.name)
        });
        match lacking {
            Some(parameter) => Err(self.missing(&parameter.name, "modules_to_save")),
            None => Ok(()),
        }
    }
}
