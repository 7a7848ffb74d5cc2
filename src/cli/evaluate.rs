use std::{path::PathBuf, process::ExitCode};

use ailora::{
    finetune::data,
    models::{
        batch::{BatchError, Buckets, Encoded, Order, evaluation},
        data::{Example, files},
        lengths::Cut,
        metrics::{Metric, SHARES, wilson},
        objective::{HeldOut, Objective, Predictor, written},
        task::{Malformed, Rows, Split, Task},
    },
    runtime::engine::Engine,
};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::{
    Error,
    args::{self, DeviceArgs, ModelArgs, say_cut},
    dataset::ColumnArgs,
    generate::writer::TextArgs,
    print::{out, say},
    sources::{Given, SourceArgs},
    table,
};

/// What is scored.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// Score the rows of this file or folder of files, or those held out of the task's files in this folder;
    /// may be repeated [default: those of svamp are built in].
    #[arg(long, value_name = "PATH")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Number of rows in a batch.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = args::batch_size, allow_negative_numbers = true)]
    batch_size: usize,
    /// Truncate sequences to N tokens [default: as in the adapter's training, else as the task says,
    /// else 128, of question answering 384].
    #[arg(long, value_name = "N", value_parser = args::tokens, allow_negative_numbers = true)]
    max_length: Option<usize>,
    /// Score the loss alone, and not what the model writes where the task has metrics of that.
    #[arg(long)]
    loss_only: bool,
    #[command(flatten)]
    texts: TextArgs,
}

/// A part that is scored.
struct Part {
    name: String,
    rows: Vec<Example>,
    /// Scores, and what they depend on.
    scores: Map<String, Value>,
}

impl Part {
    /// Adds scores, and shows them.
    fn add(&mut self, scores: &IndexMap<String, f64>) {
        say!("{}: {}", self.name, table::metrics(scores));
        let values = scores.iter().map(|(name, x)| (name.clone(), json!(x)));
        self.scores.extend(values);
    }

    /// Adds the scores of what was written about the rows, and how it was.
    ///
    /// # Errors
    /// A row has nothing that its text can be scored against.
    fn add_texts(
        &mut self,
        objective: &dyn Objective,
        texts: &[String],
        how: Map<String, Value>,
    ) -> Result<(), Error> {
        let targets: Vec<Option<Value>> = self.rows.iter().map(|row| row.target.clone()).collect();
        let scores = written::scores(objective, texts, &targets)?;
        self.add(&scores);
        let rows = self.rows.len();
        for Metric { name, .. } in SHARES {
            if let Some(&share) = scores.get(name) {
                let interval = json!(wilson(share, rows));
                self.scores.insert(format!("{name}_interval"), interval);
            }
        }
        self.scores.insert("rows".to_owned(), json!(rows));
        self.scores.insert("generation".to_owned(), how.into());
        Ok(())
    }
}

/// The means of several parts' metrics, each part counted once whatever its size.
fn average(metrics: &[Metric], parts: &[Part]) -> Option<(String, Map<String, Value>)> {
    let mean = |metric: &Metric| {
        let values = parts
            .iter()
            .map(|part| part.scores.get(metric.name)?.as_f64());
        let values: Vec<f64> = values.collect::<Option<_>>()?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some((metric.name.to_owned(), json!(mean)))
    };
    let means: Map<String, Value> = metrics.iter().filter_map(mean).collect();
    (parts.len() > 1 && !means.is_empty()).then(|| ("average".to_owned(), means))
}

