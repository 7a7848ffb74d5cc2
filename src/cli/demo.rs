use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use ailora::{
    AdaptConfig,
    finetune::{AdapterFolder, Model, Settings, data},
    method::{Ailora, Lora, Method, Milora, Pissa},
    models::{
        embedded,
        task::{Malformed, Task},
    },
    output::{Existing, File, Folder},
    run::{Stage, backend},
    runtime::{
        backend::Precision,
        cpu::Cpu,
        device::Device,
        init::matrix,
        spectrum::spectrum,
        train::{Control, Event, Keep},
    },
};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Error,
    evaluate::logits,
    plot::{Losses, Spectra, write},
    print::{out, say},
    table,
};

const METHODS: [&dyn Method; 4] = [&Ailora, &Lora, &Pissa, &Milora];
const TASK: &str = "svamp";
const RANK: usize = 8;
/// Held-out problems that are shown with what is predicted for them.
const SHOWN: usize = 3;

/// How much is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write adapters and figures to this folder [default: ailora-demo, or the next free ailora-demo-N].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Number of runs of each method, from different seeds.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Number of passes over the training data.
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// Compute on cpu, cuda, cuda:ORDINAL, or auto for a device if there is one.
    #[arg(long, default_value = "auto")]
    device: Device,
}

/// Trains the same model by several methods and compares them.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let output = args.output.clone().unwrap_or_else(free_folder);
    let claimed = Folder::claim(&output, &[])?;
    claimed.check_empty()?;
    let task = Task::parse(TASK)?;
    let folder = data(&task, None)?;
    out!(
        "Which operation solves a word problem: addition, subtraction, multiplication or division?\n\
         A small RoBERTa, pretrained on books and sums, learns it from 800 problems of SVAMP by {} methods of \
         rank {RANK}, on {}.\n",
        METHODS.len(),
        backend(args.device, Precision::F32)?.name()
    )?;
    let mut rows = table::table(&["method", "accuracy", "loss", "seconds", "trained"]);
    let mut curves = Vec::new();
    for method in METHODS {
        let name = method.name();
        let mut runs = Vec::new();
        for seed in 0..args.seeds {
            let settings = Settings {
                task: TASK.to_owned(),
                adapters: AdaptConfig::method(method, RANK),
                epochs: args.epochs,
                lr: 3e-3,
                seed,
                device: args.device,
                // What is shown is not chosen by the rows that it is measured on.
                keep: Some(Keep::Last),
                ..Settings::default()
            };
            runs.push(Run::make(&settings, &output.join(adapter(name, seed)))?);
        }
        let shown = |of: fn(&Run) -> f64, digits| spread(runs.iter().map(of), digits);
        rows.add_row([
            name.to_owned(),
            shown(|run| 100.0 * run.accuracy, 1) + "%",
            shown(|run| run.loss, 3),
            shown(|run| run.took.as_secs_f64(), 1),
            table::count(runs[0].trainable),
        ]);
        curves.push((name.to_owned(), std::mem::take(&mut runs[0].losses)));
    }
    out!("{rows}")?;
    out!(
        "Accuracy on 200 problems that were held out; loss and trained parameters of training{}.\n",
        if args.seeds > 1 {
            "; means and deviations over the seeds"
        } else {
            ""
        }
    )?;

    let model = Model::open(embedded::MODEL, &task, 0, false)?;
    let spectra = spectra(&model)?;
    for extension in ["png", "svg"] {
        let place = |name: &str| {
            let path = output.join(name).with_extension(extension);
            File::at(&path, Existing::Refuse, &[])
        };
        let curves = curves.clone();
        write(&place("losses")?, &Losses { curves })?;
        write(&place("spectra")?, &spectra)?;
    }
    let first = output.join(adapter(METHODS[0].name(), 0));
    let (path, force) = (first.as_path(), false);
    let adapted = Model::adapted(embedded::MODEL, &task, AdapterFolder { path, force })?;
    predictions(adapted, &task, &folder)?;
    let (output, first) = (output.display(), first.display());
    let problems = folder.join(&task.train.files[0]);
    out!(
        "\nFigures: {output}/losses.png and {output}/spectra.png, and the same as .svg.\n\
         The AILoRA adapter is in {first}, as PEFT loads it. Next:\n\n  \
         ailora predict --adapter {first} --task {TASK} --data {} --output predictions.jsonl\n  \
         ailora explain --task {TASK} --site layer.0.attention.self.query\n  \
         ailora finetune --model roberta-base --task cola --data DIR --output OUT",
        problems.display()
    )?;
    Ok(ExitCode::SUCCESS)
}

