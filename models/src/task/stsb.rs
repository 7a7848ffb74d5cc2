use super::{Format, LabelSet, Split, Task, Tsv};
use crate::metrics::Metric;

/// STS-B: how similar are the two sentences, from 0 to 5 (Cer et al., 2017)?
pub(super) static STSB: Task = Task {
    name: "stsb",
    aliases: &["sts-b"],
    labels: LabelSet::Scored(0.0, 5.0),
    format: Format::Tsv(Tsv {
        label: "score",
        beside: &[
            "index",
            "genre",
            "filename",
            "year",
            "old_index",
            "source1",
            "source2",
        ],
        ..Tsv::PAIR
    }),
    train: Split::whole("train", "train.tsv"),
    dev: &[Split::whole("dev", "dev.tsv")],
    metrics: &[Metric::Spearman, Metric::Pearson],
};
