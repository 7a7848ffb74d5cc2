//! Training steps of models' shapes with random weights on a device:
//! `cargo bench --bench device -- MODEL [--device D] [--precision P] [--batch N] [--length N]
//! [--rank N] [--layers N] [--steps N] [--unfused] [--method M,M]`, MODEL one of minilm-l6, roberta-large,
//! llama2-7b: a JSON line for each method, whose figures are those of `tests/python/peft_step.py`. Steps of
//! several methods take turns; `ratio` is the median of a method's step over the first one's in the same round.

mod random;

use std::{collections::BTreeMap, time::Instant};

use ailora::{
    AdaptConfig,
    adapter::Site,
    ir::{Draw, Program},
    method::{self, Method},
    models::{
        batch::{Batch, Inputs, Shape, Targets},
        config::Config,
        head::Head,
        model::Model,
    },
    run::backend,
    runtime::{
        backend::Precision,
        device::Device,
        engine::{Engine, PlanId},
        init::initialise,
        kernels::{Kernel, gemm::Gemm, outer::Outer},
        optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
        passes::{Fusion, Passes},
        spectrum::Options,
        store::Params,
        train::{MicroBatch, Trainer},
    },
};
use clap::Parser;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The rank that the families' projections are annotated with.
const ANNOTATED: usize = 8;

/// Steps that are not counted.
const WARM_UP: usize = 5;

#[derive(Parser)]
struct Args {
    model: String,
    #[arg(long, default_value = "cuda")]
    device: Device,
    #[arg(long, default_value = "bf16")]
    precision: Precision,
    #[arg(long)]
    batch: Option<usize>,
    #[arg(long)]
    length: Option<usize>,
    #[arg(long)]
    rank: Option<usize>,
    #[arg(long)]
    layers: Option<usize>,
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Methods of fine-tuning.
    #[arg(long, value_delimiter = ',', default_value = "lora", value_parser = method::find)]
    method: Vec<&'static dyn Method>,
    /// Each operation by a kernel of its own.
    #[arg(long)]
    unfused: bool,
    /// Keeps what lies between blocks only, and computes the rest again.
    #[arg(long)]
    checkpoint: bool,
    /// Prints what each kind of kernel takes, the longest first.
    #[arg(long)]
    profile: bool,
    /// Cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Error> {
    let args = Args::parse();
    let causal = args.model == "llama2-7b";
    let [batch, length, rank] = if causal { [16, 256, 32] } else { [32, 128, 8] };
    let batch = args.batch.unwrap_or(batch);
    let length = args.length.unwrap_or(length);
    let given = args.rank;
    let model = model(&args.model, args.layers)?;
    let tokens = tokens(batch, length, causal);
    let inputs = model.inputs(&tokens);
    let mut contenders = Vec::new();
    for &method in &args.method {
        contenders.push(Contender::new(
            &args,
            method,
            given.unwrap_or(rank),
            &model,
            &tokens,
        )?);
    }
    for contender in &mut contenders {
        contender.first_ms = contender.step(&inputs)?;
    }
    for round in 0..WARM_UP + args.steps {
        for turn in 0..contenders.len() {
            let next = (round + turn) % contenders.len();
            let ms = contenders[next].step(&inputs)?;
            contenders[next].ms.push(ms);
        }
    }
    let first = contenders[0].ms.clone();
    for contender in &mut contenders {
        let ratios = contender
            .ms
            .iter()
            .zip(&first)
            .map(|(own, first)| own / first);
        let ratio = median(ratios.skip(WARM_UP).collect());
        let mut line = contender.line(&args, &inputs)?;
        line["rank"] = contender.rank.into();
        line["ratio"] = ratio.into();
        println!("{line}");
        if args.profile {
            let plan = contender.plan;
            profile(
                contender.trainer.engine()?,
                plan,
                &inputs.values(),
                args.steps,
            )?;
        }
    }
    Ok(())
}

/// A method's step on a device, and what its steps took.
struct Contender {
    method: &'static dyn Method,
    rank: Option<usize>,
    trainer: Trainer,
    plan: PlanId,
    batch: [usize; 2],
    compile_ms: f64,
    predicted: usize,
    first_ms: f64,
    ms: Vec<f64>,
}

