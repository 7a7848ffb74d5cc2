use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ailora::{
    finetune::{Model, heads, write_model},
    models::{
        batch::Encoded,
        classification::Predictor,
        peft::Adapter,
        task::{Example, Task},
    },
    output::{ADAPTER, Existing, Folder, MODEL},
    runtime::engine::Engine,
};

use super::{
    Error,
    args::{self, DeviceArgs, ModelArgs},
    evaluate::logits,
    print::out,
};

/// Sentences whose logits must survive what is written.
const PROBES: [&str; 3] = [
    "The quick brown fox jumps over the lazy dog.",
    "Nobody had expected that.",
    "If there are 12 apples and 5 are eaten, how many are left?",
];

/// How far logits may be apart, relative to the larger of 1 and their size: float32 sums in another
/// order.
const TOLERANCE: f32 = 1e-4;

/// What is exported.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Export the adapter in this folder.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Write to this folder.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Replace the adapter that the output folder holds; other files in it stay.
    #[arg(long)]
    force: bool,
}

/// What is merged.
#[derive(Debug, clap::Args)]
pub struct MergeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Merge the adapter in this folder.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Write the merged model to this folder.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Replace the model that the output folder holds; other files in it stay.
    #[arg(long)]
    force: bool,
}

/// Writes an adapter folder anew, loads it again, and compares logits before saying done.
pub fn export(args: &ExportArgs) -> Result<ExitCode, Error> {
    let (model, _) = args.model.open(false)?;
    let adapter = Adapter::load(&args.adapter, &model.pretrained.model.sites())?;
    let inputs = [&*model.pretrained.dir, &*args.adapter];
    let _folder = claim(&args.output, args.force, &inputs, ADAPTER)?;
    adapter.save(
        &args.output,
        &args.model.model,
        model.pretrained.model.head(),
        &heads(&model.pretrained.model.sites(), &model),
    )?;
    let before = probe(model.predictor(Some(&args.adapter), args.device.open()?)?)?;
    let (again, _) = args.model.open(false)?;
    let after = probe(again.predictor(Some(&args.output), args.device.open()?)?)?;
    confirm(&before, &after)?;
    out!("wrote {}", args.output.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the merged model, loads it again, and compares logits before saying done.
pub fn merge(args: &MergeArgs) -> Result<ExitCode, Error> {
    let (mut model, task) = args.model.open(false)?;
    let sites = model.pretrained.model.sites();
    let adapter = Adapter::load(&args.adapter, &sites)?;
    let mut params = std::mem::take(&mut model.pretrained.weights);
    adapter.merge_into(&sites, &mut params)?;
    let inputs = [&*model.pretrained.dir, &*args.adapter];
    let _folder = claim(&args.output, args.force, &inputs, MODEL)?;
    write_model(&model, task, &params, &args.output)?;
    let (model, _) = args.model.open(false)?;
    let before = probe(model.predictor(Some(&args.adapter), args.device.open()?)?)?;
    let after = probe(open_merged(args, task)?.predictor(None, args.device.open()?)?)?;
    confirm(&before, &after)?;
    out!("wrote {}", args.output.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Claims a folder for files of these names, which is empty, or from which they are removed if `force`
/// says so.
fn claim(path: &Path, force: bool, inputs: &[&Path], writes: &[&str]) -> Result<Folder, Error> {
    let folder = Folder::claim(path, inputs)?;
    match args::existing(force) {
        Existing::Replace => folder.clear(&[writes])?,
        _ => folder.check_empty()?,
    }
    Ok(folder)
}

fn open_merged(args: &MergeArgs, task: &Task) -> Result<Model, Error> {
    Ok(Model::open(&args.output.to_string_lossy(), task, 0, true)?)
}

fn probe(
    (mut predictor, mut engine, model): (Predictor, Engine, Model),
) -> Result<Vec<f32>, Error> {
    let rows = PROBES.map(|text| Example {
        text: text.into(),
        pair: None,
        label: None,
    });
    let max_len = model.max_len(64);
    let rows: Vec<Encoded> = model.encode(&rows, max_len)?;
    logits(&mut predictor, &mut engine, &rows, max_len, PROBES.len())
}

fn confirm(before: &[f32], after: &[f32]) -> Result<(), Error> {
    let agree = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE * a.abs().max(1.0);
    if before.len() == after.len() && before.iter().zip(after).all(agree) {
        return Ok(());
    }
    Err(format!(
        "what was written computes other logits than the adapter: {after:?} instead of {before:?}"
    )
    .into())
}
