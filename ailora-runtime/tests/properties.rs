//! The plan and the backend against the float64 interpreter, on random programs.

#[path = "../../tests/device/mod.rs"]
mod device;
#[path = "../../ailora-graph/tests/support/programs.rs"]
mod programs;
#[path = "../../ailora-graph/tests/support/mod.rs"]
mod support;

use ailora_graph::{
    Trainable,
    adapt::{Mode, adapt},
    element_types::element_types,
    fuse::{cost::Costs, fuse},
    grad::gradients,
    hoist::hoist,
    ir::{
        Bindings, DType, Draw, Id, Name, Op, Program, ProgramError, Tensor, Type,
        ops::elementwise::Unary,
    },
};
use ailora_runtime::{
    plan::{plan, rematerialising},
    run::Value,
    store::{Array, Params},
};
use device::Runner;
use indexmap::IndexMap;
use programs::{is_smooth, program, recipes, site_bytes, sites, with_loss};
use proptest::{prelude::*, test_runner::RngSeed};
use support::{bind, fill, normal};

const DRAW: Draw = Draw { seed: 3, step: 5 };

fn config(cases: u32) -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(23);
    ProptestConfig {
        cases,
        rng_seed,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
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
    bindings
        .values_mut()
        .for_each(|value| *value = rounded(value));
    bindings
}

fn rounded(value: &Tensor) -> Tensor {
    value.map(|x| f64::from(x as f32))
}

/// How much each output may differ: by what the interpreter's own values differ by when each value
/// on the way is off by about a float32 rounding, as programs may amplify these.
fn tolerances(program: &Program, bindings: &Bindings) -> IndexMap<Name, f64> {
    let expected = program.eval(bindings, DRAW).unwrap();
    let rough = program.rewrite(|new, id, node, args| -> Result<Id, ProgramError> {
        let value = new.add(node.op.clone(), args)?;
        let ty = program.ty(id).clone();
        if ty.dtype == DType::I32 || matches!(node.op, Op::Const(_)) {
            return Ok(value);
        }
        let rounding = new.input(&format!("rounding {id}"), ty)?;
        new.product(value, rounding)
    });
    let rough = rough.unwrap();
    let mut allowed: IndexMap<Name, f64> = expected
        .iter()
        .map(|(name, value)| {
            (
                name.clone(),
                1e-5 * largest(value.data.iter().copied()).max(1.0),
            )
        })
        .collect();
    for n in 0..2 {
        let mut bindings = bindings.clone();
        for leaf in rough
            .inputs()
            .filter(|leaf| leaf.name.starts_with("rounding"))
        {
            let noise = normal(&format!("{n} {}", leaf.name), &leaf.ty.shape, 1e-7);
            bindings.insert(leaf.name.to_string(), noise.map(|x| 1.0 + x));
        }
        for (name, value) in rough.eval(&bindings, DRAW).unwrap() {
            let differences = value
                .data
                .iter()
                .zip(&expected[&name].data)
                .map(|(a, b)| a - b);
            allowed[&name] += 10.0 * largest(differences);
        }
    }
    allowed
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |max: f64, x| max.max(x.abs()))
}

/// Fails where the backend and the interpreter differ.
fn check(program: &Program, bindings: &Bindings) -> Result<(), TestCaseError> {
    check_as(program, program, bindings)
}

