use std::{path::PathBuf, process::ExitCode};

use ailora::{
    pretrain::Settings,
    runtime::{backend::Precision, device::Device, optim::ScheduleKind},
};

use super::{
    Error,
    args::{self, ExistingArgs},
    finetune::{run_shown, schedule},
};

/// The settings of a run: flags win over the file of `--config`, which wins over the defaults.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Train on the text of this file, a paragraph a line.
    #[arg(long, value_name = "FILE")]
    train: Option<PathBuf>,
    /// Evaluate on the text of this file, a paragraph a line.
    #[arg(long, value_name = "FILE")]
    valid: Option<PathBuf>,
    /// Write the model, the metrics, the logs and the checkpoint to this folder.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    existing: ExistingArgs,
    /// Read settings from a YAML or JSON file that names them as run.json does, or from the run.json of
    /// another run.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Number of tokens in the vocabulary [default: 6144].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    vocab_size: Option<usize>,
    /// Width of the hidden states [default: 256].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    width: Option<usize>,
    /// Number of layers [default: 4].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    layers: Option<usize>,
    /// Number of attention heads [default: 4].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    heads: Option<usize>,
    /// Number of tokens in a row, and the longest sequence that the model will read [default: 128].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    length: Option<usize>,
    /// Dropout of hidden states and of attention [default: 0].
    #[arg(long, value_name = "X", value_parser = args::number, allow_hyphen_values = true)]
    dropout: Option<f64>,
    /// Fraction of tokens to be guessed [default: 0.15].
    #[arg(long, value_name = "X", value_parser = args::number, allow_hyphen_values = true)]
    masked: Option<f64>,
    /// Number of passes over the text; the schedule spans them all, also where --resume changes their
    /// number [default: 10].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    epochs: Option<usize>,
    /// Number of rows in a step [default: 256].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    batch_size: Option<usize>,
    /// Base learning rate [default: 1e-3].
    #[arg(long, value_name = "X", value_parser = args::number, allow_hyphen_values = true)]
    lr: Option<f64>,
    /// Schedule of the learning rate after the warmup: linear, cosine or constant [default: linear].
    #[arg(long, value_parser = schedule)]
    schedule: Option<ScheduleKind>,
    /// Fraction of steps over which the learning rate warms up [default: 0.06].
    #[arg(long, value_name = "X", value_parser = args::number, allow_hyphen_values = true)]
    warmup: Option<f64>,
    /// Seed of initialisation, masks, dropout and the order of rows [default: 0].
    #[arg(long, value_name = "N", value_parser = args::count::<u64>, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Stop after N steps.
    #[arg(long, value_name = "N", value_parser = args::count::<u64>, allow_negative_numbers = true)]
    max_steps: Option<u64>,
    /// Write a checkpoint every N steps, and after each epoch [default: 1000].
    #[arg(long, value_name = "N", value_parser = args::count::<u64>, allow_negative_numbers = true)]
    checkpoint_every: Option<u64>,
    /// Evaluate the held-out text every N steps too [default: after each epoch only].
    #[arg(long, value_name = "N", value_parser = args::count::<u64>, allow_negative_numbers = true)]
    evaluate_every: Option<u64>,
    /// Write the weights in float16.
    #[arg(long)]
    half: bool,
    /// Compute on cpu, cuda, cuda:ORDINAL, or auto for a device if there is one [default: cpu].
    #[arg(long)]
    device: Option<Device>,
    /// Compute products on a device in f32, tf32 or bf16 [default: f32].
    #[arg(long)]
    precision: Option<Precision>,
}

impl Args {
    /// The threads of the run that goes on.
    pub fn threads(&self) -> Option<usize> {
        self.existing.threads(&self.output)
    }

    fn settings(&self) -> Result<Settings, Error> {
        let mut settings: Settings = self
            .existing
            .settings(self.config.as_deref(), &self.output)?;
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
        settings.evaluate_every = self.evaluate_every.or(settings.evaluate_every);
        settings.half |= self.half;
        Ok(settings)
    }
}

/// Trains, showing what happens on stderr.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let settings = args.settings()?;
    run_shown(&args.output, |watch| {
        let existing = args.existing.of();
        Ok(settings.run()?.fit(&args.output, existing, watch)?)
    })
}
