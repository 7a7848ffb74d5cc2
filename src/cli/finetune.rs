use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ailora::{
    finetune::Settings,
    method::Ailora,
    run::{Report, Stage},
    runtime::{
        backend::Precision,
        device::Device,
        optim::ScheduleKind,
        train::{Control, Evaluation, Keep, Outcome},
    },
};

use super::{
    Error,
    args::{self, AdapterArgs, ExistingArgs, StrictArgs},
    dataset::DatasetArgs,
    print::out,
    progress::Screen,
    signals::Signals,
    table,
};

/// The settings of a run: flags win over the file of `--config`, which wins over the defaults.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Train a pretrained model: a folder, a GGUF file, a hub id, or the built-in one [default: embedded].
    #[arg(long, value_name = "DIR_OR_ID")]
    model: Option<String>,
    #[arg(long, help = args::tasks(""))]
    task: Option<String>,
    /// Read the task's files from this folder [default: svamp's built-in files].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Write the adapter, the metrics, the logs and the checkpoint to this folder.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    existing: ExistingArgs,
    /// Read settings from a YAML or JSON file that names them as run.json does, or from the run.json of
    /// another run.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Train on the adapter in this folder, one of ours or of PEFT's: its ranks, scales and targets are its
    /// own, and what it trained trains on.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// Number of passes over the training data; the schedule spans them all, also where --resume changes
    /// their number [default: 3].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    epochs: Option<usize>,
    /// Number of rows in a batch [default: 32].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    batch_size: Option<usize>,
    /// Number of batches whose gradients make one step [default: 1].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    accumulate: Option<usize>,
    /// Base learning rate [default: 5e-4].
    #[arg(long, value_name = "X", value_parser = args::number, allow_hyphen_values = true)]
    lr: Option<f64>,
    /// Schedule of the learning rate after the warmup: linear, cosine or constant [default: linear].
    #[arg(long, value_parser = schedule)]
    schedule: Option<ScheduleKind>,
    /// Fraction of steps over which the learning rate warms up [default: 0.06].
    #[arg(long, value_name = "X", value_parser = args::number, allow_hyphen_values = true)]
    warmup: Option<f64>,
    /// Clip the norm of the gradients to this; 0 leaves them as they are [default: 1].
    #[arg(long, value_name = "X", value_parser = args::number, allow_hyphen_values = true)]
    clip: Option<f64>,
    /// Decoupled weight decay of AdamW [default: 0].
    #[arg(long, value_name = "X", value_parser = args::number, allow_hyphen_values = true)]
    weight_decay: Option<f64>,
    /// Seed of initialisation, dropout and the order of rows [default: 0].
    #[arg(long, value_name = "N", value_parser = args::count::<u64>, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Truncate sequences to N tokens [default: what the task says, else 128, of question answering
    /// 384].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    max_length: Option<usize>,
    /// Train on N of the rows, always the same ones [default: all].
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    rows: Option<usize>,
    /// Stop after N steps.
    #[arg(long, value_name = "N", value_parser = args::count::<u64>, allow_negative_numbers = true)]
    max_steps: Option<u64>,
    /// Write a checkpoint every N steps, and after each epoch [default: 200].
    #[arg(long, value_name = "N", value_parser = args::count::<u64>, allow_negative_numbers = true)]
    checkpoint_every: Option<u64>,
    /// Evaluate the held-out rows every N steps too [default: after each epoch only].
    #[arg(long, value_name = "N", value_parser = args::count::<u64>, allow_negative_numbers = true)]
    evaluate_every: Option<u64>,
    /// Keep only the values between blocks for the backward pass, which recomputes the rest: less
    /// memory, about a third more arithmetic.
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Judge evaluations by this metric, one of those that they report [default: the task's first].
    #[arg(long, value_name = "METRIC")]
    best_by: Option<String>,
    /// Leave the adapter of the best evaluation or of the last [default: best where the task has held-out
    /// rows, else last].
    #[arg(long, value_name = "best|last")]
    keep: Option<Keep>,
    /// Stop after N evaluations in a row that are not the best so far.
    #[arg(long, value_name = "N", value_parser = args::count::<usize>, allow_negative_numbers = true)]
    patience: Option<usize>,
    /// Compute on cpu, cuda, cuda:ORDINAL, or auto for a device if there is one [default: cpu].
    #[arg(long)]
    device: Option<Device>,
    /// Compute products on a device in f32, tf32 or bf16 [default: f32].
    #[arg(long)]
    precision: Option<Precision>,
    #[command(flatten)]
    strict: StrictArgs,
}

