use super::{Format, LabelSet, Split, Task, Tsv};
use crate::metrics::Metric;

/// RTE: does the first sentence entail the second (Dagan et al., 2005, and its successors)?
pub(super) static RTE: Task = Task {
    name: "rte",
    aliases: &[],
    labels: LabelSet::Named(&["entailment", "not_entailment"]),
    format: Format::Tsv(Tsv::PAIR),
    train: Split::whole("train", "train.tsv"),
    dev: &[Split::whole("dev", "dev.tsv")],
    metrics: &[Metric::Accuracy],
};
