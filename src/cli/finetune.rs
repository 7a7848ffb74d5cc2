use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ailora::{
    Method,
    finetune::{Report, Settings, Stage, finetune, read_yaml},
    runtime::{
        backend::{Device, Precision},
        optim::ScheduleKind,
        train::{Control, Evaluation, Event, Keep, Outcome},
    },
};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Error,
    args::{AdapterArgs, StrictArgs, say},
    table,
};

/// The settings of a run: flags win over the file of `--config`, which wins over the defaults.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder with a pretrained model, its id on the hub, or the one that is built in [default:
    /// embedded].
    #[arg(long, value_name = "DIR_OR_ID")]
    model: Option<String>,
    /// The task: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, svamp or math.
    #[arg(long)]
    task: Option<String>,
    /// The folder with the task's files [default: those of svamp are built in].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The folder for the adapter, the metrics, the logs and the checkpoint.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Goes on from the checkpoint in the output folder, if there is one.
    #[arg(long)]
    resume: bool,
    /// A YAML or JSON file with any of the settings, as `run.json` names them.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// How often the training rows are gone through [default: 3].
    #[arg(long)]
    epochs: Option<usize>,
    /// Rows of a batch [default: 32].
    #[arg(long)]
    batch_size: Option<usize>,
    /// Batches whose gradients make one step [default: 1].
    #[arg(long)]
    accumulate: Option<usize>,
    /// The base learning rate [default: 5e-4].
    #[arg(long)]
    lr: Option<f64>,
    /// How the rate falls after the warmup: linear, cosine or constant [default: linear].
    #[arg(long, value_parser = schedule)]
    schedule: Option<ScheduleKind>,
    /// The part of all steps in which the rate rises [default: 0.06].
    #[arg(long)]
    warmup: Option<f64>,
    /// The largest norm of the gradients; 0 leaves them as they are [default: 1].
    #[arg(long)]
    clip: Option<f64>,
    /// AdamW's decoupled weight decay [default: 0].
    #[arg(long)]
    weight_decay: Option<f64>,
    /// What fixes initialisation, dropout and the order of rows [default: 0].
    #[arg(long)]
    seed: Option<u64>,
    /// The longest sequence, in tokens [default: 128].
    #[arg(long)]
    max_length: Option<usize>,
    /// How many training rows are used [default: all].
    #[arg(long)]
    rows: Option<usize>,
    /// An end before the last epoch's.
    #[arg(long)]
    max_steps: Option<u64>,
    /// Steps between checkpoints [default: 200].
    #[arg(long)]
    checkpoint_every: Option<u64>,
    /// Keeps only what lies between blocks for the backward pass, which computes the rest again: less
    /// memory, about a third more arithmetic.
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Which epoch's adapter to leave: best or last [default: best where the task has a held-out
    /// metric, else last].
    #[arg(long, value_name = "best|last")]
    keep: Option<Keep>,
    /// Where it is computed: cpu, cuda, cuda:ORDINAL, or auto for a device if there is one [default:
    /// cpu].
    #[arg(long)]
    device: Option<Device>,
    /// What a device computes products in: f32, tf32 or bf16 [default: f32].
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
    fn settings(self) -> Result<(Settings, PathBuf, bool), Error> {
        let mut settings: Settings = match &self.config {
            Some(path) => read_yaml(path)?,
            None => Settings::default(),
        };
        settings.adapters = self.adapters.config(settings.adapters)?;
        settings.adapters.method.get_or_insert(Method::AiLora);
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
            max_length,
            checkpoint_every,
            device,
            precision
        );
        settings.data = self.data.or(settings.data);
        settings.rows = self.rows.or(settings.rows);
        settings.max_steps = self.max_steps.or(settings.max_steps);
        settings.keep = self.keep.or(settings.keep);
        settings.gradient_checkpointing |= self.gradient_checkpointing;
        settings.strict |= self.strict.strict;
        settings.optimizer.weight_decay =
            self.weight_decay.unwrap_or(settings.optimizer.weight_decay);
        if let Some(clip) = self.clip {
            settings.clip = (clip != 0.0).then_some(clip);
        }
        Ok((settings, self.output, self.resume))
    }
}

/// Trains, showing what happens on stderr.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    let (settings, output, resume) = args.settings()?;
    run_shown(&output, |watch| {
        Ok(finetune(&settings, &output, resume, watch)?)
    })
}

