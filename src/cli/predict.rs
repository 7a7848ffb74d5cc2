use std::{path::PathBuf, process::ExitCode};

use ailora::{models::task::Labels, runtime::store::write_atomically};
use serde_json::json;

use super::{
    Error,
    args::{DeviceArgs, ModelArgs},
    evaluate::logits,
};

/// What is predicted.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// A folder with an adapter; without one the model's own head is used.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// A file of rows in the task's format; labels may be absent.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Where the predictions go: one JSON object a row, with `index`, `logits` and `label`.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Rows of a batch.
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// The longest sequence, in tokens.
    #[arg(long, default_value_t = 128)]
    max_length: usize,
}

/// Predicts every row of a file, in file order.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let (model, task) = args.model.open(args.adapter.is_none())?;
    if task.label_names().is_empty() && task.metrics.is_empty() {
        return Err(format!(
            "task {} has texts for labels; use `ailora generate`",
            task.name
        )
        .into());
    }
    let rows = task.load(&args.data, Labels::Optional)?;
    let max_len = model.max_len(args.max_length);
    let (mut predictor, mut engine, model) =
        model.predictor(args.adapter.as_deref(), args.device.open()?)?;
    let encoded = model.encode(&rows, max_len)?;
    let logits = logits(
        &mut predictor,
        &mut engine,
        &encoded,
        max_len,
        args.batch_size,
    )?;
    let names = task.label_names();
    let mut lines = Vec::new();
    for (index, logits) in logits.chunks_exact(task.outputs()).enumerate() {
        let label = match names {
            [] => json!(logits[0]),
            names => json!(names[ailora::models::metrics::argmax(logits)]),
        };
        let row = json!({"index": index, "logits": logits, "label": label});
        serde_json::to_writer(&mut lines, &row)?;
        lines.push(b'\n');
    }
    write_atomically(&args.output, &lines)?;
    eprintln!("wrote {} rows to {}", rows.len(), args.output.display());
    Ok(ExitCode::SUCCESS)
}
