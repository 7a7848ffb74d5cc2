use std::{path::PathBuf, process::ExitCode};

use ailora::{
    models::{
        data::files,
        lengths::Cut,
        metrics::argmax,
        task::{Labels, Malformed},
    },
    output::File,
};
use serde_json::json;

use super::{
    Error,
    args::{self, DeviceArgs, ForceArgs, ModelArgs, say_cut},
    dataset::ColumnArgs,
    evaluate::{check_not_texts, length, logits},
    print::say,
};

/// What is predicted.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Predict with the adapter in this folder; without one the model's own head is used.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    insist: ForceArgs,
    /// Read the rows from this file or folder of files; labels may be absent; may be repeated.
    #[arg(long, value_name = "PATH", required = true)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Write the predictions to a file, or to standard output as `-`: one JSON object a row, with `index`,
    /// `logits` in the order of the model's outputs, and `label`.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the output file if it exists.
    #[arg(long)]
    force: bool,
    /// Number of rows in a batch.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = args::batch_size, allow_negative_numbers = true)]
    batch_size: usize,
    /// Truncate sequences to N tokens [default: as in the adapter's training, else 128].
    #[arg(long, value_name = "N", value_parser = args::tokens, allow_negative_numbers = true)]
    max_length: Option<usize>,
}

/// Predicts every row of a file, in file order.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let adapter = args.adapter.as_deref();
    let adapter = adapter.map(|path| args.insist.folder(path));
    let (model, task) = args.model.open_with(adapter, &args.columns, &args.data)?;
    check_not_texts(&task)?;
    let mut inputs = vec![&*model.pretrained.dir];
    inputs.extend(args.data.iter().map(PathBuf::as_path));
    inputs.extend(args.adapter.as_deref());
    let output = File::at(&args.output, args::existing(args.force), &inputs)?;
    let (files, notes) = files(&args.data)?;
    args.model.say(&notes)?;
    let file = task.load(&files, Labels::Optional, Malformed::Refused)?;
    args.model.say(&file.notes)?;
    let rows = file.examples;
    let max_len = length(args.max_length, args.adapter.as_deref());
    let max_len = model.max_len(max_len);
    let (mut predictor, mut engine, model) = model.predictor(args.device.open()?);
    let encoded = model.encode(&rows, max_len)?;
    say_cut("data", &Cut::of(&*model.objective, &encoded, max_len));
    let logits = logits(
        &mut predictor,
        &mut engine,
        &encoded,
        max_len,
        args.batch_size,
    )?;
    let own = match &model.other_labels {
        Some(other) => {
            say!("note: the labels are the model's own: {}", other.found);
            model.pretrained.model.config().labels()
        }
        None => None,
    };
    let objective = &model.objective;
    let mut lines = Vec::new();
    for (index, logits) in logits.iter().enumerate() {
        let label = match &own {
            Some(own) => json!(own[argmax(logits)]),
            None => objective.describe(&objective.predict(logits)),
        };
        let row = json!({"index": index, "logits": logits, "label": label});
        serde_json::to_writer(&mut lines, &row)?;
        lines.push(b'\n');
    }
    output.write(&lines)?;
    let (n, file) = (rows.len(), args.output.display());
    say!(
        "wrote {n} {} to {file}",
        if n == 1 { "row" } else { "rows" }
    );
    Ok(ExitCode::SUCCESS)
}
