use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ailora::{
    finetune::{Model, data, trained_length},
    models::{
        batch::{BatchError, Buckets, Encoded, Order, evaluation},
        data::files,
        lengths::Cut,
        objective::{HeldOut, Predictor},
        task::{Malformed, Rows, Split, Task},
    },
    runtime::engine::Engine,
};
use indexmap::IndexMap;

use super::{
    Error,
    args::{self, DeviceArgs, ForceArgs, ModelArgs, say_cut},
    dataset::ColumnArgs,
    print::{out, say},
    table,
};

/// What is scored.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Score the adapter in this folder; without one the model's own head is used.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    insist: ForceArgs,
    /// Score the rows of this file or folder of files, or those held out of the task's files in this folder;
    /// may be repeated [default: those of svamp are built in].
    #[arg(long, value_name = "PATH")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Number of rows in a batch.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = args::batch_size, allow_negative_numbers = true)]
    batch_size: usize,
    /// Truncate sequences to N tokens [default: as in the adapter's training, else 128, of
    /// question answering 384].
    #[arg(long, value_name = "N", value_parser = args::tokens, allow_negative_numbers = true)]
    max_length: Option<usize>,
}

/// Prints one JSON object: the metrics of each held-out split by name.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let adapter = args.adapter.as_deref();
    let adapter = adapter.map(|path| args.insist.folder(path));
    let (model, task) = args.model.open_with(adapter, &args.columns, &args.data)?;
    if let Some(other) = model.other_labels {
        return Err(other.into());
    }
    let (data, splits) = splits(&task, &args.data)?;
    let max_len = length(args.max_length, args.adapter.as_deref(), &model);
    let (mut predictor, mut engine, model) = model.predictor(args.device.open()?);
    let mut scores: IndexMap<String, IndexMap<String, f64>> = IndexMap::new();
    let objective = &*model.objective;
    for split in &splits {
        let file = task.load_split(&data, split, Malformed::Refused)?;
        args.model.say(&file.notes)?;
        let rows = model.encode_held_out(&file.examples, max_len)?;
        say_cut(&split.name, &Cut::of(objective, &rows, max_len));
        let buckets = buckets(&rows, max_len)?;
        let size = args.batch_size;
        let split = HeldOut::new(&split.name, rows, objective, &buckets, size, 0)?;
        let metrics = objective.evaluate(&mut predictor, &mut engine, &split)?;
        say!("{}: {}", split.name, table::metrics(&metrics));
        scores.insert(split.name, metrics);
    }
    out!("{}", serde_json::to_string(&scores)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The folder of what is scored, and its parts: those that a task holds out of its folder, or the files.
fn splits(task: &Task, paths: &[PathBuf]) -> Result<(PathBuf, Vec<Split>), Error> {
    let folder = match paths {
        [] => Some(None),
        [path] if !path.is_file() && !task.dev.is_empty() => Some(Some(path.as_path())),
        _ => None,
    };
    match folder {
        Some(_) if task.dev.is_empty() => {
            let name = &task.name;
            Err(format!("task {name} has no rows that are held out; pass --data FILE").into())
        }
        Some(folder) => Ok((data(task, folder)?, task.dev.clone())),
        None => {
            let (files, notes) = files(paths)?;
            args::say(&notes);
            let name = "data".to_owned();
            let split = Split {
                name,
                files,
                rows: Rows::All,
            };
            Ok((PathBuf::new(), vec![split]))
        }
    }
}

/// The longest sequence that the model takes: as given, else as the adapter was trained.
pub fn length(given: Option<usize>, adapter: Option<&Path>, model: &Model) -> usize {
    let trained = || trained_length(adapter?);
    let wanted = given.or_else(trained);
    model.max_len(wanted.unwrap_or(model.objective.max_len()))
}

fn buckets(rows: &[Encoded], max_len: usize) -> Result<Buckets, BatchError> {
    let lengths: Vec<usize> = rows.iter().map(Encoded::tokens).collect();
    Buckets::choose(&lengths, max_len, 8)
}

/// The logits of each of encoded rows, in their order.
pub fn logits(
    predictor: &mut Predictor,
    engine: &mut Engine,
    rows: &[Encoded],
    max_len: usize,
    batch_size: usize,
) -> Result<Vec<Vec<f32>>, Error> {
    let lengths: Vec<usize> = rows.iter().map(Encoded::tokens).collect();
    let buckets = buckets(rows, max_len)?;
    let batches = evaluation(Order::ByLength, &lengths, &buckets, batch_size)?;
    Ok(predictor.logits(engine, rows, &batches)?)
}
