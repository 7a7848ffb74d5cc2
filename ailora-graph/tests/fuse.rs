//! Fused programs compute what they were made from, and take the form that they should.
//!
//! One long file: the cases share the regions that they fuse.

#[path = "support/programs.rs"]
mod programs;
#[path = "support/projections.rs"]
mod projections;
mod support;

use std::collections::HashMap;

use ailora_graph::{
    Trainable,
    adapt::{Mode, adapt, distribute},
    adapter::Layout,
    fuse::{
        Fused, Stop,
        cost::{Costs, ProductCost},
        equal::Equal,
        extract::{Method, climb, extract},
        fuse, layout,
        region::regions,
        rules::RULES,
        saturate, solve,
    },
    grad::gradients,
    hoist::hoist,
    ir::{Bindings, Draw, Id, Node, Op, Program, Tensor, Type, ops::elementwise::Unary},
};
use projections::Projection;
use proptest::{prelude::*, test_runner::RngSeed};
use support::{bind, close, encoder, encoder_inputs, fill};

const DRAW: Draw = Draw { seed: 3, step: 5 };

/// As of a device in bfloat16, of which launches are all that small products cost.
const DEVICE: Costs = Costs {
    product: LAUNCH,
    outer: LAUNCH,
    element: 1e-12,
    merges: false,
    vector: 8,
};
const LAUNCH: ProductCost = ProductCost {
    flop: 1e-15,
    left: 1e-12,
    right: 1e-12,
    result: 1e-12,
    start: 3e-6,
};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(29),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Fuses and compares all outputs with the program's own.
fn check(program: &Program, bindings: &Bindings) -> Fused {
    check_at(&DEVICE, program, bindings);
    check_at(&Costs::default(), program, bindings)
}

fn check_at(costs: &Costs, program: &Program, bindings: &Bindings) -> Fused {
    let expected = program.eval(bindings, DRAW).unwrap();
    let fused = fuse(program, costs, &[], |_| true).unwrap();
    let mut bindings = bindings.clone();
    fill(&fused.packs, &mut bindings);
    let found = fused.program.eval(&bindings, DRAW).unwrap();
    assert!(expected.keys().eq(found.keys()));
    for (name, expected) in &expected {
        assert!(
            close(&found[name], expected, 1e-9),
            "{name}\n{program}\n{}",
            fused.program
        );
    }
    fused
}

fn products(program: &Program) -> usize {
    let live = program.live();
    let is_product = |op: &Op| matches!(op, Op::MatMul(_) | Op::Merge(_));
    let is_product = |id: &Id| live[usize::from(*id)] && is_product(&program[*id].op);
    program.ids().filter(is_product).count()
}

#[test]
fn an_adapted_encoder_is_fused() {
    for (config, forward, training) in [
        (
            r#"{"sites": {"query": {"init": "principal", "rank": 2},
                "value": {"init": "minor", "rank": 2}}}"#,
            [21, 11],
            [45, 29],
        ),
        (
            r#"{"sites": {"query": {"init": "principal", "rank": 2, "alpha": 3.0},
                "value": {"init": "minor", "rank": 3, "lr": 2.0, "dropout": 0.2},
                "layers.1.up": {"init": "random", "rank": 2}, "classifier": {"init": "full"}}}"#,
            [23, 14],
            [52, 39],
        ),
    ] {
        let (program, sites) = encoder(2, 0.1, config);
        let adapted = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
        let steps = [
            (adapted.clone(), forward),
            (gradients(&adapted, "loss").unwrap(), training),
        ];
        for (step, [before, most]) in steps {
            let step = hoist(&step).unwrap().step;
            let mut bindings = encoder_inputs();
            bind(&step, &mut bindings);
            let fused = check(&step, &bindings);
            assert_eq!(products(&step), before);
            assert!(products(&fused.program) <= most, "{}", fused.program);
            assert!(
                fused
                    .reports
                    .iter()
                    .all(|report| report.stop == Stop::Saturated)
            );
        }
    }
}

