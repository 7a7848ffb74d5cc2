//! LoRA+, OLoRA, MiCA, LoRA-FA, VeRA and IA3 by their definitions: values, gradients, starts, what is merged
//! and what is saved. `methods.rs` has them beside PEFT.

#[path = "../support/mod.rs"]
mod support;

mod factors;
mod ia3;
mod lora_fa;
mod lora_plus;
mod saved;
mod types;
mod vera;

use std::collections::HashMap;

use ailora_graph::{
    AdapterSpec,
    adapt::{Mode, adapt},
    adapter::{Layout, Site, Trainable},
    grad,
    ir::{Bindings, Draw, Program, Tensor, Type},
    method::constructors::{ia3, ia3_input, mica, olora, random, random_frozen, vera},
};
use ailora_models::peft::Adapter;
use ailora_runtime::{
    init::initialise,
    spectrum::Options,
    store::{Array, Params},
};
use support::largest_difference;

/// One projection of each layout, with a bias.
fn site(path: &str, [out, inputs]: [usize; 2], layout: Layout, spec: AdapterSpec) -> Site {
    Site {
        path: path.into(),
        weight: format!("{path}.weight"),
        bias: Some(format!("{path}.bias")),
        in_features: inputs,
        out_features: out,
        layout,
        spec,
    }
}

fn lying(site: &Site) -> [usize; 2] {
    match site.layout {
        Layout::OutIn => [site.out_features, site.in_features],
        Layout::InOut => [site.in_features, site.out_features],
    }
}

/// `y = x W^T + b` of each site by itself, and the sum of the squares of all.
fn program(sites: &[Site], rows: usize) -> Program {
    let mut p = Program::new();
    let mut total = p.constant(0.0);
    for site in sites {
        let input = format!("x.{}", site.path);
        let x = p
            .input(&input, Type::f32([rows, site.in_features]))
            .unwrap();
        let weight = p.frozen(&site.weight, Type::f32(lying(site))).unwrap();
        let bias = p.frozen(site.bias.as_ref().unwrap(), Type::f32([site.out_features]));
        let y = p
            .matmul(x, false, weight, site.layout == Layout::OutIn)
            .unwrap();
        let y = p.sum(y, bias.unwrap()).unwrap();
        let squares = p.product(y, y).unwrap();
        let loss = p.sum_to(squares, &[]).unwrap();
        total = p.sum(total, loss).unwrap();
        p.set_output(format!("y.{}", site.path), y);
    }
    p.set_output("loss", total);
    p
}

/// Normal numbers fixed by a name.
fn normal(name: &str, shape: &[usize]) -> Array {
    let key = Draw::default().key(name);
    let numbers = 0..shape.iter().product::<usize>() as u64;
    Array::new(shape, numbers.map(|i| key.normal(i) as f32).collect())
}

/// Weights and biases of the sites, with their adapters at their starts.
fn started(sites: &[Site], seed: u64) -> Params {
    let mut params = Params::new();
    for site in sites {
        params.insert(site.weight.clone(), normal(&site.weight, &lying(site)));
        let bias = site.bias.clone().unwrap();
        params.insert(bias.clone(), normal(&bias, &[site.out_features]));
    }
    initialise(sites, &mut params, seed, &Options::default(), |_| {}).unwrap();
    params
}

/// What trains, moved.
fn moved(sites: &[Site], params: &Params) -> Params {
    let mut params = params.clone();
    for (name, _) in Trainable::Adapters.rates(sites, []) {
        let shape = params[&name].shape().to_vec();
        let step = normal(&format!("step.{name}"), &shape);
        let (own, step) = (params[&name].floats().into_owned(), step.into_floats());
        let numbers = own.into_iter().zip(step).map(|(x, step)| x + 0.3 * step);
        let numbers = numbers.collect();
        params.insert(name, Array::new(shape, numbers));
    }
    params
}

