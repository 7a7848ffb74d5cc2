use super::{Format, LabelSet, Split, Task, Tsv};
use crate::metrics::Metric;

/// SST-2: is the review sentence positive (Socher et al., 2013)?
pub(super) static SST2: Task = Task {
    name: "sst2",
    aliases: &["sst-2"],
    labels: LabelSet::Indexed(&["negative", "positive"]),
    format: Format::Tsv(Tsv::SENTENCE),
    train: Split::whole("train", "train.tsv"),
    dev: &[Split::whole("dev", "dev.tsv")],
    metrics: &[Metric::Accuracy],
};
