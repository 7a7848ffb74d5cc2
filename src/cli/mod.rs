mod adapters;
mod answers;
mod args;
mod chat;
mod data;
mod dataset;
mod demo;
mod evaluate;
mod explain;
mod export;
mod finetune;
mod generate;
mod plan;
mod plot;
mod predict;
mod pretrain;
pub(crate) mod print;
mod progress;
mod score;
mod signals;
mod sources;
mod spectrum;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// What a command fails with.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Fine-tunes pretrained transformers with AILoRA: low-rank adapters that start where a projection's
/// role says they should.
#[derive(Debug, Parser)]
#[command(name = "ailora", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Number of threads; as many as cores if absent.
    #[arg(long, global = true, value_name = "N", value_parser = args::threads, allow_negative_numbers = true)]
    threads: Option<usize>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows AILoRA on a small model and real data, both built in: the place to start.
    Demo(demo::Args),
    /// Shows what is understood of files of your own: columns, classes, lengths and rendered rows.
    Data(data::Args),
    /// Trains an adapter on data of your own, or on a task.
    Finetune(Box<finetune::Args>),
    /// Trains a tokenizer and an encoder on text, by masked language modelling.
    Pretrain(Box<pretrain::Args>),
    /// Scores a model, with an adapter or without, on files or on a task's held-out rows.
    Evaluate(Box<evaluate::Args>),
    /// Writes what a model predicts for the rows of files: labels, numbers, or texts.
    Predict(Box<predict::Args>),
    /// Scores texts and answers that any system wrote: summaries, arithmetic, SQuAD.
    Score(score::Args),
    /// Generates text from prompts.
    Generate(Box<generate::Args>),
    /// Chats with a language model, line by line, in its own template.
    Chat(Box<chat::Args>),
    /// Writes an adapter to a new folder in PEFT's format, and checks what it wrote.
    Export(export::ExportArgs),
    /// Writes the model with the adapter merged into its weights.
    Merge(export::MergeArgs),
    /// Lists the adapters below a folder: what they are, what they are for, and how they scored.
    Adapters(adapters::Args),
    /// Shows what a training step computes and how much memory it takes, without running it.
    Plan(plan::Args),
    /// Shows what fusion does with the matrix products around one projection.
    Explain(explain::Args),
    /// Shows the singular values of the projections, and the share that principal and minor starts take.
    Spectrum(spectrum::Args),
}

/// What is logged where `AILORA_LOG` says nothing: warnings, and how far a download is.
const LOGGED: &str = "warn,ailora_models::hub=info";

impl Command {
    /// The threads of a run that goes on.
    fn threads(&self) -> Option<usize> {
        match self {
            Self::Finetune(args) => args.threads(),
            Self::Pretrain(args) => args.threads(),
            _ => None,
        }
    }
}

/// Runs the command line.
pub fn run() -> Result<ExitCode, Error> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("AILORA_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // What cannot be logged is lost: nobody reads it.
        .log_internal_errors(false)
        .init();
    if let Some(threads) = cli.threads.or_else(|| cli.command.threads()) {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()?;
    }
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Finetune(args) => finetune::run(*args),
        Command::Pretrain(args) => pretrain::run(*args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Export(args) => export::export(&args),
        Command::Merge(args) => export::merge(&args),
        Command::Adapters(args) => adapters::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Spectrum(args) => spectrum::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn no_two_flags_share_a_name() {
        Cli::command().debug_assert();
    }
}
