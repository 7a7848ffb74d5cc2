//! Figures, as SVG and PNG.

use ailora::output::File;
use plotters::{
    coord::Shift,
    drawing::DrawingAreaErrorKind,
    prelude::*,
    style::{FontStyle, register_font},
};
use tempfile::Builder;

use super::Error;

const SIZE: (u32, u32) = (960, 540);
const FONT: &str = "sans-serif";

/// What can be drawn.
pub trait Figure {
    /// Draws itself.
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>>;
}

/// Writes a figure to a PNG file or an SVG file, as the file's name says, whole or not at all.
pub fn write(output: &File, figure: &impl Figure) -> Result<(), Error> {
    let path = output.path();
    let extension = path.extension().and_then(|extension| extension.to_str());
    let is_png = match extension.map(str::to_lowercase).as_deref() {
        Some("png") => true,
        Some("svg") => false,
        _ if output.is_stdout() => false,
        _ => {
            let path = path.display();
            return Err(format!("{path}: expected a name that ends with .svg or .png").into());
        }
    };
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| "the built-in font cannot be read")?;
    let suffix = if is_png { ".png" } else { ".svg" };
    let file = Builder::new().suffix(suffix).tempfile()?;
    let drawn = file.path();
    if is_png {
        let area = BitMapBackend::new(drawn, SIZE).into_drawing_area();
        finish(&area, figure)?;
    } else {
        finish(&SVGBackend::new(drawn, SIZE).into_drawing_area(), figure)?;
    }
    Ok(output.write(&std::fs::read(drawn)?)?)
}

fn finish<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    figure: &impl Figure,
) -> Result<(), Error> {
    let draw = || {
        area.fill(&WHITE)?;
        figure.draw(area)?;
        area.present()
    };
    draw().map_err(|error| error.to_string().into())
}

/// Singular values by projection, of which a rank takes one end or the other.
pub struct Spectra {
    pub curves: Vec<(String, Vec<f64>)>,
    pub rank: usize,
}

impl Figure for Spectra {
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let Self { curves, rank } = self;
        let values = || curves.iter().flat_map(|(_, values)| values).copied();
        let positive = || values().filter(|value| *value > 0.0);
        let top = positive().fold(f64::MIN_POSITIVE, f64::max);
        // Below float32's resolution of the largest, a value is noise.
        let bottom = positive().fold(top, f64::min).max(top * 1e-8);
        let longest = curves.iter().map(|(_, values)| values.len()).max();
        let width = longest.unwrap_or(1).max(2);
        let mut chart = ChartBuilder::on(area)
            .caption("Singular values", (FONT, 20))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(72)
            .build_cartesian_2d(1..width, (bottom..top * 1.2).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("index")
            .y_desc("singular value")
            .label_style((FONT, 12))
            .y_label_formatter(&|value| format!("{value:.0e}"))
            .draw()?;
        for (name, ends, colour) in [
            ("principal", (1, *rank), RED),
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
            let values = values.iter().enumerate();
            let points = values.map(|(i, &value)| (i + 1, value.max(bottom)));
            line(&mut chart, i, name, points)?;
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .label_font((FONT, 10))
            .position(SeriesLabelPosition::LowerLeft)
            .draw()
    }
}

/// Training losses by method, averaged over neighbouring steps.
pub struct Losses {
    pub curves: Vec<(String, Vec<f64>)>,
}

impl Figure for Losses {
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let smooth = |losses: &[f64]| -> Vec<f64> {
            const REACH: usize = 5;
            let window =
                |i: usize| &losses[i.saturating_sub(REACH)..losses.len().min(i + REACH + 1)];
            let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
            (0..losses.len()).map(|i| mean(window(i))).collect()
        };
        let curves = self
            .curves
            .iter()
            .map(|(name, losses)| (name, smooth(losses)));
        let curves: Vec<(&String, Vec<f64>)> = curves.collect();
        let steps = curves.iter().map(|(_, losses)| losses.len()).max();
        let highest = curves.iter().flat_map(|(_, losses)| losses).copied();
        let highest = highest.fold(f64::MIN_POSITIVE, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption("Training loss", (FONT, 20))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(1..steps.unwrap_or(1).max(2), 0.0..highest * 1.05)?;
        chart
            .configure_mesh()
            .x_desc("step")
            .y_desc("cross-entropy")
            .label_style((FONT, 12))
            .draw()?;
        for (i, (name, losses)) in curves.into_iter().enumerate() {
            let points = losses.into_iter().enumerate();
            line(&mut chart, i, name, points.map(|(i, loss)| (i + 1, loss)))?;
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .label_font((FONT, 14))
            .position(SeriesLabelPosition::UpperRight)
            .draw()
    }
}

/// Curve number `i` of a chart.
fn line<'a, B, C>(
    chart: &mut ChartContext<'a, B, C>,
    i: usize,
    name: &str,
    points: impl Iterator<Item = C::From>,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>>
where
    B: DrawingBackend + 'a,
    C: CoordTranslate,
    C::From: Clone + 'static,
{
    let colour = Palette99::pick(i).to_rgba();
    chart
        .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], colour.stroke_width(2)));
    Ok(())
}
