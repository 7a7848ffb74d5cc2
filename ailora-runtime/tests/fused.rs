//! Plans of fused programs: how few kernels they have, and that their memory is there once.

#[path = "../../tests/device/mod.rs"]
mod device;
#[path = "../../ailora-graph/tests/support/projections.rs"]
mod projections;

use ailora_graph::{
    adapter::Layout,
    fuse::cost::Costs,
    ir::{Draw, shape::pitch},
};
use ailora_runtime::{
    engine::Engine,
    kernels::Kernel,
    passes::Fusion,
    plan::{Buffer, Plan, View},
    run::Value,
    store::{Array, Params},
};
use projections::{Projection, program};

const ROWS: usize = 1024;
const WIDTH: usize = 384;
const RANK: usize = 8;

fn values(name: &str, shape: &[usize]) -> Array {
    let key = Draw::default().key(name);
    let len: usize = shape.iter().product();
    Array::new(
        shape.to_vec(),
        (0..len as u64)
            .map(|i| 0.1 * key.normal(i) as f32)
            .collect(),
    )
}

fn gemms(plan: &Plan) -> usize {
    let steps = plan.steps.iter();
    let products = steps.filter(|step| !matches!(step.kernel, Kernel::Merge(_)));
    products.map(|step| step.kernel.products()).sum()
}

/// Runs a program compiled in both ways; both plans, after comparing all outputs.
fn compiled(
    projections: &[Projection],
    layout: Layout,
    training: bool,
    costs: Costs,
) -> (Engine, Plan, Plan) {
    let program = program(ROWS, WIDTH, projections, layout, training);
    let leaves = program
        .frozen_parameters()
        .chain(program.trained_parameters());
    let params: Params = leaves
        .map(|leaf| (leaf.name.to_string(), values(&leaf.name, &leaf.ty.shape)))
        .collect();
    let inputs: Vec<(&str, Array)> = program
        .inputs()
        .map(|leaf| (&*leaf.name, values(&leaf.name, &leaf.ty.shape)))
        .collect();
    let inputs: Vec<(&str, Value)> = inputs
        .iter()
        .map(|(name, array)| (*name, Value::F32(array.as_f32().unwrap())))
        .collect();
    let mut plain = device::engine(params.clone(), Fusion::Off);
    let mut fused = device::engine(params, Fusion::At(costs));
    let [a, b] = [&mut plain, &mut fused].map(|engine| engine.compile(&program).unwrap());
    let tolerance = device::tolerance(1e-5) as f32;
    let expected = plain.run(a, &inputs, Draw::default()).unwrap();
    let found = fused.run(b, &inputs, Draw::default()).unwrap();
    // The loss is a sum that cancels out: its parts say more.
    for name in program.outputs().keys().filter(|name| &***name != "loss") {
        let [found, expected] = [found, expected].map(|outputs| outputs.get(name).unwrap());
        let norm = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
        let apart = found
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b) * (a - b))
            .sum::<f32>()
            .sqrt();
        assert!(
            apart <= tolerance * norm && found.len() == expected.len(),
            "{name}: {apart} of {norm}"
        );
    }
    let plans = [(&plain, a), (&fused, b)].map(|(engine, id)| engine.plan(id).clone());
    let [before, after] = plans;
    fused.release_unread();
    (fused, before, after)
}

