//! A fusion in Graphviz's DOT language.

use std::fmt::Write;

use super::{Explained, form::Kind};

impl Kind {
    /// The colour in which it is filled.
    pub fn colour(&self) -> &'static str {
        match self {
            Self::Input => "#e4f3dc",
            Self::Frozen => "#d9e8ff",
            Self::Trained => "#ffd9b3",
            Self::Both => "#e9dcf5",
            Self::Gemm(_) => "#ffe9e6",
            Self::Other(_) => "#ffffff",
        }
    }
}

impl Explained {
    /// Both forms as one graph: a box a value, matrix products with a heavy border.
    pub fn dot(&self) -> String {
        let mut out = String::from(
            "digraph {\n  rankdir=BT;\n  node [shape=box, fontname=monospace, style=filled];\n",
        );
        if !self.prefix.is_empty() {
            let title = format!("names are given without {}.", self.prefix);
            let _ = writeln!(out, "  label={};", quoted(&[title]));
        }
        for (i, form) in self.forms().iter().enumerate() {
            let _ = writeln!(out, "  subgraph cluster_{} {{", form.title);
            let _ = writeln!(out, "    label={};", quoted(&[form.summary()]));
            for (j, value) in form.values.iter().enumerate() {
                let look = match value.kind {
                    Kind::Gemm(_) => ", color=\"#c0392b\", penwidth=2.5",
                    Kind::Input => ", shape=ellipse",
                    _ => "",
                };
                let _ = writeln!(
                    out,
                    "    n{i}_{j} [label={}, fillcolor=\"{}\"{look}];",
                    quoted(&value.label()),
                    value.kind.colour()
                );
                for arg in &value.args {
                    let _ = writeln!(out, "    n{i}_{arg} -> n{i}_{j};");
                }
            }
            out.push_str("  }\n");
        }
        out.push_str("}\n");
        out
    }
}

/// Lines as a string of DOT.
fn quoted(lines: &[String]) -> String {
    let escaped = lines
        .iter()
        .map(|line| line.replace('\\', "\\\\").replace('"', "\\\""));
    format!("\"{}\"", escaped.collect::<Vec<_>>().join("\\n"))
}
