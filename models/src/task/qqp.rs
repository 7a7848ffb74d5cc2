use super::{Format, LabelSet, Split, Task, Tsv};
use crate::metrics::Metric;

/// QQP: do the two Quora questions ask the same (Iyer et al., 2017)? The published files hold the
/// questions unescaped: a few rows go over several lines, and a few have an empty question.
pub(super) static QQP: Task = Task {
    name: "qqp",
    aliases: &[],
    labels: LabelSet::Indexed(&["not_duplicate", "duplicate"]),
    format: Format::Tsv(Tsv {
        text: "question1",
        pair: Some("question2"),
        label: "is_duplicate",
        raw_text: true,
        beside: &["id", "qid1", "qid2"],
        ..Tsv::PAIR
    }),
    train: Split::whole("train", "train.tsv"),
    dev: &[Split::whole("dev", "dev.tsv")],
    metrics: &[Metric::F1, Metric::Accuracy],
};
