//! Where parameters lie is decided by the step, whatever is compiled before it.

#[path = "../../tests/device/mod.rs"]
mod device;
#[path = "../../ailora-graph/tests/support/projections.rs"]
mod projections;

use ailora_graph::{
    adapter::Layout,
    fuse::cost::Costs,
    ir::{Draw, Program, Type},
};
use ailora_runtime::{
    engine::{Engine, PlanId},
    passes::Fusion,
    run::Value,
    store::{Array, Params},
};
use projections::{Projection, program};

const WIDTH: usize = 48;

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

/// Every output of a compiled program, to the last bit.
fn bits(engine: &mut Engine, id: PlanId, program: &Program) -> Vec<(String, Vec<u32>)> {
    let inputs: Vec<(&str, Array)> = program
        .inputs()
        .map(|leaf| (&*leaf.name, values(&leaf.name, &leaf.ty.shape)))
        .collect();
    let inputs: Vec<(&str, Value)> = inputs
        .iter()
        .map(|(name, array)| (*name, Value::F32(array.as_f32().unwrap())))
        .collect();
    let outputs = engine.run(id, &inputs, Draw::default()).unwrap();
    let names = program.outputs().keys();
    names
        .map(|name| {
            let values = outputs.get(name).unwrap().iter();
            (name.to_string(), values.map(|x| x.to_bits()).collect())
        })
        .collect()
}

/// What a program reads, and what it computes.
type Compiled = (Vec<(String, Type)>, Vec<(String, Vec<u32>)>);

/// Compiles the programs in this order; the results are in the programs' order.
fn compiled(programs: &[Program; 3], order: [usize; 3], step: Option<usize>) -> Vec<Compiled> {
    let leaves = programs
        .iter()
        .flat_map(|p| p.frozen_parameters().chain(p.trained_parameters()));
    let params: Params = leaves
        .map(|leaf| (leaf.name.to_string(), values(&leaf.name, &leaf.ty.shape)))
        .collect();
    let mut engine = device::engine(params, Fusion::At(Costs::default()));
    if let Some(step) = step {
        engine.lay_out(&programs[step]).unwrap();
    }
    let mut ids = [None; 3];
    for i in order {
        ids[i] = Some(engine.compile(&programs[i]).unwrap());
    }
    let ids = ids.map(Option::unwrap);
    let results = programs.iter().zip(ids).map(|(program, id)| {
        let plan = engine.plan(id);
        let read = plan.parameters.iter();
        let read = read
            .map(|(name, ty)| (name.to_string(), ty.clone()))
            .collect();
        (read, bits(&mut engine, id, program))
    });
    results.collect()
}

#[test]
fn the_order_of_compiling_changes_neither_places_nor_bits() {
    let adapted = Projection::adapted(WIDTH, 4);
    let projections = [adapted, Projection::frozen(WIDTH), adapted];
    for layout in [Layout::OutIn, Layout::InOut] {
        // A step, a smaller one, and the tail of an evaluation, which reads two of the projections.
        let programs = [(256, true, 3), (64, true, 3), (3, false, 2)]
            .map(|(rows, training, n)| program(rows, WIDTH, &projections[..n], layout, training));
        let expected = compiled(&programs, [0, 1, 2], None);
        let packed = expected[0]
            .0
            .iter()
            .any(|(name, _)| name.starts_with("pack"));
        assert!(packed, "{:?}", expected[0].0);
        let orders = [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ];
        for order in orders {
            assert!(compiled(&programs, order, Some(0)) == expected, "{order:?}");
        }
        // Without that, it does.
        let mut undecided = orders.iter();
        assert!(undecided.any(|&order| compiled(&programs, order, None) != expected));
    }
}
