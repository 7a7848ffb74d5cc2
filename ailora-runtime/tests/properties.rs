//! The plan and the CPU backend against the float64 interpreter, on random programs.

#[path = "../../ailora-graph/tests/support/programs.rs"]
mod programs;
#[path = "../../ailora-graph/tests/support/mod.rs"]
mod support;

use ailora_graph::{
    grad::gradients,
    hoist::hoist,
    ir::{Bindings, DType, Draw, Name, Program},
};
use ailora_runtime::{
    cpu::{Cpu, Value},
    plan::plan,
    store::{Array, Params},
};
use indexmap::IndexMap;
use programs::{program, recipes, with_loss};
use proptest::{prelude::*, test_runner::RngSeed};
use support::{bind, normal};

const DRAW: Draw = Draw { seed: 3, step: 5 };

fn config(cases: u32) -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(std::env::var("S").map_or(23, |s| s.parse().unwrap()));
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

/// The values of a leaf, as the backend takes them.
enum Input {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

/// Random values for a program, as float32 resolves them, so that both sides start from the same.
fn bound(program: &Program) -> Bindings {
    let mut bindings = Bindings::new();
    bind(program, &mut bindings);
    bindings.values_mut().for_each(|value| *value = value.map(|x| f64::from(x as f32)));
    bindings
}

/// How much each output may differ: a fixed part of its largest element, and what values that are
/// off by a few float32 roundings make of it, as programs may amplify these.
fn tolerances(program: &Program, bindings: &Bindings) -> IndexMap<Name, f64> {
    let expected = program.eval(bindings, DRAW).unwrap();
    let mut allowed: IndexMap<Name, f64> = expected
        .iter()
        .map(|(name, value)| (name.clone(), 1e-5 * largest(value.data.iter().copied()).max(1.0)))
        .collect();
    for n in 0..2 {
        let mut moved = bindings.clone();
        for leaf in program.inputs().chain(program.frozen_parameters()).chain(program.trained_parameters()) {
            if leaf.ty.dtype == DType::F32 {
                let value = moved.get_mut(&*leaf.name).unwrap();
                let noise = normal(&format!("{n} {}", leaf.name), &value.shape, 1e-6);
                value.data.iter_mut().zip(noise.data).for_each(|(x, noise)| *x *= 1.0 + noise);
            }
        }
        for (name, value) in program.eval(&moved, DRAW).unwrap() {
            let differences = value.data.iter().zip(&expected[&name].data).map(|(a, b)| a - b);
            allowed[&name] += 5.0 * largest(differences);
        }
    }
    allowed
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |max: f64, x| max.max(x.abs()))
}

/// Fails where the backend and the interpreter differ.
fn check(program: &Program, bindings: &Bindings) -> Result<(), TestCaseError> {
    let expected = program.eval(bindings, DRAW).unwrap();
    let floats = |name: &str| bindings[name].data.iter().map(|&x| x as f32).collect::<Vec<_>>();
    let params: Params = program
        .frozen_parameters()
        .chain(program.trained_parameters())
        .map(|leaf| {
            let array = Array { shape: leaf.ty.shape.clone(), data: floats(&leaf.name) };
            (leaf.name.to_string(), array)
        })
        .collect();
    let values: Vec<(&str, Input)> = program
        .inputs()
        .map(|leaf| {
            let input = match leaf.ty.dtype {
                DType::F32 => Input::F32(floats(&leaf.name)),
                DType::I32 => {
                    Input::I32(bindings[&*leaf.name].data.iter().map(|&x| x as i32).collect())
                }
            };
            (&*leaf.name, input)
        })
        .collect();
    let inputs: Vec<(&str, Value)> = values
        .iter()
        .map(|(name, input)| match input {
            Input::F32(values) => (*name, Value::F32(values)),
            Input::I32(values) => (*name, Value::I32(values)),
        })
        .collect();
    let plan = plan(program);
    let tolerances = tolerances(program, bindings);
    // What is computed first is compared first.
    let mut names: Vec<Name> = expected.keys().cloned().collect();
    names.sort_by_key(|name| program.outputs()[name]);
    let mut cpu = Cpu::new();
    // The second run meets an arena full of the first one's values.
    for _ in 0..2 {
        let outputs = cpu.run(&plan, &params, &inputs, DRAW).unwrap();
        for name in &names {
            let expected = &expected[name];
            let found = outputs.get(name).unwrap();
            let tolerance = tolerances[name];
            let near = |(found, expected): (&f32, &f64)| {
                (f64::from(*found) - expected).abs() <= tolerance
            };
            prop_assert!(
                found.len() == expected.data.len() && found.iter().zip(&expected.data).all(near),
                "{name}: {found:?}\nexpected {:?}\n{program}\n{plan:?}",
                expected.data
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(std::env::var("N").map_or(600, |s| s.parse().unwrap())))]

    #[test]
    fn a_plan_computes_what_the_interpreter_does(recipe in recipes()) {
        let program = program(&recipe);
        check(&program, &bound(&program))?;
    }

    #[test]
    fn so_does_the_plan_of_a_training_step(recipe in recipes()) {
        let step = gradients(&with_loss(program(&recipe)), "loss").unwrap();
        check(&step, &bound(&step))?;
    }

    #[test]
    fn so_do_the_two_parts_of_a_hoisted_step(recipe in recipes()) {
        let step = gradients(&with_loss(program(&recipe)), "loss").unwrap();
        let mut bindings = bound(&step);
        let hoisted = hoist(&step).unwrap();
        check(&hoisted.once, &bindings)?;
        for (name, value) in hoisted.once.eval(&bindings, DRAW).unwrap() {
            bindings.insert(name.to_string(), value.map(|x| f64::from(x as f32)));
        }
        check(&hoisted.step, &bindings)?;
    }
}
