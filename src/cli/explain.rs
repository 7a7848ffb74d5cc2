use std::{path::PathBuf, process::ExitCode};

use ailora::{adapt::adapt, explain, runtime::store::write_atomically};

use super::{
    Error,
    args::{AdapterArgs, ModelArgs},
};

/// The projection that is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// The projection's path, or the end of it; the first adapted one if absent.
    #[arg(long, value_name = "PATH")]
    site: Option<String>,
    /// Rows of a batch.
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 128)]
    length: usize,
    /// Writes the adapted projection as a graph in Graphviz's DOT language.
    #[arg(long, value_name = "FILE")]
    dot: Option<PathBuf>,
}

/// Prints the program of a projection before and after adaptation.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let (model, sites, config) = args.model.adapted(&args.adapters)?;
    let wanted = |path: &str| match &args.site {
        Some(wanted) => path == wanted || path.ends_with(&format!(".{wanted}")),
        None => true,
    };
    let site = sites
        .iter()
        .find(|site| site.spec.rank().is_some() && wanted(&site.path));
    let site = site.ok_or_else(|| {
        let paths: Vec<&str> = sites
            .iter()
            .filter(|site| site.spec.rank().is_some())
            .map(|site| site.path.as_str())
            .collect();
        let wanted = args.site.as_deref().unwrap_or_default();
        format!(
            "`{wanted}` is no adapted projection; there are: {}",
            paths.join(", ")
        )
    })?;
    let program = model
        .classifier
        .program(args.batch_size, args.length, false, false)?;
    let adapted = adapt(&program, &sites, config.trains_everything())?;
    let before = explain::site(&program, site).ok_or("the program does not use it")?;
    let after = explain::site(&adapted, site).ok_or("the program does not use it")?;
    println!(
        "{}: {:?}\n\nbefore:\n{before}\nafter:\n{after}",
        site.path, site.spec.strategy
    );
    if let Some(path) = &args.dot {
        write_atomically(path, explain::dot(&after).as_bytes())?;
        eprintln!("wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
