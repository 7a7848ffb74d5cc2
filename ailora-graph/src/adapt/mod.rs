//! From a pretrained program to one that trains: `x W` becomes a frozen part and a trained one.

mod distribute;
mod low_rank;

pub use distribute::distribute;

use std::collections::HashMap;

use low_rank::LowRank;
use thiserror::Error;

use crate::{
    adapter::{Site, Strategy, Trainable},
    ir::{Op, Program, ProgramError},
};

/// What an adapted program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Training: adapters drop elements of their inputs.
    Train,
    /// Everything else: nothing is dropped.
    Infer,
}

/// Adapters that a program cannot take.
#[derive(Debug, Error)]
pub enum AdaptError {
    /// A projection whose weight the program does not read.
    #[error(
        "{site}: its weight `{weight}` is not used by the program; is the projection's output \
         part of the outputs?"
    )]
    Unused {
        /// Module path of the projection.
        site: String,
        /// The parameter.
        weight: String,
    },
    /// An expression whose types do not fit.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Replaces each projection that `sites` adapts, and lets the parameters train that `trainable` and
/// the sites' strategies name; with [`Trainable::All`] every parameter trains, and nothing is
/// replaced. `mode` says what the adapters' dropout does.
///
/// At the start of training the result computes what `program` does, whatever the scale.
///
/// # Errors
/// An adapted projection that the program does not use.
pub fn adapt(
    program: &Program,
    sites: &[Site],
    trainable: &Trainable,
    mode: Mode,
) -> Result<Program, AdaptError> {
    let mut low_rank: HashMap<&str, LowRank<'_>> = HashMap::new();
    let mut frozen: HashMap<&str, &Site> = HashMap::new();
    let mut full: Vec<&str> = Vec::new();
    for site in sites {
        if let Some(adapter) = LowRank::of(site) {
            low_rank.insert(&site.weight, adapter);
        }
        match site.spec.strategy {
            Strategy::Frozen if !trainable.names(&site.weight) => {
                frozen.insert(&site.weight, site);
            }
            Strategy::Full => {
                full.extend(std::iter::once(&*site.weight).chain(site.bias.as_deref()))
            }
            Strategy::Frozen | Strategy::LowRank { .. } => {}
        }
    }
    let parameters: Vec<&str> = program
        .frozen_parameters()
        .map(|leaf| &*leaf.name)
        .collect();
    for site in sites.iter().filter(|site| site.spec.trains()) {
        if !parameters.contains(&site.weight.as_str()) {
            return Err(AdaptError::Unused {
                site: site.path.clone(),
                weight: site.weight.clone(),
            });
        }
    }
    let adapts = *trainable != Trainable::All;
    let adapter_of = |op: &Op| match op {
        Op::Frozen(leaf) if adapts => low_rank.get(&*leaf.name).copied(),
        _ => None,
    };
    // Beside adapters, frozen weights lie as theirs do, so that they can be fused.
    let frozen_site_of = |op: &Op| match op {
        Op::Frozen(leaf) if adapts && !low_rank.is_empty() => frozen.get(&*leaf.name),
        _ => None,
    };
    program.rewrite(|new, _, node, args| match &node.op {
        Op::MatMul(product)
            if let Some(site) = frozen_site_of(&program[node.args[1]].op)
                && low_rank::is_projection(*product, site) =>
        {
            Ok(low_rank::project_frozen(new, *product, args[0], args[1])?)
        }
        Op::MatMul(product)
            if let Some(adapter) = adapter_of(&program[node.args[1]].op)
                && low_rank::is_projection(*product, adapter.site) =>
        {
            let weight = program.ty(node.args[1]).clone();
            let weight = new.frozen(&adapter.site.weight, weight)?;
            Ok(adapter.project(new, *product, args[0], weight, mode)?)
        }
        Op::Frozen(leaf) if full.contains(&&*leaf.name) || trainable.names(&leaf.name) => {
            Ok(new.trained(&leaf.name, leaf.ty.clone())?)
        }
        // Any other use of an adapted weight, as in tied embeddings, sees the merged weight.
        op if let Some(adapter) = adapter_of(op) => {
            let weight = new.add(op.clone(), &[])?;
            Ok(adapter.merged(new, weight)?)
        }
        op => Ok(new.add(op.clone(), args)?),
    })
}