/// What a run came to.
struct Run {
    accuracy: f64,
    /// The mean over the last epoch.
    loss: f64,
    losses: Vec<f64>,
    trainable: usize,
    took: Duration,
}

impl Run {
    /// Fine-tunes behind a progress bar.
    fn make(settings: &Settings, output: &Path) -> Result<Self, Error> {
        let name = settings.adapters.method.map_or("", |method| method.name());
        let bar = ProgressBar::new(0).with_message("starting");
        let style = format!(
            "{name:8} seed {} {{wide_bar}} {{pos}}/{{len}}  {{msg}}",
            settings.seed
        );
        bar.set_style(ProgressStyle::with_template(&style)?);
        let start = Instant::now();
        let (mut losses, mut trainable) = (Vec::new(), 0);
        let report = settings.run()?.fit(output, Existing::Refuse, |stage| {
            match stage {
                Stage::Loaded { trainable: n, .. } => trainable = n,
                Stage::Initialised { .. } | Stage::Notice(_) => {}
                Stage::Compiled { steps, .. } => bar.set_length(steps),
                Stage::Training(Event::Step { report, .. }) => {
                    losses.push(report.loss);
                    bar.set_position(report.step);
                }
                Stage::Training(Event::Evaluated { evaluation, .. }) => {
                    let metrics = table::metrics(&evaluation.metrics);
                    bar.set_message(format!("loss {:.3}  {metrics}", evaluation.train_loss));
                }
                Stage::Training(Event::Checkpointed { .. }) => {}
            }
            Control::Continue
        })?;
        bar.finish_and_clear();
        let last = report.evaluations.last();
        // Where no bar is seen, a line is.
        if let Some(last) = last.filter(|_| bar.is_hidden()) {
            let metrics = table::metrics(&last.metrics);
            say!(
                "{name} seed {}: loss {:.3}  {metrics}",
                settings.seed,
                last.train_loss
            );
        }
        let accuracy = last.and_then(|last| last.metrics.get(&report.headline.as_ref()?.name));
        Ok(Self {
            accuracy: accuracy.copied().unwrap_or(f64::NAN),
            loss: last.map_or(f64::NAN, |last| last.train_loss),
            losses,
            trainable,
            took: start.elapsed(),
        })
    }
}

/// The mean, and the deviation of a sample where there are several.
fn spread(values: impl Iterator<Item = f64>, digits: usize) -> String {
    let values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return format!("{mean:.digits$}");
    }
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    format!(
        "{mean:.digits$} ± {:.digits$}",
        (squares / (n - 1.0)).sqrt()
    )
}

/// The singular values of what AILoRA adapts.
fn spectra(model: &Model) -> Result<Spectra, Error> {
    let config = AdaptConfig::method(METHODS[0], RANK);
    let sites = config.resolve(model.pretrained.model.sites())?;
    let adapted = sites.iter().filter(|site| site.spec.rank().is_some());
    let curve = |site| -> Result<_, Error> {
        let site: &ailora::adapter::Site = site;
        let values = spectrum(&matrix(site, &model.pretrained.weights)?)?;
        Ok((site.path.clone(), values))
    };
    Ok(Spectra {
        curves: adapted.map(curve).collect::<Result<_, Error>>()?,
        rank: RANK,
    })
}

/// Shows a few held-out problems, and what a model with an adapter says of them.
fn predictions(model: Model, task: &Task, data: &Path) -> Result<(), Error> {
    let problems = task
        .load_split(data, &task.dev[0], Malformed::Refused)?
        .examples;
    let max_len = model.max_len(usize::MAX);
    let (mut predictor, mut engine, model) = model.predictor(Box::new(Cpu::new()));
    let rows = model.encode(&problems[..SHOWN.min(problems.len())], max_len)?;
    let found = logits(&mut predictor, &mut engine, &rows, max_len, SHOWN)?;
    out!("What the AILoRA adapter says of problems that were held out:")?;
    let objective = &model.objective;
    for (problem, logits) in problems.iter().zip(found) {
        let answer = objective.describe(&objective.predict(&logits));
        out!("  {}", problem.text)?;
        out!("    -> {}", answer.as_str().unwrap_or_default())?;
    }
    Ok(())
}

fn adapter(method: &str, seed: u64) -> String {
    match seed {
        0 => method.to_owned(),
        _ => format!("{method}-{seed}"),
    }
}

/// A folder that is not there yet.
fn free_folder() -> PathBuf {
    let names = (2..).map(|n| format!("ailora-demo-{n}"));
    let mut names = std::iter::once("ailora-demo".to_owned()).chain(names);
    let free = names.find(|name| !Path::new(name).exists());
    free.unwrap_or_default().into()
}