impl Contender {
    fn new(
        args: &Args,
        method: &'static dyn Method,
        rank: usize,
        model: &Model,
        batch: &Batch,
    ) -> Result<Self, Error> {
        let mut params = random_parameters(model);
        let mut config = AdaptConfig::method(method, rank);
        let own = AdaptConfig {
            rank: args.rank,
            ..config.clone()
        };
        // VeRA and bottlenecks have a size of their own.
        let is_own = |site: &Site| !matches!(site.spec.rank(), None | Some(ANNOTATED));
        if own.resolve(model.sites())?.iter().any(is_own) {
            config = own;
        }
        let sites = config.resolve(model.sites())?;
        let rank = sites.iter().find_map(|site| site.spec.rank());
        initialise(&sites, &mut params, 0, &Options::default(), |_| {})?;
        let backend = backend(args.device, args.precision)?;
        let start = Instant::now();
        let program = model.program(Shape::new(batch.rows, batch.len), true, true)?;
        let passes = Passes {
            sites: &sites,
            trainable: &method.trainable(),
            precision: backend.precision(),
        };
        let program = passes.step(&program)?;
        let fusion = match args.unfused {
            true => Fusion::Off,
            false => Fusion::At(backend.costs()),
        };
        let mut engine = Engine::on(backend, params, fusion).checkpointing(args.checkpoint);
        let plan = engine.compile(&program)?;
        engine.release_unread();
        Ok(Self {
            method,
            rank,
            plan,
            batch: [batch.rows, batch.len],
            compile_ms: milliseconds(start),
            predicted: engine.peak_bytes(Site::adapters_trainable(&sites)),
            trainer: trainer(engine, &program),
            first_ms: f64::NAN,
            ms: Vec::new(),
        })
    }

    fn step(&mut self, inputs: &Inputs) -> Result<f64, Error> {
        let micro_batch = micro_batch(self.plan, inputs, self.batch[0]);
        let start = Instant::now();
        self.trainer.step(&[micro_batch])?;
        Ok(milliseconds(start))
    }

