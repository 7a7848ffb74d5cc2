use std::{path::PathBuf, process::ExitCode};

use ailora::{
    finetune::Model,
    models::{
        data::files,
        head::Head,
        lengths::Cut,
        metrics::argmax,
        task::{Labels, Malformed, Task},
    },
    output::File,
};
use serde_json::json;

use super::{
    Error,
    args::{self, DeviceArgs, ForceArgs, ModelArgs, say_cut},
    dataset::ColumnArgs,
    evaluate::{length, logits},
    generate::writer::TextArgs,
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
    /// and `logits` in the order of the model's outputs and `label`, or the `text` that a language model
    /// writes.
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
    #[command(flatten)]
    texts: TextArgs,
}

/// Predicts every row of a file, in file order.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let adapter = args.adapter.as_deref();
    let adapter = adapter.map(|path| args.insist.folder(path));
    let (model, task) = args.model.open_with(adapter, &args.columns, &args.data)?;
    let mut inputs = vec![&*model.pretrained.dir];
    inputs.extend(args.data.iter().map(PathBuf::as_path));
    inputs.extend(args.adapter.as_deref());
    let output = File::at(&args.output, args::existing(args.force), &inputs)?;
    let (files, notes) = files(&args.data)?;
    args.model.say(&notes)?;
    // Of a conversation the messages are read.
    let labels = match task.head() {
        Head::Sequence { .. } => Labels::Ignored,
        _ => Labels::Optional,
    };
    let file = task.load(&files, labels, Malformed::Refused)?;
    args.model.say(&file.notes)?;
    let rows = file.examples;
    if let Some(prompts) = model.objective.prompts(&rows, &model.tokenizer)? {
        let lines = written(args, model, &prompts)?;
        return wrote(args, &output, &lines, rows.len());
    }
    check_is_of_rows(&task)?;
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
    wrote(args, &output, &lines, rows.len())
}

/// Only classes and numbers are left, once a language model has written its texts.
fn check_is_of_rows(task: &Task) -> Result<(), Error> {
    match task.head() {
        Head::Sequence { .. } => Ok(()),
        head => Err(format!(
            "task {} is for {head}, of which predictions are not written; use `ailora evaluate`",
            task.name
        )
        .into()),
    }
}

/// What a language model writes behind each prompt, a line each.
fn written(args: &Args, model: Model, prompts: &[Vec<u32>]) -> Result<Vec<u8>, Error> {
    let end = model.objective.end(&model.tokenizer);
    let ids = |prompt: &Vec<u32>| prompt.iter().map(|&id| id as i32).collect();
    let prompts: Vec<Vec<i32>> = prompts.iter().map(ids).collect();
    let (strict, device) = (args.model.strict, args.device.open()?);
    let size = args.batch_size;
    let (mut writer, options) = args.texts.writer(model, false, strict, device, size)?;
    writer.end_at(end);
    let mut lines = Vec::new();
    for (index, text) in writer.write(&prompts, &options)?.iter().enumerate() {
        serde_json::to_writer(&mut lines, &json!({"index": index, "text": text}))?;
        lines.push(b'\n');
    }
    Ok(lines)
}

fn wrote(args: &Args, output: &File, lines: &[u8], rows: usize) -> Result<ExitCode, Error> {
    output.write(lines)?;
    let file = args.output.display();
    say!(
        "wrote {rows} {} to {file}",
        if rows == 1 { "row" } else { "rows" }
    );
    Ok(ExitCode::SUCCESS)
}
