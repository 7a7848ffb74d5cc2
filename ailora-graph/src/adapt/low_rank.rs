//! LoRA and its relatives: `y = x (W - s B0 A0)^T + s (x A^T) B^T`.
//!
//! `A0` and `B0` are the frozen start of `A` and `B`, such that `s B0 A0` is the part of `W` that the
//! adapter starts from; a random start has none, as its `B` is zero.

use crate::{
    adapter::{Init, Layout, Site, Strategy},
    ir::{
        Id, Program, ProgramError, Real, Type,
        ops::{dropout::Dropout, matmul::MatMul},
    },
};

/// The parameters of a site's adapter in a program.
struct Factors {
    a: Id,
    b: Id,
    scale: f64,
}

fn trained(p: &mut Program, site: &Site) -> Result<Factors, ProgramError> {
    let rank = site.spec.rank().unwrap_or(0);
    Ok(Factors {
        a: p.trained(&site.lora_a(), Type::f32([rank, site.in_features]))?,
        b: p.trained(&site.lora_b(), Type::f32([site.out_features, rank]))?,
        scale: site.spec.scale().unwrap_or(1.0),
    })
}

/// Whether a product with the site's weight on its right is `x W^T`, as the papers write `W`.
pub(super) fn is_projection(product: MatMul, site: &Site) -> bool {
    !product.trans_a && product.trans_b == (site.layout == Layout::OutIn)
}

/// What such a product of `x` and `weight` becomes.
pub(super) fn project(
    p: &mut Program,
    product: MatMul,
    x: Id,
    weight: Id,
    site: &Site,
) -> Result<Id, ProgramError> {
    let weight = as_rows(p, product, weight)?;
    let residual = residual(p, weight, site, Layout::OutIn)?;
    let frozen = p.matmul(x, false, residual, true)?;
    let factors = trained(p, site)?;
    let mut x = x;
    if site.spec.dropout > 0.0 {
        let dropout = Dropout {
            rate: Real(site.spec.dropout),
            stream: site.path.as_str().into(),
        };
        x = p.add(dropout, &[x])?;
    }
    let down = p.matmul(x, false, factors.a, true)?;
    let down = p.scale(down, factors.scale)?;
    let up = p.matmul(down, false, factors.b, true)?;
    p.sum(frozen, up)
}

/// A projection by a frozen weight beside adapted ones.
pub(super) fn project_frozen(
    p: &mut Program,
    product: MatMul,
    x: Id,
    weight: Id,
) -> Result<Id, ProgramError> {
    let weight = as_rows(p, product, weight)?;
    p.matmul(x, false, weight, true)
}

/// A projection's weight as rows of output features, as `A` and `B` lie too, so that they can be
/// fused. Turning one that lies the other way is done once, before training.
fn as_rows(p: &mut Program, product: MatMul, weight: Id) -> Result<Id, ProgramError> {
    if product.trans_b {
        Ok(weight)
    } else {
        p.transpose(weight)
    }
}

/// `W - s B0 A0`, in a layout.
fn residual(p: &mut Program, weight: Id, site: &Site, layout: Layout) -> Result<Id, ProgramError> {
    let Strategy::LowRank { init, rank } = site.spec.strategy else {
        return Ok(weight);
    };
    if init == Init::Random {
        return Ok(weight);
    }
    let start = Factors {
        a: p.frozen(&site.lora_a0(), Type::f32([rank, site.in_features]))?,
        b: p.frozen(&site.lora_b0(), Type::f32([site.out_features, rank]))?,
        scale: site.spec.scale().unwrap_or(1.0),
    };
    let part = part(p, &start, layout)?;
    p.difference(weight, part)
}

/// `W - s B0 A0 + s B A`: the weight that the adapted projection multiplies by.
pub(super) fn merged(p: &mut Program, weight: Id, site: &Site) -> Result<Id, ProgramError> {
    let residual = residual(p, weight, site, site.layout)?;
    let factors = trained(p, site)?;
    let part = part(p, &factors, site.layout)?;
    p.sum(residual, part)
}

/// `s B A` as `[out, in]`, or its transpose.
fn part(p: &mut Program, factors: &Factors, layout: Layout) -> Result<Id, ProgramError> {
    let product = match layout {
        Layout::OutIn => p.matmul(factors.b, false, factors.a, false)?,
        Layout::InOut => p.matmul(factors.a, true, factors.b, true)?,
    };
    p.scale(product, factors.scale)
}
