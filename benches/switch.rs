//! Adapters that are switched in process, at the shape of LLaMA-2-7B with random weights: the queries and
//! values of 32 layers, rank 16.
//!
//! `cargo bench --bench switch -- [--adapters N] [--rank N] [--layers N] [--device D] [--precision P]
//! [--rounds N]`. One JSON line: microseconds of a switch, and the bytes that adapters take beside their own
//! size.

mod random;

use std::time::Instant;

use ailora::{
    AdapterSpec, Switch,
    adapter::{Role, Site},
    ir::Draw,
    method::constructors,
    models::{
        batch::{Batch, Shape, Targets},
        config::Config,
        head::Head,
        model::Model,
        peft::Adapter,
    },
    run::backend,
    runtime::{
        backend::Precision,
        device::Device,
        engine::{Engine, PlanId},
        passes::Passes,
        run::Value,
        store::Params,
    },
};
use clap::Parser;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// LLaMA-2-7B, of so many layers.
const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
    "num_hidden_layers": LAYERS, "num_attention_heads": 32, "num_key_value_heads": 32,
    "intermediate_size": 11008, "hidden_act": "silu", "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": false}"#;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 16)]
    adapters: usize,
    #[arg(long, default_value_t = 16)]
    rank: usize,
    #[arg(long, default_value_t = 32)]
    layers: usize,
    #[arg(long, default_value = "cuda")]
    device: Device,
    #[arg(long, default_value = "bf16")]
    precision: Precision,
    /// Switches that are timed, in rounds through all adapters.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Error> {
    let args = Args::parse();
    let folder = tempfile::tempdir()?;
    let config = CONFIG.replace("LAYERS", &args.layers.to_string());
    std::fs::write(folder.path().join("config.json"), config)?;
    let model = Model::new(Config::from_dir(folder.path())?, Head::CausalLm)?;
    let parameters = model.parameters().iter();
    let mut params: Params = parameters
        .map(|p| (p.name.clone(), random::array(&p.name, &p.shape)))
        .collect();
    let names: Vec<String> = (0..args.adapters).map(|i| format!("adapter-{i}")).collect();
    let adapters = names.iter().map(|name| adapter(&model, args.rank, name));
    let adapters: Vec<Adapter> = adapters.collect();
    let pairs: Vec<_> = names.iter().map(String::as_str).zip(&adapters).collect();
    let mut switch = Switch::new(model.sites(), &params, &pairs)?;
    drop(adapters);

    let backend = backend(args.device, args.precision)?;
    let batch = tokens(8);
    let program = model.program(Shape::new(1, batch.len), false, false)?;
    let passes = Passes {
        sites: switch.sites(),
        trainable: &switch.trainable(),
        precision: backend.precision(),
    };
    let program = passes.inference(&program)?;
    params.extend(switch.start());
    let mut engine = Engine::fused(backend, params);
    let plan = engine.compile(&program)?;
    engine.release_unread();
    let inputs = model.inputs(&batch);
    let values = inputs.values();
    run(&mut engine, plan, &values)?;
    let before = engine.backend().memory()?;
    for name in &names {
        switch.switch(&mut engine, name)?;
    }
    run(&mut engine, plan, &values)?;
    let after = engine.backend().memory()?;
    let own: usize = names.iter().filter_map(|name| switch.bytes(name)).sum();

    let alone = seconds(args.rounds, || run(&mut engine, plan, &values))?;
    let among = seconds(args.rounds, || {
        for name in &names {
            switch.switch(&mut engine, name)?;
        }
        run(&mut engine, plan, &values)
    })?;
    let line = serde_json::json!({
        "device": engine.backend().name(), "precision": args.precision, "layers": args.layers,
        "adapters": args.adapters, "rank": args.rank,
        "switch_us": 1e6 * (among - alone) / names.len() as f64, "run_ms": 1e3 * alone,
        "adapters_mib": mib(own), "device_mib": mib(after.used.saturating_sub(before.used)),
        "allocated_mib": mib(after.peak.saturating_sub(before.peak)),
    });
    println!("{line}");
    Ok(())
}

/// A random adapter of the queries and values.
fn adapter(model: &Model, rank: usize, name: &str) -> Adapter {
    let mut adapter = Adapter::default();
    for site in model.sites() {
        if ![Some(Role::Q), Some(Role::V)].contains(&site.role()) {
            continue;
        }
        let spec: AdapterSpec = constructors::random(rank);
        let site = Site { spec, ..site };
        for parameter in site.parameters(std::slice::from_ref(&site)) {
            let own = format!("{name}.{}", parameter.name);
            let array = random::array(&own, &parameter.shape);
            adapter.tensors.insert(parameter.name, array);
        }
        adapter.sites.insert(site.path.clone(), site);
    }
    adapter
}

/// Runs the program, and waits for a result.
fn run(engine: &mut Engine, plan: PlanId, inputs: &[(&str, Value<'_>)]) -> Result<(), Error> {
    engine.run(plan, inputs, Draw::default())?;
    Ok(())
}

/// The least seconds of several rounds.
fn seconds(rounds: usize, mut round: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    let mut least = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        round()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}

fn tokens(len: usize) -> Batch {
    let ids: Vec<i32> = (0..len as i32).map(|i| 1 + 37 * i).collect();
    Batch {
        rows: 1,
        len,
        type_ids: vec![0; len],
        mask: vec![1.0; len],
        targets: Targets::default(),
        indices: vec![0],
        ids,
    }
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
