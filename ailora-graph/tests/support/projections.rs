//! Projections of one input, adapted, with their gradients: the regions that fusion is about.
#![allow(dead_code, reason = "each test file uses its part")]

use ailora_graph::{
    AdapterSpec, Scaling, Trainable,
    adapt::{Mode, adapt},
    adapter::{Layout, Site},
    grad::gradients,
    hoist::hoist,
    ir::{Program, Type, ops::reduce::Reduce},
    method::constructors::{frozen, principal, random},
};

/// A projection of the common input.
#[derive(Clone, Copy, Debug)]
pub struct Projection {
    /// Its output features.
    pub out: usize,
    /// The rank of its adapter, if it has one.
    pub rank: Option<usize>,
    /// The numerator of its scale.
    pub alpha: f64,
    /// Dropout on the adapter's input.
    pub dropout: f64,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether its adapter has magnitudes.
    pub dora: bool,
}

impl Projection {
    /// A projection without an adapter.
    pub fn frozen(out: usize) -> Self {
        Self {
            out,
            rank: None,
            alpha: 1.0,
            dropout: 0.0,
            bias: false,
            dora: false,
        }
    }

    /// A projection with an adapter of scale 1.
    pub fn adapted(out: usize, rank: usize) -> Self {
        Self {
            rank: Some(rank),
            alpha: rank as f64,
            ..Self::frozen(out)
        }
    }
}

/// `y_i = x W_i` of `rows` rows, and, if `training`, the gradients of `sum(y_i g_i)`, towards a
/// parameter that `x` depends on too.
pub fn program(
    rows: usize,
    inner: usize,
    projections: &[Projection],
    layout: Layout,
    training: bool,
) -> Program {
    let mut p = Program::new();
    let x0 = p.input("x", Type::f32([rows, inner])).unwrap();
    let shift = p.trained("shift", Type::f32([inner])).unwrap();
    let x = p.sum(x0, shift).unwrap();
    let mut sites = Vec::new();
    let mut loss = p.constant(0.0);
    for (i, projection) in projections.iter().enumerate() {
        let (shape, transposed) = match layout {
            Layout::OutIn => ([projection.out, inner], true),
            Layout::InOut => ([inner, projection.out], false),
        };
        let name = format!("p{i}.weight");
        let weight = p.frozen(&name, Type::f32(shape)).unwrap();
        let mut y = p.matmul(x, false, weight, transposed).unwrap();
        if projection.bias {
            let bias = p
                .frozen(&format!("p{i}.bias"), Type::f32([projection.out]))
                .unwrap();
            y = p.sum(y, bias).unwrap();
        }
        p.set_output(format!("y{i}"), y);
        let g = p
            .input(&format!("g{i}"), Type::f32([rows, projection.out]))
            .unwrap();
        let weighted = p.product(y, g).unwrap();
        let sum = p.add(Reduce::sum([0, 1]), &[weighted]).unwrap();
        let sum = p.reshape(sum, &[]).unwrap();
        loss = p.sum(loss, sum).unwrap();
        let base = match projection.rank {
            Some(rank) if i % 2 == 0 => principal(rank),
            Some(rank) => random(rank),
            None => frozen(),
        };
        sites.push(Site {
            path: format!("p{i}"),
            weight: name,
            bias: None,
            in_features: inner,
            out_features: projection.out,
            layout,
            spec: AdapterSpec {
                alpha: Some(projection.alpha),
                scaling: Scaling::Classic,
                dropout: projection.dropout,
                dora: projection.dora,
                ..base
            },
        });
    }
    p.set_output("loss", loss);
    let adapted = adapt(&p, &sites, &Trainable::Adapters, Mode::Train).unwrap();
    let step = if training {
        gradients(&adapted, "loss").unwrap()
    } else {
        adapted
    };
    hoist(&step).unwrap().step
}