    fn line(&mut self, args: &Args, inputs: &Inputs) -> Result<serde_json::Value, Error> {
        let [rows, length] = self.batch;
        let ms = median(self.ms[WARM_UP..].to_vec());
        let micro_batch = micro_batch(self.plan, inputs, rows);
        let ms_in_a_row = in_a_row(&mut self.trainer, micro_batch, args.steps)?;
        let engine = self.trainer.engine()?;
        let steps = &engine.plan(self.plan).steps;
        let flops: u64 = steps.iter().map(|step| step.kernel.gemm_flops()).sum();
        let gib = |bytes: usize| bytes as f64 / (1_u64 << 30) as f64;
        // What was allocated at a time is counted as `torch.cuda.max_memory_allocated` does; in use are the
        // driver's own bytes, too. Both are of all methods.
        let memory = engine.backend().memory()?;
        Ok(serde_json::json!({
            "model": args.model, "method": self.method.name(), "batch": rows, "length": length,
            "precision": engine.backend().precision(), "unfused": args.unfused,
            "checkpoint": args.checkpoint, "device": engine.backend().name(),
            "ms": ms, "ms_in_a_row": ms_in_a_row, "samples_per_second": 1e3 * rows as f64 / ms,
            "tokens_per_second": 1e3 * (rows * length) as f64 / ms,
            "tflop": flops as f64 / 1e12, "tflop_per_second": flops as f64 / 1e9 / ms,
            "kernels": steps.len(), "compile_ms": self.compile_ms, "first_step_ms": self.first_ms,
            "arena_gib": gib(engine.backend().arena_bytes()),
            "peak_gib": gib(memory.peak),
            "predicted_gib": gib(self.predicted),
            "device_gib": gib(memory.used),
        }))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The trainer of all parameters that a program trains.
fn trainer(engine: Engine, program: &Program) -> Trainer {
    let trained = program.trained_parameters();
    let group = Group {
        lr: 1.0,
        parameters: trained.map(|leaf| leaf.name.to_string()).collect(),
    };
    let optimizer = AdamW::new(AdamWConfig::default(), vec![group], engine.weights());
    let schedule = Schedule {
        kind: ScheduleKind::Constant,
        warmup: 0,
        total: 1000,
    };
    Trainer::new(engine, optimizer, 3e-4, schedule, None, 0)
}

/// Milliseconds of a step where nobody waits for one before the next is queued.
fn in_a_row(
    trainer: &mut Trainer,
    micro_batch: MicroBatch<'_>,
    count: usize,
) -> Result<f64, Error> {
    let start = Instant::now();
    let micro_batches = [micro_batch];
    let mut steps = trainer.steps();
    for _ in 0..count {
        steps.submit(&micro_batches)?;
    }
    steps.finish()?;
    drop(steps);
    Ok(milliseconds(start) / count as f64)
}

/// Prints what kernels of one kind and size take in a step.
fn profile(
    engine: &mut Engine,
    plan: ailora::runtime::engine::PlanId,
    inputs: &[(&str, ailora::runtime::run::Value<'_>)],
    steps: usize,
) -> Result<(), Error> {
    let mut seconds = Vec::new();
    for _ in 0..steps {
        engine.profile(plan, inputs, Draw::default(), &mut seconds)?;
    }
    let mut kinds: BTreeMap<String, (usize, f64, f64)> = BTreeMap::new();
    for (step, seconds) in engine.plan(plan).steps.iter().zip(seconds) {
        let sizes = |views: &[ailora::runtime::plan::View]| -> Vec<usize> {
            views.iter().map(ailora::runtime::plan::View::len).collect()
        };
        let name = match &step.kernel {
            Kernel::Gemm(Gemm {
                op,
                dims,
                accumulate,
                ..
            }) => format!("{op} {}x{}x{} {accumulate}", dims.m, dims.n, dims.k),
            Kernel::Outer(Outer { depth, products }) => {
                let shapes: Vec<_> = products.iter().map(|p| p.shape).collect();
                format!("outer {depth} rows {shapes:?}")
            }
            Kernel::Loop(walk) => format!(
                "loop {:?}x{} of {} rows:{} {:?} -> {:?}",
                walk.rows,
                walk.width,
                walk.instructions.len(),
                walk.whole_rows,
                sizes(&step.reads),
                sizes(&step.writes)
            ),
            other => {
                let text = format!("{other:?}");
                text.split([' ', '{', '('])
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            }
        };
        let entry = kinds.entry(name).or_default();
        entry.0 += 1;
        entry.1 += 1e3 * seconds / steps as f64;
        entry.2 += step.kernel.gemm_flops() as f64;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by(|(_, a), (_, b)| b.1.total_cmp(&a.1));
    for (name, (count, ms, flops)) in kinds.into_iter().take(40) {
        println!(
            "{ms:9.3} ms {count:4} x {:7.1} TFLOP/s  {name}",
            flops / ms / 1e9
        );
    }
    Ok(())
}

fn model(name: &str, layers: Option<usize>) -> Result<Model, Error> {
    let (config, head, usual) = match name {
        "minilm-l6" => (
            r#"{"model_type": "bert", "vocab_size": 30522, "hidden_size": 384,
            "num_hidden_layers": LAYERS, "num_attention_heads": 12, "intermediate_size": 1536,
            "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512,
            "type_vocab_size": 2, "layer_norm_eps": 1e-12}"#,
            Head::classification(2),
            6,
        ),
        "roberta-large" => (
            r#"{"model_type": "roberta", "vocab_size": 50265, "hidden_size": 1024,
            "num_hidden_layers": LAYERS, "num_attention_heads": 16, "intermediate_size": 4096,
            "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 514,
            "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}"#,
            Head::classification(2),
            24,
        ),
        "llama2-7b" => (
            r#"{"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
            "num_hidden_layers": LAYERS, "num_attention_heads": 32, "num_key_value_heads": 32,
            "intermediate_size": 11008, "hidden_act": "silu", "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": false}"#,
            Head::CausalLm,
            32,
        ),
        _ => return Err("expected minilm-l6, roberta-large or llama2-7b".into()),
    };
    let folder = tempfile::tempdir()?;
    let layers = layers.unwrap_or(usual).to_string();
    let file = folder.path().join("config.json");
    std::fs::write(file, config.replace("LAYERS", &layers))?;
    Ok(Model::new(Config::from_dir(folder.path())?, head)?)
}

/// Uniform numbers; their sizes do not matter to speed.
fn random_parameters(model: &Model) -> Params {
    let parameters = model.parameters().iter();
    parameters
        .map(|parameter| {
            let array = random::array(&parameter.name, &parameter.shape);
            (parameter.name.clone(), array)
        })
        .collect()
}

fn micro_batch<'a>(plan: PlanId, inputs: &'a Inputs, rows: usize) -> MicroBatch<'a> {
    MicroBatch {
        plan,
        inputs: inputs.values(),
        rows,
        targets: rows,
    }
}

fn tokens(rows: usize, len: usize, causal: bool) -> Batch {
    let key = Draw::default().key("ids");
    let draw = |n: usize, limit: f64| -> Vec<i32> {
        (0..n as u64)
            .map(|i| (key.uniform(i) * limit) as i32)
            .collect()
    };
    let ids = draw(rows * len, 30_000.0);
    let targets = match causal {
        true => Targets::next_tokens(&ids, len),
        false => Targets::classes(draw(rows, 2.0)),
    };
    Batch {
        rows,
        len,
        type_ids: vec![0; rows * len],
        mask: vec![1.0; rows * len],
        targets,
        indices: (0..rows).collect(),
        ids,
    }
}

fn milliseconds(since: Instant) -> f64 {
    1e3 * since.elapsed().as_secs_f64()
}
