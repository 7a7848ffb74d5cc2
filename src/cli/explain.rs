use std::{path::PathBuf, process::ExitCode};

use ailora::{
    adapter::Site,
    explain::{Explained, explain},
    models::{batch::Shape, cache, objective::Pass},
    output::File,
    runtime::{
        costs::cached,
        passes::{Fusion, Optimized, Pipeline},
    },
};

use super::{
    Error,
    args::{self, AdapterArgs, DeviceArgs, ModelArgs},
    print,
};

/// The projection that is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Show the projection whose path is PATH or ends with it; the first adapted one if absent.
    #[arg(long, value_name = "PATH")]
    site: Option<String>,
    /// Number of rows in a batch.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = args::batch_size, allow_negative_numbers = true)]
    batch_size: usize,
    /// Number of tokens in a row.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = args::tokens, allow_negative_numbers = true)]
    length: usize,
    /// Show the forward pass alone, not a training step.
    #[arg(long)]
    forward: bool,
    /// Predict with product times measured on this machine's processor, once, and kept in the cache, instead of the
    /// fixed numbers that training uses.
    #[arg(long, conflicts_with = "device")]
    measure: bool,
    /// Write both forms to a file, or to standard output as `-`, as a graph in Graphviz's DOT language.
    #[arg(long, value_name = "FILE")]
    dot: Option<PathBuf>,
    /// Draw both forms to a file, or to standard output as `-`.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replace files of --dot and --svg that exist.
    #[arg(long)]
    force: bool,
}

/// Prints what fusion does with the products around a projection.
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    let outline = args.model.outlined(&args.adapters)?;
    let place = |path: &Option<PathBuf>| {
        let at = |path| File::at(path, args::existing(args.force), &[&outline.dir]);
        path.as_deref().map(at).transpose()
    };
    let (dot, svg) = (place(&args.dot)?, place(&args.svg)?);
    let text = print::Text::beside([&dot, &svg])?;
    let site = find(&outline.sites, args.site.as_deref())?.clone();
    let platform = args.device.platform()?;
    let costs = if args.measure {
        let folder = cache::folder().ok_or(
            "--measure keeps its numbers in the cache, and there is none; set AILORA_CACHE to a \
             folder of your own",
        )?;
        cached(&folder.join("costs.json"))?
    } else {
        platform.costs()
    };
    let shape = Shape::new(args.batch_size, args.length);
    let pass = if args.forward {
        Pass::Predict
    } else {
        Pass::Train
    };
    let program = outline
        .predictor
        .program(shape, pass, platform.precision())?;
    let pipeline = Pipeline {
        matrices: platform.precision().matrices(),
        fusion: Fusion::At(costs),
        checkpoints: false,
    };
    let Optimized { hoisted, fused } = pipeline.optimize(&program)?;
    let explained = explain(&hoisted.step, &fused, &site)?;
    let explained = explained.ok_or_else(|| format!("the model does not use {}", site.path))?;
    let pass = if args.forward {
        "forward pass"
    } else {
        "training step"
    };
    text.line(format_args!(
        "{}: {}, rank {}, in a {pass} of {} rows of {} tokens",
        site.path,
        site.spec.strategy.name(),
        site.spec.rank().unwrap_or_default(),
        args.batch_size,
        args.length
    ))?;
    text.line(format_args!("{}", explained.to_string().trim_end()))?;
    for (file, form) in [
        (&dot, Explained::dot as fn(&Explained) -> String),
        (&svg, Explained::svg),
    ] {
        if let Some(file) = file {
            file.write(form(&explained).as_bytes())?;
            print::say!("wrote {}", file.path().display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The adapted projection that is asked for.
fn find<'a>(sites: &'a [Site], wanted: Option<&str>) -> Result<&'a Site, Error> {
    let adapted = sites.iter().filter(|site| site.spec.rank().is_some());
    let all: Vec<&Site> = adapted.collect();
    let [first, ..] = all[..] else {
        return Err("no projection has a low-rank adapter; choose another --method".into());
    };
    let Some(wanted) = wanted else {
        return Ok(first);
    };
    let is_wanted =
        |site: &&&Site| site.path == wanted || site.path.ends_with(&format!(".{wanted}"));
    if let Some(site) = all.iter().find(is_wanted) {
        return Ok(site);
    }
    let paths: Vec<&str> = all.iter().map(|site| &*site.path).collect();
    // Compared with as much of the end of each path as was given.
    let segments = wanted.split('.').count();
    let end = |path: &str| {
        let parts: Vec<&str> = path.split('.').collect();
        parts[parts.len().saturating_sub(segments)..].join(".")
    };
    let nearest = paths
        .iter()
        .map(|path| (strsim::jaro_winkler(wanted, &end(path)), end(path)))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = nearest.map_or_else(String::new, |(_, end)| format!("; did you mean `{end}`?"));
    Err(format!(
        "`{wanted}` is no adapted projection; there are: {}{hint}",
        paths.join(", ")
    )
    .into())
}
