//! A training step of MiniLM's shape (6 layers, 384 wide) with random weights, as
//! `cargo bench --bench step -- BATCH LENGTH [STEPS] [LAYERS] [FORM ...] [METHOD ...]`: one JSON line for each
//! form, of `unfused`, `elementwise` and `fused`, of each method, which is LoRA if none is named. They and a
//! plain sequence of faer products that does the first one's multiplications take turns, so that what else the
//! machine does meets all alike; `speedup` is the median of the first one's step over the other's in the same
//! round.

use std::{collections::HashMap, time::Instant};

use ailora::{
    AdaptConfig,
    adapter::{Site, Trainable},
    fuse::cost::Costs,
    ir::{Draw, Program},
    method::{self, Lora, Method},
    models::{batch::Shape, config::Config, head::Head, model::Model},
    runtime::{
        backend::Precision,
        engine::{Engine, PlanId},
        init::initialise,
        kernels::{Kernel, gemm::Gemm},
        optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
        passes::{Fusion, Passes},
        plan::Plan,
        run::Value,
        spectrum::Options,
        store::{Array, Params},
        train::{MicroBatch, Trainer},
    },
};
use faer::{Accum, Mat, Par, linalg::matmul::matmul};

type Error = Box<dyn std::error::Error>;
type Inputs<'a> = Vec<(&'a str, Value<'a>)>;

const RANK: usize = 8;
/// Steps that are not counted.
const WARM_UP: usize = 3;

fn main() -> Result<(), Error> {
    let numbers: Vec<usize> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let number = |i: usize, default| numbers.get(i).copied().unwrap_or(default);
    let [batch, length] = [number(0, 32), number(1, 32)];
    let [steps, layers] = [number(2, 20), number(3, 6)];

    let model = Model::new(config(layers)?, Head::classification(2))?;
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

    let program = |sites: &[Site]| -> Result<Program, Error> {
        let program = model.program(Shape::new(batch, length), true, true)?;
        let passes = Passes {
            sites,
            trainable: &Trainable::Adapters,
            precision: Precision::F32,
        };
        Ok(passes.step(&program)?)
    };
    let mut contenders = Vec::new();
    for method in methods() {
        let sites = AdaptConfig::method(method, RANK).resolve(model.sites())?;
        let mut params = random_parameters(&model);
        initialise(&sites, &mut params, 0, &Options::default(), |_| {})?;
        for (form, fusion) in forms() {
            let start = Instant::now();
            let engine = Engine::with_fusion(params.clone(), fusion);
            let names = [method.name(), form];
            contenders.push(Contender::new(
                names,
                engine,
                &program(&sites)?,
                &sites,
                start,
            )?);
        }
    }
    let mut products = Products::of(contenders[0].plan()?);
    let mut products_ms = Vec::new();
    for round in 0..steps + WARM_UP {
        // Who comes after whom matters, so that changes too.
        for turn in 0..contenders.len() {
            let next = (round + turn) % contenders.len();
            contenders[next].step(&inputs, batch)?;
        }
        let start = Instant::now();
        products.run();
        products_ms.push(milliseconds(start));
    }
    let products_ms = median(products_ms[WARM_UP..].to_vec());
    let first = contenders[0].ms.clone();
    for contender in &mut contenders {
        let ratios = first.iter().zip(&contender.ms).map(|(a, b)| a / b);
        let speedup = median(ratios.skip(WARM_UP).collect());
        let mut line = contender.line(&inputs, steps, batch)?;
        line["layers"] = layers.into();
        line["length"] = length.into();
        line["speedup"] = speedup.into();
        line["faer_products_ms"] = products_ms.into();
        println!("{line}");
    }
    Ok(())
}

/// The forms that the arguments name, or all.
fn forms() -> Vec<(&'static str, Fusion)> {
    let mut forms = vec![
        ("unfused", Fusion::Off),
        ("elementwise", Fusion::Elementwise),
        ("fused", Fusion::At(Costs::default())),
    ];
    let wanted: Vec<String> = std::env::args().collect();
    let is_wanted = |(name, _): &(&str, Fusion)| wanted.iter().any(|arg| arg == name);
    if forms.iter().any(is_wanted) {
        forms.retain(is_wanted);
    }
    forms
}

/// The methods that the arguments name, or LoRA.
fn methods() -> Vec<&'static dyn Method> {
    let named = std::env::args()
        .skip(1)
        .filter_map(|arg| method::find(&arg).ok());
    let named: Vec<_> = named.collect();
    if named.is_empty() { vec![&Lora] } else { named }
}

fn config(layers: usize) -> Result<Config, Error> {
    let folder = tempfile::tempdir()?;
    let config = r#"{"model_type": "bert", "vocab_size": 30522, "hidden_size": 384,
        "num_hidden_layers": LAYERS, "num_attention_heads": 12, "intermediate_size": 1536,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12}"#;
    let config = config.replace("LAYERS", &layers.to_string());
    std::fs::write(folder.path().join("config.json"), config)?;
    Ok(Config::from_dir(folder.path())?)
}

