use std::{path::PathBuf, process::ExitCode};

use ailora::{
    adapter::Site,
    finetune::Model,
    models::{embedded, task::Task},
    output::File,
    runtime::{init::matrix, spectrum::spectrum},
};

use super::{
    Error, args,
    plot::{Spectra, write},
    print, table,
};

/// Whose spectrum is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show a pretrained model: a folder, a GGUF file, a hub id, or the built-in one.
    #[arg(long, value_name = "DIR_OR_ID", default_value = embedded::MODEL)]
    model: String,
    /// Show the projections whose paths end with NAME; may be repeated.
    #[arg(long, value_name = "NAME", default_values = ["query", "value"])]
    site: Vec<String>,
    /// Rank whose share is shown.
    #[arg(long, value_name = "N", default_value_t = 8)]
    rank: usize,
    /// Plot the singular values to a file that ends with .svg or .png, or as SVG to standard output as `-`.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Replace the file of --plot if it exists.
    #[arg(long)]
    force: bool,
}

/// Prints a row a projection, and plots.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let model = Model::open(&args.model, &Task::parse("cola")?, 0, false)?;
    let at = |path| File::at(path, args::existing(args.force), &[&model.pretrained.dir]);
    let plot = args.plot.as_deref().map(at).transpose()?;
    let text = print::Text::beside([&plot])?;
    let sites: Vec<Site> = model
        .pretrained
        .model
        .sites()
        .into_iter()
        .filter(|site| {
            args.site
                .iter()
                .any(|name| site.path.ends_with(name.as_str()))
        })
        .collect();
    if sites.is_empty() {
        return Err(format!("no projection's path ends with {}", args.site.join(" or ")).into());
    }
    let mut rows = table::table(&[
        "projection",
        "largest",
        "smallest principal",
        "largest minor",
        "smallest",
        "principal share",
        "minor share",
    ]);
    let mut curves = Vec::new();
    for site in &sites {
        let r = args.rank;
        if r == 0 || r > site.max_rank() {
            return Err(format!(
                "--rank is {r}; expected 1 to {} for {}",
                site.max_rank(),
                site.path
            )
            .into());
        }
        let values = spectrum(&matrix(site, &model.pretrained.weights)?)?;
        let energy = |part: &[f64]| part.iter().map(|s| s * s).sum::<f64>();
        let (n, whole) = (values.len(), energy(&values));
        let share = |part: &[f64]| format!("{:.4}%", 100.0 * energy(part) / whole);
        rows.add_row([
            site.path.clone(),
            format!("{:.4e}", values[0]),
            format!("{:.4e}", values[r - 1]),
            format!("{:.4e}", values[n - r]),
            format!("{:.4e}", values[n - 1]),
            share(&values[..r]),
            share(&values[n - r..]),
        ]);
        curves.push((site.path.clone(), values));
    }
    text.line(format_args!("{rows}"))?;
    text.line(format_args!(
        "rank {}: `principal` takes the largest {0} singular values, `minor` the smallest {0}; the \
         shares are of the sum of their squares. `random` takes none.",
        args.rank
    ))?;
    if let Some(plot) = &plot {
        let rank = args.rank;
        write(plot, &Spectra { curves, rank })?;
        print::say!("wrote {}", plot.path().display());
    }
    Ok(ExitCode::SUCCESS)
}
