//! The trained model as an adapter that contains everything that differs from the base.

use ailora_graph::{
    Strategy,
    adapter::{Site, Trainable},
    method::Field,
    module::Parameter,
};
use ailora_runtime::store::Params;

use super::{
    Adapter, PeftError,
    config::Biases,
    form,
    merge::{merge, published},
};
use crate::{head::Head, model::Model};

impl Adapter {
    /// The parameters that an adapter holds whole: those of modules of which a parameter trains, that
    /// were `drawn` at random since the base has not got them, or that PEFT saves whole for this task.
    /// PEFT keeps modules whole or not at all, but for biases: where ones of other modules train, all
    /// are held, or those of the projections with factors.
    pub fn held(
        model: &Model,
        sites: &[Site],
        trainable: &Trainable,
        drawn: &[String],
    ) -> Vec<String> {
        let (modules, biases) = held_modules(model, sites, trainable, drawn);
        let adapted = adapted_biases(sites);
        let mut held = parameters_of(model, &modules);
        for Parameter { name, .. } in model.parameters() {
            if is_held_bias(biases, &adapted, name) && !held.contains(name) {
                held.push(name.clone());
            }
        }
        held
    }

    /// Checks that what adapters at these sites become can be saved.
    ///
    /// # Errors
    /// PEFT has no form of an adapter, or several of all.
    pub fn check(sites: &[Site]) -> Result<(), PeftError> {
        form::common(sites).map(|_| ())
    }

    /// A trained model's adapter. `params` holds the factors and their starts, what was trained in
    /// full, and what is [`held`](Self::held) besides; `trainable` and `drawn` as there.
    ///
    /// # Errors
    /// A parameter is missing.
    pub fn from_trained(
        model: &Model,
        sites: &[Site],
        params: &Params,
        trainable: &Trainable,
        drawn: &[String],
    ) -> Result<Self, PeftError> {
        let get = |name: String| match params.get(&name) {
            Some(array) => Ok((name, array.clone())),
            None => Err(PeftError::Missing(name)),
        };
        form::common(sites)?;
        let mut adapter = Self::default();
        for site in sites {
            match site.spec.strategy {
                Strategy::Frozen => {}
                Strategy::Full => {
                    adapter.tensors.extend([get(site.weight.clone())?]);
                    if let Some(bias) = &site.bias {
                        adapter.tensors.extend([get(bias.clone())?]);
                    }
                }
                Strategy::Adapted(own) => {
                    let (spec, tensors) = published(site, sites, own, params)?;
                    let mut site = site.clone();
                    site.spec = spec;
                    adapter.sites.insert(site.path.clone(), site);
                    adapter.tensors.extend(tensors);
                }
            }
        }
        for name in drawn {
            adapter.tensors.extend([get(name.clone())?]);
        }
        (_, adapter.biases) = held_modules(model, sites, trainable, drawn);
        let adapted = adapted_biases(sites);
        for Parameter { name, .. } in model.parameters() {
            if trainable.names(name) || is_held_bias(adapter.biases, &adapted, name) {
                adapter.tensors.extend([get(name.clone())?]);
            }
        }
        adapter.close(model, params)?;
        Ok(adapter)
    }

    /// Makes whole modules of those of which the adapter holds a parameter, and of the head that
    /// PEFT saves whole: what it lacks of them is taken from `params`, and factors there are folded
    /// into the weights.
    ///
    /// # Errors
    /// A parameter is missing.
    pub fn close(&mut self, model: &Model, params: &Params) -> Result<(), PeftError> {
        let adapted = self.sites.values();
        let adapted: Vec<&str> = adapted.filter_map(|site| site.bias.as_deref()).collect();
        let whole = self.trained_in_full().map(|(name, _)| name.as_str());
        let whole = whole.filter(|name| !is_held_bias(self.biases, &adapted, name));
        let modules = whole_modules(model, whole);
        for name in parameters_of(model, &modules) {
            if !self.tensors.contains_key(&name) {
                let value = params.get(&name).cloned();
                let value = value.ok_or_else(|| PeftError::Missing(name.clone()))?;
                self.tensors.insert(name, value);
            }
        }
        let sites = self.adapted();
        for site in &sites {
            if !modules.iter().any(|module| is_in(&site.path, module)) {
                continue;
            }
            self.sites.shift_remove(&site.path);
            let own = site.parameters(&sites).into_iter();
            let own = own.filter_map(|parameter| self.tensors.shift_remove_entry(&parameter.name));
            let own: Params = own.collect();
            merge(site, &sites, &own, &mut self.tensors)?;
        }
        self.modules = modules;
        self.shared.clear();
        // What is tied to the table of tokens is saved beside it, where the model has that.
        let inner = format!("{}.", model.config().family.base);
        let writes = matches!(model.head(), Head::CausalLm | Head::Seq2SeqLm { .. });
        for &(alias, name) in model.config().architecture.tied() {
            let is_there = writes || alias.starts_with(&inner);
            if is_there && self.tensors.contains_key(name) {
                self.shared.push((alias.into(), name.into()));
                self.modules.push(alias.trim_end_matches(".weight").into());
            }
        }
        Ok(())
    }
}

