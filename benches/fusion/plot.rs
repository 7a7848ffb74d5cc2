//! The overheads as curves over the rank, a chart for each width and pass.

use ailora::bench::Pass;
use plotters::{
    prelude::*,
    style::{FontStyle, register_font},
};

use crate::{Error, Measured, group::Adapted};

/// Percent by rank.
struct Curve {
    name: String,
    colour: RGBAColor,
    points: Vec<(f64, f64)>,
}

const FONT: &str = "sans-serif";

/// Percent above frozen of the unfused and the fused form, over the rank.
pub fn overheads(rows: &[Measured]) -> Result<String, Error> {
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| "the built-in font cannot be read")?;
    let mut widths: Vec<usize> = rows.iter().map(|own| own.shape.width).collect();
    widths.sort_unstable();
    widths.dedup();
    let mut svg = String::new();
    {
        let size = (1280, 320 * widths.len().max(1) as u32);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let areas = area.split_evenly((widths.len().max(1), 2));
        for (i, &width) in widths.iter().enumerate() {
            for (j, pass) in [Pass::Forward, Pass::Both].into_iter().enumerate() {
                let curves = curves(rows, width, pass);
                chart(&areas[2 * i + j], width, pass, &curves)?;
            }
        }
        area.present()?;
    }
    Ok(svg)
}

/// All linear projections adapted, a pair of curves for each number of rows.
fn curves(rows: &[Measured], width: usize, pass: Pass) -> Vec<Curve> {
    let own = || {
        rows.iter().filter(move |own| {
            own.shape.width == width && own.row.pass == pass && own.adapted == Adapted::AllLinear
        })
    };
    let mut heights: Vec<usize> = own().map(|own| own.shape.rows).collect();
    heights.sort_unstable();
    heights.dedup();
    let mut curves = Vec::new();
    let forms = [("unfused", RED), ("fused", BLUE)];
    for (i, &height) in heights.iter().enumerate() {
        for (form, (name, colour)) in forms.into_iter().enumerate() {
            let points = own()
                .filter(|own| own.shape.rows == height)
                .map(|own| (own.shape.rank as f64, own.row.ratios.overheads()[form]));
            curves.push(Curve {
                name: format!("{name}, {height} rows"),
                colour: colour.mix(1.0 - 0.3 * i as f64),
                points: points.collect(),
            });
        }
    }
    curves
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    width: usize,
    pass: Pass,
    curves: &[Curve],
) -> Result<(), Error> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let right = points().map(|point| point.0).fold(1.0, f64::max);
    let low = points().map(|point| point.1).fold(0.0, f64::min);
    let high = points().map(|point| point.1).fold(1.0, f64::max);
    let title = match pass {
        Pass::Forward => "forward",
        Pass::Both => "forward and backward",
    };
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{width} wide, {title}"), (FONT, 16))
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..right * 1.05, low * 1.1..high * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("rank of all projections")
        .y_desc("% above frozen")
        .draw()?;
    for curve in curves {
        let colour = curve.colour;
        let line = LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(line)?
            .label(curve.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], colour));
        let dots = curve
            .points
            .iter()
            .map(|&point| Circle::new(point, 3, colour.filled()));
        chart.draw_series(dots)?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, 10))
        .position(SeriesLabelPosition::UpperLeft)
        .draw()?;
    Ok(())
}