/// Makes a run that writes to `output`, shows it, and stops it when asked to.
pub fn run_shown(
    output: &Path,
    make: impl FnOnce(&mut (dyn FnMut(Stage<'_>) -> Control + Send)) -> Result<Report, Error>,
) -> Result<ExitCode, Error> {
    let interrupts = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&interrupts);
    ctrlc::set_handler(move || {
        // The second time is meant.
        if seen.fetch_add(1, Ordering::Relaxed) > 0 {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
    })?;
    let mut screen = Screen::default();
    let report = make(&mut |stage| {
        screen.show(&stage);
        if interrupts.load(Ordering::Relaxed) > 0 {
            Control::Stop
        } else {
            Control::Continue
        }
    })?;
    screen.bar.finish_and_clear();
    let shown = |name: &str, evaluation: Option<&Evaluation>| {
        if let Some(evaluation) = evaluation {
            println!("{name} epoch {}: {}", evaluation.epoch, figures(evaluation));
        }
    };
    shown("best", report.best.as_ref());
    shown("last", report.evaluations.last());
    let folder = output.display();
    println!("wrote {folder}: {}", left(&report));
    match report.outcome {
        Outcome::Finished => Ok(ExitCode::SUCCESS),
        Outcome::Stopped => {
            println!("stopped; go on with the same command and --resume (checkpoint in {folder})");
            Ok(ExitCode::from(130))
        }
    }
}

/// What a run left, for people.
fn left(report: &Report) -> String {
    match (&report.kept, &report.best, report.keep) {
        (Some(kept), Some(_), Keep::Best) => format!("epoch {}, the best", kept.epoch),
        (Some(kept), ..) => format!("epoch {}, the last", kept.epoch),
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

/// What is shown while a run goes on.
struct Screen {
    bar: ProgressBar,
    loss: f64,
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            loss: f64::NAN,
        }
    }
}

impl Screen {
    fn show(&mut self, stage: &Stage<'_>) {
        match stage {
            Stage::Loaded {
                report,
                sites,
                parameters,
                trainable,
                rows,
            } => {
                eprintln!("{report}");
                say(report);
                eprintln!("{}", table::sites(sites));
                eprintln!(
                    "trained: {} of {} parameters ({:.3}%), on {} rows",
                    table::count(*trainable),
                    table::count(*parameters),
                    100.0 * *trainable as f64 / *parameters as f64,
                    table::count(*rows)
                );
            }
            Stage::Initialised { done, total } => {
                if self.bar.is_hidden() || *done == 1 {
                    self.bar = bar(*total as u64, "decomposing {wide_bar} {pos}/{len}");
                }
                self.bar.set_position(*done as u64);
            }
            Stage::Compiled {
                programs,
                peak_bytes,
                steps,
                done,
            } => {
                self.bar.finish_and_clear();
                eprintln!(
                    "{programs} programs; peak memory {}",
                    table::bytes(*peak_bytes)
                );
                if *done > 0 {
                    eprintln!("resumed at step {done}");
                }
                self.bar = bar(*steps, "{wide_bar} {pos}/{len}  {msg}  ETA {eta}");
                self.bar.set_position(*done);
                self.bar.reset_eta();
            }
            Stage::Training(Event::Step { report, .. }) => {
                // The recent losses' average, which a person can follow.
                self.loss = if self.loss.is_nan() {
                    report.loss
                } else {
                    0.95 * self.loss + 0.05 * report.loss
                };
                self.bar.set_position(report.step);
                let rate = self.bar.per_sec() * report.rows as f64;
                self.bar.set_message(format!(
                    "loss {:.4}  rate {:.2e}  {rate:.0} samples/s",
                    self.loss, report.lr
                ));
            }
            Stage::Training(Event::Evaluated {
                evaluation, best, ..
            }) => {
                let line = format!(
                    "epoch {}: loss {:.4}  {}{}",
                    evaluation.epoch,
                    evaluation.train_loss,
                    table::metrics(&evaluation.metrics),
                    if *best { "  (best)" } else { "" }
                );
                self.bar.suspend(|| eprintln!("{line}"));
            }
            Stage::Training(Event::Checkpointed { .. }) => {}
        }
    }
}

fn bar(len: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(len);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
