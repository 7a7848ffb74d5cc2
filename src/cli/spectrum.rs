use std::{path::PathBuf, process::ExitCode};

use ailora::{
    adapter::Site,
    finetune::Model,
    models::{embedded, task::Task},
    runtime::{init::matrix, spectrum::spectrum},
};

use super::{
    Error,
    plot::{Spectra, write},
    table,
};

/// Whose spectrum is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder with a pretrained model, its id on the hub, or the one that is built in.
    #[arg(long, value_name = "DIR_OR_ID", default_value = embedded::MODEL)]
    model: String,
    /// The projections, by the ends of their paths.
    #[arg(long, value_name = "NAME", default_values = ["query", "value"])]
    site: Vec<String>,
    /// The rank whose share is shown.
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Writes the singular values as curves to an SVG or a PNG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Prints a row a projection, and plots.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let model = Model::open(&args.model, Task::parse("cola")?, 0, false)?;
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
    println!("{rows}");
    println!(
        "rank {}: `principal` takes the largest {0} singular values, `minor` the smallest {0}; the \
         shares are of the sum of their squares. `random` takes none.",
        args.rank
    );
    if let Some(path) = &args.plot {
        let rank = args.rank;
        write(path, &Spectra { curves, rank })?;
        eprintln!("wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
