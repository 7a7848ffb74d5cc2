//! One adapter of several on one base, as PEFT's `add_weighted_adapter` makes it.
//!
//! Each adapter counts with its weight times its own scale, and what comes out has scale 1 and, at each
//! projection, the rank that it has there.

mod error;
mod kind;
mod mix;

pub use error::CombineError;
pub use kind::{Combination, Combine, Majority};

use ailora_graph::{
    adapter::{Layout, Site},
    method::constructors::random,
};
use ailora_runtime::{
    spectrum::{End, Matrix, Options, Request, triplets_of},
    store::{Array, Params},
};

use super::{Adapter, Applied, PeftError, fold, fold::Weight, merge};
use crate::model::Model;
use kind::Combination as Kind;
use mix::Mix;

/// An adapter that is combined with others.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// What it is called.
    pub name: &'a str,
    /// The adapter.
    pub adapter: &'a Adapter,
    /// What it is multiplied by.
    pub weight: f64,
}

/// The factors of a source at a projection.
struct Factors<'a> {
    source: &'a str,
    /// What it is multiplied by.
    weight: f64,
    /// Its own scale `s`.
    scale: f64,
    rank: usize,
    /// `[r, in]`
    a: &'a Array,
    /// `[out, r]`
    b: &'a Array,
}

/// A projection of the combined adapter, and its rank, `A` and `B`.
type Combined = (Site, usize, Vec<f32>, Vec<f32>);

