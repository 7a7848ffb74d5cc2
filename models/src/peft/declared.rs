//! Reading a folder of an adapter that declares its form: what is there is as declared, or refused.

use std::path::{Path, PathBuf};

use ailora_graph::{
    AdapterSpec,
    adapter::{AdapterParameter, Site},
    method::{Adapter as Kind, Field, Peft},
};
use ailora_runtime::store::Array;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::{
    Adapter, Applied, CONFIG, Draws, PeftError, WEIGHTS,
    config::Biases,
    fold,
    names::{PREFIX, TUNER},
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

    /// The value of the field of a form that says this.
    fn value(&self, form: &Peft, field: Field) -> Option<&Value> {
        let own = form.fields.iter().find(|(_, other)| *other == field);
        own.and_then(|(name, _)| self.json.get(*name))
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
                    let rank = rank(value);
                    spec = rank.map_or(spec, |rank| spec.with_rank(rank));
                    (rank.is_some(), "a whole number of at least 1".to_owned())
                }
                Field::Alpha => {
                    spec = positive.map_or(spec, |alpha| spec.with_alpha(alpha));
                    (positive.is_some(), "a positive number".to_owned())
                }
                Field::Biases => (
                    Biases::of(value).is_some(),
                    "\"none\", \"lora_only\" or \"all\"".to_owned(),
                ),
                Field::Ranks => (
                    ranks(value).is_some(),
                    "whole numbers of at least 1, by module".to_owned(),
                ),
                Field::Alphas => (is_unset(value), "none by module".to_owned()),
                Field::Dora => {
                    let dora = value.as_bool();
                    spec = dora.map_or(spec, |dora| spec.with_dora(dora));
                    (dora.is_some(), "true or false".to_owned())
                }
                Field::Bool(only) => (*value == only, only.to_string()),
                Field::Number(only) => (value.as_f64() == Some(only), only.to_string()),
                Field::Text(only) => (*value == only, format!("\"{only}\"")),
                Field::Began(_) => (value.is_number(), "a number".to_owned()),
                Field::Empty => (is_unset(value), "an empty list".to_owned()),
                Field::DrawSeed => (value.is_u64(), "a whole number of at least 0".to_owned()),
                Field::DrawsSaved => (value.is_boolean(), "true or false".to_owned()),
                // Read by `modules`.
                Field::Among(_) => (true, String::new()),
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

    /// The modules that a field names.
    fn modules(&self, field: &str) -> Result<Modules, PeftError> {
        let expected = "a list of modules' names, or a regular expression";
        match self.json.get(field) {
            Some(Value::String(text)) => {
                Modules::regex(text).map_err(|reason| self.error(format!("`{field}`: {reason}")))
            }
            Some(Value::Array(_)) => Ok(Modules::Ends(self.texts(field)?)),
            _ => Err(self.wrong(field, expected)),
        }
    }

    /// Which of these adapters, of one `peft_type`, a module has: the modules that a field names are
    /// told apart by that.
    fn kind_of(
        &self,
        kinds: &[&'static dyn Kind],
        path: &str,
    ) -> Result<&'static dyn Kind, PeftError> {
        for &kind in kinds {
            let mut fits = true;
            for &(name, field) in kind.peft().map_or(&[][..], |form| form.fields) {
                let Field::Among(among) = field else { continue };
                let named = match self.json.get(name) {
                    None | Some(Value::Null) => false,
                    // As PEFT has it here, an end is one within a name too.
                    Some(_) => match self.modules(name)? {
                        Modules::Ends(ends) => ends.iter().any(|end| path.ends_with(end.as_str())),
                        regex => regex.matches(path),
                    },
                };
                fits &= named == among;
            }
            if fits {
                return Ok(kind);
            }
        }
        Err(self.error(format!("no adapter is known for `{path}`")))
    }

    /// What the file says of what is drawn from a seed.
    fn draws(&self, form: &Peft) -> Draws {
        let mut draws = Draws::default();
        for &(name, field) in form.fields {
            let value = self.json.get(name);
            match field {
                Field::DrawSeed => {
                    draws.seed = value.and_then(Value::as_u64).unwrap_or(draws.seed);
                }
                Field::DrawsSaved => {
                    draws.saved = value.and_then(Value::as_bool).unwrap_or(draws.saved);
                }
                _ => {}
            }
        }
        draws
    }
}

/// A rank.
fn rank(value: &Value) -> Option<usize> {
    let rank = value.as_u64().and_then(|rank| usize::try_from(rank).ok());
    rank.filter(|rank| *rank > 0)
}