/// Prints one JSON object: the metrics of each held-out split by name.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let given = args.source.given()?;
    let opened = args
        .model
        .open_with(given.as_ref(), &args.columns, &args.data);
    let (mut model, task) = opened?;
    if let Some(other) = model.other_labels {
        return Err(other.into());
    }
    let task = task.evaluated();
    let (data, splits) = splits(&task, &args.data)?;
    let max_len = length(args.max_length, given.as_ref(), &task);
    let max_len = model.max_len(max_len);
    let writes = !args.loss_only && !model.objective.text_metrics().is_empty();
    let how = match writes {
        // Without writing, which --loss-only asks for, or where there is nothing to score texts by.
        false if args.loss_only => None,
        false => {
            args.texts.unused()?;
            None
        }
        true => {
            let settings = model.generation(Some(&task))?;
            args.model.strict.check(&model)?;
            let options = args.texts.options(&settings, args.batch_size)?;
            Some((settings, options))
        }
    };
    let (mut predictor, mut engine, model) = model.predictor(args.device.open()?);
    let objective = &*model.objective;
    let mut parts = Vec::new();
    for split in &splits {
        let file = task.load_split(&data, split, Malformed::Refused)?;
        args.model.say(&file.notes)?;
        if writes {
            let targets: Vec<_> = file.examples.iter().map(|row| row.target.clone()).collect();
            written::check(objective, &split.name, &targets)?;
        }
        let mut part = Part {
            name: split.name.clone(),
            rows: file.examples,
            scores: Map::new(),
        };
        let rows = model.encode_held_out(&part.rows, max_len)?;
        say_cut(&part.name, &Cut::of(objective, &rows, max_len));
        // What is written can be scored where nothing else can.
        if !writes || rows.iter().any(|row| objective.has_targets(row)) {
            let buckets = buckets(&rows, max_len)?;
            let size = args.batch_size;
            let held_out = HeldOut::new(&part.name, rows, objective, &buckets, size, 0)?;
            part.add(&objective.evaluate(&mut predictor, &mut engine, &held_out)?);
        }
        parts.push(part);
    }
    if let Some((settings, options)) = how {
        let writer = model.writer_on(&predictor, settings);
        let mut desk = args.texts.desk(writer, engine, options);
        desk.writer.end_at(objective.end(&model.tokenizer));
        for part in &mut parts {
            let prompts = objective.prompts(&part.rows, &model.tokenizer, max_len)?;
            let texts = desk.write(&tokens(&prompts.unwrap_or_default()))?;
            let mut how = desk.described();
            how.insert("prompt".to_owned(), json!(task.text.templates()));
            part.add_texts(objective, &texts, how)?;
        }
    }
    let average = average(objective.text_metrics(), &parts);
    let scores = parts.into_iter().map(|part| (part.name, part.scores));
    let scores: IndexMap<String, Map<String, Value>> = scores.chain(average).collect();
    out!("{}", serde_json::to_string(&scores)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Tokens as a writer takes them.
pub fn tokens(prompts: &[Vec<u32>]) -> Vec<Vec<i32>> {
    let ids = |prompt: &Vec<u32>| prompt.iter().map(|&id| id as i32).collect();
    prompts.iter().map(ids).collect()
}

/// The folder of what is scored, and its parts: those that a task holds out of its folder, or the files.
fn splits(task: &Task, paths: &[PathBuf]) -> Result<(PathBuf, Vec<Split>), Error> {
    let has_own = !task.dev.is_empty() || !task.test.is_empty();
    let folder = match paths {
        [] => Some(None),
        [path] if !path.is_file() && has_own => Some(Some(path.as_path())),
        _ => None,
    };
    match folder {
        Some(_) if !has_own => {
            let name = &task.name;
            Err(format!("task {name} has no rows that are held out; pass --data FILE").into())
        }
        Some(folder) => {
            let folder = data(task, folder)?;
            let splits = task.held_out(&folder)?;
            Ok((folder, splits))
        }
        None => {
            if let Some(folder) = paths.iter().find(|path| has_own && path.is_dir()) {
                return Err(format!(
                    "{} is a folder, of which task {} scores the rows that it holds out, and there is more \
                     beside it; give the folder alone, or files",
                    folder.display(),
                    task.name
                )
                .into());
            }
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

/// The longest sequence: as given, else as the adapter was trained, else as the task says.
pub fn length(given: Option<usize>, adapter: Option<&Given>, task: &Task) -> usize {
    let trained = || adapter?.trained_length();
    given.or_else(trained).unwrap_or(task.max_len())
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
