use std::{path::PathBuf, process::ExitCode};

use ailora::{
    adapter::Site,
    finetune::Model,
    models::task::Task,
    runtime::{init::matrix, spectrum::spectrum, store::write_atomically},
};
use plotters::prelude::*;

use super::{Error, table};

/// Whose spectrum is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder with a pretrained model, or its id on the hub.
    #[arg(long, value_name = "DIR_OR_ID")]
    model: String,
    /// The projections, by the ends of their paths.
    #[arg(long, value_name = "NAME", default_values = ["query", "value"])]
    site: Vec<String>,
    /// The rank whose share is shown.
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Writes the singular values as curves to an SVG file.
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
        write_atomically(path, plot(&curves, args.rank)?.as_bytes())?;
        eprintln!("wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The curves on a logarithmic axis, with the ends that a rank takes shaded.
fn plot(curves: &[(String, Vec<f64>)], rank: usize) -> Result<String, Error> {
    let positive = || {
        curves
            .iter()
            .flat_map(|(_, values)| values)
            .copied()
            .filter(|s| *s > 0.0)
    };
    let top = positive().fold(f64::MIN_POSITIVE, f64::max);
    // Below float32's resolution of the largest, a value is noise.
    let bottom = positive().fold(top, f64::min).max(top * 1e-8);
    let width = curves
        .iter()
        .map(|(_, values)| values.len())
        .max()
        .unwrap_or(1);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (960, 540)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption("Singular values", ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(1..width, (bottom..top * 1.2).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("index")
            .y_desc("singular value")
            .draw()?;
        for (name, ends, colour) in [
            ("principal", (1, rank), RED),
            ("minor", (width + 1 - rank, width), BLUE),
        ] {
            let shade = Rectangle::new(
                [(ends.0, bottom), (ends.1, top * 1.2)],
                colour.mix(0.15).filled(),
            );
            chart
                .draw_series(std::iter::once(shade))?
                .label(format!("{name}({rank})"))
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.mix(0.3).filled())
                });
        }
        for (i, (name, values)) in curves.iter().enumerate() {
            let colour = Palette99::pick(i).to_rgba();
            let points = values
                .iter()
                .enumerate()
                .map(|(i, &s)| (i + 1, s.max(bottom)));
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(1)))?
                .label(name.as_str())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], colour));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 10))
            .position(SeriesLabelPosition::LowerLeft)
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}
