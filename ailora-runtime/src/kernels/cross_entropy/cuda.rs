use ailora_graph::ir::ops::loss::IGNORED;

use super::{CrossEntropy, CrossEntropyGrad, LogSumExp, Matches};
use crate::kernels::device::{
    Actions, Operand, Param, Source,
    text::{BLOCK, Constants, VECTOR, bytes, grid, index, vector},
};

/// Threads of a block that sums or counts alone.
const ALONE: usize = 1024;

const LOSS: &str = concat!(include_str!("rows.cuh"), "\n", include_str!("loss.cu"));
const LOG_SUM: &str = concat!(include_str!("rows.cuh"), "\n", include_str!("log_sum.cu"));
const GRADIENT: &str = concat!(include_str!("rows.cuh"), "\n", include_str!("gradient.cu"));

/// How the threads share the rows.
struct Rows {
    classes: usize,
    rows: usize,
    /// Threads of a row.
    threads: usize,
    vector: usize,
}

impl Rows {
    fn new(classes: usize, operands: &[Operand]) -> Self {
        let n = vector(classes, operands);
        let vectors = classes / n;
        Self {
            classes,
            rows: operands[0].view.len() / classes.max(1),
            threads: match vectors {
                0..=128 => 32,
                129..=2048 => BLOCK,
                _ => ALONE,
            },
            vector: n,
        }
    }

    fn constants(&self, logits: &Operand) -> Constants {
        counted(self.rows)
            .elements("X", logits)
            .ty("Index", index(self.rows * self.classes + ALONE * VECTOR))
            .counts([
                ("CLASSES", self.classes),
                ("THREADS", self.threads),
                ("N", self.vector),
            ])
    }

    fn kernel<const N: usize>(
        &self,
        constants: Constants,
        text: &str,
        params: [Param; N],
    ) -> Source {
        let block = self.threads.max(BLOCK);
        let blocks = self.rows.div_ceil(block / self.threads);
        constants.kernel(text, params, grid(blocks), block)
    }
}

/// What counts rows knows.
fn counted(rows: usize) -> Constants {
    Constants::default()
        .count("ROWS", rows)
        .id("IGNORED", IGNORED)
}

/// The mean over the rows that count of `-sum(t log softmax(logits))`, `t` the smoothed one-hot
/// label.
pub(super) fn cross_entropy(
    CrossEntropy { classes, smoothing }: CrossEntropy,
    reads: &[Operand],
    writes: &[Operand],
) -> Actions {
    let rows = Rows::new(classes, &reads[..1]);
    let (logits, labels, losses) = (Param::Read(0), Param::Read(1), Param::Scratch(0));
    let constants = rows
        .constants(&reads[0])
        .float("SMOOTHING", smoothing)
        .float("KEPT", 1.0 - smoothing);
    let each = rows.kernel(constants, LOSS, [logits, labels.clone(), losses.clone()]);
    let mean = counted(rows.rows).elements("Y", &writes[0]).kernel(
        include_str!("mean.cu"),
        [labels, losses, Param::Write(0)],
        grid(1),
        ALONE,
    );
    let mut actions = Actions::from(each);
    actions.extend([mean]);
    actions.scratch = bytes(rows.rows);
    actions
}

/// `(softmax(logits) - t) / n` in the `n` rows that count, 0 in the others.
pub(super) fn cross_entropy_grad(
    CrossEntropyGrad { classes, smoothing }: CrossEntropyGrad,
    reads: &[Operand],
    writes: &[Operand],
) -> Actions {
    let rows = Rows::new(classes, &[reads[0], writes[0]]);
    let (logits, labels, share) = (Param::Read(0), Param::Read(1), Param::Scratch(0));
    let count = counted(rows.rows).kernel(
        include_str!("share.cu"),
        [labels.clone(), share.clone()],
        grid(1),
        ALONE,
    );
    let constants = rows
        .constants(&reads[0])
        .elements("Y", &writes[0])
        .float("HOT", 1.0 - smoothing)
        .float("SPREAD", smoothing / classes as f32);
    let gradient = rows.kernel(
        constants,
        GRADIENT,
        [logits, labels, share, Param::Write(0)],
    );
    let mut actions = Actions::from(count);
    actions.extend([gradient]);
    actions.scratch = 64;
    actions
}

/// 1 in the rows whose label has the largest logit, the first of equals; 0 in the others.
pub(super) fn matches(
    Matches { classes }: Matches,
    reads: &[Operand],
    writes: &[Operand],
) -> Actions {
    let rows = Rows::new(classes, &reads[..1]);
    let constants = rows.constants(&reads[0]).elements("Y", &writes[0]);
    let params = [Param::Read(0), Param::Read(1), Param::Write(0)];
    Actions::from(rows.kernel(constants, include_str!("matches.cu"), params))
}

/// The logarithm of each row's sum of exponentials.
pub(super) fn log_sum_exp(
    LogSumExp { classes }: LogSumExp,
    reads: &[Operand],
    writes: &[Operand],
) -> Actions {
    let rows = Rows::new(classes, reads);
    let constants = rows.constants(&reads[0]).elements("Y", &writes[0]);
    let params = [Param::Read(0), Param::Write(0)];
    Actions::from(rows.kernel(constants, LOG_SUM, params))
}
