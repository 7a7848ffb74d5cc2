use std::{path::PathBuf, process::ExitCode};

use ailora::{
    finetune::Model,
    models::{
        data::{Example, files},
        head::Head,
        lengths::Cut,
        metrics::argmax,
        objective::written,
        task::{Labels, Malformed, Task},
    },
    output::File,
};
use serde_json::json;

use super::{
    Error,
    answers::AnswerArgs,
    args::{self, DeviceArgs, ModelArgs, say_cut},
    dataset::ColumnArgs,
    evaluate::{length, logits, tokens},
    generate::writer::{How, TextArgs},
    print::say,
    sources::{Given, SourceArgs},
};

/// What is predicted.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// Read the rows from this file or folder of files; labels may be absent; may be repeated.
    #[arg(long, value_name = "PATH", required = true)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Write the predictions to a file, or to standard output as `-`: one JSON object a row, with `index`,
    /// and `logits` in the order of the model's outputs and `label`, or the `text` that a language model
    /// writes or that answers a question, and the `number` or `letter` in it, where a task is scored by that.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the output file if it exists.
    #[arg(long)]
    force: bool,
    /// Number of rows in a batch.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = args::batch_size, allow_negative_numbers = true)]
    batch_size: usize,
    /// Truncate sequences to N tokens [default: as in the adapter's training, else as
    /// the task says, else 128].
    #[arg(long, value_name = "N", value_parser = args::tokens, allow_negative_numbers = true)]
    max_length: Option<usize>,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    answers: AnswerArgs,
}

/// Predicts every row of a file, in file order.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let given = args.source.given()?;
    let opened = args
        .model
        .open_with(given.as_ref(), &args.columns, &args.data);
    let (model, task) = opened?;
    let task = task.evaluated().into_owned();
    let mut inputs = vec![&*model.pretrained.dir];
    inputs.extend(args.data.iter().map(PathBuf::as_path));
    inputs.extend(given.iter().flat_map(Given::folders));
    let output = File::at(&args.output, args::existing(args.force), &inputs)?;
    let (files, notes) = files(&args.data)?;
    args.model.say(&notes)?;
    // Of a conversation the messages are read.
    let labels = match task.head() {
        Head::Sequence { .. } | Head::QuestionAnswering => Labels::Ignored,
        _ => Labels::Optional,
    };
    let file = task.load(&files, labels, Malformed::Refused)?;
    args.model.say(&file.notes)?;
    let rows = file.examples;
    let max_len = length(args.max_length, given.as_ref(), &task);
    let max_len = model.max_len(max_len);
    args.answers.check(&task, &rows)?;
    let prompts = model.objective.prompts(&rows, &model.tokenizer, max_len)?;
    if let Some(prompts) = prompts {
        let lines = written_lines(args, model, &task, &rows, &prompts)?;
        return wrote(args, &output, &lines, rows.len());
    }
    check_is_of_rows(&task)?;
    args.texts.unused()?;
    let (mut predictor, mut engine, model) = model.predictor(args.device.open()?);
    let encoded = model.encode_held_out(&rows, max_len)?;
    say_cut("data", &Cut::of(&*model.objective, &encoded, max_len));
    let logits = logits(
        &mut predictor,
        &mut engine,
        &encoded,
        max_len,
        args.batch_size,
    )?;
    if model.pretrained.model.head() == Head::QuestionAnswering {
        let found = model.objective.predictions(&encoded, &logits);
        let lines = args.answers.written(&rows, found)?;
        return wrote(args, &output, &lines, rows.len());
    }
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

/// Only classes, numbers and spans are left, once a language model has written its texts.
fn check_is_of_rows(task: &Task) -> Result<(), Error> {
    match task.head() {
        Head::Sequence { .. } | Head::QuestionAnswering => Ok(()),
        head => Err(format!(
            "task {} is for {head}, of which predictions are not written; use `ailora evaluate`",
            task.name
        )
        .into()),
    }
}

/// What a language model writes behind each prompt, a line each.
fn written_lines(
    args: &Args,
    model: Model,
    task: &Task,
    rows: &[Example],
    prompts: &[Vec<u32>],
) -> Result<Vec<u8>, Error> {
    let objective = model.objective.clone();
    let end = objective.end(&model.tokenizer);
    let how = How {
        task: Some(task),
        merged: false,
        strict: args.model.strict,
        together: args.batch_size,
    };
    let mut desk = args.texts.writer(model, &how, args.device.open()?)?;
    desk.writer.end_at(end);
    let mut lines = Vec::new();
    let texts = desk.write(&tokens(prompts))?;
    for (index, (row, text)) in rows.iter().zip(&texts).enumerate() {
        let mut line = json!({"index": index, "text": text});
        if let Some((name, found)) = written::answer(&*objective, text, row.target.as_ref()) {
            line[name] = found;
        }
        serde_json::to_writer(&mut lines, &line)?;
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
