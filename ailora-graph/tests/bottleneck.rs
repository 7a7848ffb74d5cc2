//! Where bottlenecks go in a block, with its dropout, and their derivatives.

use ailora_graph::{
    Module, Visitor,
    adapt::{Mode, adapt},
    adapter::{AdapterSpec, Site, Trainable},
    grad::gradients,
    ir::{
        Bindings, Draw, Id, Op, Program, Real, Tensor, Type,
        ops::{dropout::Dropout, elementwise::Unary, normalize::Normalize},
    },
    method::constructors::{houlsby, pfeiffer},
    nn::{Cx, LayerNorm, Linear},
};

const ROWS: usize = 5;
const WIDTH: usize = 4;
const RATE: f64 = 0.3;
const EPS: f64 = 1e-5;

/// A block that begins with one norm, or ends with the other. What begins with a norm here is the last
/// block of a decoder, behind which there is one too.
#[derive(Module)]
struct Block {
    before: LayerNorm,
    dense: Linear,
    norm: LayerNorm,
}

fn block(spec: AdapterSpec, is_pre_norm: bool) -> (Program, Vec<Site>) {
    let cx = Cx::training();
    let block = Block {
        before: LayerNorm::new(&cx, WIDTH, EPS),
        dense: Linear::new(&cx, WIDTH, WIDTH, true),
        norm: LayerNorm::new(&cx, WIDTH, EPS),
    };
    let x = cx.input("x", Type::f32([ROWS, WIDTH]));
    let read = match is_pre_norm {
        true => block.before.forward(&x),
        false => x.clone(),
    };
    let output = block.dense.forward(&read).dropout(RATE);
    let y = block.norm.forward(&(&output + &x));
    let program = cx.program(&block, &[("y", &y)]).unwrap();
    let (_, mut sites) = Visitor::inventory(&block);
    sites[0].spec = spec;
    (program, sites)
}

/// Numbers fixed by a name, none of them near zero on average.
fn bindings(program: &Program) -> Bindings {
    let leaves = program
        .inputs()
        .chain(program.frozen_parameters())
        .chain(program.trained_parameters());
    let normal = |name: &str, shape: &[usize]| {
        let key = Draw::default().key(name);
        let count = shape.iter().product::<usize>() as u64;
        let data: Vec<f64> = (0..count).map(|i| key.normal(i)).collect();
        Tensor::new(shape.to_vec(), data)
    };
    leaves
        .map(|leaf| (leaf.name.to_string(), normal(&leaf.name, &leaf.ty.shape)))
        .collect()
}

/// A block with an adapter, written by hand.
struct Written<'a> {
    p: &'a mut Program,
}

impl Written<'_> {
    fn parameter(&mut self, name: &str, shape: &[usize]) -> Id {
        self.p.frozen(name, Type::f32(shape.to_vec())).unwrap()
    }

    fn linear(&mut self, x: Id, name: &str, [out, inputs]: [usize; 2]) -> Id {
        let weight = self.parameter(&format!("{name}.weight"), &[out, inputs]);
        let bias = self.parameter(&format!("{name}.bias"), &[out]);
        let product = self.p.matmul(x, false, weight, true).unwrap();
        self.p.sum(product, bias).unwrap()
    }

    fn adapter(&mut self, x: Id, swish: bool) -> Id {
        let inner = self.linear(x, "dense.adapter_down", [2, WIDTH]);
        let inner = match swish {
            true => {
                let sigmoid = self.p.unary(Unary::Sigmoid, inner).unwrap();
                self.p.product(inner, sigmoid).unwrap()
            }
            false => self.p.unary(Unary::Relu, inner).unwrap(),
        };
        self.linear(inner, "dense.adapter_up", [WIDTH, 2])
    }

    fn norm(&mut self, x: Id, name: &str) -> Id {
        let normalize = Normalize {
            centered: true,
            eps: Real(EPS),
        };
        let x = self.p.add(normalize, &[x]).unwrap();
        let weight = self.parameter(&format!("{name}.weight"), &[WIDTH]);
        let bias = self.parameter(&format!("{name}.bias"), &[WIDTH]);
        let scaled = self.p.product(x, weight).unwrap();
        self.p.sum(scaled, bias).unwrap()
    }
}

