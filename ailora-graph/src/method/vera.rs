//! VeRA: `y = x W^T + b (d (x A^T) B^T)` with frozen random `A` and `B` that all projections share, and
//! trained vectors `d` and `b`.

use super::Method;
use crate::{
    adapter::{
        Adapter, AdapterError, AdapterOption, AdapterParameter, AdapterSpec, Field, Layout, Merged,
        Operands, Peft, Projected, Site, Start, Strategy,
    },
    ir::{Id, ProgramError},
};

/// Vector-based random matrix adaptation.
#[derive(Debug)]
pub struct Vera;

/// The rank in the paper's runs of RoBERTa-large. A vector of it costs as much as a column of LoRA's.
const RANK: usize = 256;

/// What `d` starts from, `b` being 0.
const D_INITIAL: f64 = 0.1;

impl Method for Vera {
    fn name(&self) -> &'static str {
        "vera"
    }

    fn summary(&self) -> &'static str {
        "two trained vectors around random matrices that all projections share"
    }

    fn paper(&self) -> &'static str {
        "Kopiczko et al., VeRA: vector-based random matrix adaptation, 2023"
    }

    fn adapters(&self) -> &'static [&'static dyn Adapter] {
        &[&VECTORS]
    }

    fn spec(&self, _: &Site) -> AdapterSpec {
        constructors::vera(RANK)
    }
}

pub mod constructors {
    use super::{AdapterSpec, VECTORS};

    /// Trained vectors of `rank` and `out` numbers around the random matrices that all such projections
    /// share. They have one rank.
    pub const fn vera(rank: usize) -> AdapterSpec {
        AdapterSpec::adapted(&VECTORS).with_rank(rank)
    }
}

/// The adapter.
pub const VECTORS: Vectors = Vectors;

/// Vectors around shared matrices.
#[derive(Debug)]
pub struct Vectors;

static PEFT: Peft = Peft {
    kind: "VERA",
    fields: &[
        ("r", Field::Rank),
        ("projection_prng_key", Field::DrawSeed),
        ("save_projection", Field::DrawsSaved),
        ("d_initial", Field::Began(D_INITIAL)),
        ("vera_dropout", Field::Began(0.0)),
        ("fan_in_fan_out", Field::Bool(false)),
        ("bias", Field::Text("none")),
        ("init_weights", Field::Bool(true)),
    ],
};

/// What the sites of a model have, as they are declared or in a program.
struct Parts<T> {
    /// `A`, `[r, largest in]`.
    a: T,
    /// `B`, `[largest out, r]`.
    b: T,
    /// `d`, `[r]`.
    inner: T,
    /// `b`, `[out]`.
    outer: T,
}

/// The bound of PEFT's Kaiming-uniform numbers, with its rounding.
fn bound(fan_in: usize) -> f64 {
    3.0_f64.sqrt() * (2.0_f64.sqrt() / (fan_in as f64).sqrt())
}

impl Parts<AdapterParameter> {
    /// The two largest sizes are found apart: they may be of different projections.
    fn of(site: &Site, sites: &[Site]) -> Self {
        let rank = site.spec.rank().unwrap_or_default();
        let own = Strategy::Adapted(&VECTORS);
        let sharing = || sites.iter().filter(|other| other.spec.strategy == own);
        let largest = |size: fn(&Site) -> usize| sharing().map(size).fold(size(site), usize::max);
        let inputs = largest(|site| site.in_features);
        let outputs = largest(|site| site.out_features);
        let drawn = |skip, fan_in| Start::AsPytorch {
            seed: 0,
            skip,
            bound: bound(fan_in),
        };
        let named = |name: &str| format!("{}.vera_lambda_{name}", site.path);
        let out = site.out_features;
        Self {
            a: AdapterParameter::frozen("vera_A".into(), [rank, inputs], drawn(0, inputs)),
            b: AdapterParameter::frozen(
                "vera_B".into(),
                [outputs, rank],
                drawn(rank.saturating_mul(inputs), rank),
            ),
            inner: AdapterParameter::trained(named("d"), [rank], Start::Constant(D_INITIAL as f32)),
            outer: AdapterParameter::trained(named("b"), [out], Start::Constant(0.0)),
        }
    }

    /// In a program, `A` and `B` cut to the projection's size.
    fn in_program(&self, p: &mut Projected<'_>) -> Result<Parts<Id>, ProgramError> {
        let (inputs, outputs) = (p.site.in_features, p.site.out_features);
        let (a, b) = (p.parameter(&self.a)?, p.parameter(&self.b)?);
        Ok(Parts {
            a: p.program.slice(a, 1, 0, inputs)?,
            b: p.program.slice(b, 0, 0, outputs)?,
            inner: p.parameter(&self.inner)?,
            outer: p.parameter(&self.outer)?,
        })
    }
}

impl Parts<Id> {
    /// `diag(b) B diag(d)`, `[out, r]`: the vectors go to the matrix, which is small, and not to the
    /// activations, so that nothing of the activations' size is computed or kept for them.
    fn up(&self, p: &mut Projected<'_>) -> Result<Id, ProgramError> {
        let column = p.program.reshape(self.outer, &[p.site.out_features, 1])?;
        let up = p.program.product(self.b, column)?;
        p.program.product(up, self.inner)
    }
}

impl Adapter for Vectors {
    fn name(&self) -> &'static str {
        "vera"
    }

    fn options(&self) -> &'static [AdapterOption] {
        &[AdapterOption::Rank, AdapterOption::Dropout]
    }

    /// The rank is at least 1; it may exceed the sides of the weight.
    fn check(&self, site: &Site) -> Result<(), AdapterError> {
        match site.spec.rank() {
            None | Some(0) => Err(AdapterError::ZeroRank {
                site: site.path.clone(),
            }),
            Some(_) => Ok(()),
        }
    }

    fn parameters(&self, site: &Site, sites: &[Site]) -> Vec<AdapterParameter> {
        let Parts { a, b, inner, outer } = Parts::of(site, sites);
        vec![a, b, inner, outer]
    }

    /// Projections of one input without dropout have one `x A^T`, since equal nodes are one, and one
    /// gradient towards it.
    fn product(&self, p: &mut Projected<'_>, operands: Operands) -> Result<Id, ProgramError> {
        let frozen = p.frozen_product(operands)?;
        let parts = Parts::of(p.site, p.sites).in_program(p)?;
        let up = parts.up(p)?;
        let input = p.dropped(operands)?;
        let down = p.program.matmul(input, false, parts.a, true)?;
        let added = p.program.matmul(down, false, up, true)?;
        p.program.sum(frozen, added)
    }

    /// `W + diag(b) B diag(d) A`.
    fn merged(
        &self,
        p: &mut Projected<'_>,
        weight: Id,
        bias: Option<Id>,
    ) -> Result<Option<Merged>, ProgramError> {
        let parts = Parts::of(p.site, p.sites).in_program(p)?;
        let up = parts.up(p)?;
        let part = match p.site.layout {
            Layout::OutIn => p.program.matmul(up, false, parts.a, false)?,
            Layout::InOut => p.program.matmul(parts.a, true, up, true)?,
        };
        let weight = p.program.sum(weight, part)?;
        Ok(Some(Merged { weight, bias }))
    }

    fn peft(&self) -> Option<&'static Peft> {
        Some(&PEFT)
    }
}