fn bindings(program: &Program, params: &Params) -> Bindings {
    let leaves = program.inputs().chain(program.frozen_parameters());
    let leaves = leaves.chain(program.trained_parameters());
    let tensor = |name: &str, shape: &[usize]| {
        let own = params
            .get(name)
            .cloned()
            .unwrap_or_else(|| normal(name, shape));
        Tensor::new(
            shape.to_vec(),
            own.floats()
                .iter()
                .copied()
                .map(f64::from)
                .collect::<Vec<_>>(),
        )
    };
    let bound = leaves.map(|leaf| (leaf.name.to_string(), tensor(&leaf.name, &leaf.ty.shape)));
    bound.collect()
}

fn values(program: &Program, params: &Params) -> HashMap<String, Vec<f64>> {
    let outputs = program
        .eval(&bindings(program, params), Draw::default())
        .unwrap();
    let outputs = outputs.into_iter();
    outputs
        .map(|(name, tensor)| (name.to_string(), tensor.data.to_vec()))
        .collect()
}

fn near(found: &[f64], expected: &[f64], tolerance: f64) -> bool {
    largest_difference(found, expected) <= tolerance
}

/// All of them, where two projections share what is shared.
fn all() -> Vec<AdapterSpec> {
    vec![
        vera(2).with_dropout(0.0),
        ia3(),
        ia3_input(),
        olora(2).with_alpha(3.0),
        mica(2).with_alpha(3.0),
        random_frozen(2).with_alpha(3.0),
        random(2).with_b_lr(16.0),
    ]
}

fn pair(spec: AdapterSpec) -> Vec<Site> {
    vec![
        site("a", [3, 5], Layout::OutIn, spec),
        site("b", [4, 2], Layout::InOut, spec),
    ]
}

fn adapted(sites: &[Site], mode: Mode) -> Program {
    adapt(&program(sites, 4), sites, &Trainable::Adapters, mode).unwrap()
}

/// At its start it computes what the projection does, later what its merged weight does, and its base
/// stays as it is.
#[test]
fn starts_change_nothing_and_merged_is_unmerged() {
    for spec in all() {
        let sites = pair(spec);
        let start = started(&sites, 3);
        let plain = values(&program(&sites, 4), &start);
        let found = adapted(&sites, Mode::Infer);
        for site in &sites {
            let name = format!("y.{}", site.path);
            assert!(
                near(&values(&found, &start)[&name], &plain[&name], 1e-5),
                "{spec:?}"
            );
            assert!(start[&site.weight].same_values(&normal(&site.weight, &lying(site))));
        }
        let params = moved(&sites, &start);
        let expected = values(&found, &params);
        let mut adapter = Adapter::default();
        for site in &sites {
            adapter.sites.insert(site.path.clone(), site.clone());
        }
        adapter.tensors = params.clone();
        adapter
            .tensors
            .retain(|name, _| !name.ends_with("weight") || name.contains("lora"));
        adapter.tensors.retain(|name, _| !name.ends_with("bias"));
        let mut merged = params.clone();
        adapter.merge_into(&mut merged).unwrap();
        let found = values(&program(&sites, 4), &merged);
        for site in &sites {
            let name = format!("y.{}", site.path);
            assert!(near(&found[&name], &expected[&name], 1e-5), "{spec:?}");
            assert!(!near(&found[&name], &plain[&name], 1e-2), "{spec:?}");
        }
    }
}

/// Gradients, but for LoRA-FA's, which are these times what is between.
#[test]
fn gradients_are_central_differences() {
    for spec in all() {
        let sites = pair(spec);
        let params = moved(&sites, &started(&sites, 0));
        let forward = adapted(&sites, Mode::Train);
        let step = grad::step(&forward, "loss").unwrap();
        let bound = bindings(&step, &params);
        let found = step.eval(&bound, Draw::default()).unwrap();
        let rates = Trainable::Adapters.rates(&sites, []);
        assert_eq!(found.len(), rates.len() + 1, "{spec:?}");
        for (name, _) in rates {
            let found = &found[&*format!("grad.{name}")];
            for (i, &found) in found.data.iter().enumerate() {
                let loss = |h: f64| {
                    let mut bound = bound.clone();
                    bound.get_mut(&name).unwrap().data[i] += h;
                    forward.eval(&bound, Draw::default()).unwrap()["loss"].data[0]
                };
                let expected = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                let near = (found - expected).abs() <= 1e-6 * expected.abs().max(1.0);
                assert!(near, "{name}: {found} is not {expected}");
            }
        }
    }
}
