use std::{path::PathBuf, process::ExitCode};

use ailora::{
    finetune::Model,
    limits,
    models::{
        batch::Encoded,
        data::Example,
        dataset::{Column, Dataset, Survey},
        head::Head,
        lengths::Cut,
        objective::Objective,
        task::{Labels, Malformed, Task},
        tokenizer::Tokenizer,
    },
};

use serde_json::Value;

use super::{
    Error,
    args::{self, say_cut},
    dataset::ColumnArgs,
    print::out,
    table,
};

/// Rows that are shown.
const SHOWN: usize = 3;
/// Rows whose lengths are measured.
const MEASURED: usize = 10_000;
/// Characters of a text that are shown.
const SHOWN_CHARS: usize = 1000;

/// What is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, or folders of files: CSV, TSV, JSON, JSONL, Parquet or text, also as .gz or .zst.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Leave out rows that cannot be used, and say how many, instead of refusing the file.
    #[arg(long)]
    skip_malformed: bool,
    /// Show rows as this model sees them: a folder, a GGUF file, or a hub id.
    #[arg(long, value_name = "DIR_OR_ID")]
    model: Option<String>,
    /// Truncate sequences to N tokens [default: 128, of question answering 384].
    #[arg(long, value_name = "N", value_parser = args::tokens, allow_negative_numbers = true)]
    max_length: Option<usize>,
}

