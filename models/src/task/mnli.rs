use super::{Format, LabelSet, Split, Task, Tsv};
use crate::metrics::Metric;

/// MNLI: does the premise entail or contradict the hypothesis, or neither (Williams et al., 2018)?
pub(super) static MNLI: Task = Task {
    name: "mnli",
    aliases: &[],
    labels: LabelSet::Named(&["entailment", "neutral", "contradiction"]),
    format: Format::Tsv(Tsv {
        label: "gold_label",
        beside: &[
            "index",
            "promptID",
            "pairID",
            "genre",
            "sentence1_binary_parse",
            "sentence2_binary_parse",
            "sentence1_parse",
            "sentence2_parse",
            "label1",
            "label2",
            "label3",
            "label4",
            "label5",
        ],
        ..Tsv::PAIR
    }),
    train: Split::whole("train", "train.tsv"),
    dev: &[
        Split::whole("matched", "dev_matched.tsv"),
        Split::whole("mismatched", "dev_mismatched.tsv"),
    ],
    metrics: &[Metric::Accuracy],
};
