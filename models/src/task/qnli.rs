use super::{Format, LabelSet, Split, Task, Tsv};
use crate::metrics::Metric;

/// QNLI: does the sentence answer the question (Rajpurkar et al., 2016; Wang et al., 2019)?
pub(super) static QNLI: Task = Task {
    name: "qnli",
    aliases: &[],
    labels: LabelSet::Named(&["entailment", "not_entailment"]),
    format: Format::Tsv(Tsv {
        text: "question",
        pair: Some("sentence"),
        ..Tsv::PAIR
    }),
    train: Split::whole("train", "train.tsv"),
    dev: &[Split::whole("dev", "dev.tsv")],
    metrics: &[Metric::Accuracy],
};
