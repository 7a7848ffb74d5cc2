//! Flags that say what in files of one's own is what.

use std::path::PathBuf;

use ailora::{
    models::{
        chat::Learn,
        choice::Choice,
        data::{ENDINGS, FORMATS},
        dataset::Dataset,
        objective::OBJECTIVES,
    },
    run::yaml,
};
use clap::Args;

use super::args;

/// What in the rows of files is what.
#[derive(Clone, Debug, Default, Args)]
pub struct ColumnArgs {
    #[arg(long, value_name = "FORMAT", value_parser = choice, help = formats())]
    format: Option<Choice>,
    /// Take the text from this column, or make it by a template such as `{title}: {body}`
    /// [default: by the columns' names].
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// Take the second text of a pair from this column, or make it by a template.
    #[arg(long, value_name = "COLUMN")]
    pair: Option<String>,
    /// Predict what is in this column, or in these, separated by commas: classes, numbers, lists, or the
    /// answers to prompts [default: by the columns' names].
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    label: Vec<String>,
    #[arg(long, value_name = "OBJECTIVE", value_parser = choice, help = objectives())]
    objective: Option<Choice>,
    /// Learn the answers of chats and prompts, or all of them: answers or all [default: answers].
    #[arg(long, value_name = "answers|all")]
    learn: Option<Learn>,
    /// Write chats in this template instead of the model's own: a file, or `chatml`.
    #[arg(long, value_name = "FILE")]
    chat_template: Option<String>,
}

impl ColumnArgs {
    /// Whether anything says what is learned.
    pub fn say_what_is_learned(&self) -> bool {
        self.objective.is_some() || !self.label.is_empty()
    }

    /// What the flags say over what `dataset` says.
    pub fn over(&self, mut dataset: Dataset) -> Dataset {
        dataset.format = self.format.clone().or(dataset.format);
        dataset.text = self.text.clone().or(dataset.text);
        dataset.pair = self.pair.clone().or(dataset.pair);
        dataset.objective = self.objective.clone().or(dataset.objective);
        dataset.learn = self.learn.or(dataset.learn);
        dataset.chat_template = self.chat_template.clone().or(dataset.chat_template);
        if !self.label.is_empty() {
            let names = self.label.iter().map(|name| name.trim().to_owned());
            dataset.label = names.collect();
        }
        dataset
    }
}

/// Files of one's own to train on.
#[derive(Clone, Debug, Default, Args)]
pub struct DatasetArgs {
    /// Train on the rows of this file or folder of files (CSV, TSV, JSON, JSONL, Parquet or text, also as
    /// .gz or .zst) instead of a task's; may be repeated.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["task", "data"])]
    train: Vec<PathBuf>,
    /// Evaluate on the rows of this file or folder, and keep what is best on them; may be repeated.
    #[arg(long, value_name = "PATH")]
    valid: Vec<PathBuf>,
    /// Evaluate on the rows of this file or folder too; may be repeated.
    #[arg(long, value_name = "PATH")]
    test: Vec<PathBuf>,
    /// Hold out this share of the training rows to evaluate on, where --valid is not given; 0 for none
    /// [default: 0.05, and at most 2000 rows].
    #[arg(long, value_name = "X", value_parser = args::number, allow_hyphen_values = true)]
    hold_out: Option<f64>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Leave out rows that cannot be used, and say how many, instead of refusing the file.
    #[arg(long)]
    skip_malformed: bool,
    /// Read the training rows again every epoch instead of keeping them in memory [default: where they have
    /// more than 128 Mi characters].
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    stream: Option<bool>,
}

impl DatasetArgs {
    /// What the flags say over what `dataset` says.
    pub fn over(&self, mut dataset: Dataset) -> Dataset {
        let paths = [
            (&self.train, &mut dataset.train),
            (&self.valid, &mut dataset.valid),
            (&self.test, &mut dataset.test),
        ];
        for (given, paths) in paths.into_iter().filter(|(given, _)| !given.is_empty()) {
            paths.clone_from(given);
        }
        dataset.hold_out = self.hold_out.or(dataset.hold_out);
        dataset.stream = self.stream.or(dataset.stream);
        dataset.skip_malformed |= self.skip_malformed;
        self.columns.over(dataset)
    }
}

fn choice(text: &str) -> Result<Choice, String> {
    yaml(text)
}

/// What `--format` does.
fn formats() -> String {
    let names: Vec<&str> = FORMATS.iter().map(|kind| kind.name).collect();
    format!(
        "Read files as this format: one of {}, with options as in `csv: {{separator: ;}}` [default: by their \
         names, *.{}]",
        names.join(", "),
        ENDINGS.join(", *.")
    )
}

/// What `--objective` does.
fn objectives() -> String {
    let names: Vec<&str> = OBJECTIVES.iter().map(|kind| kind.name).collect();
    format!(
        "Learn this: one of {}, with options as in `chat: {{learn: all}}` [default: by the columns]",
        names.join(", ")
    )
}