/// Ranks by module.
fn ranks(value: &Value) -> Option<IndexMap<&str, usize>> {
    let modules = value.as_object()?.iter();
    let ranks = modules.map(|(module, value)| Some((module.as_str(), rank(value)?)));
    ranks.collect()
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

/// Reads a folder for this base, whose adapters are of these kinds, which have one `peft_type`.
///
/// # Errors
/// A field that is not as declared; tensors that do not fit the model, are missing, left over or not
/// finite.
pub fn load(
    folder: &Folder,
    kinds: &[&'static dyn Kind],
    base: &Pretrained,
) -> Result<Adapter, PeftError> {
    let form = kinds.first().and_then(|kind| kind.peft());
    let form = match form {
        Some(form) if folder.kind() == Some(form.kind) => form,
        form => {
            let expected = form.map_or("a kind that PEFT knows", |form| form.kind);
            return Err(folder.wrong("peft_type", expected));
        }
    };
    let own = folder.value(form, Field::Ranks).and_then(ranks);
    let own = own.unwrap_or_default();
    let targets = folder.modules("target_modules")?;
    let targeted = |path: &str| match &targets {
        Modules::Ends(ends) => ends.iter().any(|end| end == path || is_end(path, end)),
        regex => regex.matches(path),
    };
    let sites = base.model.sites().into_iter();
    let sites: Vec<Site> = sites
        .filter(|site| targeted(&site.path))
        .map(|site| {
            let kind = folder.kind_of(kinds, &site.path)?;
            let mut spec = folder.spec(kind, form)?;
            spec.rank = own.get(site.path.as_str()).copied().or(spec.rank);
            Ok(Site { spec, ..site })
        })
        .collect::<Result<_, PeftError>>()?;
    let adapted = |path: &&str| sites.iter().any(|site| site.path == *path);
    if let Some(path) = own.keys().find(|path| !adapted(path)) {
        let reason = format!("`{path}` has a rank, but no projection of that name has an adapter");
        return Err(folder.error(reason));
    }
    let mut tensors = folder.tensors()?;
    let mut adapter = Adapter {
        draws: folder.draws(form),
        ..Adapter::default()
    };
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
        let files = std::slice::from_ref(&path);
        if let Some((name, dtype)) = weights::integers(files)?.first() {
            return Err(self.error(format!(
                "tensor `{name}` holds {dtype:?}; expected floats: save the adapter in float32"
            )));
        }
        let mut tensors = IndexMap::new();
        for (origin, array) in weights::load(files)? {
            if let Some(found) = fold::not_finite(&array) {
                return Err(PeftError::NotFinite {
                    path,
                    name: origin,
                    found,
                });
            }
            let name = origin.strip_prefix(PREFIX).or(origin.strip_prefix(TUNER));
            let name = name.unwrap_or(&origin).to_owned();
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
            "tensor `{PREFIX}{name}` is missing, which `{field}` asks for; the adapter is not whole: save it \
             again"
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
                // What several sites share is one parameter.
                if adapter.tensors.contains_key(&parameter.name) {
                    continue;
                }
                let array = self.take(&parameter, adapter.draws, tensors)?;
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

    /// Takes a parameter out of the tensors, or draws it where they leave it out.
    fn take(
        &self,
        parameter: &AdapterParameter,
        draws: Draws,
        tensors: &mut IndexMap<String, Array>,
    ) -> Result<Array, PeftError> {
        let found = tensors.shift_remove(&parameter.name);
        let drawn = match draws.saved {
            true => None,
            false => draws.again(parameter),
        };
        match (found, drawn) {
            (Some(array), None) | (None, Some(array)) => Ok(array),
            (Some(_), Some(_)) => Err(self.error(format!(
                "tensor `{}` is there, but `save_projection` is false, by which PEFT draws it again: \
                 set it to true, or remove the tensor",
                parameter.name
            ))),
            (None, None) => Err(self.missing(&parameter.name, "target_modules")),
        }
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
        let biases = self.value(form, Field::Biases).and_then(Biases::of);
        adapter.biases = biases.unwrap_or_default();
        let is_trained_bias = |name: &str| match biases.unwrap_or_default() {
            Biases::None => false,
            Biases::Adapted => {
                let mut sites = adapter.sites.values();
                sites.any(|site| site.bias.as_deref() == Some(name))
            }
            Biases::All => name.ends_with(".bias"),
        };
        let mut lacking = parameters.iter();
        let lacking = lacking.find(|parameter| {
            is_trained_bias(&parameter.name) && !adapter.tensors.contains_key(&parameter.name)
        });
        if let Some(parameter) = lacking {
            return Err(self.missing(&parameter.name, "bias"));
        }
        let saved = self.texts("modules_to_save")?;
        let is_saved = |name: &str| {
            let mut modules = name.match_indices('.').map(|(at, _)| &name[..at]);
            modules.any(|module| saved.iter().any(|end| module.ends_with(end.as_str())))
        };
        let held = parameters
            .iter()
            .filter(|parameter| is_saved(&parameter.name));
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