/// Rows, width and the products of the fused forward pass and training step.
fn form(inner: usize, projections: &[Projection], layout: Layout) -> [usize; 2] {
    [false, true].map(|training| {
        let program = projections::program(1024, inner, projections, layout, training);
        let fused = fuse(&program, &Costs::default(), &[], |_| true).unwrap();
        assert!(
            fused
                .reports
                .iter()
                .all(|r| r.stop == Stop::Saturated && r.method == Method::Exact)
        );
        products(&fused.program)
    })
}

#[test]
fn projections_take_the_form_of_few_products() {
    let adapted = |out| Projection::adapted(out, 8);
    let frozen = Projection::frozen;
    for layout in [Layout::OutIn, Layout::InOut] {
        let qv = [adapted(384), frozen(384), adapted(384)];
        let unfused = projections::program(1024, 384, &qv, layout, true);
        assert_eq!(products(&unfused), 7 + 11);
        // Merging, [q|k|v|h]; [dx|dh], dA, dB_q, dB_v.
        assert_eq!(form(384, &qv, layout), [2, 6], "{layout:?}");
        assert_eq!(form(384, &[frozen(384); 3], layout), [1, 2]);
        // All of q, k, v; one of them; the output projection alone.
        assert_eq!(
            form(384, &[adapted(384), adapted(384), adapted(384)], layout),
            [2, 7]
        );
        assert_eq!(
            form(384, &[frozen(384), frozen(384), adapted(384)], layout),
            [2, 6]
        );
        assert_eq!(form(384, &[adapted(384)], layout), [2, 5]);
        // Grouped queries: keys and values narrower than queries; gate and up.
        assert_eq!(
            form(576, &[adapted(576), frozen(192), adapted(192)], layout),
            [2, 6]
        );
        assert_eq!(form(576, &[adapted(1536), adapted(1536)], layout), [2, 6]);
        let with_bias = qv.map(|p| Projection { bias: true, ..p });
        assert_eq!(form(384, &with_bias, layout), [2, 6]);
        // What multiplies the rows of a sum is outside of it.
        let with_dora = qv.map(|p| Projection { dora: true, ..p });
        assert_eq!(form(384, &with_dora, layout), [2, 6]);
        // Another scale: the thin products stay apart, the wide ones do not.
        let scaled = [
            adapted(384),
            frozen(384),
            Projection {
                alpha: 3.0,
                ..adapted(384)
            },
        ];
        let [forward, training] = form(384, &scaled, layout);
        assert!(forward <= 3 && training <= 9, "{forward} {training}");
    }
}

fn any_projection() -> impl Strategy<Value = Projection> {
    let rank = prop_oneof![Just(None), (1_usize..4).prop_map(Some)];
    let rates = prop_oneof![4 => Just(0.0), 1 => Just(0.3)];
    (
        2_usize..7,
        rank,
        0.5_f64..3.0,
        any::<bool>(),
        rates,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(out, rank, alpha, own_scale, dropout, bias, dora)| Projection {
                out,
                rank: rank.map(|rank| rank.min(out)),
                alpha: if own_scale {
                    alpha
                } else {
                    rank.unwrap_or(1) as f64 * 1.5
                },
                dropout,
                bias,
                dora,
            },
        )
}