pub fn schedule(text: &str) -> Result<ScheduleKind, String> {
    match text {
        "linear" => Ok(ScheduleKind::Linear),
        "cosine" => Ok(ScheduleKind::Cosine),
        "constant" => Ok(ScheduleKind::Constant),
        _ => Err("expected linear, cosine or constant".into()),
    }
}

impl Args {
    /// The threads of the run that goes on.
    pub fn threads(&self) -> Option<usize> {
        self.existing.threads(&self.output)
    }

    fn settings(self) -> Result<(Settings, PathBuf), Error> {
        let mut settings: Settings = self
            .existing
            .settings(self.config.as_deref(), &self.output)?;
        settings.adapters = self.adapters.config(settings.adapters)?;
        settings.from = self.from.or(settings.from);
        if settings.from.is_none() {
            settings.adapters.method.get_or_insert(&Ailora);
        }
        macro_rules! given {
            ($($name:ident),*) => { $(if let Some(value) = self.$name { settings.$name = value; })* };
        }
        given!(
            model,
            task,
            epochs,
            batch_size,
            accumulate,
            lr,
            schedule,
            warmup,
            seed,
            checkpoint_every,
            device,
            precision
        );
        settings.dataset = self.dataset.over(settings.dataset);
        settings.data = self.data.or(settings.data);
        settings.max_length = self.max_length.or(settings.max_length);
        settings.rows = self.rows.or(settings.rows);
        settings.max_steps = self.max_steps.or(settings.max_steps);
        settings.evaluate_every = self.evaluate_every.or(settings.evaluate_every);
        settings.headline = self.best_by.or(settings.headline);
        settings.keep = self.keep.or(settings.keep);
        settings.patience = self.patience.or(settings.patience);
        settings.gradient_checkpointing |= self.gradient_checkpointing;
        settings.strict |= self.strict.strict;
        settings.optimizer.weight_decay =
            self.weight_decay.unwrap_or(settings.optimizer.weight_decay);
        if let Some(clip) = self.clip {
            settings.clip = (clip != 0.0).then_some(clip);
        }
        Ok((settings, self.output))
    }
}

/// Trains, showing what happens on stderr.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let existing = args.existing.of();
    let (settings, output) = args.settings()?;
    run_shown(&output, |watch| {
        Ok(settings.run()?.fit(&output, existing, watch)?)
    })
}

/// Makes a run that writes to `output`, shows it, and stops it when asked to.
pub fn run_shown(
    output: &Path,
    make: impl FnOnce(&mut (dyn FnMut(Stage<'_>) -> Control + Send)) -> Result<Report, Error>,
) -> Result<ExitCode, Error> {
    let signals = Signals::watch()?;
    let mut screen = Screen::default();
    let mut asked = false;
    let report = make(&mut |stage| {
        screen.show(&stage);
        if signals.came().is_none() {
            return Control::Continue;
        }
        if !std::mem::replace(&mut asked, true) {
            screen.say("stopping after this step; a second signal stops at once");
        }
        Control::Stop
    })?;
    screen.finish();
    let shown = |name: &str, evaluation: Option<&Evaluation>| match evaluation {
        None => Ok(()),
        Some(evaluation) => out!("{name} {}: {}", evaluation.place(), figures(evaluation)),
    };
    let folder = output.display();
    let printed = shown("best", report.best.as_ref())
        .and_then(|()| shown("last", report.evaluations.last()))
        .and_then(|()| out!("wrote {folder}: {}", left(&report)));
    match report.outcome {
        Outcome::Finished => printed.map(|()| ExitCode::SUCCESS),
        Outcome::Stopped => {
            let status = ExitCode::from(128 + signals.came().unwrap_or(2));
            // The status says that it was stopped, whether anybody reads this or not.
            let _ = printed
                .and_then(|()| out!("stopped; go on with --resume (checkpoint in {folder})"));
            Ok(status)
        }
    }
}

/// What a run left, for people.
fn left(report: &Report) -> String {
    match (&report.kept, &report.best, report.keep) {
        (Some(kept), Some(_), Keep::Best) => format!("{}, the best", kept.place()),
        (Some(kept), ..) => format!("{}, the last", kept.place()),
        (None, ..) => format!("as it is after step {}", report.steps),
    }
}

/// The held-out metrics of an epoch, or, where there are none, the loss.
fn figures(evaluation: &Evaluation) -> String {
    match evaluation.metrics.is_empty() {
        true => format!("loss {:.4}, nothing held out", evaluation.train_loss),
        false => table::metrics(&evaluation.metrics),
    }
}
