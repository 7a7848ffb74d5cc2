//! IA3: trained vectors that scale what projections put out, or what they read.

use super::Method;
use crate::{
    adapter::{
        Adapter, AdapterParameter, AdapterSpec, Field, Layout, Merged, Operands, Peft, Projected,
        Role, Site, Start,
    },
    ir::{Id, ProgramError},
};

/// Infused adapter by inhibiting and amplifying inner activations.
#[derive(Debug)]
pub struct Ia3;

impl Method for Ia3 {
    fn name(&self) -> &'static str {
        "ia3"
    }

    fn summary(&self) -> &'static str {
        "a vector that scales keys, values and what is between the feed-forward projections"
    }

    fn paper(&self) -> &'static str {
        "Liu et al., Few-shot parameter-efficient fine-tuning is better and cheaper than in-context \
         learning, 2022"
    }

    fn adapters(&self) -> &'static [&'static dyn Adapter] {
        &[&OUTPUT, &INPUT]
    }

    /// Keys, values and the last projection of feed-forward blocks, annotated or not; of a model whose
    /// projections have no such roles those that are annotated.
    fn adapts(&self, site: &Site) -> bool {
        match site.role() {
            Some(role) => matches!(role, Role::K | Role::V | Role::Down),
            None => site.is_adapted(),
        }
    }

    fn spec(&self, site: &Site) -> AdapterSpec {
        match site.role() {
            Some(Role::Down) => constructors::ia3_input(),
            _ => constructors::ia3(),
        }
    }
}

pub mod constructors {
    use super::{AdapterSpec, INPUT, OUTPUT};

    /// A trained factor for each number that the projection puts out.
    pub const fn ia3() -> AdapterSpec {
        AdapterSpec::adapted(&OUTPUT)
    }

    /// A trained factor for each number that the projection reads, as for the last projection of a
    /// feed-forward block.
    pub const fn ia3_input() -> AdapterSpec {
        AdapterSpec::adapted(&INPUT)
    }
}

/// Scales `y`: `l (x W^T + b)`.
pub const OUTPUT: Scaled = Scaled {
    name: "ia3",
    scales_input: false,
    peft: &Peft {
        kind: "IA3",
        fields: &[
            ("feedforward_modules", Field::Among(false)),
            ("fan_in_fan_out", Field::Bool(false)),
            ("init_ia3_weights", Field::Bool(true)),
        ],
    },
};

/// Scales `x`: `(l x) W^T + b`.
pub const INPUT: Scaled = Scaled {
    name: "ia3_input",
    scales_input: true,
    peft: &Peft {
        kind: "IA3",
        fields: &[
            ("feedforward_modules", Field::Among(true)),
            ("fan_in_fan_out", Field::Bool(false)),
            ("init_ia3_weights", Field::Bool(true)),
        ],
    },
};

/// A projection with one of its sides scaled.
#[derive(Debug)]
pub struct Scaled {
    name: &'static str,
    scales_input: bool,
    peft: &'static Peft,
}

impl Scaled {
    /// `l`, which PEFT keeps as `[out, 1]`, or as `[1, in]`.
    fn scale(&self, site: &Site) -> AdapterParameter {
        let shape = match self.scales_input {
            true => [1, site.in_features],
            false => [site.out_features, 1],
        };
        let name = format!("{}.ia3_l", site.path);
        AdapterParameter::trained(name, shape, Start::Constant(1.0))
    }

    /// `l` in a program, as a vector.
    fn vector(&self, p: &mut Projected<'_>) -> Result<Id, ProgramError> {
        let scale = self.scale(p.site);
        let id = p.parameter(&scale)?;
        p.program.reshape(id, &[scale.count()])
    }
}

impl Adapter for Scaled {
    fn name(&self) -> &'static str {
        self.name
    }

    fn parameters(&self, site: &Site, _: &[Site]) -> Vec<AdapterParameter> {
        vec![self.scale(site)]
    }

    fn product(&self, p: &mut Projected<'_>, operands: Operands) -> Result<Id, ProgramError> {
        if !self.scales_input {
            return p.frozen_product(operands);
        }
        let scale = self.vector(p)?;
        let input = p.program.product(operands.input, scale)?;
        p.frozen_product(Operands { input, ..operands })
    }

    fn output(&self, p: &mut Projected<'_>, _: Operands, output: Id) -> Result<Id, ProgramError> {
        if self.scales_input {
            return Ok(output);
        }
        let scale = self.vector(p)?;
        p.program.product(output, scale)
    }

    /// `diag(l) W` and `l b`, or `W diag(l)` and `b`.
    fn merged(
        &self,
        p: &mut Projected<'_>,
        weight: Id,
        bias: Option<Id>,
    ) -> Result<Option<Merged>, ProgramError> {
        let vector = self.vector(p)?;
        let along_rows = self.scales_input == (p.site.layout == Layout::OutIn);
        let factor = match along_rows {
            true => vector,
            false => {
                let rows = p.program.shape(vector).to_vec();
                p.program.reshape(vector, &[&rows[..], &[1]].concat())?
            }
        };
        let weight = p.program.product(weight, factor)?;
        let bias = match bias {
            Some(bias) if !self.scales_input => Some(p.program.product(bias, vector)?),
            bias => bias,
        };
        Ok(Some(Merged { weight, bias }))
    }

    fn peft(&self) -> Option<&'static Peft> {
        Some(self.peft)
    }
}