/// The value of every class of an e-graph, and that all of its members have it.
fn every_member_agrees(equal: &Equal, bindings: &Bindings) {
    let layout = &equal.graph.analysis.0;
    let mut bindings = bindings.clone();
    fill(&layout.packs, &mut bindings);
    let mut values: HashMap<Id, Tensor> = HashMap::new();
    let nodes = equal.nodes();
    let eval = |node: &Node, values: &HashMap<Id, Tensor>, ty: &Type| -> Option<Tensor> {
        Some(match (&node.op, node.op.operation()) {
            (Op::Const(value), _) => Tensor::scalar(value.0),
            (_, None) => match &node.op {
                Op::Input(leaf) | Op::Frozen(leaf) | Op::Trained(leaf) => {
                    bindings[&*leaf.name].clone()
                }
                _ => return None,
            },
            (_, Some(operation)) => {
                let args: Option<Vec<&Tensor>> = node
                    .args
                    .iter()
                    .map(|&arg| values.get(&equal.graph.find(arg)))
                    .collect();
                operation.eval(&args?, ty, DRAW)
            }
        })
    };
    while nodes.iter().any(|(id, _)| !values.contains_key(id)) {
        let before = values.len();
        for (id, node) in &nodes {
            if let Some(value) = eval(node, &values, &equal.graph[*id].data.ty) {
                values.entry(*id).or_insert(value);
            }
        }
        assert!(
            values.len() > before,
            "every class has a member without a cycle"
        );
    }
    for (id, node) in &nodes {
        let value = eval(node, &values, &equal.graph[*id].data.ty).unwrap();
        assert!(close(&value, &values[id], 1e-9), "{node} in class {id}");
    }
    // What is said to lie in a pack, or in what one becomes, lies there.
    for (id, value) in &values {
        let Some(block) = equal.block(*id) else {
            continue;
        };
        let pack = match equal.needs(*id) {
            Some(merged) => &values[&merged],
            None => &bindings[&*layout.pack_of(&block).name],
        };
        let found = Tensor::from_fn(&block.shape, |i| {
            pack.at(&[block.at[0] + i[0], block.at[1] + i[1]])
        });
        assert_eq!(found.data, value.data);
    }
}

proptest! {
    #![proptest_config(config(96))]

    #[test]
    fn every_expression_of_a_class_has_its_value(
        projections in proptest::collection::vec(any_projection(), 1..5),
        rows in 1_usize..5,
        inner in 2_usize..6,
        out_in in any::<bool>(),
        training in any::<bool>(),
    ) {
        let layout = if out_in { Layout::OutIn } else { Layout::InOut };
        let program = projections::program(rows, inner, &projections, layout, training);
        for region in regions(&program).unwrap() {
            let mut bindings = Bindings::new();
            bind(&region.program, &mut bindings);
            let layout = layout::Layout::of(&region.program, |_| true);
            let mut equal = Equal::new(&region.program, layout);
            every_member_agrees(&equal, &bindings);
            for _ in 0..3 {
                for rule in RULES {
                    (rule.apply)(&mut equal);
                    equal.graph.rebuild();
                    every_member_agrees(&equal, &bindings);
                }
            }
        }
        let mut bindings = Bindings::new();
        bind(&program, &mut bindings);
        check(&program, &bindings);
    }

    #[test]
    fn climbing_is_never_cheaper_than_the_optimum(
        projections in proptest::collection::vec(any_projection(), 1..4),
        rows in 64_usize..3000,
    ) {
        let program = projections::program(rows, 96, &projections, Layout::OutIn, true);
        for region in regions(&program).unwrap() {
            let layout = layout::Layout::of(&region.program, |_| true);
            let mut equal = Equal::new(&region.program, layout);
            saturate(&mut equal);
            let costs = Costs::default();
            let exact = extract(&equal, &costs).unwrap();
            prop_assert_eq!(exact.method, Method::Exact);
            let climbed = climb(&equal, &costs).unwrap();
            prop_assert!(climbed >= exact.seconds * (1.0 - 1e-6));
            prop_assert!(climbed <= exact.seconds * 1.5, "{} {}", climbed, exact.seconds);
        }
    }

    #[test]
    fn random_programs_are_fused(
        recipe in programs::recipes(),
        bytes in programs::site_bytes(),
        training in any::<bool>(),
    ) {
        let program = programs::program(&recipe);
        let program = programs::with_loss(program);
        let sites = programs::sites(&program, &bytes);
        let Ok(mut step) = adapt(&program, &sites, &Trainable::Adapters, Mode::Train) else { return Ok(()) };
        if training && programs::is_smooth(&step) {
            let Ok(with_gradients) = gradients(&step, "loss") else { return Ok(()) };
            step = with_gradients;
        }
        let step = hoist(&step).unwrap().step;
        let mut bindings = Bindings::new();
        bind(&step, &mut bindings);
        check(&step, &bindings);
    }
}

fn saturated(program: &Program) -> (Equal, Vec<Id>) {
    let region = regions(program).unwrap().remove(0);
    let layout = layout::Layout::of(&region.program, |_| true);
    let mut equal = Equal::new(&region.program, layout);
    saturate(&mut equal);
    let outputs = equal.outputs.clone();
    (equal, outputs)
}

