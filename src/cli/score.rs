//! Scores of what any system wrote.

mod rows;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ailora::models::{
    closed::json::Unique,
    data::{DataError, Source, squad::questions},
    score::{
        arithmetic::{Answer, LLM_ADAPTERS, RULES, Rule},
        rouge::{KINDS, Rouge},
        squad::{self, NoAnswer, Question, Version},
    },
};
use clap::Subcommand;
use indexmap::{IndexMap, IndexSet};
use serde_json::{Map, Value, json};

use super::{
    Error, args,
    print::{out, say},
};
use rows::{Read, expected, predicted};

/// What is scored.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Answers to SQuAD's questions, as its official scripts score them.
    Squad(SquadArgs),
    /// Summaries, by ROUGE as the Python package rouge-score computes it.
    Rouge(RougeArgs),
    /// Answers to arithmetic and multiple-choice problems, by the number or letter that a text ends in.
    Arithmetic(ArithmeticArgs),
}

#[derive(Debug, clap::Args)]
struct SquadArgs {
    /// Score the answers in this file: a JSON object of a text for each question's id, empty where the
    /// question has no answer.
    #[arg(long, value_name = "FILE")]
    predictions: PathBuf,
    /// Read the questions from this file, the official JSON of SQuAD 1.1 or 2.0, which says whose rules apply.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Search the best threshold on the scores in this file: a JSON object of a number for each question's
    /// id, higher where an answer is less likely.
    #[arg(long, value_name = "FILE")]
    no_answer_scores: Option<PathBuf>,
    /// Take a question with a score above X to have no answer, except in the search for the best threshold.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = threshold, requires = "no_answer_scores", allow_hyphen_values = true)]
    no_answer_threshold: f64,
}

fn threshold(text: &str) -> Result<f64, String> {
    let number = args::number(text)?;
    match number.is_nan() {
        true => Err("expected a number".to_owned()),
        false => Ok(number),
    }
}

/// Texts, and what is expected of them.
#[derive(Debug, clap::Args)]
struct Files {
    /// Score the texts in this file: one a line, where an empty line is an empty text; or rows with a column
    /// `text`, as `ailora predict` writes them (JSONL, JSON, CSV, TSV or Parquet, by the file's name).
    #[arg(long, value_name = "FILE")]
    predictions: PathBuf,
    /// Read what is expected from this file, in the same order: one a line, or rows with a column.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
}

#[derive(Debug, clap::Args)]
struct RougeArgs {
    #[command(flatten)]
    files: Files,
    /// Take the references from this column: a text, or a list of texts of which the best counts [default: the
    /// first of references, target, summary and highlights that a row has].
    #[arg(long, value_name = "COLUMN")]
    column: Option<String>,
    /// Compare words as they are instead of their stems.
    #[arg(long)]
    no_stemmer: bool,
}

#[derive(Debug, clap::Args)]
struct ArithmeticArgs {
    #[command(flatten)]
    files: Files,
    /// Take the right answers from this column: a number, a letter from A to E, or a solution that ends in
    /// `#### N` [default: the first of answer, Answer and correct that a row has].
    #[arg(long, value_name = "COLUMN")]
    column: Option<String>,
    #[arg(long, value_name = "RULE", default_value = LLM_ADAPTERS.name, value_parser = Rule::named, help = rules())]
    rule: &'static Rule,
}

/// What `--rule` does.
fn rules() -> String {
    let rules = RULES.iter();
    let rules: Vec<String> = rules
        .map(|rule| format!("{} ({})", rule.name, rule.about))
        .collect();
    format!(
        "Find the answers of texts by this rule: {}",
        rules.join("; ")
    )
}

/// Prints one JSON object: the scores by name, and what they were computed by.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let scores = match &args.kind {
        Kind::Squad(args) => squad(args)?.into(),
        Kind::Rouge(args) => rouge(args)?.into(),
        Kind::Arithmetic(args) => arithmetic(args)?,
    };
    out!("{}", serde_json::to_string(&scores)?)?;
    Ok(ExitCode::SUCCESS)
}

fn squad(args: &SquadArgs) -> Result<Map<String, Value>, Error> {
    let (version, questions) = asked(&args.data)?;
    let texts = by_id(&args.predictions, "a text", |value| {
        value.as_str().map(str::to_owned)
    })?;
    let scores = args.no_answer_scores.as_ref();
    let scores = scores.map(|path| by_id(path, "a number", Value::as_f64));
    let scores = scores.transpose()?;
    let no_answer = scores.as_ref().map(|scores| NoAnswer {
        scores,
        threshold: args.no_answer_threshold,
    });
    let found = squad::score(version, &questions, &texts, no_answer)
        .map_err(|error| format!("{}: {error}", args.data.display()))?;
    if found.missing > 0 {
        say!(
            "warning: counted as wrong, without a prediction: {} of {} questions ({})",
            found.missing,
            questions.len(),
            args.predictions.display()
        );
    }
    if found.unknown > 0 {
        say!(
            "warning: not counted, for other questions: {} of {} predictions ({})",
            found.unknown,
            texts.len(),
            args.predictions.display()
        );
    }
    // Of each question there is a score, or it would be an error.
    if let (Some(scores), Some(path)) = (&scores, &args.no_answer_scores)
        && scores.len() > questions.len()
    {
        say!(
            "warning: not counted, for other questions: {} of {} scores of no answer ({})",
            scores.len() - questions.len(),
            scores.len(),
            path.display()
        );
    }
    let version = ("version".to_owned(), json!(found.version.name()));
    Ok(std::iter::once(version).chain(found.scores).collect())
}

