//! Tables and numbers for people.

use ailora::{
    Strategy,
    adapter::{AdapterOption, Counts, Site},
};
use comfy_table::{Table, presets};

/// A table with a header line.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(header.to_vec());
    table
}

/// What happens to which projections: one row for each kind.
pub fn sites(sites: &[Site]) -> Table {
    let mut table = table(&[
        "projection",
        "number",
        "shape",
        "start",
        "rank",
        "scale",
        "rate",
        "trained",
    ]);
    let mut kinds: Vec<(Vec<String>, usize, usize)> = Vec::new();
    for site in sites {
        let trains = site.spec.trains();
        // Layers are the same module under another number.
        let name: Vec<&str> = site
            .path
            .split('.')
            .map(|part| {
                if part.bytes().all(|b| b.is_ascii_digit()) {
                    "*"
                } else {
                    part
                }
            })
            .collect();
        let kind = vec![
            name.join("."),
            format!("{} x {}", site.out_features, site.in_features),
            site.spec.strategy.name().to_owned(),
            site.spec.rank().map_or("-".into(), |rank| rank.to_string()),
            site.spec
                .scale()
                .filter(|_| is_scaled(site))
                .map_or("-".into(), |scale| format!("{scale}")),
            if trains {
                format!("{} x", site.spec.lr)
            } else {
                "-".into()
            },
        ];
        match kinds.iter_mut().find(|(other, _, _)| *other == kind) {
            Some((_, number, trained)) => {
                *number += 1;
                *trained += site.trainable();
            }
            None => kinds.push((kind, 1, site.trainable())),
        }
    }
    for (kind, number, trained) in kinds {
        let [name, rest @ ..] = &kind[..] else {
            continue;
        };
        let row = [&[name.clone(), number.to_string()], rest, &[count(trained)]].concat();
        table.add_row(row);
    }
    table
}

/// Whether its adapter has a scale.
fn is_scaled(site: &Site) -> bool {
    matches!(site.spec.strategy, Strategy::Adapted(adapter)
        if adapter.options().contains(&AdapterOption::Alpha))
}

/// A count with separators.
pub fn count(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join(" ")
}

/// How many numbers train, of what, and how many in all.
pub fn counts(counts: &Counts) -> String {
    let shown = |n: usize| format!("{:.2} M", n as f64 / 1e6);
    let parts = [
        (counts.adapters, "adapters"),
        (counts.head, "the head"),
        (counts.model, "the model's own parameters"),
    ];
    let parts = parts.iter().filter(|(n, _)| *n > 0);
    let parts = parts.map(|&(n, of)| format!("{} of {of} ({})", count(n), shown(n)));
    let parts: Vec<String> = parts.collect();
    let total = counts.total();
    format!(
        "{} = {} ({})",
        parts.join(" + "),
        count(total),
        shown(total)
    )
}

/// A size in binary units.
pub fn bytes(n: usize) -> String {
    let mib = n as f64 / f64::from(1 << 20);
    if mib < 1024.0 {
        format!("{mib:.1} MiB")
    } else {
        format!("{:.2} GiB", mib / 1024.0)
    }
}

/// Metrics as `name value`, side by side.
pub fn metrics<'a>(metrics: impl IntoIterator<Item = (&'a String, &'a f64)>) -> String {
    let shown = metrics
        .into_iter()
        .map(|(name, value)| format!("{name} {value:.4}"));
    shown.collect::<Vec<_>>().join("  ")
}