#[test]
fn what_is_not_equal_is_not_made_equal() {
    // Two weights of one input, two inputs of one weight, two scales.
    let adapted = Projection::adapted(6, 2);
    let scaled = Projection {
        alpha: 5.0,
        ..adapted
    };
    let all = [adapted, Projection::frozen(6), scaled];
    for layout in [Layout::OutIn, Layout::InOut] {
        let (equal, outputs) = saturated(&projections::program(7, 6, &all, layout, true));
        let mut classes: Vec<Id> = outputs.iter().map(|&id| equal.graph.find(id)).collect();
        classes.sort_unstable();
        classes.dedup();
        assert_eq!(classes.len(), outputs.len());
        // A slice of a product is no product of a slice; nothing is its own transpose.
        for product in equal.products() {
            let width = equal.shape(product.left)[usize::from(!product.op.trans_a)];
            let inner = equal.shape(product.right)[usize::from(product.op.trans_b)];
            assert_eq!(width, inner);
        }
    }
}

#[test]
fn products_of_different_inputs_stay_apart() {
    let mut p = Program::new();
    let w = p.frozen("w", Type::f32([4, 4])).unwrap();
    let v = p.frozen("v", Type::f32([4, 4])).unwrap();
    let [x, z] = ["x", "z"].map(|name| p.input(name, Type::f32([8, 4])).unwrap());
    for (name, left, right) in [("a", x, w), ("b", z, v), ("c", x, v)] {
        let y = p.matmul(left, false, right, true).unwrap();
        p.set_output(name, y);
    }
    let mut bindings = Bindings::new();
    bind(&p, &mut bindings);
    let fused = check(&p, &bindings);
    // x [w; v], and z v.
    assert_eq!(products(&fused.program), 2);
}

/// Whatever the ranks, no left side of a product with parameters is left with a part of a vector, and no
/// product more is made for that.
#[test]
fn left_sides_are_filled_up_to_whole_vectors() {
    const WIDTH: usize = 64;
    let depths = |fused: &Fused| -> Vec<usize> {
        let program = &fused.program;
        let live = program.live();
        let nodes = program.ids().filter(|&id| live[usize::from(id)]);
        let of = |id: Id| match program[id].op {
            Op::MatMul(op) if !op.trans_a => Some(program.shape(program[id].args[0])[1]),
            _ => None,
        };
        nodes.filter_map(of).collect()
    };
    for layout in [Layout::OutIn, Layout::InOut] {
        for ranks in [[1, 1], [2, 2], [3, 6], [4, 4], [8, 8]] {
            let [q, v] = ranks.map(|rank| Projection {
                alpha: 1.5 * rank as f64,
                ..Projection::adapted(WIDTH, rank)
            });
            let all = [q, Projection::frozen(WIDTH), v];
            let program = projections::program(256, WIDTH, &all, layout, true);
            let mut bindings = Bindings::new();
            bind(&program, &mut bindings);
            let fused = check_at(&DEVICE, &program, &bindings);
            let depths = depths(&fused);
            let whole = depths.iter().all(|depth| depth.is_multiple_of(8));
            assert!(whole, "{ranks:?}: {depths:?}\n{}", fused.program);
            assert_eq!(products(&fused.program), 7, "{ranks:?}");
            let plain = Costs {
                vector: 1,
                ..DEVICE
            };
            let plain = check_at(&plain, &program, &bindings);
            assert_eq!(products(&plain.program), 7);
            let changed = plain.program.to_string() != fused.program.to_string();
            assert_eq!(changed, ranks.iter().sum::<usize>() % 8 > 0);
        }
    }
}

