//! LoRA and its relatives: `y = x (W - s B0 A0)^T + s (x A^T) B^T`.
//!
//! `A0` and `B0` are the frozen start of `A` and `B`, such that `s B0 A0` is the part of `W` that the
//! adapter starts from; a random start has none, as its `B` is zero.

use super::Mode;
use crate::{
    adapter::{Init, Layout, Site, Strategy},
    ir::{
        Id, Program, ProgramError, Real, Type,
        ops::{dropout::Dropout, matmul::MatMul},
    },
};

/// A site with a low-rank adapter.
#[derive(Clone, Copy)]
pub(super) struct LowRank<'a> {
    pub site: &'a Site,
    init: Init,
    rank: usize,
    scale: f64,
}

/// The parameters of a site's adapter in a program.
struct Factors {
    a: Id,
    b: Id,
}

/// Whether a product with the site's weight on its right is `x W^T`, as the papers write `W`.
pub(super) fn is_projection(product: MatMul, site: &Site) -> bool {
    !product.trans_a && product.trans_b == (site.layout == Layout::OutIn)
}

impl<'a> LowRank<'a> {
    /// The adapter of a site, if it is a low-rank one.
    pub fn of(site: &'a Site) -> Option<Self> {
        let Strategy::LowRank { init, rank } = site.spec.strategy else {
            return None;
        };
        Some(Self {
            site,
            init,
            rank,
            scale: site.spec.scale()?,
        })
    }

    /// What a product of `x` and `weight` becomes.
    pub fn project(
        &self,
        p: &mut Program,
        product: MatMul,
        x: Id,
        weight: Id,
        mode: Mode,
    ) -> Result<Id, ProgramError> {
        let weight = as_rows(p, product, weight)?;
        let residual = self.residual(p, weight, Layout::OutIn)?;
        let frozen = p.matmul(x, false, residual, true)?;
        let factors = self.trained(p)?;
        let mut x = x;
        if mode == Mode::Train && self.site.spec.dropout > 0.0 {
            let dropout = Dropout {
                rate: Real(self.site.spec.dropout),
                stream: self.site.path.as_str().into(),
            };
            x = p.add(dropout, &[x])?;
        }
        let down = p.matmul(x, false, factors.a, true)?;
        let down = p.scale(down, self.scale)?;
        let up = p.matmul(down, false, factors.b, true)?;
        p.sum(frozen, up)
    }

    /// `W - s B0 A0 + s B A`: the weight that the adapted projection multiplies by.
    pub fn merged(&self, p: &mut Program, weight: Id) -> Result<Id, ProgramError> {
        let residual = self.residual(p, weight, self.site.layout)?;
        let factors = self.trained(p)?;
        let part = self.part(p, &factors, self.site.layout)?;
        p.sum(residual, part)
    }

    /// `W - s B0 A0`, in a layout.
    fn residual(&self, p: &mut Program, weight: Id, layout: Layout) -> Result<Id, ProgramError> {
        if self.init == Init::Random {
            return Ok(weight);
        }
        let [a, b] = self.shapes();
        let start = Factors {
            a: p.frozen(&self.site.lora_a0(), a)?,
            b: p.frozen(&self.site.lora_b0(), b)?,
        };
        let part = self.part(p, &start, layout)?;
        p.difference(weight, part)
    }

    fn trained(&self, p: &mut Program) -> Result<Factors, ProgramError> {
        let [a, b] = self.shapes();
        Ok(Factors {
            a: p.trained(&self.site.lora_a(), a)?,
            b: p.trained(&self.site.lora_b(), b)?,
        })
    }

    /// Of `A` and `B`.
    fn shapes(&self) -> [Type; 2] {
        [
            Type::f32([self.rank, self.site.in_features]),
            Type::f32([self.site.out_features, self.rank]),
        ]
    }

    /// `s B A` as `[out, in]`, or its transpose.
    fn part(&self, p: &mut Program, factors: &Factors, layout: Layout) -> Result<Id, ProgramError> {
        let product = match layout {
            Layout::OutIn => p.matmul(factors.b, false, factors.a, false)?,
            Layout::InOut => p.matmul(factors.a, true, factors.b, true)?,
        };
        p.scale(product, self.scale)
    }
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
