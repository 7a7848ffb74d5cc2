//! The names of a model's parameters, and what files call them.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use ailora_runtime::store::Params;

use super::PretrainedError;
use crate::{head::Head, model::Model};

/// Ends of names of what some files have inside a model and nothing is computed of: numbers that
/// count up, angles that the configuration says, marks of a version.
const BUFFERS: [&str; 5] = [
    "position_ids",
    "token_type_ids",
    "inv_freq",
    "version",
    "_float_tensor",
];

/// Parts inside a model that not every head reads.
const PARTS: [&str; 2] = ["pooler.", "embeddings.position_embeddings."];

/// Parts of a head's module that are another head.
const OTHER_HEADS: [&str; 1] = ["cls.seq_relationship."];

/// The names of a model's parameters, and what files call them.
pub(crate) struct Names {
    base: &'static str,
    /// Whether the head reads the words' table.
    reads_words: bool,
    known: HashSet<String>,
    tied: HashMap<&'static str, &'static str>,
    /// The modules of the pretrained model, and those outside of it.
    modules: HashSet<String>,
    heads: HashSet<String>,
}

impl Names {
    pub fn of(model: &Model) -> Self {
        let names = model.parameters().iter().map(|p| p.name.clone());
        let base = model.config().family.base;
        let (mut modules, mut heads) = (HashSet::new(), HashSet::new());
        for parameter in model.parameters() {
            match within(base, &parameter.name) {
                Some(inner) => modules.insert(first(inner).to_owned()),
                None => heads.insert(first(&parameter.name).to_owned()),
            };
        }
        Self {
            base,
            modules,
            heads,
            reads_words: matches!(
                model.head(),
                Head::MaskedLm | Head::CausalLm | Head::Seq2SeqLm { .. }
            ),
            known: names.collect(),
            tied: model.config().architecture.tied().iter().copied().collect(),
        }
    }

    /// Two tensors of the files that are one weight, that the model reads both of, and that differ.
    pub fn untied(&self, tensors: &Params) -> Option<[String; 2]> {
        let mut shared = tensors.iter().filter_map(|(origin, array)| {
            let name = self.other_name(origin)?;
            let read = self.reads_words || self.inside(origin).is_some();
            read.then_some((origin, name, array))
        });
        shared.find_map(|(origin, name, array)| {
            let is_it = |(origin, _): &(&String, _)| self.resolve(origin).as_deref() == Some(name);
            let (first, same) = tensors.iter().find(is_it)?;
            (!same.same_values(array)).then(|| [first.clone(), origin.clone()])
        })
    }

    /// The parameters among a file's tensors by their own names, and the names of the other tensors.
    pub fn sort(
        &self,
        dir: &Path,
        tensors: Params,
    ) -> Result<(Params, Vec<String>), PretrainedError> {
        let mut origins: HashMap<String, String> = HashMap::new();
        let (mut params, mut unused) = (Params::new(), Vec::new());
        let mut tied = Vec::new();
        for (origin, array) in tensors {
            let Some(name) = self.resolve(&origin) else {
                match self.other_name(&origin) {
                    Some(name) => tied.push((name, origin, array)),
                    None => unused.push(origin),
                }
                continue;
            };
            if let Some(first) = origins.insert(name.clone(), origin.clone()) {
                return Err(PretrainedError::Twice {
                    dir: dir.to_owned(),
                    name,
                    first,
                    second: origin,
                });
            }
            params.insert(name, array);
        }
        // A weight that several modules share may be there once or several times.
        for (name, origin, array) in tied {
            match params.get(name) {
                None => drop(params.insert(name.into(), array)),
                Some(same) if same.same_values(&array) => {}
                Some(_) => unused.push(origin),
            }
        }
        Ok((params, unused))
    }

    /// The tensors that are not used though they are inside the pretrained model, or inside a head
    /// that is used.
    pub fn unknown(&self, params: &Params, unused: &[String]) -> Vec<String> {
        let outside = |name: &&String| within(self.base, name).is_none();
        let mut heads = self.known.iter().filter(outside);
        let has_head = heads.all(|name| params.contains_key(name));
        let of_head = |origin: &str| {
            let other = OTHER_HEADS.iter().any(|head| origin.starts_with(head));
            has_head && !other && self.heads.contains(first(origin))
        };
        let unknown = |origin: &&String| match self.inside(origin) {
            Some(inner) => {
                let part = PARTS.iter().any(|part| inner.starts_with(part));
                let buffer = BUFFERS.iter().any(|buffer| inner.ends_with(buffer));
                !part && !buffer
            }
            None => of_head(origin),
        };
        unused.iter().filter(unknown).cloned().collect()
    }

    /// What a tensor inside the pretrained model is called there; nothing for one that is not inside.
    fn inside<'a>(&self, origin: &'a str) -> Option<&'a str> {
        let inner = within(self.base, origin);
        // Files of the pretrained model alone have its modules without a prefix.
        let module = first(origin);
        let bare = self.modules.contains(module) && !self.heads.contains(module);
        inner.or_else(|| bare.then_some(origin))
    }

    /// The parameter of this name, or that another module shares under it.
    pub fn find(&self, origin: &str) -> Option<String> {
        let shared = || self.other_name(origin).map(str::to_owned);
        self.resolve(origin).or_else(shared)
    }

    /// The parameter that a file's tensor is, if it is one.
    pub fn resolve(&self, origin: &str) -> Option<String> {
        let norm = |old, new| Some(format!("{}{new}", origin.strip_suffix(old)?));
        let name = norm("LayerNorm.gamma", "LayerNorm.weight")
            .or_else(|| norm("LayerNorm.beta", "LayerNorm.bias"))
            .unwrap_or_else(|| origin.to_owned());
        self.spellings(name)
            .into_iter()
            .find(|name| self.known.contains(name))
    }

    /// The parameter that a file's tensor is too, as another module's.
    fn other_name(&self, origin: &str) -> Option<&'static str> {
        let spellings = self.spellings(origin.to_owned());
        let mut names = spellings.iter().filter_map(|name| self.tied.get(&**name));
        names.find(|name| self.known.contains(**name)).copied()
    }

    fn spellings(&self, name: String) -> [String; 2] {
        let prefixed = format!("{}.{name}", self.base);
        [name, prefixed]
    }
}

/// What a tensor of the pretrained model `base` is called there.
fn within<'a>(base: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(base)?.strip_prefix('.')
}

/// The outermost module of a path.
fn first(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}