#[test]
fn zeros_are_where_the_layout_has_them_only() {
    let all = [Projection::adapted(4, 2), Projection::frozen(4)];
    let region = regions(&projections::program(8, 4, &all, Layout::OutIn, false))
        .unwrap()
        .remove(0);
    let layout = layout::Layout::of(&region.program, |_| true);
    let pack = layout
        .packs
        .iter()
        .position(|pack| pack.parts.len() == 4)
        .unwrap();
    // 4 + 4 + 2 rows of 4 + 2 columns, filled up to whole vectors.
    assert_eq!(layout.packs[pack].shape, [16, 8]);
    let of = layout::Matrix {
        merged: false,
        pack,
    };
    let block = |at, shape| layout::Block { of, at, shape };
    // Beside the second weight there are zeros; beside the first, its adapter.
    let second = block([4, 0], [4, 4]);
    assert_eq!(
        layout.padded(&second, 1, [0, 2]),
        Some(block([4, 0], [4, 6]))
    );
    assert_eq!(layout.padded(&block([0, 0], [4, 4]), 1, [0, 2]), None);
    // Outside, and beside A.
    assert_eq!(layout.padded(&second, 1, [0, 5]), None);
    assert_eq!(layout.padded(&block([8, 0], [2, 4]), 1, [0, 2]), None);
    // Below B there are zeros, but only as far as the weights go.
    assert_eq!(
        layout.padded(&block([0, 4], [4, 2]), 0, [0, 4]),
        Some(block([0, 4], [8, 2]))
    );
    assert_eq!(layout.padded(&block([0, 4], [4, 2]), 0, [0, 6]), None);
}

/// Two projections of one input are one product, unless one's input needs the other's output.
#[test]
fn a_region_that_would_wait_for_itself_is_left() {
    let mut p = Program::new();
    let [a, b] = ["a", "b"].map(|name| p.trained(name, Type::f32([4, 4])).unwrap());
    let [w, v] = ["w", "v"].map(|name| p.frozen(name, Type::f32([4, 4])).unwrap());
    let x = p.input("x", Type::f32([8, 4])).unwrap();
    // The sum's terms are products of x and of something that needs one of x's products.
    let first = p.matmul(x, false, w, true).unwrap();
    let z = p.add(Unary::Tanh, &[first]).unwrap();
    let second = p.matmul(z, false, v, true).unwrap();
    let h = p.matmul(x, false, a, true).unwrap();
    let up = p.matmul(h, false, b, true).unwrap();
    let sum = p.sum(second, up).unwrap();
    let out = p.add(Unary::Tanh, &[sum]).unwrap();
    p.set_output("out", out);
    p.set_output("first", first);
    let mut bindings = Bindings::new();
    bind(&p, &mut bindings);
    check(&p, &bindings);
}

#[test]
fn packs_that_are_there_are_kept() {
    let all = [
        Projection::adapted(384, 8),
        Projection::frozen(384),
        Projection::adapted(384, 8),
    ];
    let program = |rows| projections::program(rows, 384, &all, Layout::OutIn, true);
    let costs = Costs::default();
    let first = fuse(&program(128), &costs, &[], |_| true).unwrap();
    assert_eq!(first.packs.len(), 1);
    // Another shape, over the same memory; and what is read already stays where it is.
    let second = fuse(&program(2048), &costs, &first.packs, |_| false).unwrap();
    assert_eq!(second.packs, first.packs);
    // h, [q|k|v]; dh, dx, dA, dB_q, dB_v; and with many rows [q|k|v|h] and [dx|dh] of merged weights.
    assert_eq!(
        [&first, &second].map(|fused| products(&fused.program)),
        [7, 6]
    );
    let fixed = fuse(&program(128), &costs, &[], |_| false).unwrap();
    assert!(fixed.packs.is_empty());
    let mut bindings = Bindings::new();
    bind(&program(128), &mut bindings);
    fill(&first.packs, &mut bindings);
    let values = first.program.eval(&bindings, DRAW).unwrap();
    let expected = fixed.program.eval(&bindings, DRAW).unwrap();
    for (name, value) in &expected {
        assert!(close(&values[name], value, 1e-9), "{name}");
    }
}

