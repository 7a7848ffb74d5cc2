//! A fusion drawn.

use std::fmt::Write;

use super::{
    Explained,
    form::{Form, Kind, Value},
    layers::place,
};

/// Of a character, a line and the space around text.
const CHARACTER: f64 = 7.3;
const LINE: f64 = 16.0;
const MARGIN: f64 = 8.0;
/// Around and between the forms.
const BORDER: f64 = 24.0;

impl Explained {
    /// Both forms in SVG, the unfused above the fused: data flow down, and a product's box has its
    /// parameters on top.
    pub fn svg(&self) -> String {
        let mut body = String::new();
        let mut width: f64 = 0.0;
        let mut y = BORDER + LINE;
        if !self.prefix.is_empty() {
            let note = format!("Names are given without {}.", self.prefix);
            text(&mut body, [BORDER, y], "class=\"note\"", &note);
            y += LINE + MARGIN;
        }
        width = width.max(legend(&mut body, y));
        y += LINE + BORDER;
        for form in self.forms() {
            let summary = form.summary();
            text(&mut body, [BORDER, y + LINE], "class=\"title\"", &summary);
            y += 2.0 * LINE + MARGIN;
            let _ = writeln!(body, "<g transform=\"translate({BORDER},{y:.1})\">");
            let size = draw(&mut body, &form);
            body.push_str("</g>\n");
            let title = 1.3 * CHARACTER * summary.chars().count() as f64;
            width = width.max(size[0] + 2.0 * BORDER).max(title + 2.0 * BORDER);
            y += size[1] + 2.0 * BORDER;
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{y:.0}\" \
             viewBox=\"0 0 {width:.0} {y:.0}\">\n{STYLE}\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
        )
    }
}

const STYLE: &str = "<style>
text { font: 12px monospace; }
.title { font: bold 15px monospace; }
.note { fill: #555; }
.name { font-weight: bold; }
.line { fill: none; stroke: #777; stroke-width: 1.2; marker-end: url(#arrow); }
</style>
<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" \
markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#777\"/></marker></defs>
";

/// What the colours mean; its width.
fn legend(body: &mut String, y: f64) -> f64 {
    let mut x = BORDER;
    for (kind, name) in [
        (Kind::Input, "activation or gradient"),
        (Kind::Frozen, "frozen"),
        (Kind::Trained, "trained"),
        (Kind::Both, "frozen and trained"),
        (
            Kind::Gemm(Vec::new()),
            "matrix product: rows × columns × depth",
        ),
    ] {
        rectangle(body, [x, y - 12.0], [14.0, 14.0], &kind);
        text(body, [x + 20.0, y], "", name);
        x += 20.0 + CHARACTER * (name.chars().count() + 2) as f64;
    }
    x + BORDER
}

/// A value's box: the parameters that it reads, then itself.
struct Tile<'a> {
    value: &'a Value,
    parameters: Vec<&'a Value>,
    size: [f64; 2],
}

impl<'a> Tile<'a> {
    fn new(form: &'a Form, value: &'a Value) -> Self {
        let args = value.args.iter().map(|&arg| &form.values[arg]);
        let parameters: Vec<&Value> = args.filter(|arg| arg.is_parameter()).collect();
        let all = || parameters.iter().copied().chain([value]);
        let characters = all()
            .flat_map(|value| value.label())
            .map(|line| line.chars().count());
        let width = CHARACTER * characters.max().unwrap_or(0) as f64 + 2.0 * MARGIN;
        let height = all().map(height).sum();
        Self {
            value,
            parameters,
            size: [width, height],
        }
    }

    fn draw(&self, body: &mut String, [x, y]: [f64; 2]) {
        let [width, whole] = self.size;
        let [x, mut y] = [x - width / 2.0, y - whole / 2.0];
        let mut part = |value: &Value| {
            rectangle(body, [x, y], [width, height(value)], &value.kind);
            for (i, line) in value.label().iter().enumerate() {
                let at = [x + width / 2.0, y + MARGIN + LINE * (i as f64 + 0.75)];
                let class = if i == 0 { " class=\"name\"" } else { "" };
                text(body, at, &format!("text-anchor=\"middle\"{class}"), line);
            }
            y += height(value);
        };
        self.parameters.iter().for_each(|value| part(value));
        part(self.value);
    }
}

fn height(value: &Value) -> f64 {
    LINE * value.label().len() as f64 + 2.0 * MARGIN
}

/// Draws a form; its width and height.
fn draw(body: &mut String, form: &Form) -> [f64; 2] {
    let shown: Vec<usize> = (0..form.values.len())
        .filter(|&i| !form.values[i].is_parameter())
        .collect();
    let tiles: Vec<Tile> = shown
        .iter()
        .map(|&i| Tile::new(form, &form.values[i]))
        .collect();
    let reads: Vec<Vec<usize>> = tiles
        .iter()
        .map(|tile| {
            let place = |arg: &usize| shown.iter().position(|shown| shown == arg);
            let mut reads: Vec<usize> = tile.value.args.iter().filter_map(place).collect();
            reads.sort_unstable();
            reads.dedup();
            reads
        })
        .collect();
    let sizes: Vec<[f64; 2]> = tiles.iter().map(|tile| tile.size).collect();
    let layers = place(&sizes, &reads);
    for route in &layers.routes {
        let _ = writeln!(body, "<path class=\"line\" d=\"{}\"/>", curve(route));
    }
    for (tile, &middle) in tiles.iter().zip(&layers.middles) {
        tile.draw(body, middle);
    }
    layers.size
}

/// A smooth line through points, vertical at each.
fn curve(points: &[[f64; 2]]) -> String {
    let mut path = String::new();
    if let Some([x, y]) = points.first() {
        let _ = write!(path, "M{x:.1} {y:.1}");
    }
    for pair in points.windows(2) {
        let [[x, y], [to_x, to_y]] = [pair[0], pair[1]];
        let middle = (y + to_y) / 2.0;
        let _ = write!(
            path,
            "C{x:.1} {middle:.1} {to_x:.1} {middle:.1} {to_x:.1} {to_y:.1}"
        );
    }
    path
}

fn rectangle(body: &mut String, [x, y]: [f64; 2], [width, height]: [f64; 2], kind: &Kind) {
    let (round, border) = match kind {
        Kind::Gemm(_) => (3, "stroke=\"#c0392b\" stroke-width=\"2.5\""),
        Kind::Input => (12, "stroke=\"#555\""),
        _ => (3, "stroke=\"#555\""),
    };
    let _ = writeln!(
        body,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         rx=\"{round}\" fill=\"{}\" {border}/>",
        kind.colour()
    );
}

fn text(body: &mut String, [x, y]: [f64; 2], attributes: &str, text: &str) {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>"
    );
}
