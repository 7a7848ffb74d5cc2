use ailora_graph::ir::ops::loss::IGNORED;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{CrossEntropy, CrossEntropyGrad, Matches};
use crate::kernels::host::{math, rows};

/// Elements that are summed up in float32. Of a longer row, the sum would be too large for the last
/// bits of most of its terms, and come out too small.
const BLOCK: usize = 512;

/// How many labels count; at least 1, to divide by.
fn counted(labels: &[i32]) -> usize {
    labels
        .iter()
        .filter(|&&label| label != IGNORED)
        .count()
        .max(1)
}

/// The mean over the rows that count of `-sum(t log softmax(logits))`, `t` the smoothed one-hot label.
pub(super) fn cross_entropy(
    CrossEntropy { classes, smoothing }: CrossEntropy,
    logits: &[f32],
    labels: &[i32],
) -> f32 {
    let loss = |(row, &label): (&[f32], &i32)| {
        if label == IGNORED {
            return 0.0;
        }
        let (smoothing, own) = (f64::from(smoothing), f64::from(row[label as usize]));
        let target = if smoothing == 0.0 {
            own
        } else {
            let total: f64 = row.iter().copied().map(f64::from).sum();
            (1.0 - smoothing) * own + smoothing * total / classes as f64
        };
        Arch::new().dispatch(LogSumExp(row)) - target
    };
    let rows = logits.par_chunks_exact(classes).zip(labels);
    // Added up in order, whatever the threads.
    let losses: Vec<f64> = rows.map(loss).collect();
    (losses.iter().sum::<f64>() / counted(labels) as f64) as f32
}

/// `(softmax(logits) - t) / n` in the `n` rows that count, 0 in the others, in place of the logits.
pub(super) fn cross_entropy_grad(
    CrossEntropyGrad { classes, smoothing }: CrossEntropyGrad,
    labels: &[i32],
    to: &mut [f32],
) {
    let factor = 1.0 / counted(labels) as f32;
    let spread = smoothing / classes as f32;
    let rows = to.par_chunks_exact_mut(classes).zip(labels);
    rows.for_each_init(
        || vec![0.0; classes],
        |logits, (row, &label)| {
            if label == IGNORED {
                row.fill(0.0);
                return;
            }
            logits.copy_from_slice(row);
            Arch::new().dispatch(Softmax { logits, to: row });
            row[label as usize] -= 1.0 - smoothing;
            for x in row {
                *x = (*x - spread) * factor;
            }
        },
    );
}

/// 1 in the rows whose label has the largest logit, the first of equals; 0 in the others.
pub(super) fn matches(
    Matches { classes }: Matches,
    logits: &[f32],
    labels: &[i32],
    to: &mut [f32],
) {
    let rows = logits.par_chunks_exact(classes).zip(labels).zip(to);
    rows.for_each(|((row, &label), to)| {
        let is_largest = label != IGNORED && {
            let (before, after) = row.split_at(label as usize);
            let own = row[label as usize];
            before.iter().all(|x| *x < own) && after.iter().all(|x| *x <= own)
        };
        *to = f32::from(u8::from(is_largest));
    });
}

/// The logarithm of each row's sum of exponentials.
pub(super) fn log_sum_exp(kernel: super::LogSumExp, logits: &[f32], to: &mut [f32]) {
    let rows = logits.par_chunks_exact(kernel.classes).zip(to);
    rows.for_each(|(row, to)| *to = Arch::new().dispatch(LogSumExp(row)) as f32);
}

/// The logarithm of the sum of a row's exponentials.
struct LogSumExp<'a>(&'a [f32]);

impl WithSimd for LogSumExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        simd.vectorize(
            #[inline(always)]
            || {
                let max = rows::max(self.0);
                if max == f32::NEG_INFINITY {
                    return f64::from(max);
                }
                let mut exponentials = [0.0; BLOCK];
                let mut sum = 0.0;
                for block in self.0.chunks(BLOCK) {
                    let exponentials = &mut exponentials[..block.len()];
                    for (to, x) in exponentials.iter_mut().zip(block) {
                        *to = math::exp(x - max);
                    }
                    sum += f64::from(rows::total(simd, exponentials));
                }
                sum.ln() + f64::from(max)
            },
        )
    }
}

struct Softmax<'a> {
    logits: &'a [f32],
    to: &'a mut [f32],
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || rows::softmax(simd, self.logits, self.to),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A class that cannot be has no part in the loss, nor in a mean that is not asked for.
    #[test]
    fn minus_infinity_leaves_the_loss_finite() {
        let logits = [0.5, f32::NEG_INFINITY, -1.5];
        let expected = (1.0 + (-2.0_f64).exp()).ln();
        let loss = |smoothing| {
            let classes = 3;
            cross_entropy(CrossEntropy { classes, smoothing }, &logits, &[0])
        };
        let found = loss(0.0);
        assert!((f64::from(found) - expected).abs() < 1e-6, "{found}");
        assert_eq!(loss(0.1), f32::INFINITY);
    }
}