/// Also where all layers share parameters, as VeRA's.
#[test]
fn a_region_is_solved_once_for_all_layers() {
    let low_rank = r#"{"sites": {"query": {"init": "random", "rank": 2}, "value": {"init": "random", "rank": 2}}}"#;
    let shared = r#"{"sites": {"query": {"init": "vera", "rank": 5}, "value": {"init": "vera", "rank": 5}}}"#;
    for config in [low_rank, shared] {
        let regions_of = |layers| {
            let (program, sites) = encoder(layers, 0.0, config);
            let adapted = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
            let step = hoist(&gradients(&adapted, "loss").unwrap()).unwrap().step;
            let mut bindings = encoder_inputs();
            bind(&step, &mut bindings);
            let fused = check(&step, &bindings);
            let total: usize = fused.reports.iter().map(|report| report.count).sum();
            (fused.reports.len(), total)
        };
        let [(few, some), (same, many)] = [3, 9].map(regions_of);
        assert_eq!(few, same, "{config}");
        assert!(many > 2 * some, "{config}");
    }
}

#[test]
fn a_residual_that_is_not_formed_costs_no_product_more() {
    let config = r#"{"sites": {"query": {"init": "principal", "rank": 2, "alpha": 3.0, "dora": DORA},
        "value": {"init": "minor", "rank": 2, "alpha": 3.0, "dora": DORA}}}"#;
    for dora in ["false", "true"] {
        costs_no_product_more(&config.replace("DORA", dora));
    }
}

fn costs_no_product_more(config: &str) {
    let (program, sites) = encoder(2, 0.0, config);
    let adapted = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
    let step = |adapted: &Program| hoist(&gradients(adapted, "loss").unwrap()).unwrap();
    let [formed, apart] = [step(&adapted), step(&distribute(&adapted).unwrap())];
    let mut bindings = encoder_inputs();
    bind(&gradients(&adapted, "loss").unwrap(), &mut bindings);
    for hoisted in [&formed, &apart] {
        for (name, value) in hoisted.once.eval(&bindings, DRAW).unwrap() {
            bindings.insert(name.to_string(), value);
        }
    }
    // The weights themselves are read, and nothing is computed of them.
    let reads = |name: &str| {
        apart
            .step
            .frozen_parameters()
            .any(|leaf| &*leaf.name == name)
    };
    assert!(reads("layers.0.query.weight") && reads("layers.1.value.weight"));
    assert!(
        apart
            .once
            .frozen_parameters()
            .all(|leaf| leaf.name.ends_with("lora_B0.weight"))
    );
    // Where it is not formed, nothing is merged.
    let [formed, apart] =
        [formed, apart].map(|hoisted| check_at(&DEVICE, &hoisted.step, &bindings));
    let values = [&formed, &apart].map(|fused| {
        let mut bindings = bindings.clone();
        fill(&fused.packs, &mut bindings);
        fused.program.eval(&bindings, DRAW).unwrap()
    });
    for (name, value) in &values[0] {
        assert!(close(&values[1][name], value, 1e-9), "{name}");
    }
    assert_eq!(products(&apart.program), products(&formed.program));
}

#[test]
fn the_cheaper_form_depends_on_costs() {
    // Where only arithmetic costs, nothing is gained by multiplying zeros.
    let all = [
        Projection::adapted(64, 16),
        Projection::frozen(64),
        Projection::adapted(64, 16),
    ];
    let region = regions(&projections::program(256, 64, &all, Layout::OutIn, true))
        .unwrap()
        .remove(0);
    let layout = layout::Layout::of(&region.program, |_| true);
    let flops_only = {
        let mut costs = Costs::default();
        for product in [&mut costs.product, &mut costs.outer] {
            (product.left, product.right, product.result, product.start) = (0.0, 0.0, 0.0, 0.0);
        }
        costs.element = 0.0;
        costs
    };
    let count = |costs: &Costs| {
        let report = solve(&region.program, layout.clone(), costs).unwrap();
        assert!(report.seconds[1] <= report.seconds[0]);
        let flops: usize = report
            .after
            .ids()
            .filter_map(|id| match report.after[id].op {
                Op::MatMul(op) => {
                    let args = &report.after[id].args;
                    let dims = op.dims(report.after.shape(args[0]), report.after.shape(args[1]));
                    Some(dims.m * dims.n * dims.k)
                }
                _ => None,
            })
            .sum();
        (products(&report.after), flops)
    };
    let (few, more_flops) = count(&Costs::default());
    let (many, fewest_flops) = count(&flops_only);
    assert!(
        few < many && fewest_flops < more_flops,
        "{few} {many} {fewest_flops} {more_flops}"
    );
}