impl Adapter {
    /// One adapter of several for this model, which all of them were loaded for. Projections that only
    /// some adapters have get what these come to. Parameters that are held whole are no part of a sum:
    /// they are taken where all sources hold the same, or from the one that [`Combine::head`] names.
    ///
    /// # Errors
    /// Settings that do not fit; adapters that are no products of two factors; ranks that differ where
    /// factors are summed; parameters held whole that differ.
    pub fn combine(
        sources: &[Source<'_>],
        how: &Combine,
        model: &Model,
    ) -> Result<Self, PeftError> {
        how.check()?;
        check(sources)?;
        let mut adapter = Self {
            tensors: whole(sources, how)?,
            biases: sources
                .iter()
                .map(|source| source.adapter.biases)
                .max()
                .unwrap_or_default(),
            ..Self::default()
        };
        let replaced = adapter.tensors.len();
        for (site, rank, a, b) in combined(sources, how, model)? {
            let (out, inputs) = (site.out_features, site.in_features);
            for (name, shape, data) in [
                (site.lora_a(), [rank, inputs], a),
                (site.lora_b(), [out, rank], b),
            ] {
                let array = Array::new(shape, data);
                if let Some(found) = fold::not_finite(&array) {
                    return Err(CombineError::NotFinite { name, found }.into());
                }
                adapter.tensors.insert(name, array);
            }
            let spec = random(rank).with_alpha(rank as f64);
            let site = Site { spec, ..site };
            adapter.sites.insert(site.path.clone(), site);
        }
        let added = sources.iter().flat_map(|source| &source.adapter.added);
        for name in added {
            if !adapter.added.contains(name) {
                adapter.added.push(name.clone());
            }
        }
        adapter.report = Applied {
            tensors: adapter.tensors.len(),
            copies: 0,
            adapted: adapter.sites.len(),
            replaced,
            untouched: model.parameters().len().saturating_sub(replaced),
        };
        Ok(adapter)
    }
}

fn check(sources: &[Source<'_>]) -> Result<(), CombineError> {
    if sources.is_empty() {
        return Err(CombineError::Nothing);
    }
    for (
        i,
        &Source {
            name,
            weight,
            adapter,
        },
    ) in sources.iter().enumerate()
    {
        if adapter.sites.is_empty() {
            return Err(CombineError::NoFactors(name.to_owned()));
        }
        if sources.iter().take(i).any(|other| other.name == name) {
            return Err(CombineError::Repeated(name.to_owned()));
        }
        if !weight.is_finite() {
            let name = name.to_owned();
            return Err(CombineError::Weight { name, weight });
        }
    }
    Ok(())
}

/// The parameters that are held whole.
fn whole(sources: &[Source<'_>], how: &Combine) -> Result<Params, CombineError> {
    let held = |source: &Source<'_>| -> Params {
        let whole = source.adapter.trained_in_full();
        whole
            .map(|(name, array)| (name.clone(), array.clone()))
            .collect()
    };
    if let Some(head) = &how.head {
        let found = sources.iter().find(|source| source.name == head);
        return found.map(held).ok_or_else(|| {
            let known: Vec<&str> = sources.iter().map(|source| source.name).collect();
            CombineError::Unknown {
                name: head.clone(),
                known: known.join(", "),
            }
        });
    }
    let mut all: Vec<(&str, Params)> = sources
        .iter()
        .map(|source| (source.name, held(source)))
        .collect();
    let differ = |(first, held): &(&str, Params), (other, others): &(&str, Params)| {
        let mut held = held.iter();
        let parameter = held.find(|(name, array)| {
            let same = |other: &Array| other.shape() == array.shape() && other.same_values(array);
            !others.get(*name).is_some_and(same)
        });
        parameter.map(|(parameter, _)| CombineError::Whole {
            parameter: parameter.clone(),
            first: (*first).to_owned(),
            other: (*other).to_owned(),
        })
    };
    let (first, rest) = all.split_first().ok_or(CombineError::Nothing)?;
    for other in rest {
        if let Some(error) = differ(first, other).or_else(|| differ(other, first)) {
            return Err(error);
        }
    }
    Ok(all.swap_remove(0).1)
}

/// The combined factors of every projection that a source has, in the model's order.
fn combined(
    sources: &[Source<'_>],
    how: &Combine,
    model: &Model,
) -> Result<Vec<Combined>, PeftError> {
    let mut at_sites = Vec::new();
    for site in model.sites() {
        let mut here = Vec::new();
        for source in sources {
            here.extend(factors(source, &site.path)?);
        }
        if !here.is_empty() {
            at_sites.push((site, here));
        }
    }
    let mut mix = Mix::new(how);
    if how.kind.is_of_changes() {
        let ranks = at_sites.iter().flat_map(|(_, here)| here);
        let largest = ranks.map(|factors| factors.rank).max().unwrap_or(1);
        return changes(at_sites, how.svd_rank.unwrap_or(largest), &mut mix);
    }
    let sites = at_sites.into_iter().map(|(site, here)| {
        let (rank, a, b) = match how.kind {
            Kind::Cat => side_by_side(&here, site.out_features),
            kind => {
                check_ranks(&site, &here, kind)?;
                summed(&here, &mut mix)
            }
        };
        Ok((site, rank, a, b))
    });
    sites.collect()
}

/// The factors of a source at the projection of a path, if it has any there.
fn factors<'a>(source: &Source<'a>, path: &str) -> Result<Option<Factors<'a>>, PeftError> {
    let adapter = source.adapter;
    let Some(site) = adapter.sites.get(path) else {
        return Ok(None);
    };
    let sites = adapter.adapted();
    let update = merge::update(site, &sites)?.ok_or_else(|| CombineError::Kind {
        name: source.name.to_owned(),
        site: path.to_owned(),
        strategy: site.spec.strategy.name(),
        magnitudes: if site.spec.dora {
            " with magnitudes"
        } else {
            ""
        },
    })?;
    let tensor = |name: String| {
        let tensor = adapter.tensors.get(&name);
        tensor.ok_or(PeftError::Missing(name))
    };
    let (a, b) = (tensor(update.a.clone())?, tensor(update.b.clone())?);
    let rank = a.shape().first().copied().unwrap_or_default();
    let fit = a.shape() == [rank, site.in_features] && b.shape() == [site.out_features, rank];
    if !fit {
        return Err(PeftError::Missing(update.b));
    }
    Ok(Some(Factors {
        source: source.name,
        weight: source.weight,
        scale: update.scale,
        rank,
        a,
        b,
    }))
}

fn check_ranks(site: &Site, here: &[Factors<'_>], kind: Kind) -> Result<(), CombineError> {
    let Some((first, rest)) = here.split_first() else {
        return Ok(());
    };
    match rest.iter().find(|other| other.rank != first.rank) {
        None => Ok(()),
        Some(other) => Err(CombineError::Ranks {
            site: site.path.clone(),
            first: first.source.to_owned(),
            rank: first.rank,
            other: other.source.to_owned(),
            other_rank: other.rank,
            kind,
        }),
    }
}

/// `[w1 A1; w2 A2; ...]` and `[B1, B2, ...]`: rank, `A` and `B`.
fn side_by_side(here: &[Factors<'_>], rows: usize) -> (usize, Vec<f32>, Vec<f32>) {
    let rank = here.iter().map(|factors| factors.rank).sum();
    let mut a = Vec::new();
    for factors in here {
        let weight = factors.weight * factors.scale;
        let weighted = |&x: &f32| (f64::from(x) * weight) as f32;
        a.extend(factors.a.floats().iter().map(weighted));
    }
    let mut b = Vec::with_capacity(rows * rank);
    let columns: Vec<_> = here.iter().map(|factors| factors.b.floats()).collect();
    for row in 0..rows {
        for (factors, columns) in here.iter().zip(&columns) {
            b.extend(columns.iter().skip(row * factors.rank).take(factors.rank));
        }
    }
    (rank, a, b)
}

/// `A` and `B` each mixed by themselves, with the root of their weight, whose sign is that of `A`.
fn summed(here: &[Factors<'_>], mix: &mut Mix) -> (usize, Vec<f32>, Vec<f32>) {
    let wide = |array: &Array| array.floats().iter().copied().map(f64::from).collect();
    let narrow = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect();
    let weights = || here.iter().map(|factors| factors.weight * factors.scale);
    let a: Vec<f64> = weights().map(|w| w.abs().sqrt().copysign(w)).collect();
    let b: Vec<f64> = weights().map(|w| w.abs().sqrt()).collect();
    let rank = here.first().map_or(0, |factors| factors.rank);
    let a = mix.of(here.iter().map(|factors| wide(factors.a)).collect(), &a);
    let b = mix.of(here.iter().map(|factors| wide(factors.b)).collect(), &b);
    (rank, narrow(a), narrow(b))
}

/// The largest triplets of the mixed changes `s B A` of each weight: `B = U S`, `A = V^T`.
fn changes(
    at_sites: Vec<(Site, Vec<Factors<'_>>)>,
    rank: usize,
    mix: &mut Mix,
) -> Result<Vec<Combined>, PeftError> {
    let mut mixed = Vec::new();
    for (site, here) in &at_sites {
        let shape = [site.out_features, site.in_features];
        let change = |factors: &Factors<'_>| {
            let mut change = Array::zeros(shape);
            let (array, layout) = (&mut change, Layout::OutIn);
            Weight { array, layout }.add(factors.scale, factors.a, factors.b);
            change.floats().iter().copied().map(f64::from).collect()
        };
        let weights: Vec<f64> = here.iter().map(|factors| factors.weight).collect();
        let sum = mix.of(here.iter().map(change).collect(), &weights);
        mixed.push(Array::new(
            shape,
            sum.into_iter().map(|x| x as f32).collect(),
        ));
    }
    let requests = at_sites.iter().zip(&mixed).map(|((site, _), sum)| {
        Ok(Request {
            matrix: Matrix::of(&site.path, sum, site.out_features, site.in_features)?,
            end: End::Principal,
            k: rank.min(site.max_rank()),
        })
    });
    let requests = requests.collect::<Result<Vec<_>, PeftError>>()?;
    let triplets = triplets_of(&requests, &Options::default(), |_| {})?;
    let sites = at_sites.into_iter().zip(triplets);
    let sites = sites.map(|((site, _), triplets)| {
        let k = triplets.k();
        let rows = triplets.u.chunks_exact(k.max(1));
        let b = rows.flat_map(|row| row.iter().zip(&triplets.s).map(|(u, s)| (u * s) as f32));
        let b = b.collect();
        let columns = (0..k).flat_map(|i| triplets.v.iter().skip(i).step_by(k));
        let a = columns.map(|&v| v as f32).collect();
        (site, k, a, b)
    });
    Ok(sites.collect())
}
