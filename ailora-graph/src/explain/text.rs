//! A fusion as text.

use std::fmt;

use super::{
    Explained,
    form::{Form, Kind, products, scaled, seconds, sizes},
};
use crate::fuse::{Stop, extract::Method, rules::RULES};

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let forms = self.forms();
        if !self.prefix.is_empty() {
            writeln!(f, "names are given without {}.", self.prefix)?;
        }
        if forms[0]
            .values
            .iter()
            .any(|value| value.name.ends_with('*'))
        {
            writeln!(f, "* computed once, from frozen parameters")?;
        }
        for form in &forms {
            writeln!(f, "\n{}:", form.title)?;
            columns(f, &lines(form), &[])?;
        }
        writeln!(f)?;
        columns(f, &works(&forms), &[1, 2, 3, 4])?;
        writeln!(f, "\nrules, and how often each found something new:")?;
        let rules = RULES.iter().map(|rule| {
            let mut found = self.report.found.iter();
            let found = found
                .find(|(name, _)| *name == rule.name)
                .map_or(0, |(_, n)| *n);
            [rule.name.into(), found.to_string(), rule.law.into()]
        });
        columns(f, &rules.collect::<Vec<_>>(), &[1])?;
        writeln!(f, "{}\n{}", self.search(), self.count())?;
        for pack in &self.packs {
            writeln!(f, "\n{}, {}, holds:", pack.name, sizes(&pack.ty()))?;
            let parts = pack.parts.iter().map(|part| {
                let range =
                    |axis: usize| format!("{}:{}", part.at[axis], part.at[axis] + part.shape[axis]);
                [
                    part.parameter.to_string(),
                    format!("[{}, {}]", range(0), range(1)),
                ]
            });
            columns(f, &parts.collect::<Vec<_>>(), &[])?;
        }
        Ok(())
    }
}

impl Explained {
    /// How the fused form was found.
    fn search(&self) -> String {
        let [classes, nodes] = self.report.size;
        let stop = match self.report.stop {
            Stop::Saturated => "nothing new followed",
            Stop::Rounds => "the most rounds were made",
            Stop::Nodes => "the e-graph was as large as it may be",
        };
        let method = match self.report.method {
            Method::Exact => "exactly, as an integer program",
            Method::Climb => "by climbing, which may miss the cheapest",
        };
        format!("stopped because {stop}: {classes} classes, {nodes} nodes; form chosen {method}")
    }

    fn count(&self) -> String {
        match self.report.count {
            1 => "no other region of the program is like this one".into(),
            n => format!("{n} regions of the program are like this one"),
        }
    }
}

/// One line a value that is computed.
fn lines(form: &Form) -> Vec<[String; 4]> {
    form.values
        .iter()
        .filter(|value| !value.expression.is_empty())
        .map(|value| {
            let products = match &value.kind {
                Kind::Gemm(sizes) => products(sizes),
                _ => String::new(),
            };
            [
                value.name.clone(),
                format!("= {}", value.expression),
                sizes(&value.ty),
                products,
            ]
        })
        .collect()
}

/// What each form takes, under a header.
fn works(forms: &[Form]) -> Vec<[String; 5]> {
    let header = ["", "GEMMs", "FLOPs", "moved", "predicted"].map(str::to_owned);
    let rows = forms.iter().map(|form| {
        [
            form.title.to_owned(),
            form.work.gemms.to_string(),
            scaled(form.work.flops as f64, &["", "k", "M", "G", "T"]),
            scaled(form.work.bytes as f64, &["B", "kB", "MB", "GB", "TB"]),
            seconds(form.seconds),
        ]
    });
    std::iter::once(header).chain(rows).collect()
}

/// Rows, their cells under each other; the columns in `right` end together.
fn columns<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    rows: &[[String; N]],
    right: &[usize],
) -> fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            line += "  ";
            line += &if right.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            };
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}