#[test]
fn few_products_without_copies_over_weights_that_are_there_once() {
    let adapted = Projection::adapted(WIDTH, RANK);
    let frozen = Projection::frozen(WIDTH);
    let narrow = |p: Projection| Projection {
        out: WIDTH / 3,
        ..p
    };
    let with_bias = |p: Projection| Projection { bias: true, ..p };
    let with_dora = |p: Projection| Projection { dora: true, ..p };
    for layout in [Layout::OutIn, Layout::InOut] {
        for (projections, forward, training) in [
            (vec![adapted, frozen, adapted], [7, 2], [18, 7]),
            (vec![adapted, adapted, adapted], [9, 2], [24, 10]),
            (vec![frozen, frozen, adapted], [5, 2], [12, 6]),
            (vec![adapted], [3, 2], [8, 6]),
            (
                vec![adapted, narrow(frozen), narrow(adapted)],
                [7, 2],
                [18, 7],
            ),
            (
                vec![with_bias(adapted), with_bias(frozen), with_bias(adapted)],
                [7, 2],
                [18, 7],
            ),
            (
                vec![with_dora(adapted), frozen, with_dora(adapted)],
                [7, 2],
                [18, 7],
            ),
        ] {
            for (is_training, [unfused, most]) in [(false, forward), (true, training)] {
                let (engine, before, after) =
                    compiled(&projections, layout, is_training, Costs::default());
                assert_eq!(gemms(&before), unfused);
                assert!(gemms(&after) <= most, "{} of {most}", gemms(&after));
                // Nothing is moved but results that lie beside others and are read from outside.
                let wide = |step: &&ailora_runtime::plan::Step| {
                    let copies = matches!(step.kernel, Kernel::Copy(_));
                    copies
                        && !after
                            .outputs
                            .values()
                            .any(|(view, _)| step.writes[0] == *view)
                };
                assert_eq!(
                    after.steps.iter().filter(wide).count(),
                    0,
                    "{:?}",
                    after.steps
                );
                // A pack instead of its weights: nothing is read twice or kept beside it.
                let packs = after.buffers.iter().filter(
                    |b| matches!(b, Buffer::Parameter { name, .. } if name.starts_with("pack:")),
                );
                assert!(packs.count() >= 1);
                let held: Vec<&String> = engine.weights().arrays().keys().collect();
                assert!(
                    // A device has the packs; here are their parts.
                    held.iter().filter(|name| name.contains("weight")).count() == 1
                        || device::is_device(),
                    "{held:?}"
                );
            }
        }
    }
}

/// Weights beside adapters, and gradients beside those of what adapters make of an input.
#[test]
fn rows_of_what_lies_side_by_side_begin_where_products_read_them_fast() {
    const RANK: usize = 72;
    let adapted = Projection::adapted(WIDTH, RANK);
    let projections = [adapted, Projection::frozen(WIDTH), adapted];
    let [inner, outer] = [WIDTH + 2 * RANK, 3 * WIDTH + 2 * RANK];
    assert_eq!([inner, outer].map(pitch), [576, 1344]);
    for layout in [Layout::OutIn, Layout::InOut] {
        for merges in [true, false] {
            let costs = Costs {
                merges,
                ..Costs::default()
            };
            let (_, _, plan) = compiled(&projections, layout, true, costs);
            let shapes = plan.parameters.iter().map(|(_, ty)| &ty.shape[..]);
            let packs: Vec<&[usize]> = shapes.filter(|shape| shape.len() == 2).collect();
            assert_eq!(packs, [[outer, pitch(inner)]], "{layout:?}");
            // Merged weights need no gradients of what adapters make of their input beside the others.
            let mut reads = plan.steps.iter().flat_map(|step| &step.reads);
            let is_spaced = |view: &View| view.width == outer && view.stride == pitch(outer);
            let in_arena = |view: &View| matches!(plan.buffers[view.buffer], Buffer::Arena { .. });
            let beside = reads.any(|view| is_spaced(view) && in_arena(view));
            assert_eq!(beside, !merges, "{:?}", plan.steps);
        }
    }
}

/// Queries, keys, values and what adapters make of their input, as one product of merged weights.
#[test]
fn rows_of_wide_products_begin_at_lines() {
    for rank in [3, 8] {
        let adapted = Projection::adapted(WIDTH, rank);
        let projections = [adapted, Projection::frozen(WIDTH), adapted];
        let (_, _, plan) = compiled(&projections, Layout::OutIn, true, Costs::default());
        let width = 3 * WIDTH + 2 * rank;
        let mut writes = plan.steps.iter().flat_map(|step| &step.writes);
        let wide = writes.find(|view| view.width == width || view.len() == ROWS * width);
        let stride = match wide.unwrap() {
            view if view.is_dense() => width,
            view => view.stride,
        };
        assert_eq!(stride, if rank == 3 { pitch(width) } else { width });
    }
}
