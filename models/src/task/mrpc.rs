use super::{Format, LabelSet, Split, Task, Tsv};
use crate::metrics::Metric;

/// MRPC: does the second sentence paraphrase the first (Dolan and Brockett, 2005)?
pub(super) static MRPC: Task = Task {
    name: "mrpc",
    aliases: &[],
    labels: LabelSet::Indexed(&["not_equivalent", "equivalent"]),
    format: Format::Tsv(Tsv {
        text: "#1 String",
        pair: Some("#2 String"),
        label: "Quality",
        beside: &["#1 ID", "#2 ID", "index"],
        ..Tsv::PAIR
    }),
    train: Split::whole("train", "train.tsv"),
    dev: &[Split::whole("dev", "dev.tsv")],
    metrics: &[Metric::F1, Metric::Accuracy],
};
