//! An objective and a data format of your own, both from outside the library: which of several fruits
//! a text mentions, each by a yes or a no, learned from files of blocks with a name on each line.

use std::{borrow::Cow, fmt::Write, fs, path::Path, sync::Arc};

use ailora::{
    AdaptConfig,
    finetune::{AdapterFolder, Model, Settings},
    ir::{Draw, Type},
    method::Ailora,
    models::{
        batch::{Batch, BatchError, Buckets, Encoded, Inputs, Shape, Targets},
        data::{DataError, Example, Format, Place, Record, Sink, Source, Text, without_end},
        embedded,
        head::Head,
        metrics::{Metric, MetricError, all},
        objective::{HeldOut, Objective, targets},
        task::{Rows, Split, Task},
    },
    nn::Tensor,
    output::Existing,
    run::{Report, backend},
    runtime::train::{Better, Control},
};
use serde_json::Value;

type Error = Box<dyn std::error::Error>;

/// Which of these tags a text has: a logit each, and the binary cross-entropy of all.
///
/// A target, and a prediction, is a list of 0 and 1, one for each tag.
#[derive(Debug)]
pub struct Tags(pub Vec<String>);

impl Objective for Tags {
    fn head(&self) -> Head {
        Head::classification(self.0.len())
    }

    fn columns(&self) -> Vec<&str> {
        vec!["tags"]
    }

    fn target(&self, record: &Record<'_>) -> Result<Value, DataError> {
        let written = record.written("tags").unwrap_or_default();
        let found: Vec<&str> = written.split_terminator(',').map(str::trim).collect();
        match found
            .iter()
            .all(|tag| self.0.iter().any(|name| name == tag))
        {
            true => Ok(self
                .0
                .iter()
                .map(|name| u8::from(found.contains(&&**name)))
                .collect()),
            false => Err(record.wrong("tags", &format!("some of {}", self.0.join(", ")))),
        }
    }

    fn prepare(&self, batch: &mut Batch, rows: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        let tags = targets(batch, rows, "a list of tags", flags)?.concat();
        let count = tags.len();
        batch.targets = Targets::new(Inputs::default().with_ids("tags", tags), count);
        Ok(())
    }

    /// `-log sigmoid(x)` of a tag that is there and `-log sigmoid(-x)` of one that is not are the
    /// cross-entropy of the two logits 0 and x.
    fn loss<'g>(&self, logits: &Tensor<'g>, shape: Shape) -> Tensor<'g> {
        let count = shape.rows * self.0.len();
        let tags = logits.cx().input("tags", Type::i32([count]));
        let there = logits.reshape([count, 1]);
        there.scale(0.0).concat(&there, 1).cross_entropy(&tags)
    }

    fn predict(&self, logits: &[f32]) -> Value {
        logits.iter().map(|&x| u8::from(x > 0.0)).collect()
    }

    fn describe(&self, prediction: &Value) -> Value {
        let flags = flags(prediction).unwrap_or_default();
        let there = self.0.iter().zip(flags).filter(|(_, flag)| *flag == 1);
        there.map(|(name, _)| name.as_str()).collect()
    }

    fn metrics(&self) -> &[Metric] {
        &[MICRO_F1]
    }
}

/// `2 TP / (2 TP + FP + FN)` over all tags of all texts.
const MICRO_F1: Metric = Metric {
    name: "micro_f1",
    better: Better::Higher,
    measure: |found, expected| -> Result<f64, MetricError> {
        let [found, expected] = [found, expected].map(|rows| all(rows, "a list of tags", flags));
        let pairs: Vec<(i32, i32)> = found?
            .concat()
            .into_iter()
            .zip(expected?.concat())
            .collect();
        let marked: i32 = pairs.iter().map(|(found, expected)| found + expected).sum();
        let both: i32 = pairs.iter().map(|(found, expected)| found * expected).sum();
        Ok(f64::from(2 * both) / f64::from(marked.max(1)))
    },
};

fn flags(list: &Value) -> Option<Vec<i32>> {
    let flags = list.as_array()?.iter();
    flags
        .map(|flag| i32::try_from(flag.as_i64()?).ok())
        .collect()
}

/// Records of `name: value` lines, with empty lines between them.
#[derive(Debug)]
pub struct Blocks;

