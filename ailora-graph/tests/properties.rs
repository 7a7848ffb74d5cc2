//! What the passes keep, on random programs.

#[path = "support/programs.rs"]
mod programs;
mod support;

use ailora_graph::{
    Trainable,
    adapt::{Mode, adapt},
    adapter::{Layout, Site},
    grad::{gradient_name, gradients},
    hoist::hoist,
    ir::{Bindings, Draw, Op, Program, ProgramError, Tensor},
    slice_pushdown::push_down_slices,
};
use programs::{is_smooth, program, recipes, site_bytes, sites, with_loss};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{RngSeed, TestRunner},
};
use support::{bind, normal};

const DRAW: Draw = Draw { seed: 3, step: 5 };

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(17),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn bound(program: &Program) -> Bindings {
    let mut bindings = Bindings::new();
    bind(program, &mut bindings);
    bindings
}

/// Fails where two programs differ in the value of an output of the first.
fn same(a: &Program, b: &Program, bindings: &[&Bindings; 2]) -> Result<(), TestCaseError> {
    let [found, expected] = [
        a.eval(bindings[0], DRAW).unwrap(),
        b.eval(bindings[1], DRAW).unwrap(),
    ];
    prop_assert!(!expected.is_empty());
    for (name, expected) in &expected {
        let found = &found[name];
        let scale = expected
            .data
            .iter()
            .fold(1.0, |max: f64, x| max.max(x.abs()));
        let near = found
            .data
            .iter()
            .zip(&expected.data)
            .all(|(a, b)| (a - b).abs() <= 1e-9 * scale);
        prop_assert!(
            found.shape == expected.shape && near,
            "{name}: {:?}\nexpected {:?}\n{a}\nfrom\n{b}",
            found.data,
            expected.data
        );
    }
    Ok(())
}

/// `s B A` as it lies beside the weight, from the values of `a` and `b`.
fn part(site: &Site, a: &Tensor, b: &Tensor) -> Tensor {
    let rank = site.spec.rank().unwrap();
    let scale = site.spec.scale().unwrap();
    let at = |o: usize, i: usize| -> f64 {
        (0..rank)
            .map(|r| scale * b.at(&[o, r]) * a.at(&[r, i]))
            .sum()
    };
    match site.layout {
        Layout::OutIn => {
            Tensor::from_fn(&[site.out_features, site.in_features], |x| at(x[0], x[1]))
        }
        Layout::InOut => {
            Tensor::from_fn(&[site.in_features, site.out_features], |x| at(x[1], x[0]))
        }
    }
}

