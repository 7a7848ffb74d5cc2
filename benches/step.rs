//! A training step of MiniLM's shape (6 layers, 384 wide) with random weights, as
//! `cargo bench --bench step -- BATCH LENGTH [STEPS] [LAYERS] [--unfused]`: one JSON line with the median milliseconds of
//! a step, and of a plain sequence of faer products that does the same multiplications.

use std::{collections::HashMap, time::Instant};

use ailora::{
    AdaptConfig, Method,
    adapt::adapt,
    adapter::Strategy,
    grad::gradients,
    ir::Draw,
    models::{batch::Shape, config::Config, head::Head, model::Model},
    narrow::narrow,
    runtime::{
        cpu::Value,
        engine::{Engine, Fusion},
        init::initialise,
        optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
        plan::{Kernel, Plan},
        spectrum::Options,
        store::{Array, Params},
        train::{MicroBatch, Trainer},
    },
};
use faer::{Accum, Mat, Par, linalg::matmul::matmul};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<usize> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let [batch, length] = [
        numbers.first().copied().unwrap_or(32),
        numbers.get(1).copied().unwrap_or(32),
    ];
    let steps = numbers.get(2).copied().unwrap_or(20);
    let layers = numbers.get(3).copied().unwrap_or(6);

    let folder = tempfile::tempdir()?;
    let config = r#"{"model_type": "bert", "vocab_size": 30522, "hidden_size": 384,
        "num_hidden_layers": LAYERS, "num_attention_heads": 12, "intermediate_size": 1536,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12}"#;
    let config = config.replace("LAYERS", &layers.to_string());
    std::fs::write(folder.path().join("config.json"), config)?;
    let model = Model::new(Config::from_dir(folder.path())?, Head::classification(2))?;
    let mut params: Params = model
        .parameters()
        .iter()
        .map(|parameter| {
            let key = Draw::default().key(&parameter.name);
            let mut array = Array::zeros(parameter.shape.clone());
            (0..)
                .zip(&mut array.data)
                .for_each(|(i, x)| *x = 0.02 * key.normal(i) as f32);
            (parameter.name.clone(), array)
        })
        .collect();
    let start = Instant::now();
    let sites = AdaptConfig::method(Method::LoRa, 8).resolve(model.sites())?;
    initialise(&sites, &mut params, 0, &Options::default(), |_| {})?;
    let program = model.program(Shape::new(batch, length), true, true)?;
    let program = gradients(&narrow(&adapt(&program, &sites, false)?)?, "loss")?;
    let unfused = std::env::args().any(|arg| arg == "--unfused");
    let mut engine = if unfused {
        Engine::with_fusion(params, Fusion::Off)
    } else {
        Engine::new(params)
    };
    let id = engine.compile(&program)?;
    let compile_ms = 1e3 * start.elapsed().as_secs_f64();

    let trained = sites.iter().flat_map(|site| match site.spec.strategy {
        Strategy::LowRank { .. } => vec![site.lora_a(), site.lora_b()],
        Strategy::Full => std::iter::once(&site.weight)
            .chain(&site.bias)
            .cloned()
            .collect(),
        Strategy::Frozen => Vec::new(),
    });
    let group = Group {
        lr: 1.0,
        parameters: trained.collect(),
    };
    let optimizer = AdamW::new(AdamWConfig::default(), vec![group], engine.weights());
    let schedule = Schedule {
        kind: ScheduleKind::Constant,
        warmup: 0,
        total: 1000,
    };
    let mut trainer = Trainer::new(engine, optimizer, 3e-4, schedule, None, 0);

    let key = Draw::default().key("ids");
    let draw = |n: usize, limit: f64| -> Vec<i32> {
        (0..n)
            .map(|i| (key.uniform(i as u64) * limit) as i32)
            .collect()
    };
    let tokens = batch * length;
    let ids = draw(tokens, 30_000.0);
    let zeros = vec![0; tokens];
    let positions: Vec<i32> = (0..tokens).map(|i| (i % length) as i32).collect();
    let mask = vec![1.0; tokens];
    let labels = draw(batch, 2.0);
    let inputs = vec![
        ("input_ids", Value::I32(&ids)),
        ("token_type_ids", Value::I32(&zeros)),
        ("position_ids", Value::I32(&positions)),
        ("attention_mask", Value::F32(&mask)),
        ("labels", Value::I32(&labels)),
    ];
    let plan = trainer.engine().plan(id).clone();
    let mut products = Products::of(&plan);
    let (mut step_ms, mut product_ms) = (Vec::new(), Vec::new());
    for i in 0..steps + 3 {
        let start = Instant::now();
        trainer.step(&[MicroBatch {
            plan: id,
            inputs: inputs.clone(),
            rows: batch,
        }])?;
        let step = 1e3 * start.elapsed().as_secs_f64();
        let start = Instant::now();
        products.run();
        let product = 1e3 * start.elapsed().as_secs_f64();
        if i >= 3 {
            step_ms.push(step);
            product_ms.push(product);
        }
    }
    let mut seconds = Vec::new();
    for _ in 0..steps {
        trainer
            .engine_mut()
            .profile(id, &inputs, Draw::default(), &mut seconds)?;
    }
    let mut kinds: HashMap<&str, f64> = HashMap::new();
    for (step, seconds) in plan.steps.iter().zip(seconds) {
        let kind = match step.kernel {
            Kernel::Gemm { .. } => "gemm",
            Kernel::Loop(_) => "loop",
            Kernel::Attention { .. } | Kernel::AttentionGrad { .. } => "attention",
            _ => "other",
        };
        *kinds.entry(kind).or_default() += 1e3 * seconds / steps as f64;
    }
    let ms = median(&mut step_ms);
    let gemm_flops: u64 = plan
        .steps
        .iter()
        .filter(|step| matches!(step.kernel, Kernel::Gemm { .. }))
        .map(|step| step.kernel.gemm_flops())
        .sum();
    let line = serde_json::json!({
        "fused": !unfused, "layers": layers, "batch": batch, "length": length, "rank": 8,
        "ms": ms, "samples_per_second": 1e3 * batch as f64 / ms,
        "faer_products_ms": median(&mut product_ms), "gemm_gflop": gemm_flops as f64 / 1e9,
        "gemm_ms": kinds["gemm"], "loop_ms": kinds["loop"], "attention_ms": kinds["attention"],
        "other_ms": kinds["other"], "arena_mib": plan.arena_bytes() as f64 / (1 << 20) as f64,
        "model_to_plan_ms": compile_ms,
    });
    println!("{line}");
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The matrix products of a plan on matrices of their own: what faer alone would take.
struct Products(Vec<(Mat<f32>, Mat<f32>, Mat<f32>)>);

impl Products {
    fn of(plan: &Plan) -> Self {
        let mut seen: HashMap<(usize, usize, usize), usize> = HashMap::new();
        for step in &plan.steps {
            if let Kernel::Gemm { dims, .. } = &step.kernel {
                *seen.entry((dims.m, dims.n, dims.k)).or_default() += 1;
            }
        }
        let matrix =
            |rows, columns| Mat::from_fn(rows, columns, |i, j| ((i * 7 + j) % 13) as f32 - 6.0);
        let mut products = Vec::new();
        for ((m, n, k), count) in seen {
            for _ in 0..count {
                // Row-major products are column-major ones of the transposes.
                products.push((matrix(n, m), matrix(n, k), matrix(k, m)));
            }
        }
        Self(products)
    }

    fn run(&mut self) {
        for (c, a, b) in &mut self.0 {
            matmul(
                c.as_mut(),
                Accum::Replace,
                a.as_ref(),
                b.as_ref(),
                1.0,
                Par::rayon(0),
            );
        }
    }
}