impl Format for Blocks {
    fn read(&self, source: &mut Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        let path = source.path;
        let malformed = |line: usize, cause: String| DataError::Form {
            path: path.to_owned(),
            expected: format!("`name: value` on line {line}"),
            cause,
        };
        let mut lines = source.lines();
        let mut fields: Vec<(Cow<'_, str>, Value)> = Vec::new();
        let (mut line, mut first) = (Vec::new(), 1);
        loop {
            line.clear();
            let is_there = lines.read(&mut line)?;
            let number = lines.number();
            let text = std::str::from_utf8(without_end(&line));
            let text = text.map_err(|error| malformed(number, error.to_string()))?;
            if text.is_empty() {
                if !fields.is_empty() {
                    let fields = std::mem::take(&mut fields);
                    sink.record(Record::new(path, Place::Line(first), fields))?;
                }
                if !is_there {
                    return Ok(());
                }
                first = number + 1;
                continue;
            }
            let field = text
                .split_once(": ")
                .or(text.strip_suffix(':').map(|name| (name, "")));
            let Some((name, value)) = field else {
                return Err(malformed(number, format!("found {text:?}")));
            };
            fields.push((name.to_owned().into(), value.into()));
        }
    }
}

/// Which fruits a text mentions.
pub fn fruits() -> Result<Task, Error> {
    let split = |name: &str, rows| Split {
        name: name.to_owned(),
        files: vec!["fruits.txt".into()],
        rows,
    };
    Ok(Task {
        name: "fruits".to_owned(),
        aliases: Vec::new(),
        about: "which fruits does the text mention?".to_owned(),
        description: None,
        objective: Arc::new(Tags(
            ["apples", "pears", "plums"].map(str::to_owned).to_vec(),
        )),
        format: Arc::new(Blocks),
        text: Text::parse("{text}")?,
        pair: None,
        evaluation_text: None,
        joined: Vec::new(),
        id: None,
        trim: false,
        one_may_be_blank: false,
        unused: Vec::new(),
        train: split("train", Rows::AllButEveryFifth),
        dev: vec![split("dev", Rows::EveryFifth)],
        test: Vec::new(),
        max_length: None,
        generation: Default::default(),
    })
}

/// Texts with numbers and fruits, in the format.
fn texts(count: usize) -> String {
    let key = Draw::default().key("fruits");
    let mut text = String::new();
    for row in 0..count as u64 {
        let pick = |i: u64, n: usize| (key.uniform(8 * row + i) * n as f64) as usize;
        let fruits = ["apples", "pears", "plums", "books", "marbles"];
        let (a, b) = (fruits[pick(0, 5)], fruits[pick(1, 5)]);
        let name = ["Ann", "Ben", "Tom"][pick(2, 3)];
        let (n, m) = (2 + pick(3, 20), 2 + pick(4, 20));
        let tags: Vec<&str> = fruits[..3]
            .iter()
            .copied()
            .filter(|tag| [a, b].contains(tag))
            .collect();
        let _ = write!(
            text,
            "text: {name} has {n} {a} and buys {m} {b}.\ntags: {}\n\n",
            tags.join(", ")
        );
    }
    text
}

/// Trains in a folder, and leaves data and adapter there.
pub fn train(folder: &Path, epochs: usize) -> Result<Report, Error> {
    let task = fruits()?;
    fs::write(folder.join("fruits.txt"), texts(300))?;
    let settings = Settings {
        task: task.name.clone(),
        data: Some(folder.to_owned()),
        adapters: AdaptConfig::method(&Ailora, 8),
        epochs,
        batch_size: 16,
        lr: 5e-3,
        ..Settings::default()
    };
    let output = folder.join("out");
    let run = settings.run_on(&task)?;
    Ok(run.fit(&output, Existing::Refuse, |_| Control::Continue)?)
}

/// What the adapter of a folder says of a text.
pub fn ask(folder: &Path, text: &str) -> Result<Value, Error> {
    let (path, force) = (&*folder.join("out"), false);
    let model = Model::adapted(embedded::MODEL, &fruits()?, AdapterFolder { path, force })?;
    let settings = Settings::default();
    let backend = backend(settings.device, settings.precision)?;
    let (mut predictor, mut engine, model) = model.predictor(backend);
    let rows = model.encode(&[Example::of(text)], 64)?;
    let buckets = Buckets::choose(&[rows[0].tokens()], 64, 1)?;
    let objective = &*model.objective;
    let split = HeldOut::new("asked", rows, objective, &buckets, 1, 0)?;
    let logits = predictor.logits(&mut engine, &split.rows, &split.batches)?;
    Ok(objective.describe(&objective.predict(&logits[0])))
}

#[allow(dead_code, reason = "tests/objective.rs takes this file as a module")]
fn main() -> Result<(), Error> {
    let folder = tempfile::tempdir()?;
    let report = train(folder.path(), 3)?;
    for epoch in &report.evaluations {
        println!(
            "epoch {}: loss {:.3}, held out {:?}",
            epoch.epoch, epoch.train_loss, epoch.metrics
        );
    }
    let text = "Tom has 3 plums and buys 4 apples.";
    println!("{text} -> {}", ask(folder.path(), text)?);
    Ok(())
}