/// Fails where the interpreter and the backend differ, which gets the program in a form with the same
/// results.
fn check_as(program: &Program, form: &Program, bindings: &Bindings) -> Result<(), TestCaseError> {
    let expected = program.eval(bindings, DRAW).unwrap();
    let floats = |name: &str| {
        bindings[name]
            .data
            .iter()
            .map(|&x| x as f32)
            .collect::<Vec<_>>()
    };
    let params: Params = program
        .frozen_parameters()
        .chain(program.trained_parameters())
        .map(|leaf| {
            let array = Array::new(leaf.ty.shape.clone(), floats(&leaf.name));
            (leaf.name.to_string(), array)
        })
        .collect();
    let values: Vec<(&str, Input)> = program
        .inputs()
        .map(|leaf| {
            let input = match leaf.ty.dtype {
                DType::I32 => Input::I32(
                    bindings[&*leaf.name]
                        .data
                        .iter()
                        .map(|&x| x as i32)
                        .collect(),
                ),
                _ => Input::F32(floats(&leaf.name)),
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
    let tolerances = tolerances(program, bindings);
    // What is computed first is compared first.
    let mut names: Vec<Name> = expected.keys().cloned().collect();
    names.sort_by_key(|name| program.outputs()[name]);
    for plan in [plan(form), rematerialising(form)] {
        let mut runner = Runner::new(plan.clone(), &params);
        // The second run meets an arena full of the first one's values.
        for _ in 0..2 {
            let outputs = runner.run(&inputs, DRAW).unwrap();
            for name in &names {
                let expected = &expected[name];
                let found = outputs.get(name).unwrap();
                let tolerance = tolerances[name];
                let near = |(found, expected): (&f32, &f64)| {
                    (f64::from(*found) - expected).abs() <= tolerance
                };
                let all = found.iter().zip(&expected.data).all(near);
                prop_assert!(
                    found.len() == expected.data.len() && all,
                    "{name}: {found:?}\nexpected {:?}\n{program}\n{plan:?}",
                    expected.data
                );
            }
        }
    }
    Ok(())
}

/// The gradients of a random program with random adapters; of the program alone where a gradient
/// jumps between float32 and float64, at a tie of a maximum.
fn training_step(recipe: &[[u8; 8]], bytes: &[[u8; 5]]) -> Program {
    let program = program(recipe);
    if !is_smooth(&program) {
        return program;
    }
    let adapted = adapt(
        &program,
        &sites(&program, bytes),
        &Trainable::Adapters,
        Mode::Train,
    )
    .unwrap();
    gradients(&with_loss(adapted), "loss").unwrap()
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn a_plan_computes_what_the_interpreter_does(recipe in recipes()) {
        let program = program(&recipe);
        check(&program, &bound(&program))?;
    }

    #[test]
    fn so_does_the_plan_of_a_training_step(recipe in recipes(), bytes in site_bytes()) {
        let step = training_step(&recipe, &bytes);
        check(&step, &bound(&step))?;
    }

    /// The CPU computes in float32 whatever types its plan has.
    #[test]
    fn so_does_the_plan_of_a_step_with_narrow_matrices(recipe in recipes(), bytes in site_bytes()) {
        let step = training_step(&recipe, &bytes);
        let typed = element_types(&step, DType::Bf16).unwrap();
        check_as(&step, &typed, &bound(&step))?;
        for plan in [plan(&typed), rematerialising(&typed)] {
            for (view, ty) in plan.outputs.values().filter(|(_, ty)| ty.dtype.is_float()) {
                prop_assert_eq!(ty.dtype, DType::F32);
                prop_assert_eq!(plan.buffers[view.buffer].dtype(), DType::F32);
            }
            for input in &plan.inputs {
                prop_assert_eq!(plan.buffers[input.view.buffer].dtype(), input.ty.dtype);
            }
        }
    }

    #[test]
    fn so_do_the_two_parts_of_a_hoisted_step(recipe in recipes(), bytes in site_bytes()) {
        let step = training_step(&recipe, &bytes);
        let mut bindings = bound(&step);
        let hoisted = hoist(&step).unwrap();
        check(&hoisted.once, &bindings)?;
        for (name, value) in hoisted.once.eval(&bindings, DRAW).unwrap() {
            bindings.insert(name.to_string(), rounded(&value));
        }
        check(&hoisted.step, &bindings)?;
    }

    #[test]
    fn so_does_the_plan_of_a_fused_step(recipe in recipes(), bytes in site_bytes()) {
        let step = training_step(&recipe, &bytes);
        let mut bindings = bound(&step);
        let fused = fuse(&step, &Costs::default(), &[], |_| true).unwrap();
        fill(&fused.packs, &mut bindings);
        check(&fused.program, &bindings)?;
    }
}

#[test]
fn a_product_does_not_add_onto_a_sum_that_repeats_it() {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([3, 4])).unwrap();
    let w = p.input("w", Type::f32([3, 1])).unwrap();
    let transposed = p.permute(x, &[1, 0]).unwrap();
    let number = p.matmul(w, true, w, false).unwrap();
    let sum = p.sum(transposed, number).unwrap();
    p.set_output("y", sum);
    check(&p, &bound(&p)).unwrap();
}

/// Each of two loops could go on with a node that reads the other's result, but not both.
#[test]
fn loops_do_not_wait_for_each_other() {
    let mut p = Program::new();
    let [x, y] = ["x", "y"].map(|name| p.input(name, Type::f32([3, 3])).unwrap());
    let one = p.unary(Unary::Tanh, x).unwrap();
    let of_one = p.matmul(one, false, one, false).unwrap();
    let two = p.unary(Unary::Tanh, y).unwrap();
    let of_two = p.matmul(two, false, two, false).unwrap();
    let one = p.product(one, of_two).unwrap();
    let two = p.product(two, of_one).unwrap();
    p.set_output("one", one);
    p.set_output("two", two);
    check(&p, &bound(&p)).unwrap();
}

#[test]
fn what_is_read_again_is_neither_overwritten_nor_absorbed() {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([4, 4])).unwrap();
    let square = p.matmul(x, false, x, false).unwrap();
    // The loop reads the first row with every row.
    let row = p.slice(square, 0, 0, 1).unwrap();
    let repeated = p.product(square, row).unwrap();
    let scaled = p.matmul(x, true, x, false).unwrap();
    let half = p.scale(scaled, 0.5).unwrap();
    let sum = p.sum(repeated, half).unwrap();
    let whole = p.unary(Unary::Tanh, scaled).unwrap();
    for (name, id) in [
        ("repeated", repeated),
        ("half", half),
        ("sum", sum),
        ("whole", whole),
    ] {
        p.set_output(name, id);
    }
    check(&p, &bound(&p)).unwrap();
}
