use std::{process::ExitCode, time::Instant};

use ailora::{
    models::{batch::Shape, objective::Pass, peft::Adapter},
    runtime::{
        backend::Footprint,
        passes::{Fusion, Pipeline},
    },
};
use indexmap::IndexMap;

use super::{
    Error,
    args::{self, AdapterArgs, DeviceArgs, ModelArgs},
    print::out,
    table,
};

/// The step that is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Number of rows in a batch.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = args::batch_size, allow_negative_numbers = true)]
    batch_size: usize,
    /// Number of tokens in a row.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = args::tokens, allow_negative_numbers = true)]
    length: usize,
    /// Show the forward pass alone.
    #[arg(long)]
    inference: bool,
    /// Keep only the values between blocks for the backward pass, which recomputes the rest.
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Print the program too.
    #[arg(long)]
    program: bool,
}

/// Prints what a step is made of.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let outline = args.model.outlined(&args.adapters)?;
    // What a run would refuse.
    Adapter::check(&outline.sites)?;
    out!("{}", table::sites(&outline.sites))?;
    out!("trained: {}", table::counts(&outline.counts))?;
    let platform = args.device.platform()?;
    let start = Instant::now();
    let shape = Shape::new(args.batch_size, args.length);
    let pass = match args.inference {
        true => Pass::Predict,
        false => Pass::Train,
    };
    let program = outline
        .predictor
        .program(shape, pass, platform.precision())?;
    let trained = program.trained_parameters();
    let trained: usize = trained.map(|leaf| leaf.ty.len()).sum();
    let pipeline = Pipeline {
        matrices: platform.precision().matrices(),
        fusion: Fusion::At(platform.costs()),
        checkpoints: args.gradient_checkpointing,
    };
    let step = pipeline.optimize(&program)?.fused.program;
    let plan = platform.plan(&step);
    let seconds = start.elapsed().as_secs_f64();
    if args.program {
        out!("{step}")?;
    }
    let mut kinds: IndexMap<&str, (usize, u64)> = IndexMap::new();
    for step in &plan.steps {
        let entry = kinds.entry(step.kernel.label()).or_default();
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
    out!("{kernels}")?;
    let trained = if args.inference { 0 } else { trained };
    out!("compiled in {:.1} ms", 1e3 * seconds)?;
    let footprint = platform.footprint(std::slice::from_ref(&plan), trained);
    out!("{}", memory(&footprint))?;
    Ok(ExitCode::SUCCESS)
}

/// What a step takes where it is executed.
fn memory(footprint: &Footprint) -> String {
    let mut parts = vec![
        ("parameters", footprint.parameters),
        ("intermediate values", footprint.arena),
        ("gradients and optimiser", footprint.state),
    ];
    if footprint.workspace > 0 {
        parts.push(("room for products", footprint.workspace));
    }
    let parts = parts.into_iter();
    let parts: Vec<String> = parts
        .map(|(name, bytes)| format!("{name} {}", table::bytes(bytes)))
        .collect();
    let total = table::bytes(footprint.total());
    format!("peak memory {total}: {}", parts.join(", "))
}