/// The modules that an adapter holds whole, and which biases of other modules it holds.
fn held_modules(
    model: &Model,
    sites: &[Site],
    trainable: &Trainable,
    drawn: &[String],
) -> (Vec<String>, Biases) {
    let full = sites.iter();
    let full = full.filter(|site| site.spec.strategy == Strategy::Full);
    let full = full.map(|site| site.weight.as_str());
    let names = model.parameters().iter().map(|p| p.name.as_str());
    let fields = sites.iter();
    let mut fields = fields.filter_map(|site| Some(form::of(site.spec.strategy)?.fields));
    let separate = fields.all(|fields| fields.iter().any(|(_, field)| *field == Field::Biases));
    let (biases, named): (Vec<&str>, Vec<&str>) = names
        .filter(|name| trainable.names(name))
        .partition(|name| name.ends_with(BIAS) && separate);
    let whole = full.chain(drawn.iter().map(String::as_str)).chain(named);
    let modules = whole_modules(model, whole);
    let adapted = adapted_biases(sites);
    let others = biases
        .into_iter()
        .filter(|bias| !modules.iter().any(|module| is_in(bias, module)));
    let others: Vec<&str> = others.collect();
    let biases = match others.iter().all(|bias| adapted.contains(bias)) {
        true if others.is_empty() => Biases::None,
        true => Biases::Adapted,
        false => Biases::All,
    };
    (modules, biases)
}

/// How the names of biases end.
const BIAS: &str = ".bias";

/// The biases of adapted projections.
fn adapted_biases(sites: &[Site]) -> Vec<&str> {
    let adapted = sites.iter().filter(|site| site.is_adapted());
    adapted.filter_map(|site| site.bias.as_deref()).collect()
}

/// Whether a parameter is one of the biases that are held, where `adapted` are those of projections
/// with factors.
fn is_held_bias(biases: Biases, adapted: &[&str], name: &str) -> bool {
    match biases {
        Biases::None => false,
        Biases::Adapted => adapted.contains(&name),
        Biases::All => name.ends_with(BIAS),
    }
}

/// The modules that PEFT saves whole if these parameters are to be saved: the head's, such as
/// `classifier`, and single ones of the pretrained model.
fn whole_modules<'a>(model: &Model, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let base = format!("{}.", model.config().family.base);
    let mut modules: Vec<String> = Vec::new();
    let mut add = |module: &str| {
        if !modules.iter().any(|other| is_in(module, other)) {
            modules.retain(|other| !is_in(other, module));
            modules.push(module.to_owned());
        }
    };
    for name in names {
        // A parameter of the model itself has no module that could be saved.
        let Some((module, _)) = name.rsplit_once('.') else {
            continue;
        };
        match module.split_once('.') {
            Some((head, _)) if !module.starts_with(&base) => add(head),
            _ => add(module),
        }
    }
    // PEFT adds these by itself, wherever paths end so.
    let heads: &[&str] = match model.head() {
        Head::Sequence { .. } => &["classifier", "score"],
        Head::QuestionAnswering => &["qa_outputs"],
        _ => &[],
    };
    for parameter in model.parameters() {
        for (at, _) in parameter.name.match_indices('.') {
            let module = &parameter.name[..at];
            if heads.iter().any(|head| module.ends_with(head)) {
                add(module);
            }
        }
    }
    modules
}

/// The parameters of modules.
fn parameters_of(model: &Model, modules: &[String]) -> Vec<String> {
    let names = model.parameters().iter().map(|p| &p.name);
    let kept = names.filter(|name| modules.iter().any(|module| is_in(name, module)));
    kept.cloned().collect()
}

/// Whether a path is a module's, or inside of it.
fn is_in(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