fn combined(a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Tensor {
    assert_eq!(a.shape, b.shape);
    let data: Vec<f64> = a.data.iter().zip(&b.data).map(|(a, b)| f(*a, *b)).collect();
    Tensor::new(a.shape.clone(), data)
}

fn low_rank(sites: &[Site]) -> impl Iterator<Item = &Site> {
    sites.iter().filter(|site| site.spec.rank().is_some())
}

/// Values for an adapted program with every adapter at its start.
fn started(adapted: &Program, sites: &[Site], mut bindings: Bindings) -> Bindings {
    bind(adapted, &mut bindings);
    for site in low_rank(sites) {
        if site.spec.strategy.name() == "random" {
            let b = bindings[&site.lora_b()].map(|_| 0.0);
            bindings.insert(site.lora_b(), b);
        } else {
            bindings.insert(site.lora_a(), bindings[&site.lora_a0()].clone());
            bindings.insert(site.lora_b(), bindings[&site.lora_b0()].clone());
        }
    }
    bindings
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn a_rewrite_to_the_same_keeps_values_and_equal_nodes_are_one(recipe in recipes()) {
        let program = program(&recipe);
        let bindings = bound(&program);
        let copy = program
            .rewrite(|new, _, node, args| new.add(node.op.clone(), args))
            .map_err(|error: ProgramError| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(
            copy.eval(&bindings, DRAW).unwrap(),
            program.eval(&bindings, DRAW).unwrap()
        );
        let mut again = program.clone();
        for id in program.ids() {
            prop_assert_eq!(again.add(program[id].op.clone(), &program[id].args).unwrap(), id);
        }
        prop_assert_eq!(again.len(), program.len());
        // And so a copy of a copy adds nothing.
        let twice = copy
            .rewrite(|new, _, node, args| new.add(node.op.clone(), args))
            .map_err(|error: ProgramError| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(twice.to_string(), copy.to_string());
    }

    #[test]
    fn adapters_start_at_the_model_and_equal_the_merged_weights(
        recipe in recipes(),
        bytes in site_bytes(),
    ) {
        let program = program(&recipe);
        let sites = sites(&program, &bytes);
        let adapted = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
        let original = bound(&program);
        let start = started(&adapted, &sites, original.clone());
        same(&adapted, &program, &[&start, &original])?;

        let mut moved = start.clone();
        let mut merged = original.clone();
        for site in low_rank(&sites) {
            for name in [site.lora_a(), site.lora_b()] {
                let other = normal(&format!("moved {name}"), &start[&name].shape, 0.5);
                moved.insert(name, other);
            }
            let part = |a: &str, b: &str, from: &Bindings| part(site, &from[a], &from[b]);
            let mut weight = original[&site.weight].clone();
            if site.spec.strategy.name() != "random" {
                let before = part(&site.lora_a0(), &site.lora_b0(), &start);
                weight = combined(&weight, &before, |w, p| w - p);
            }
            let after = part(&site.lora_a(), &site.lora_b(), &moved);
            merged.insert(site.weight.clone(), combined(&weight, &after, |w, p| w + p));
        }
        same(&adapted, &program, &[&moved, &merged])?;
    }

    #[test]
    fn slice_pushdown_keeps_values(recipe in recipes(), axis in 0..3usize) {
        let mut whole = program(&recipe);
        let outputs: Vec<_> = whole.outputs().iter().map(|(n, &id)| (n.clone(), id)).collect();
        for (name, id) in outputs {
            let shape = whole.shape(id).to_vec();
            if let Some(&size) = shape.get(axis).filter(|&&size| size > 1) {
                let slice = whole.slice(id, axis, size / 2, size).unwrap();
                whole.set_output(name, slice);
            }
        }
        // What is dropped depends on the place of an element, which this changes.
        let draws = |id| match &whole[id].op {
            Op::Dropout(_) => true,
            Op::Attention(attention) => attention.dropout.0 > 0.0,
            _ => false,
        };
        if whole.ids().any(draws) {
            return Ok(());
        }
        let pushed = push_down_slices(&whole).unwrap();
        let bindings = bound(&whole);
        same(&pushed, &whole, &[&bindings, &bindings])?;
    }

    #[test]
    fn what_is_hoisted_keeps_its_value(recipe in recipes(), bytes in site_bytes()) {
        let program = program(&recipe);
        let adapted = adapt(&program, &sites(&program, &bytes), &Trainable::Adapters, Mode::Train).unwrap();
        let step = gradients(&with_loss(adapted), "loss").unwrap();
        let bindings = bound(&step);
        let hoisted = hoist(&step).unwrap();
        let mut kept = bindings.clone();
        for (name, value) in hoisted.once.eval(&bindings, DRAW).unwrap() {
            kept.insert(name.to_string(), value);
        }
        // Nothing else of the expressions over frozen parameters is needed any more.
        kept.retain(|name, _| {
            hoisted.step.inputs().any(|leaf| *leaf.name == **name)
                || hoisted.step.trained_parameters().any(|leaf| *leaf.name == **name)
                || hoisted.step.frozen_parameters().any(|leaf| *leaf.name == **name)
        });
        prop_assert_eq!(
            hoisted.step.eval(&kept, DRAW).unwrap(),
            step.eval(&bindings, DRAW).unwrap()
        );
    }

    #[test]
    fn gradients_are_the_slopes(recipe in recipes(), bytes in site_bytes()) {
        let program = program(&recipe);
        if !is_smooth(&program) {
            return Ok(());
        }
        let adapted = adapt(&program, &sites(&program, &bytes), &Trainable::Adapters, Mode::Train).unwrap();
        let forward = with_loss(adapted);
        let backward = gradients(&forward, "loss").unwrap();
        let bindings = bound(&backward);
        let found = backward.eval(&bindings, DRAW).unwrap();
        for leaf in forward.trained_parameters() {
            let name = &*leaf.name;
            let direction = normal(&format!("direction {name}"), &leaf.ty.shape, 1.0);
            let loss = |h: f64| {
                let mut bindings = bindings.clone();
                let moved = combined(&bindings[name], &direction, |x, d| x + h * d);
                bindings.insert(name.into(), moved);
                forward.eval(&bindings, DRAW).unwrap()["loss"].data[0]
            };
            // Richardson's extrapolation of central differences.
            let slope = |h: f64| (loss(h) - loss(-h)) / (2.0 * h);
            let expected = (4.0 * slope(5e-5) - slope(1e-4)) / 3.0;
            let gradient = &found[&*gradient_name(name)];
            prop_assert_eq!(&gradient.shape, &leaf.ty.shape);
            let along: f64 = gradient.data.iter().zip(&direction.data).map(|(g, d)| g * d).sum();
            let near = (along - expected).abs() <= 1e-6 * expected.abs().max(1.0);
            prop_assert!(near, "{}: {} but differences give {}\n{}", name, along, expected, backward);
        }
    }
}

#[test]
fn the_generator_reaches_every_operation_and_use() {
    let mut runner = TestRunner::new(config(1));
    let mut names = std::collections::BTreeSet::new();
    let mut tied = 0;
    for _ in 0..400 {
        let recipe = recipes().new_tree(&mut runner).unwrap().current();
        let program = program(&recipe);
        let live = program.live();
        let readers = |id| {
            program
                .ids()
                .filter(|&r| live[usize::from(r)] && program[r].args.contains(&id))
                .count()
        };
        tied += usize::from(
            program
                .ids()
                .any(|id| matches!(program[id].op, Op::Frozen(_)) && readers(id) > 1),
        );
        let ops = program.ids().filter(|&id| live[usize::from(id)]);
        names.extend(ops.map(|id| {
            let op = program[id].op.to_string();
            op.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .next()
                .unwrap_or("")
                .to_owned()
        }));
    }
    for name in [
        "add",
        "attention",
        "cos",
        "div",
        "dropout",
        "embedding",
        "exp",
        "expand",
        "gelu",
        "matmul_nn",
        "matmul_nt",
        "matmul_tn",
        "matmul_tt",
        "max",
        "mul",
        "normalize",
        "pad",
        "permute",
        "recip",
        "reshape",
        "rms_normalize",
        "rotary",
        "slice",
        "softmax",
        "sub",
        "sum",
    ] {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
    assert!(tied > 40, "only {tied} of 400 programs read a matrix twice");
}
