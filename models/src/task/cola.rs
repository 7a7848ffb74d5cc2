use super::{Format, LabelSet, Split, Task, Tsv};
use crate::metrics::Metric;

/// CoLA: is the sentence acceptable English (Warstadt et al., 2019)? Its labelled files have no header.
pub(super) static COLA: Task = Task {
    name: "cola",
    aliases: &[],
    labels: LabelSet::Indexed(&["unacceptable", "acceptable"]),
    format: Format::Tsv(Tsv {
        headerless: Some(&["source", "label", "mark", "sentence"]),
        beside: &["source", "mark", "index"],
        ..Tsv::SENTENCE
    }),
    train: Split::whole("train", "train.tsv"),
    dev: &[Split::whole("dev", "dev.tsv")],
    metrics: &[Metric::Matthews, Metric::Accuracy],
};
