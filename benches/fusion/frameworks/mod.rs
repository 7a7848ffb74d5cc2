//! The same layer, query and value adapted, as one writes it in other frameworks.

mod candle;
mod dfdx;

use std::time::Instant;

use ailora::bench::{Options, Pass};
use serde::Serialize;

use crate::{
    Error,
    group::{Adapted, Group, Shape, random},
};

/// A layer in another framework, beside this one's.
#[derive(Serialize)]
pub struct Timed {
    pub framework: &'static str,
    #[serde(flatten)]
    pub shape: Shape,
    pub pass: Pass,
    /// Median milliseconds, its loss included where there is a backward pass.
    pub ms: f64,
    /// Median milliseconds of the fused form here, measured just before.
    pub fused_ms: f64,
}

/// Names of the values of a layer, and whether a projection is adapted.
const PROJECTIONS: [(&str, bool); 3] = [("q", true), ("k", false), ("v", true)];

/// The values of a layer: weights `[in, out]`, rows `[rows, width]`.
struct Layer {
    shape: Shape,
    x: Vec<f32>,
    below: Vec<f32>,
    /// For q, k and v: the weight, `A` and `B` where adapted, and the gradient towards the output.
    projections: Vec<Values>,
}

struct Values {
    weight: Vec<f32>,
    adapter: Option<[Vec<f32>; 2]>,
    towards: Vec<f32>,
}

/// `alpha / r`.
const SCALE: f64 = 2.0;

impl Layer {
    fn new(shape: Shape) -> Self {
        let Shape { width, rows, rank } = shape;
        let scale = 1.0 / (width as f32).sqrt();
        let values = |(name, is_adapted): (&str, bool)| {
            let random = |what: &str, len| random(&format!("{name}.{what}"), len, scale);
            Values {
                weight: random("weight", width * width),
                adapter: is_adapted.then(|| [random("a", width * rank), random("b", rank * width)]),
                towards: random("towards", rows * width),
            }
        };
        Self {
            shape,
            x: random("x", rows * width, 1.0),
            below: random("below", rows * width, 1.0),
            projections: PROJECTIONS.into_iter().map(values).collect(),
        }
    }
}

/// Times the layer in each framework.
pub fn compare(options: &Options) -> Result<Vec<Timed>, Error> {
    let mut all = Vec::new();
    for width in [384, 768, 1024] {
        let shape = Shape {
            width,
            rows: 2048,
            rank: 8,
        };
        let group = Group::new(shape, Adapted::QueryValue)?;
        let layer = Layer::new(shape);
        for pass in [Pass::Forward, Pass::Both] {
            let fused_ms = group.compare(pass, options)?.fused.ms;
            let frameworks = [
                ("dfdx 0.13", dfdx::runner(&layer, pass)?),
                ("candle 0.11", candle::runner(&layer, pass)?),
            ];
            for (framework, mut run) in frameworks {
                all.push(Timed {
                    framework,
                    shape,
                    pass,
                    ms: median_ms(&mut run, options)?,
                    fused_ms,
                });
            }
        }
    }
    Ok(all)
}

/// Runs a layer once.
type Runner = Box<dyn FnMut() -> Result<(), Error>>;

fn median_ms(run: &mut Runner, options: &Options) -> Result<f64, Error> {
    run()?;
    let mut ms = Vec::new();
    let start = Instant::now();
    while ms.len() < options.runs.max(1) || start.elapsed().as_secs_f64() < options.seconds {
        let start = Instant::now();
        run()?;
        ms.push(1e3 * start.elapsed().as_secs_f64());
    }
    ms.sort_by(f64::total_cmp);
    Ok(ms[ms.len() / 2])
}
