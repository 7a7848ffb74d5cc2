//! The tables.

use ailora::bench::{Measurement, Prediction};
use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::{Measured, frameworks::Timed};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(header.to_vec());
    table
}

fn numbers(text: impl IntoIterator<Item = String>) -> Vec<Cell> {
    let cell = |text| Cell::new(text).set_alignment(CellAlignment::Right);
    text.into_iter().map(cell).collect()
}

/// A row a configuration. Forms side by side are frozen, unfused, fused and, forward only, merged.
pub fn rows(measured: &[Measured]) -> Table {
    let mut table = table(&[
        "adapted, d x M x r, pass",
        "ms",
        "GFLOP/s",
        "MiB",
        "products",
        "overhead of unfused",
        "of fused",
        "at frozen's rate",
        "fused / unfused",
        "predicted ms unfused, fused",
        "ranked",
    ]);
    for own in measured {
        let row = &own.row;
        let forms: Vec<&Measurement> = [&row.frozen, &row.unfused, &row.fused]
            .into_iter()
            .chain(&row.merged)
            .collect();
        let each = |show: &dyn Fn(&Measurement) -> String| -> String {
            let shown: Vec<String> = forms.iter().map(|form| show(form)).collect();
            shown.join(" ")
        };
        let [unfused, fused] = row.ratios.overheads();
        let mut cells = vec![Cell::new(&own.key)];
        cells.extend(numbers([
            each(&|form| format!("{:.2}", form.ms)),
            each(&|form| format!("{:.0}", form.gflops)),
            each(&|form| format!("{:.0}", form.bytes as f64 / f64::from(1 << 20))),
            each(&|form| form.products.to_string()),
            format!("{unfused:.1}%"),
            format!("{fused:.1}%"),
            format!("{:.1}%", row.least_overhead()),
            format!("{:.3}", row.ratios.fused_to_unfused),
            row.predicted.map_or("-".into(), |predicted| {
                let Prediction {
                    unfused_ms,
                    fused_ms,
                } = predicted;
                format!("{unfused_ms:.2} {fused_ms:.2}")
            }),
            match row.is_ranked_right() {
                None => "-",
                Some(true) => "right",
                Some(false) => "wrong",
            }
            .into(),
        ]));
        table.add_row(cells);
    }
    table
}

/// A row a layer in another framework.
pub fn frameworks(timed: &[Timed]) -> Table {
    let mut table = table(&[
        "framework",
        "d x M x r, pass",
        "ms",
        "ailora, fused: ms",
        "ratio",
    ]);
    for own in timed {
        let mut cells = vec![
            Cell::new(own.framework),
            Cell::new(format!("{} {}", own.shape, own.pass)),
        ];
        cells.extend(numbers([
            format!("{:.2}", own.ms),
            format!("{:.2}", own.fused_ms),
            format!("{:.2}", own.ms / own.fused_ms),
        ]));
        table.add_row(cells);
    }
    table
}