/// Shows what a training on these files would understand of them.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let dataset = Dataset {
        skip_malformed: args.skip_malformed,
        ..args.columns.over(Dataset::of(&args.paths))
    };
    let understood = dataset.understand()?;
    let survey = &understood.survey;
    let paths: Vec<String> = args.paths.iter().map(|p| p.display().to_string()).collect();
    out!("{}: {} rows", paths.join(", "), table::count(survey.rows))?;
    if survey.malformed > 0 {
        out!("{} more cannot be read, and are left out", survey.malformed)?;
    }
    out!("{}", columns(survey))?;
    for decision in &understood.decisions {
        out!("{decision}")?;
    }
    args::say(&understood.notes);
    let task = Task::own(&understood.description)?;
    let (files, _) = ailora::models::data::files(&args.paths)?;
    let mut examples: Vec<Example> = Vec::new();
    let malformed = match args.skip_malformed {
        true => Malformed::Skipped,
        false => Malformed::Refused,
    };
    let notes = task.read(&files, Labels::Required, malformed, &mut |_, example| {
        if examples.len() < MEASURED {
            examples.push(example);
        }
        Ok(())
    })?;
    args::say(&notes);
    match &args.model {
        Some(name) => as_seen(name, &task, &examples, args.max_length),
        None => as_read(&task, &examples),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// What the columns hold.
fn columns(survey: &Survey) -> comfy_table::Table {
    let header = ["column", "holds", "empty", "different", "characters"];
    let mut table = table::table(&header);
    for (name, column) in &survey.columns {
        let Column { values, chars, .. } = column;
        table.add_row([
            name.clone(),
            holds(column),
            survey.empty(column).to_string(),
            values
                .as_ref()
                .map_or("many".into(), |values| values.len().to_string()),
            match chars {
                (fewest, most) if fewest <= most && *most > 0 => format!("{fewest} to {most}"),
                _ => "-".into(),
            },
        ]);
    }
    table
}

fn holds(column: &Column) -> String {
    let kinds = |kinds: &ailora::models::dataset::Kinds| {
        let named = [
            (kinds.texts, "texts"),
            (kinds.integers, "whole numbers"),
            (kinds.decimals, "numbers"),
            (kinds.objects, "objects"),
        ];
        let named = named.iter().filter(|(count, _)| *count > 0);
        let names: Vec<&str> = named.map(|(_, name)| *name).collect();
        names.join(", ")
    };
    let (own, items) = (kinds(&column.kinds), kinds(&column.items));
    let lists = match (column.kinds.lists, &*items) {
        (0, _) => String::new(),
        (_, "") => "empty lists".into(),
        (_, items) => format!("lists of {items}"),
    };
    let parts = [own, lists];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    match parts.is_empty() {
        true => "nothing".into(),
        false => parts.join(", "),
    }
}

/// The first rows, as their columns are put together.
fn as_read(task: &Task, examples: &[Example]) -> Result<(), Error> {
    for (number, example) in (1..).zip(examples.iter().take(SHOWN)) {
        out!("\nrow {number}")?;
        if !example.text.is_empty() {
            out!("  text: {}", shown(&example.text))?;
        }
        if let Some(pair) = &example.pair {
            out!("  pair: {}", shown(pair))?;
        }
        let target = example.target.as_ref().unwrap_or(&Value::Null);
        match target.get("messages").and_then(Value::as_array) {
            Some(messages) => {
                for message in messages {
                    let said = |name: &str| written(&message[name]);
                    out!("  {}: {}", said("role"), shown(&said("content")))?;
                }
            }
            None if target.is_null() => {}
            None => {
                let target = task.objective.describe(target);
                out!("  to predict: {}", shown(&written(&target)))?;
            }
        }
    }
    Ok(())
}

/// The first rows and the lengths of many, as a model sees them.
fn as_seen(
    name: &str,
    task: &Task,
    examples: &[Example],
    max_length: Option<usize>,
) -> Result<(), Error> {
    let model = Model::open(name, task, 0, false)?;
    let max_len = model.max_len(max_length.unwrap_or(model.objective.max_len()));
    // A text that is asked about has several rows, and how many is told by how long they may be.
    let most = match model.objective.head() {
        Head::QuestionAnswering => max_len,
        _ => model.max_len(limits::LENGTH),
    };
    let whole = model.encode(examples, most)?;
    let mut lengths: Vec<usize> = whole.iter().map(Encoded::tokens).collect();
    lengths.sort_unstable();
    let at = |share: usize| lengths[(lengths.len() - 1) * share / 100];
    if !lengths.is_empty() {
        out!(
            "tokens of {} rows: {} to {}, half of them at most {}, 95% at most {}",
            table::count(lengths.len()),
            at(0),
            at(100),
            at(50),
            at(95)
        )?;
    }
    let rows = model.encode(examples, max_len)?;
    say_cut("data", &Cut::of(&*model.objective, &rows, max_len));
    for (number, row) in (1..).zip(rows.iter().take(SHOWN)) {
        out!("\nrow {number}: {} tokens", row.tokens())?;
        out!("{}", marked(&model.tokenizer, &*model.objective, row)?)?;
        if let (Some(target), Head::Sequence { .. }) = (&row.target, model.objective.head()) {
            out!("to predict: {}", written(&model.objective.describe(target)))?;
        }
    }
    Ok(())
}

/// The text of a row's tokens; of language models, what is learned stands between ⟦ and ⟧.
fn marked(
    tokenizer: &Tokenizer,
    objective: &dyn Objective,
    row: &Encoded,
) -> Result<String, Error> {
    let ids = &row.encoding.ids;
    if matches!(objective.head(), Head::Sequence { .. }) {
        return Ok(tokenizer.decode_all(ids)?);
    }
    let learned = objective.learned(row);
    let (mut text, mut marked) = (String::new(), String::new());
    let mut at = 0;
    for part in learned.chunk_by(|a, b| a == b) {
        at += part.len();
        // A part by itself may lose its first space.
        let whole = tokenizer.decode_all(&ids[..at])?;
        let piece = whole.strip_prefix(&text).unwrap_or(&whole).to_owned();
        match part[0] {
            true => marked += &format!("⟦{piece}⟧"),
            false => marked += &piece,
        }
        text = whole;
    }
    Ok(marked)
}

fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A text, cut to what can be looked at.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
