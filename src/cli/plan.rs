use std::{process::ExitCode, time::Instant};

use ailora::{
    hoist::hoist,
    models::classification::Predictor,
    runtime::backend::Precision,
    runtime::plan::{Kernel, plan},
};
use indexmap::IndexMap;

use super::{
    Error,
    args::{AdapterArgs, ModelArgs},
    table,
};

/// The step that is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// Rows of a batch.
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 128)]
    length: usize,
    /// Shows the forward pass alone.
    #[arg(long)]
    inference: bool,
    /// Prints the program too.
    #[arg(long)]
    program: bool,
}

/// Prints what a step is made of.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let (model, sites, config) = args.model.adapted(&args.adapters)?;
    let trainable: usize = sites.iter().map(|site| site.trainable()).sum();
    println!("{}", table::sites(&sites));
    let everything = config.trains_everything();
    let pad = model.tokenizer.pad_id();
    let start = Instant::now();
    let predictor = Predictor::new(model.pretrained.model, sites, everything, pad);
    let program = predictor.program(
        args.batch_size,
        args.length,
        !args.inference,
        Precision::F32,
    )?;
    let hoisted = hoist(&program)?;
    let plan = plan(&hoisted.step);
    let seconds = start.elapsed().as_secs_f64();
    if args.program {
        println!("{}", hoisted.step);
    }
    let mut kinds: IndexMap<&str, (usize, u64)> = IndexMap::new();
    for step in &plan.steps {
        let name = match step.kernel {
            Kernel::Gemm { .. } | Kernel::Merge { .. } => "matrix product",
            Kernel::Loop(_) => "fused loop",
            Kernel::Attention { .. } | Kernel::AttentionGrad { .. } => "attention",
            Kernel::Gather { .. } | Kernel::ScatterAdd { .. } => "embedding",
            Kernel::TakeAlong { .. } | Kernel::TakeAlongGrad { .. } => "relative positions",
            Kernel::Rotary { .. } => "rotary positions",
            Kernel::Reduce { .. } => "reduction",
            Kernel::Copy(_) => "copy",
            Kernel::CrossEntropy { .. } | Kernel::CrossEntropyGrad { .. } => "loss",
        };
        let entry = kinds.entry(name).or_default();
        entry.0 += 1;
        entry.1 += step.kernel.gemm_flops();
    }
    let mut kernels = table::table(&["kernel", "number", "GFLOP"]);
    for (name, (number, flops)) in kinds {
        kernels.add_row([
            name.into(),
            number.to_string(),
            format!("{:.2}", flops as f64 / 1e9),
        ]);
    }
    println!("{kernels}");
    let trained: usize = if everything {
        plan.parameter_bytes() / 4
    } else {
        trainable
    };
    let state = if args.inference { 0 } else { 3 * 4 * trained };
    println!("compiled in {:.1} ms", 1e3 * seconds);
    println!(
        "peak memory {}: parameters {}, intermediate values {}, gradients and optimiser {}",
        table::bytes(plan.parameter_bytes() + plan.arena_bytes() + state),
        table::bytes(plan.parameter_bytes()),
        table::bytes(plan.arena_bytes()),
        table::bytes(state)
    );
    Ok(ExitCode::SUCCESS)
}
