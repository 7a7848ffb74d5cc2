use super::{Format, Json, LabelSet, Rows, Split, Task};
use crate::metrics::Metric;

/// Which operation solves the word problem, on SVAMP (Patel et al., 2021)? The file has no splits of
/// its own: every fifth problem is held out.
pub(super) static SVAMP: Task = Task {
    name: "svamp",
    aliases: &[],
    labels: LabelSet::Named(&[
        "Addition",
        "Subtraction",
        "Multiplication",
        "Common-Division",
    ]),
    format: Format::Json(Json {
        text: &["Body", "Question"],
        input: None,
        label: "Type",
        beside: &["ID", "Equation", "Answer"],
        misspelt: &[("Common-Divison", "Common-Division")],
    }),
    train: Split {
        name: "train",
        file: "SVAMP.json",
        rows: Rows::AllButEveryFifth,
    },
    dev: &[Split {
        name: "dev",
        file: "SVAMP.json",
        rows: Rows::EveryFifth,
    }],
    metrics: &[Metric::Accuracy],
};
