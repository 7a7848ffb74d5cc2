//! From an annotated model to a plan, stage by stage: a post-norm encoder of 24 layers and 1024
//! features, and pre-norm decoder blocks of 32 layers and 4096 features with gated feed-forwards,
//! shapes only, with query and value adapters. `cargo bench --bench compile`: one JSON line a model
//! with the milliseconds of each stage.

use std::time::Instant;

use ailora::{
    Trainable,
    fuse::cost::Costs,
    ir::{DType, Type},
    prelude::*,
    runtime::{
        backend::Precision,
        passes::{Fusion, Passes, Pipeline},
        plan::plan,
    },
};

#[adapt(q = principal(8), v = minor(8), v_lr = 2.0)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
}

#[derive(Module)]
struct Block {
    attention: Attention,
    attention_norm: LayerNorm,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

#[derive(Module)]
struct Model {
    tokens: Embedding,
    blocks: Vec<Block>,
    head: Linear,
}

struct Shape {
    name: &'static str,
    layers: usize,
    width: usize,
    inner: usize,
    heads: usize,
    gated: bool,
}

impl Model {
    fn new(cx: &Cx, shape: &Shape) -> Self {
        let &Shape {
            layers,
            width,
            inner,
            gated,
            ..
        } = shape;
        let linear = |inputs, outputs| Linear::new(cx, inputs, outputs, !gated);
        let block = |_| Block {
            attention: Attention {
                q: linear(width, width),
                k: linear(width, width),
                v: linear(width, width),
                o: linear(width, width),
            },
            attention_norm: LayerNorm::new(cx, width, 1e-5),
            gate: gated.then(|| linear(width, inner)),
            up: linear(width, inner),
            down: linear(inner, width),
            norm: LayerNorm::new(cx, width, 1e-5),
        };
        Self {
            tokens: Embedding::new(cx, 32_000, width),
            blocks: (0..layers).map(block).collect(),
            head: linear(width, 2),
        }
    }

    fn forward<'g>(&self, ids: &Tensor<'g>, mask: &Tensor<'g>, shape: &Shape) -> Tensor<'g> {
        let mut x = self.tokens.forward(ids);
        for block in &self.blocks {
            let Attention { q, k, v, o } = &block.attention;
            let attend = |x: &Tensor<'g>| {
                let [q, k, v] = [q, k, v].map(|linear| linear.forward(x));
                o.forward(&q.attention(&k, &v, mask, shape.heads, 0.0))
            };
            let feed = |x: &Tensor<'g>| match &block.gate {
                Some(gate) => block
                    .down
                    .forward(&(&gate.forward(x).silu() * &block.up.forward(x))),
                None => block.down.forward(&block.up.forward(x).gelu()),
            };
            if shape.gated {
                x = &x + &attend(&block.attention_norm.forward(&x));
                x = &x + &feed(&block.norm.forward(&x));
            } else {
                x = block.attention_norm.forward(&(&x + &attend(&x)));
                x = block.norm.forward(&(&x + &feed(&x)));
            }
        }
        let [rows, _, width] = *x.shape() else {
            return x;
        };
        self.head.forward(&x.slice(1, 0, 1).reshape([rows, width]))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let encoder = Shape {
        name: "encoder",
        layers: 24,
        width: 1024,
        inner: 4096,
        heads: 16,
        gated: false,
    };
    let decoder = Shape {
        name: "decoder",
        layers: 32,
        width: 4096,
        inner: 11_008,
        heads: 32,
        gated: true,
    };
    for shape in [encoder, decoder] {
        let mut stages: Vec<(&str, f64)> = Vec::new();
        let mut start = Instant::now();
        let mut lap = |name| {
            stages.push((name, 1e3 * start.elapsed().as_secs_f64()));
            start = Instant::now();
        };
        let cx = Cx::new();
        let model = Model::new(&cx, &shape);
        let ids = cx.input("ids", Type::i32([16, 256]));
        let mask = cx.input("mask", Type::f32([16, 256]));
        let labels = cx.input("labels", Type::i32([16]));
        let logits = model.forward(&ids, &mask, &shape);
        let loss = logits.cross_entropy(&labels);
        lap("build");
        let program = cx.program(&model, &[("loss", &loss)])?;
        lap("lift");
        let (_, sites) = Visitor::inventory(&model);
        let passes = Passes {
            sites: &sites,
            trainable: &Trainable::Adapters,
            precision: Precision::F32,
        };
        let program = passes.step(&program)?;
        lap("adapt_differentiate");
        let pipeline = Pipeline {
            matrices: DType::F32,
            fusion: Fusion::At(Costs::default()),
            checkpoints: false,
        };
        let fused = pipeline.optimize(&program)?.fused;
        lap("hoist_fuse");
        let plan = plan(&fused.program);
        lap("plan");
        let total: f64 = stages.iter().map(|(_, ms)| ms).sum();
        let regions: usize = fused.reports.iter().map(|report| report.count).sum();
        let mut line = serde_json::json!({
            "model": shape.name, "layers": shape.layers, "total_ms": total,
            "regions": regions, "distinct_regions": fused.reports.len(), "kernels": plan.steps.len(),
        });
        for (name, ms) in stages {
            line[name] = ms.into();
        }
        println!("{line}");
    }
    Ok(())
}
