//! Which of PEFT's formats an adapter is saved in.

use ailora_graph::{
    Strategy,
    adapter::{Layout, Site},
    method::{self, Adapter, Field, Peft, constructors::random},
};

use super::PeftError;

/// PEFT's form of what happens to a projection, if that is an adapter that has one.
pub fn of(strategy: Strategy) -> Option<&'static Peft> {
    match strategy {
        Strategy::Adapted(adapter) => adapter.peft(),
        Strategy::Frozen | Strategy::Full => None,
    }
}

/// The form of an adapter of parameters alone: LoRA of no module.
pub fn alone() -> Option<&'static Peft> {
    of(random(1).strategy)
}

/// The one form of all adapters of a model; nothing if there is no adapter.
///
/// # Errors
/// PEFT has none, or several; magnitudes at some projections and not at others; a projection whose weight
/// lies the other way round than PEFT's do.
pub fn common(sites: &[Site]) -> Result<Option<&'static Peft>, PeftError> {
    let mut form: Option<&'static Peft> = None;
    let mut dora: Option<bool> = None;
    for site in sites.iter().filter(|site| site.is_adapted()) {
        if site.layout == Layout::InOut {
            return Err(PeftError::Layout(site.path.clone()));
        }
        let own = of(site.spec.strategy).ok_or_else(|| PeftError::NoForm {
            site: site.path.clone(),
            adapter: site.spec.strategy.name(),
        })?;
        let first = form.get_or_insert(own);
        if !first.is_beside(own) {
            return Err(PeftError::Mixed {
                site: site.path.clone(),
                found: own.kind,
                expected: first.kind,
            });
        }
        let has = |field| own.fields.iter().any(|(_, own)| *own == field);
        if has(Field::Dora) && *dora.get_or_insert(site.spec.dora) != site.spec.dora {
            return Err(PeftError::MixedDora {
                site: site.path.clone(),
                found: if site.spec.dora { "" } else { "no " },
            });
        }
    }
    Ok(form)
}

/// The adapters that PEFT calls `kind`, if that is no LoRA: one that the model is annotated with, or those
/// of the list of methods.
pub fn adapters(kind: &str, sites: &[Site]) -> Vec<&'static dyn Adapter> {
    if alone().is_some_and(|form| form.kind == kind) {
        return Vec::new();
    }
    let is_kind = |adapter: &&dyn Adapter| adapter.peft().is_some_and(|form| form.kind == kind);
    let annotated = sites.iter().filter_map(|site| match site.spec.strategy {
        Strategy::Adapted(adapter) => Some(adapter),
        Strategy::Frozen | Strategy::Full => None,
    });
    let listed = || method::adapters().filter(is_kind);
    let own = annotated
        .filter(is_kind)
        .find(|own| !listed().any(|known| known == *own));
    own.map_or_else(|| listed().collect(), |own| vec![own])
}
