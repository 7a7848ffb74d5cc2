//! Texts that a model's folder writes behind prompts of token ids:
//! `cargo bench --bench generate -- MODEL PROMPTS [--new N] [--beams N] [--device D] [--precision P]
//! [--rounds N] [--output FILE]`, PROMPTS a JSON list of lists of ids. One JSON line; its figures are those of
//! `tests/python/generate_beside.py`, which makes models and prompts and runs transformers.

use std::{fs, path::PathBuf, time::Instant};

use ailora::{
    AdapterSpec,
    models::{
        generate::{Generator, Options, Rules, Strategy},
        head::Head,
        pretrained::Pretrained,
    },
    run::backend,
    runtime::{backend::Precision, device::Device, engine::Engine},
};
use clap::Parser;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Args {
    model: PathBuf,
    prompts: PathBuf,
    #[arg(long, default_value_t = 128)]
    new: usize,
    #[arg(long, default_value_t = 1)]
    beams: usize,
    #[arg(long, default_value = "cuda")]
    device: Device,
    #[arg(long, default_value = "bf16")]
    precision: Precision,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Writes the tokens to this file.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Error> {
    let args = Args::parse();
    let prompts: Vec<Vec<i32>> = serde_json::from_slice(&fs::read(&args.prompts)?)?;
    let started = Instant::now();
    let head = Head::CausalLm;
    let Pretrained { model, weights, .. } = Pretrained::open(&args.model, head)?;
    let mut sites = model.sites();
    for site in &mut sites {
        site.spec = AdapterSpec::frozen();
    }
    let mut engine = Engine::fused(backend(args.device, args.precision)?, weights);
    let mut generator = Generator::new(model, sites);
    let mut run = |new: usize| -> Result<(f64, Vec<Vec<i32>>), Error> {
        let options = Options {
            strategy: match args.beams {
                1 => Strategy::Greedy,
                beams => Strategy::Beam {
                    beams,
                    length_penalty: 1.0,
                    early_stopping: false,
                },
            },
            max_new_tokens: new,
            ends: Vec::new(),
            rules: Rules::default(),
            numbers: Vec::new(),
        };
        let start = Instant::now();
        let found = generator.generate(&mut engine, &prompts, &options, |_, _| false, |_, _| {})?;
        Ok((start.elapsed().as_secs_f64(), found))
    };
    let (_, tokens) = run(args.new)?;
    let first = started.elapsed().as_secs_f64();
    // A run of one token is the prompts.
    run(1)?;
    let (mut seconds, mut prompts_seconds) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let (took, again) = run(args.new)?;
        if again != tokens {
            return Err("the same prompts gave other tokens".into());
        }
        seconds.push(took);
        prompts_seconds.push(run(1)?.0);
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let (all, start) = (median(seconds), median(prompts_seconds));
    let steps = args.new.saturating_sub(1).max(1) as f64;
    if let Some(path) = &args.output {
        fs::write(path, serde_json::to_vec(&tokens)?)?;
    }
    let line = serde_json::json!({
        "model": args.model, "prompts": prompts.len(), "new": args.new, "beams": args.beams,
        "precision": engine.backend().precision(), "device": engine.backend().name(),
        "ms_per_step": 1e3 * (all - start) / steps, "ms_prompts": 1e3 * start, "seconds": all,
        "tokens_per_second": (prompts.len() * args.new) as f64 / all,
        "seconds_with_loading": first,
    });
    println!("{line}");
    Ok(())
}
