use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ailora::{
    finetune::{About, Model, write_model},
    models::{
        batch::Encoded, data::Example, objective::Predictor, peft::proof, pretrained::Pretrained,
        task::Task,
    },
    output::{ADAPTER, Existing, Folder, MODEL},
    runtime::{
        engine::Engine,
        store::{Array, Params},
    },
};

use super::{
    Error,
    args::{self, DeviceArgs, ModelArgs},
    dataset::ColumnArgs,
    evaluate::logits,
    print::out,
    sources::{Given, SourceArgs},
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
#[command(mut_arg("adapter", |adapter| adapter.required(true)))]
pub struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// Write to this folder.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Replace the adapter that the output folder holds; other files in it stay.
    #[arg(long)]
    force: bool,
}

/// What is merged.
#[derive(Debug, clap::Args)]
#[command(mut_arg("adapter", |adapter| adapter.required(true)))]
pub struct MergeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// Write the merged model to this folder.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Replace the model that the output folder holds; other files in it stay.
    #[arg(long)]
    force: bool,
}

/// Writes an adapter, or what several come to, as a folder of its own, and compares the logits that its files make by the definition of
/// LoRA with the adapter's before saying done.
pub fn export(args: &ExportArgs) -> Result<ExitCode, Error> {
    let given = args.source.needed()?;
    let (mut model, task) = args
        .model
        .open_with(Some(&given), &ColumnArgs::default(), &[])?;
    let Pretrained {
        dir,
        model: built,
        weights,
        sha256,
        ..
    } = &model.pretrained;
    let _folder = claim(
        &args.output,
        args.force,
        &[vec![dir.as_path()], given.folders()].concat(),
        ADAPTER,
    )?;
    if let Some(adapter) = &mut model.adapter {
        adapter.close(built, weights)?;
        adapter.save(&args.output, &args.model.model, built.head())?;
    }
    let mut about = About::new(&args.model.model, &task, sha256);
    about.max_length = given.trained_length();
    if let Given::Folder { path, .. } = &given {
        about.keep(path);
    }
    about.write(&args.output)?;
    let read = match proof::applies(&args.output)? {
        true => frozen(&model, proof::weights(&args.output, weights)?)?,
        false => {
            let written = Given::Folder {
                path: args.output.clone(),
                force: true,
            };
            args.model
                .open_with(Some(&written), &ColumnArgs::default(), &[])?
                .0
        }
    };
    let before = probe(model.predictor(args.device.open()?))?;
    let after = probe(read.predictor(args.device.open()?))?;
    confirm(&before, &after)?;
    out!("wrote {}", args.output.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the merged model, loads it again, and compares its logits with the adapter's, or with
/// those that its files make by the definition of LoRA, before saying done.
pub fn merge(args: &MergeArgs) -> Result<ExitCode, Error> {
    let given = args.source.needed()?;
    let (model, task) = args
        .model
        .open_with(Some(&given), &ColumnArgs::default(), &[])?;
    let mut params = model.pretrained.weights.clone();
    if let Some(adapter) = &model.adapter {
        adapter.merge_into(&mut params)?;
    }
    check_weights(&params)?;
    let inputs = [vec![&*model.pretrained.dir], given.folders()].concat();
    let _folder = claim(&args.output, args.force, &inputs, MODEL)?;
    write_model(&model, &task, &params, &args.output)?;
    drop(params);
    // Folders of others may be anything; ours are plain, and of LoRA there is a definition.
    let model = match &given {
        Given::Folder { path, .. } if About::is_in(path) && proof::applies(path)? => {
            let weights = proof::weights(path, &model.pretrained.weights)?;
            frozen(&model, weights)?
        }
        _ => model,
    };
    let before = probe(model.predictor(args.device.open()?))?;
    let after = probe(open_merged(args, &task)?.predictor(args.device.open()?))?;
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

/// The model with these weights and nothing beside them.
fn frozen(model: &Model, weights: Params) -> Result<Model, Error> {
    let base = &model.pretrained;
    let pretrained = Pretrained {
        dir: base.dir.clone(),
        model: base.model.clone(),
        weights,
        report: base.report.clone(),
        sha256: base.sha256.clone(),
    };
    let tokenizer = pretrained.tokenizer()?;
    pretrained.check_head()?;
    Ok(Model {
        pretrained,
        tokenizer,
        objective: model.objective.clone(),
        other_labels: None,
        adapter: None,
    })
}

/// Merged weights are numbers.
fn check_weights(params: &Params) -> Result<(), Error> {
    let broken = |array: &Array| array.floats().iter().any(|x| !x.is_finite());
    match params.iter().find(|(_, array)| broken(array)) {
        None => Ok(()),
        Some((name, _)) => Err(format!(
            "the merged weight `{name}` has NaN or infinite numbers; nothing was written"
        )
        .into()),
    }
}

fn probe(
    (mut predictor, mut engine, model): (Predictor, Engine, Model),
) -> Result<Vec<f32>, Error> {
    let rows = PROBES.map(Example::of);
    let max_len = model.max_len(64);
    let rows: Vec<Encoded> = model.encode(&rows, max_len)?;
    let logits = logits(&mut predictor, &mut engine, &rows, max_len, PROBES.len())?;
    Ok(logits.concat())
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
