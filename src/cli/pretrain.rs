use std::{path::PathBuf, process::ExitCode};

use ailora::{
    finetune::read_yaml,
    pretrain::{Settings, pretrain},
    runtime::{
        backend::{Device, Precision},
        optim::ScheduleKind,
    },
};

use super::{
    Error,
    finetune::{run_shown, schedule},
};

/// The settings of a run: flags win over the file of `--config`, which wins over the defaults.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The text to train on, a paragraph a line.
    #[arg(long, value_name = "FILE")]
    train: Option<PathBuf>,
    /// Held-out text, a paragraph a line.
    #[arg(long, value_name = "FILE")]
    valid: Option<PathBuf>,
    /// The folder for the model, the metrics, the logs and the checkpoint.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Goes on from the checkpoint in the output folder, if there is one.
    #[arg(long)]
    resume: bool,
    /// A YAML or JSON file with any of the settings, as `run.json` names them.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Tokens of the vocabulary [default: 6144].
    #[arg(long)]
    vocab_size: Option<usize>,
    /// Width of the hidden states [default: 256].
    #[arg(long)]
    width: Option<usize>,
    /// Layers [default: 4].
    #[arg(long)]
    layers: Option<usize>,
    /// Heads of attention [default: 4].
    #[arg(long)]
    heads: Option<usize>,
    /// Tokens of a row, and the longest sequence that the model will read [default: 128].
    #[arg(long)]
    length: Option<usize>,
    /// The rate of dropout [default: 0].
    #[arg(long)]
    dropout: Option<f64>,
    /// The share of tokens to be guessed [default: 0.15].
    #[arg(long)]
    masked: Option<f64>,
    /// How often the text is gone through [default: 10].
    #[arg(long)]
    epochs: Option<usize>,
    /// Rows of a step [default: 256].
    #[arg(long)]
    batch_size: Option<usize>,
    /// The largest learning rate [default: 1e-3].
    #[arg(long)]
    lr: Option<f64>,
    /// How the rate falls after the warmup: linear, cosine or constant [default: linear].
    #[arg(long, value_parser = schedule)]
    schedule: Option<ScheduleKind>,
    /// The part of all steps in which the rate rises [default: 0.06].
    #[arg(long)]
    warmup: Option<f64>,
    /// What fixes initialisation, masks, dropout and the order of rows [default: 0].
    #[arg(long)]
    seed: Option<u64>,
    /// An end before the last epoch's.
    #[arg(long)]
    max_steps: Option<u64>,
    /// Steps between checkpoints [default: 1000].
    #[arg(long)]
    checkpoint_every: Option<u64>,
    /// Writes the weights in float16.
    #[arg(long)]
    half: bool,
    /// Where it is computed: cpu, cuda, cuda:ORDINAL, or auto for a device if there is one [default:
    /// cpu].
    #[arg(long)]
    device: Option<Device>,
    /// What a device computes products in: f32, tf32 or bf16 [default: f32].
    #[arg(long)]
    precision: Option<Precision>,
}

impl Args {
    fn settings(&self) -> Result<Settings, Error> {
        let mut settings: Settings = match &self.config {
            Some(path) => read_yaml(path)?,
            None => Settings::default(),
        };
        macro_rules! given {
            ($($name:ident),*) => {
                $(if let Some(value) = self.$name.clone() { settings.$name = value; })*
            };
        }
        given!(
            train,
            valid,
            vocab_size,
            width,
            layers,
            heads,
            length,
            dropout,
            masked,
            epochs,
            batch_size,
            lr,
            schedule,
            warmup,
            seed,
            checkpoint_every,
            device,
            precision
        );
        settings.max_steps = self.max_steps.or(settings.max_steps);
        settings.half |= self.half;
        Ok(settings)
    }
}

/// Trains, showing what happens on stderr.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let settings = args.settings()?;
    run_shown(&args.output, |watch| {
        Ok(pretrain(&settings, &args.output, args.resume, watch)?)
    })
}
