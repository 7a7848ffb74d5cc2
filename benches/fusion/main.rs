//! What fusion saves of the time that adapters add to projections of real shapes, as
//! `cargo bench --bench fusion -- [--quick] [--output DIR] [--shapes DxMxR ...]`: a table, and in
//! DIR `fusion.json` and `fusion.svg`. `docs/fusion.md` says what is measured.

mod frameworks;
mod group;
mod plot;
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ailora::{
    bench::{Baseline, Options, Pass, Row},
    run::backend,
    runtime::{backend::Precision, costs, device::Device, store::write_atomically},
};
use clap::Parser;
use group::{Adapted, Group, Shape};
use serde::Serialize;

type Error = Box<dyn std::error::Error>;

/// Compares fused with unfused adapted projections.
#[derive(Debug, Parser)]
struct Args {
    /// Where the programs run.
    #[arg(long, default_value_t = Device::Cpu)]
    device: Device,
    /// What a device computes in.
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Three runs of each form instead of 0.3 seconds.
    #[arg(long)]
    quick: bool,
    /// The folder for `fusion.json` and `fusion.svg`.
    #[arg(long, value_name = "DIR", default_value = "target/fusion")]
    output: PathBuf,
    /// Width, rows and rank, as 768x2048x8; all of the table if absent.
    #[arg(long, value_name = "DxMxR", num_args = 1..)]
    shapes: Vec<Shape>,
    /// Without the other frameworks.
    #[arg(long)]
    alone: bool,
    /// Rewrites `benches/baseline.json` with this run.
    #[arg(long)]
    write_baseline: bool,
    /// Compares with a baseline; fails if a ratio became worse.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = BASELINE)]
    compare: Option<PathBuf>,
    /// How much worse a ratio may become, as a share.
    #[arg(long, default_value_t = 0.1)]
    tolerance: f64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/baseline.json");

/// A row of the table.
#[derive(Serialize)]
struct Measured {
    key: String,
    adapted: Adapted,
    #[serde(flatten)]
    shape: Shape,
    #[serde(flatten)]
    row: Row,
}

/// All that was measured.
#[derive(Serialize)]
struct Report<'a> {
    version: &'a str,
    machine: String,
    threads: usize,
    device: Device,
    precision: Precision,
    /// The share of rows in which the cost model prefers what is faster.
    ranked_right: f64,
    /// Merged over frozen, which are one program: between which bounds 90% of the rows are.
    noise: [f64; 2],
    rows: &'a [Measured],
    frameworks: &'a [frameworks::Timed],
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, Error> {
    // A file that is not there is said before an hour of measuring.
    let baseline = args.compare.as_deref().map(Baseline::read).transpose()?;
    std::fs::create_dir_all(&args.output)
        .map_err(|error| format!("{}: {error}", args.output.display()))?;
    let on = backend(args.device, args.precision)?;
    let costs = match args.device {
        Device::Cpu => costs::measure()?,
        _ => on.costs(),
    };
    let name = on.name();
    drop(on);
    let options = Options {
        device: args.device,
        precision: args.precision,
        costs,
        ..if args.quick {
            Options::quick()
        } else {
            Options::default()
        }
    };
    let rows = measure(&args.shapes, &options)?;
    println!("{}", table::rows(&rows));
    let right = |own: &&Measured| own.row.is_ranked_right() != Some(false);
    let ranked_right = rows.iter().filter(right).count() as f64 / rows.len() as f64;
    println!(
        "The cost model prefers what is faster, or as fast within 3%, in {:.0}% of the rows.",
        100.0 * ranked_right
    );
    let noise = noise(&rows);
    println!(
        "Merged and frozen are one program: within {:.2} to {:.2} of each other in 90% of the rows, \
         which is this run's noise.",
        noise[0], noise[1]
    );
    let others = if args.alone || args.device != Device::Cpu {
        Vec::new()
    } else {
        frameworks::compare(&options)?
    };
    if !others.is_empty() {
        println!("{}", table::frameworks(&others));
    }
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        machine: match args.device {
            Device::Cpu => costs::machine(),
            _ => name,
        },
        threads: rayon::current_num_threads(),
        device: args.device,
        precision: args.precision,
        ranked_right,
        noise,
        rows: &rows,
        frameworks: &others,
    };
    let json = serde_json::to_vec_pretty(&report)?;
    write(&args.output.join("fusion.json"), &json)?;
    let svg = plot::overheads(&rows)?;
    write(&args.output.join("fusion.svg"), svg.as_bytes())?;
    let run = Baseline {
        ratios: rows
            .iter()
            .map(|own| (own.key.clone(), own.row.ratios))
            .collect(),
    };
    if args.write_baseline {
        run.write(Path::new(BASELINE))?;
        eprintln!("wrote {BASELINE}");
    }
    Ok(match baseline {
        Some(baseline) => compare(&baseline, &run, args.tolerance),
        None => ExitCode::SUCCESS,
    })
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_atomically(file, bytes)?;
    eprintln!("wrote {}", file.display());
    Ok(())
}

/// Prints what is worse than the baseline, which fails.
fn compare(baseline: &Baseline, run: &Baseline, tolerance: f64) -> ExitCode {
    let found = baseline.compare(run, tolerance);
    for key in &found.missing {
        println!("not in the baseline: {key}");
    }
    for regression in &found.regressions {
        println!("worse: {regression}");
    }
    println!(
        "{} of {} configurations compared; {} ratios worse by more than {:.0}%",
        run.ratios.len() - found.missing.len(),
        run.ratios.len(),
        found.regressions.len(),
        100.0 * tolerance
    );
    ExitCode::from(u8::from(!found.regressions.is_empty()))
}

fn noise(rows: &[Measured]) -> [f64; 2] {
    let merged = rows.iter().filter_map(|own| {
        let merged = own.row.merged.as_ref()?;
        Some(merged.ms / own.row.frozen.ms)
    });
    let mut ratios: Vec<f64> = merged.collect();
    ratios.sort_by(f64::total_cmp);
    let last = ratios.len().saturating_sub(1) as f64;
    let at = |share: f64| ratios.get((share * last).round() as usize).copied();
    [0.05, 0.95].map(|share| at(share).unwrap_or(1.0))
}

fn measure(shapes: &[Shape], options: &Options) -> Result<Vec<Measured>, Error> {
    let all = Shape::all();
    let shapes = if shapes.is_empty() { &all } else { shapes };
    let mut rows: Vec<Measured> = Vec::new();
    for &shape in shapes {
        for adapted in [Adapted::QueryValue, Adapted::AllLinear] {
            let group = Group::new(shape, adapted)?;
            for pass in [Pass::Forward, Pass::Both] {
                let key = format!("{adapted} {shape} {pass}");
                let row = group.compare(pass, options)?;
                let ratio = row.ratios.fused_to_unfused;
                eprintln!("{}/{} {key}: {ratio:.2}", rows.len() + 1, 4 * shapes.len());
                rows.push(Measured {
                    key,
                    adapted,
                    shape,
                    row,
                });
            }
        }
    }
    Ok(rows)
}