fn random_parameters(model: &Model) -> Params {
    let parameters = model.parameters().iter();
    parameters
        .map(|parameter| {
            let key = Draw::default().key(&parameter.name);
            let mut array = Array::zeros(parameter.shape.clone());
            (0..)
                .zip(array.floats_mut())
                .for_each(|(i, x)| *x = 0.02 * key.normal(i) as f32);
            (parameter.name.clone(), array)
        })
        .collect()
}

fn trainer(engine: Engine, sites: &[Site]) -> Trainer {
    let trained = sites.iter().flat_map(Site::trained);
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
    Trainer::new(engine, optimizer, 3e-4, schedule, None, 0)
}

/// A method's step in some form, and what its steps took.
struct Contender {
    names: [&'static str; 2],
    compile_ms: f64,
    trainer: Trainer,
    plan: PlanId,
    ms: Vec<f64>,
}

impl Contender {
    /// One that is compiled since `start`.
    fn new(
        names: [&'static str; 2],
        mut engine: Engine,
        program: &Program,
        sites: &[Site],
        start: Instant,
    ) -> Result<Self, Error> {
        let plan = engine.compile(program)?;
        Ok(Self {
            names,
            compile_ms: milliseconds(start),
            trainer: trainer(engine, sites),
            plan,
            ms: Vec::new(),
        })
    }

    fn plan(&mut self) -> Result<&Plan, Error> {
        Ok(self.trainer.engine()?.plan(self.plan))
    }

    fn step(&mut self, inputs: &Inputs<'_>, rows: usize) -> Result<(), Error> {
        let batch = MicroBatch {
            plan: self.plan,
            inputs: inputs.clone(),
            rows,
            targets: rows,
        };
        let start = Instant::now();
        self.trainer.step(&[batch])?;
        self.ms.push(milliseconds(start));
        Ok(())
    }

    /// What its steps on batches of so many rows took.
    fn line(
        &mut self,
        inputs: &Inputs<'_>,
        steps: usize,
        batch: usize,
    ) -> Result<serde_json::Value, Error> {
        let kinds = self.kinds(inputs, steps)?;
        let kind = |name: &str| kinds.get(name).copied().unwrap_or(0.0);
        let ms = median(self.ms[WARM_UP..].to_vec());
        let [method, form] = self.names;
        let plan = self.plan()?;
        let gemm_gflop = gemm_flops(plan) as f64 / 1e9;
        let arena_mib = plan.arena_bytes() as f64 / (1 << 20) as f64;
        Ok(serde_json::json!({
            "method": method, "form": form, "batch": batch, "rank": RANK, "ms": ms,
            "samples_per_second": 1e3 * batch as f64 / ms,
            "gemm_gflop": gemm_gflop,
            "gemm_ms": kind("gemm"), "loop_ms": kind("loop"), "attention_ms": kind("attention"),
            "other_ms": kind("other"),
            "arena_mib": arena_mib, "compile_ms": self.compile_ms,
        }))
    }

    /// Mean milliseconds of each kind of kernel.
    fn kinds(
        &mut self,
        inputs: &Inputs<'_>,
        steps: usize,
    ) -> Result<HashMap<&'static str, f64>, Error> {
        let mut seconds = Vec::new();
        let engine = self.trainer.engine()?;
        for _ in 0..steps {
            engine.profile(self.plan, inputs, Draw::default(), &mut seconds)?;
        }
        let mut kinds: HashMap<&str, f64> = HashMap::new();
        for (step, seconds) in engine.plan(self.plan).steps.iter().zip(seconds) {
            let kind = match step.kernel {
                Kernel::Gemm(_) | Kernel::Outer(_) | Kernel::Merge(_) => "gemm",
                Kernel::Loop(_) => "loop",
                Kernel::Attention(_) | Kernel::AttentionGrad(_) => "attention",
                _ => "other",
            };
            *kinds.entry(kind).or_default() += 1e3 * seconds / steps as f64;
        }
        Ok(kinds)
    }
}

/// Of matrix products alone: attention's are within its kernels.
fn gemm_flops(plan: &Plan) -> u64 {
    let kernels = plan.steps.iter().map(|step| &step.kernel);
    let flops = kernels.filter(|kernel| kernel.products() > 0);
    flops.map(Kernel::gemm_flops).sum()
}

fn milliseconds(since: Instant) -> f64 {
    1e3 * since.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The matrix products of a plan on matrices of their own: what faer alone would take.
struct Products(Vec<(Mat<f32>, Mat<f32>, Mat<f32>)>);

impl Products {
    fn of(plan: &Plan) -> Self {
        let mut seen: HashMap<(usize, usize, usize), usize> = HashMap::new();
        for step in &plan.steps {
            if let Kernel::Gemm(Gemm { dims, .. }) = &step.kernel {
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
