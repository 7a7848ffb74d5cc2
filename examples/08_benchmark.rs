//! What the adapters of your own model cost, fused and not, on its own shapes: measured.

use ailora::{
    adapt,
    bench::{Options, Pass, Subject, compare},
    ir::{Draw, Type},
    nn::{Cx, Linear},
    prelude::Visitor,
    runtime::{
        run::Value,
        store::{Array, Params},
    },
};

const ROWS: usize = 1024;
const WIDTH: usize = 256;

#[adapt(q = principal(8), v = minor(8), v_lr = 2.0)]
struct Projections {
    q: Linear,
    k: Linear,
    v: Linear,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cx = Cx::new();
    let linear = || Linear::new(&cx, WIDTH, WIDTH, false);
    let (q, k, v) = (linear(), linear(), linear());
    let model = Projections { q, k, v };
    let x = cx.input("x", Type::f32([ROWS, WIDTH]));
    let [q, k, v] = [&model.q, &model.k, &model.v].map(|linear| linear.forward(&x));
    let program = cx.program(&model, &[("q", &q), ("k", &k), ("v", &v)])?;

    let normal = |name: &str, n: usize| -> Vec<f32> {
        let key = Draw::default().key(name);
        (0..n as u64).map(|i| key.normal(i) as f32).collect()
    };
    let (parameters, sites) = Visitor::inventory(&model);
    let params: Params = parameters
        .iter()
        .map(|parameter| {
            let shape = parameter.shape.clone();
            let data = normal(&parameter.name, shape.iter().product());
            (parameter.name.clone(), Array::new(shape, data))
        })
        .collect();
    let subject = Subject {
        program: &program,
        sites: &sites,
        params: &params,
        inputs: &[("x", Value::F32(&normal("x", ROWS * WIDTH)))],
        below: &["x"],
    };
    for pass in [Pass::Forward, Pass::Both] {
        let row = compare(&subject, pass, &Options::default())?;
        println!(
            "{pass}: {} products fused, {} unfused; fused takes {:.2} of unfused",
            row.fused.products, row.unfused.products, row.ratios.fused_to_unfused
        );
    }
    Ok(())
}
