//! An initialisation of your own: adapters that start from the *middle* of the spectrum. Any triplets
//! of a weight will do; the program subtracts what they span from the frozen part, so that training
//! starts at the pretrained model.

use ailora::{
    AdaptConfig, Tuner, Visitor, adapt,
    adapter::Site,
    ir::{Draw, Type},
    nn::{Cx, Linear},
    runtime::{
        init::{matrix, start},
        run::Value,
        spectrum::{End, Options, Request, Triplets, triplets_of},
        store::{Array, Params},
    },
};

#[adapt(project = principal(4))]
struct Model {
    project: Linear,
}

/// The triplets in the middle of a weight's spectrum.
fn middle(
    site: &Site,
    params: &Params,
    rank: usize,
) -> Result<Triplets, Box<dyn std::error::Error>> {
    let (matrix, end) = (matrix(site, params)?, End::Principal);
    let k = matrix.rows().min(matrix.cols());
    let request = Request { matrix, end, k };
    let all = triplets_of(&[request], &Options::default(), |_| {})?;
    let all = all.first().ok_or("no triplets")?;
    let chosen = (k - rank) / 2..(k + rank) / 2;
    let columns = |vectors: &[f64]| -> Vec<f64> {
        let rows = vectors.chunks_exact(k);
        rows.flat_map(|row| &row[chosen.clone()]).copied().collect()
    };
    Ok(Triplets {
        u: columns(&all.u),
        s: all.s[chosen.clone()].to_vec(),
        v: columns(&all.v),
        ..*all
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cx = Cx::new();
    let project = Linear::new(&cx, 24, 16, false);
    let model = Model { project };
    let x = cx.input("x", Type::f32([8, 24]));
    let y = model.project.forward(&x);
    let loss = (&y * &y).mean([0, 1]).reshape([]);
    let program = cx.program(&model, &[("loss", &loss)])?;

    let normal = |name: &str, n: u64| -> Vec<f32> {
        let key = Draw::default().key(name);
        (0..n).map(|i| key.normal(i) as f32).collect()
    };
    let (shape, data) = (vec![16, 24], normal("weight", 16 * 24));
    let mut params = Params::from([("project.weight".to_owned(), Array::new(shape, data))]);
    let (_, sites) = Visitor::inventory(&model);
    let sites = AdaptConfig::default().resolve(sites)?;
    let triplets = middle(&sites[0], &params, 4)?;
    println!("starts from the singular values {:.3?}", triplets.s);
    start(&sites[0], &triplets, &mut params)?;

    let mut tuner = Tuner::new(&program, &sites, params, 1e-2)?;
    let x = normal("x", 8 * 24);
    for _ in 0..50 {
        let step = tuner.step(&[("x", Value::F32(&x))])?;
        if step.step % 10 == 1 {
            println!("step {:2}: loss {:.3}", step.step, step.loss);
        }
    }
    Ok(())
}