fn dropout(program: &Program) -> Dropout {
    let ids = program.ids();
    let mut dropouts = ids.filter_map(|id| match &program[id].op {
        Op::Dropout(dropout) => Some(dropout.clone()),
        _ => None,
    });
    dropouts.next().unwrap()
}

/// Dropout, the adapter, the residual, the norm, in this order (AdapterHub's `BertSelfOutput`).
#[test]
fn bottlenecks_stand_between_dropout_and_residual() {
    for (spec, swish, is_pre_norm) in [
        (houlsby(2), true, false),
        (houlsby(2), true, true),
        (pfeiffer(2), false, false),
        (pfeiffer(2), false, true),
    ] {
        let (program, sites) = block(spec, is_pre_norm);
        let adapted = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
        let mut expected = Program::new();
        let mut written = Written { p: &mut expected };
        let x = written.p.input("x", Type::f32([ROWS, WIDTH])).unwrap();
        let read = match is_pre_norm {
            true => written.norm(x, "before"),
            false => x,
        };
        let dense = written.linear(read, "dense", [WIDTH, WIDTH]);
        let dropped = written.p.add(dropout(&program), &[dense]).unwrap();
        let sum = written.p.sum(dropped, x).unwrap();
        let read = match (swish, is_pre_norm) {
            (true, _) => dropped,
            (false, true) => sum,
            (false, false) => written.norm(sum, "norm"),
        };
        let added = written.adapter(read, swish);
        let output = written.p.sum(added, dropped).unwrap();
        let sum = written.p.sum(output, x).unwrap();
        let y = written.norm(sum, "norm");
        expected.set_output("y", y);

        let bindings = bindings(&adapted);
        for step in 0..3 {
            let draw = Draw { seed: 7, step };
            let [found, expected] =
                [&adapted, &expected].map(|p| p.eval(&bindings, draw).unwrap()["y"].data.clone());
            let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-12;
            assert!(
                found.iter().zip(&expected).all(close),
                "{spec:?} {is_pre_norm}"
            );
        }
    }
}

#[test]
fn gradients_are_central_differences() {
    for spec in [houlsby(2), pfeiffer(2)] {
        let (program, sites) = block(spec, false);
        let mut adapted = adapt(
            &program,
            &sites,
            &Trainable::Parameters(vec!["*.bias".into()]),
            Mode::Train,
        )
        .unwrap();
        let y = adapted.outputs()["y"];
        let tanh = adapted.unary(Unary::Tanh, y).unwrap();
        let weighted = adapted.product(tanh, y).unwrap();
        let loss = adapted.sum_to(weighted, &[]).unwrap();
        adapted.set_output("loss", loss);
        let step = gradients(&adapted, "loss").unwrap();
        let bindings = bindings(&step);
        let draw = Draw { seed: 3, step: 1 };
        let outputs = step.eval(&bindings, draw).unwrap();
        let trained: Vec<String> = step
            .trained_parameters()
            .map(|leaf| leaf.name.to_string())
            .collect();
        // Four of the adapter, and the biases of the projection and of the norm behind it.
        assert_eq!(trained.len(), 6, "{trained:?}");
        for name in trained {
            let found = &outputs[&*format!("grad.{name}")].data;
            for (i, &found) in found.iter().enumerate() {
                let loss = |h: f64| {
                    let mut bindings = bindings.clone();
                    bindings.get_mut(&name).unwrap().data[i] += h;
                    adapted.eval(&bindings, draw).unwrap()["loss"].data[0]
                };
                let expected = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                let near = (found - expected).abs() <= 1e-6 * expected.abs().max(1.0);
                assert!(near, "{name} {i}: {found} is not {expected}");
            }
            assert!(found.iter().any(|x| x.abs() > 1e-2), "{name}");
        }
    }
}