/// The questions of a file of SQuAD, and whose rules it asks for.
fn asked(path: &Path) -> Result<(Version, Vec<Question>), DataError> {
    let mut found = Vec::new();
    let mut says_whether = false;
    let named = questions(&mut Source::open(path, None)?, &mut |number, question| {
        let question = question?;
        says_whether |= question.is_impossible.is_some();
        let answers = question.answers.ok_or_else(|| DataError::Form {
            path: path.to_owned(),
            expected: "questions with their answers".to_owned(),
            cause: format!("question {number}, `{}`, has none", question.id),
        })?;
        found.push(Question {
            id: question.id,
            answers: answers.into_iter().map(|answer| answer.text).collect(),
        });
        Ok(())
    })?;
    let is_named = named.is_some_and(|name| name.trim_start_matches('v').starts_with('2'));
    let version = match says_whether || is_named {
        true => Version::V2,
        false => Version::V1,
    };
    Ok((version, found))
}

/// What `read` makes of each value of a JSON object, by its name.
fn by_id<T>(
    path: &Path,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<IndexMap<String, T>, DataError> {
    let wrong = |cause: String| DataError::Form {
        path: path.to_owned(),
        expected: format!("a JSON object of {expected} for each question's id"),
        cause,
    };
    let mut source = Source::open(path, None)?;
    let object = match serde_json::from_reader(source.bytes()) {
        Ok(Unique(Value::Object(object))) => object,
        Ok(_) => return Err(wrong("it is no object".to_owned())),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let own = |(id, value): (String, Value)| match read(&value) {
        Some(value) => Ok((id, value)),
        None => Err(wrong(format!("that of `{id}` is {value}"))),
    };
    object.into_iter().map(own).collect()
}

fn rouge(args: &RougeArgs) -> Result<Map<String, Value>, Error> {
    let columns = ["references", "target", "summary", "highlights"];
    let Pairs {
        texts,
        expected,
        columns,
    } = args.files.pairs(args.column.as_deref(), &columns)?;
    let rouge = Rouge {
        stem: !args.no_stemmer,
    };
    let kinds = KINDS.map(|(_, kind)| kind);
    let scores = rouge.corpus(&kinds, &expected, &texts);
    let mut found = Map::new();
    for ((name, _), score) in KINDS.iter().zip(scores) {
        found.insert((*name).to_owned(), serde_json::to_value(score)?);
    }
    found.insert("rows".into(), json!(texts.len()));
    found.insert("stemmer".into(), json!(rouge.stem));
    found.insert("columns".into(), json!(columns));
    Ok(found)
}

fn arithmetic(args: &ArithmeticArgs) -> Result<Value, Error> {
    let columns = ["answer", "Answer", "correct"];
    let Pairs {
        texts,
        expected,
        columns,
    } = args.files.pairs(args.column.as_deref(), &columns)?;
    let mut right = 0;
    for (row, (text, answer)) in texts.iter().zip(&expected).enumerate() {
        let [answer] = &answer[..] else {
            return Err(wrong_answer(&args.files, row, "one answer", "a list"));
        };
        let parsed = Answer::parse(answer).map_err(|expected| {
            wrong_answer(&args.files, row, &expected, &format!("{answer:?}"))
        })?;
        right += usize::from(args.rule.is_right(text, parsed));
    }
    Ok(json!({
        "rule": args.rule.name,
        "accuracy": right as f64 / texts.len() as f64,
        "right": right,
        "rows": texts.len(),
        "columns": columns,
    }))
}

fn wrong_answer(files: &Files, row: usize, expected: &str, found: &str) -> Error {
    let data = files.data.display();
    format!(
        "{data}, row {}: expected {expected}, found {found}",
        row + 1
    )
    .into()
}

/// Texts with what is expected of each.
struct Pairs {
    texts: Vec<String>,
    expected: Vec<Vec<String>>,
    /// The columns that say it.
    columns: IndexSet<String>,
}

impl Files {
    /// What the files hold, if it belongs together.
    fn pairs(&self, column: Option<&str>, columns: &[&str]) -> Result<Pairs, Error> {
        let written = predicted(&self.predictions)?;
        let right = expected(&self.data, column, columns)?;
        self.check(&written, &right)?;
        Ok(Pairs {
            texts: written.texts.into_iter().flatten().collect(),
            expected: right.texts,
            columns: right.columns,
        })
    }

    fn check(&self, written: &Read, right: &Read) -> Result<(), Error> {
        let (predictions, data) = (self.predictions.display(), self.data.display());
        let (texts, rows) = (written.texts.len(), right.texts.len());
        if rows == 0 {
            return Err(format!("{data} holds no rows to score against").into());
        }
        if texts != rows {
            return Err(format!(
                "{predictions} has {texts} texts, and {data} has {rows} rows: they do not belong together"
            )
            .into());
        }
        for (row, ids) in written.ids.iter().zip(&right.ids).enumerate() {
            if let (Some(one), Some(other)) = ids
                && one != other
            {
                return Err(format!(
                    "row {}: its `id` is {one:?} in {predictions} and {other:?} in {data}, and rows belong \
                     together by their order; bring them into one, or leave out ids that name other things",
                    row + 1
                )
                .into());
            }
        }
        Ok(())
    }
}
