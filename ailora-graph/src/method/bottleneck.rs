//! Bottlenecks behind the blocks of a layer: `y + W_up f(W_down x + b_down) + b_up`.

use crate::{
    adapter::{
        Adapter, AdapterError, AdapterOption, AdapterParameter, Field, Operands, Peft, Place,
        Projected, Site, Start,
    },
    ir::{Id, ProgramError, ops::elementwise::Unary},
};

/// A bottleneck between a block's output `y` and its residual. What is said of it is its width, the
/// option `rank`.
#[derive(Debug)]
pub struct Bottleneck {
    name: &'static str,
    place: Place,
    activation: Activation,
    /// How it is saved. PEFT has no such adapter, and refuses the folder by its `peft_type`.
    form: &'static Peft,
}

/// Swish, of the block's output (Houlsby et al., 2019, as AdapterHub has it in `double_seq_bn`).
pub(super) const HOULSBY: Bottleneck = Bottleneck {
    name: "houlsby",
    place: Place::Sublayer,
    activation: Activation::Swish,
    form: &Peft {
        kind: "HOULSBY",
        fields: &fields("swish"),
    },
};

/// Relu, of what the block would give without it (Pfeiffer et al., 2020, as AdapterHub has it in
/// `seq_bn`).
pub(super) const PFEIFFER: Bottleneck = Bottleneck {
    name: "pfeiffer",
    place: Place::Residual,
    activation: Activation::Relu,
    form: &Peft {
        kind: "PFEIFFER",
        fields: &fields("relu"),
    },
};

/// The width that the methods start from.
pub(super) const WIDTH: usize = 64;

/// The deviation of the weights' start, that of AdapterHub's default `init_weights="bert"`.
const DEVIATION: f64 = 0.02;

/// The function between the two projections.
#[derive(Clone, Copy, Debug)]
enum Activation {
    Relu,
    /// `x sigmoid(x)`
    Swish,
}

/// What its folder says beside its kind.
const fn fields(non_linearity: &'static str) -> [(&'static str, Field); 4] {
    [
        ("width", Field::Rank),
        ("non_linearity", Field::Text(non_linearity)),
        ("bias", Field::Biases),
        ("width_pattern", Field::Ranks),
    ]
}

/// What a site's adapter has.
struct Parameters {
    down: [AdapterParameter; 2],
    up: [AdapterParameter; 2],
}

impl Parameters {
    fn of(site: &Site) -> Self {
        let (width, features) = (site.spec.rank().unwrap_or_default(), site.out_features);
        let linear = |name: &str, outputs: usize, inputs: usize| {
            let named = |part| format!("{}.adapter_{name}.{part}", site.path);
            let deviation = DEVIATION;
            let weight = Start::Normal { deviation };
            [
                AdapterParameter::trained(named("weight"), [outputs, inputs], weight),
                AdapterParameter::trained(named("bias"), [outputs], Start::Constant(0.0)),
            ]
        };
        Self {
            down: linear("down", width, features),
            up: linear("up", features, width),
        }
    }
}

/// `x W^T + b`
fn linear(
    p: &mut Projected<'_>,
    [weight, bias]: &[AdapterParameter; 2],
    x: Id,
) -> Result<Id, ProgramError> {
    let (weight, bias) = (p.parameter(weight)?, p.parameter(bias)?);
    let product = p.program.matmul(x, false, weight, true)?;
    p.program.sum(product, bias)
}

impl Adapter for Bottleneck {
    fn name(&self) -> &'static str {
        self.name
    }

    fn options(&self) -> &'static [AdapterOption] {
        &[AdapterOption::Rank]
    }

    /// The width is at least 1.
    fn check(&self, site: &Site) -> Result<(), AdapterError> {
        match site.spec.rank() {
            None | Some(0) => Err(AdapterError::ZeroRank {
                site: site.path.clone(),
            }),
            Some(_) => Ok(()),
        }
    }

    fn parameters(&self, site: &Site, _: &[Site]) -> Vec<AdapterParameter> {
        let Parameters { down, up } = Parameters::of(site);
        down.into_iter().chain(up).collect()
    }

    fn place(&self) -> Place {
        self.place
    }

    fn output(
        &self,
        p: &mut Projected<'_>,
        operands: Operands,
        output: Id,
    ) -> Result<Id, ProgramError> {
        let Parameters { down, up } = Parameters::of(p.site);
        let input = operands.block.unwrap_or(output);
        let inner = linear(p, &down, input)?;
        let inner = match self.activation {
            Activation::Relu => p.program.unary(Unary::Relu, inner)?,
            Activation::Swish => {
                let sigmoid = p.program.unary(Unary::Sigmoid, inner)?;
                p.program.product(inner, sigmoid)?
            }
        };
        let added = linear(p, &up, inner)?;
        p.program.sum(added, output)
    }

    fn peft(&self) -> Option<&'static Peft> {
        Some(self.form)
    }
}
