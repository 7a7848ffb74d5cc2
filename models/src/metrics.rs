//! The metrics of GLUE, computed in `f64`. Where one is undefined (a constant prediction, say) it is 0.

use indexmap::IndexMap;
use thiserror::Error;

use crate::task::Label;

/// A measure of how well predictions match labels; higher is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// [`accuracy`]
    Accuracy,
    /// [`f1`]
    F1,
    /// [`matthews`]
    Matthews,
    /// [`pearson`]
    Pearson,
    /// [`spearman`]
    Spearman,
}

impl Metric {
    /// Name in result files.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::F1 => "f1",
            Metric::Matthews => "matthews",
            Metric::Pearson => "pearson",
            Metric::Spearman => "spearman",
        }
    }
}

/// Why predictions could not be scored.
#[derive(Debug, Error, PartialEq)]
pub enum MetricError {
    /// Nothing to score.
    #[error("no examples to score")]
    Empty,
    /// The numbers of logits and labels do not match.
    #[error("expected {rows} x {outputs} logits for {rows} labels, found {found}")]
    Shape {
        /// Number of labels.
        rows: usize,
        /// Logits an example.
        outputs: usize,
        /// Number of logits.
        found: usize,
    },
    /// A logit is infinite or not a number.
    #[error("logit {output} of example {row} is {value}; the model has diverged")]
    NotFinite {
        /// Example, from 0.
        row: usize,
        /// Output, from 0.
        output: usize,
        /// The logit.
        value: f32,
    },
    /// A label is of another kind than the metric needs, or out of range.
    #[error("label of example {row}: expected {expected}, found {found:?}")]
    Label {
        /// Example, from 0.
        row: usize,
        /// What the metric needs.
        expected: String,
        /// The label.
        found: Label,
    },
}

/// Computes `metrics` by name, in their order.
///
/// The prediction is the first largest logit for class metrics, logit 0 for correlations.
///
/// # Shapes
/// `logits` is row-major `[labels.len(), outputs]`.
///
/// # Errors
/// See [`MetricError`].
pub fn score(
    metrics: &[Metric],
    logits: &[f32],
    outputs: usize,
    labels: &[Label],
) -> Result<IndexMap<String, f64>, MetricError> {
    if labels.is_empty() {
        return Err(MetricError::Empty);
    }
    if outputs == 0 || logits.len() != labels.len() * outputs {
        return Err(MetricError::Shape {
            rows: labels.len(),
            outputs,
            found: logits.len(),
        });
    }
    if let Some(at) = logits.iter().position(|logit| !logit.is_finite()) {
        return Err(MetricError::NotFinite {
            row: at / outputs,
            output: at % outputs,
            value: logits[at],
        });
    }
    let rows = || logits.chunks_exact(outputs);
    let classes = || {
        let predicted: Vec<usize> = rows().map(argmax).collect();
        let gold = labels.iter().enumerate().map(|(row, label)| match *label {
            Label::Class(class) if class < outputs => Ok(class),
            found => Err(MetricError::Label {
                row,
                expected: format!("a class below {outputs}"),
                found,
            }),
        });
        Ok((predicted, gold.collect::<Result<Vec<usize>, _>>()?))
    };
    let scores = || {
        let predicted: Vec<f64> = rows().map(|row| f64::from(row[0])).collect();
        let gold = labels.iter().enumerate().map(|(row, label)| match *label {
            Label::Score(score) if score.is_finite() => Ok(f64::from(score)),
            found => Err(MetricError::Label {
                row,
                expected: "a finite score".to_owned(),
                found,
            }),
        });
        Ok((predicted, gold.collect::<Result<Vec<f64>, _>>()?))
    };
    let value = |metric: &Metric| match metric {
        Metric::Accuracy => classes().map(|(p, g)| accuracy(&p, &g)),
        Metric::F1 => classes().map(|(p, g)| f1(&p, &g)),
        Metric::Matthews => classes().map(|(p, g)| matthews(&p, &g)),
        Metric::Pearson => scores().map(|(p, g)| pearson(&p, &g)),
        Metric::Spearman => scores().map(|(p, g)| spearman(&p, &g)),
    };
    metrics
        .iter()
        .map(|metric| Ok((metric.name().to_owned(), value(metric)?)))
        .collect()
}

/// Index of the largest value, the first of equals.
pub fn argmax(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Share of predictions that equal the label.
pub fn accuracy(predicted: &[usize], gold: &[usize]) -> f64 {
    ratio(hits(predicted, gold), gold.len() as f64)
}

fn hits(predicted: &[usize], gold: &[usize]) -> f64 {
    predicted.iter().zip(gold).filter(|(p, g)| p == g).count() as f64
}

/// Harmonic mean of precision and recall of class 1: `2 TP / (2 TP + FP + FN)`.
pub fn f1(predicted: &[usize], gold: &[usize]) -> f64 {
    let positives = |of: &[usize]| of.iter().filter(|class| **class == 1).count();
    let both = predicted.iter().zip(gold).filter(|pg| *pg == (&1, &1));
    let marked = positives(predicted) + positives(gold);
    ratio(2.0 * both.count() as f64, marked as f64)
}

/// Matthews correlation, for any number of classes (Gorodkin, 2004).
pub fn matthews(predicted: &[usize], gold: &[usize]) -> f64 {
    let classes = predicted.iter().chain(gold).max().map_or(0, |max| max + 1);
    let count = |of: &[usize]| {
        let mut counts = vec![0.0; classes];
        of.iter().for_each(|class| counts[*class] += 1.0);
        counts
    };
    let (p, g, n) = (count(predicted), count(gold), gold.len() as f64);
    let covariance = hits(predicted, gold) * n - dot(&p, &g);
    let variances = (n * n - dot(&p, &p)) * (n * n - dot(&g, &g));
    ratio(covariance, variances.sqrt())
}

/// Pearson's linear correlation.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let centred = |x: &[f64]| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        // A constant's mean may be off by a rounding error; its deviations must still be zero.
        let constant = x.iter().all(|v| *v == x[0]);
        x.iter()
            .map(|v| if constant { 0.0 } else { v - mean })
            .collect()
    };
    let (a, b) = (centred(a), centred(b));
    ratio(dot(&a, &b), dot(&a, &a).sqrt() * dot(&b, &b).sqrt()).clamp(-1.0, 1.0)
}

/// Spearman's rank correlation: [`pearson`] of the ranks, equal values sharing their mean rank.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|i, j| values[*i].total_cmp(&values[*j]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for ties in order.chunk_by(|i, j| values[*i] == values[*j]) {
        let mean = start as f64 + (ties.len() - 1) as f64 / 2.0;
        ties.iter().for_each(|i| ranks[*i] = mean);
        start += ties.len();
    }
    ranks
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 {
        0.0
    } else {
        numerator / denominator
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} != {expected}");
    }

    /// Expected values: scikit-learn 1.9.1.
    #[test]
    fn class_metrics_equal_scikit_learn() {
        let p = [
            1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0,
        ];
        let g = [
            1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0,
        ];
        close(accuracy(&p, &g), 0.8333333333333334);
        close(f1(&p, &g), 0.8181818181818182);
        close(matthews(&p, &g), 0.6761234037828132);
        let p = [
            2, 1, 1, 0, 1, 0, 1, 2, 1, 1, 1, 1, 0, 1, 2, 2, 2, 0, 0, 0, 1, 2, 1, 1, 2, 1, 1, 2, 2,
            1,
        ];
        let g = [
            2, 1, 1, 0, 1, 2, 1, 0, 1, 0, 2, 2, 0, 1, 2, 2, 2, 1, 0, 2, 1, 0, 0, 1, 2, 1, 1, 2, 2,
            1,
        ];
        close(accuracy(&p, &g), 0.7);
        close(matthews(&p, &g), 0.5403716696320845);
    }

    /// Expected values: scipy 1.17.1. Both inputs hold ties.
    #[test]
    fn correlations_equal_scipy() {
        let a = [
            0.6, -1.3, 0.3, -1.7, -2.0, -0.3, -0.9, 0.2, 2.2, -0.8, -0.6, 0.2, 0.5, -0.2, -0.2, 0.7,
        ];
        let b = [
            0.8, -1.8, 0.2, -1.3, -2.3, -0.1, -1.3, 0.8, 1.9, -0.6, -0.9, 0.1, -1.0, -1.0, 0.1,
            -0.9,
        ];
        close(pearson(&a, &b), 0.8253842788227299);
        close(spearman(&a, &b), 0.7346655162292365);
    }

    #[test]
    fn what_is_undefined_is_zero() {
        assert_eq!(matthews(&[1, 1, 1], &[0, 1, 0]), 0.0);
        assert_eq!(f1(&[0, 0], &[0, 0]), 0.0);
        assert_eq!(pearson(&[0.1, 0.1, 0.1], &[1.0, 2.0, 4.0]), 0.0);
        assert_eq!(spearman(&[1.0], &[1.0]), 0.0);
    }

    #[test]
    fn score_names_metrics_and_takes_the_first_largest_logit() {
        let labels = [Label::Class(0), Label::Class(1), Label::Class(1)];
        let logits = [0.5, 0.5, -1.0, 2.0, 3.0, 1.0];
        let scores = score(&[Metric::F1, Metric::Accuracy], &logits, 2, &labels).unwrap();
        assert_eq!(scores.keys().collect::<Vec<_>>(), ["f1", "accuracy"]);
        close(scores["f1"], 2.0 / 3.0);
        close(scores["accuracy"], 2.0 / 3.0);

        let labels = [1.0, 2.0, 4.0].map(Label::Score);
        let scores = score(&[Metric::Spearman], &[3.0, 1.0, 2.0], 1, &labels).unwrap();
        close(scores["spearman"], -0.5);
    }

    #[test]
    fn bad_input_is_no_score() {
        let metrics = [Metric::Accuracy];
        let labels = [Label::Class(0), Label::Class(1)];
        for value in [f32::NAN, f32::INFINITY] {
            let error = score(&metrics, &[0.0, 1.0, 2.0, value], 2, &labels).unwrap_err();
            assert!(matches!(
                error,
                MetricError::NotFinite {
                    row: 1,
                    output: 1,
                    ..
                }
            ));
        }
        let errors = [
            score(&metrics, &[], 2, &[]).unwrap_err(),
            score(&metrics, &[0.0; 3], 2, &labels).unwrap_err(),
            score(&metrics, &[0.0; 2], 1, &labels).unwrap_err(),
            score(&[Metric::Pearson], &[0.0; 4], 2, &labels).unwrap_err(),
        ];
        let messages = errors.map(|e| e.to_string());
        assert_eq!(messages[0], "no examples to score");
        assert_eq!(messages[1], "expected 2 x 2 logits for 2 labels, found 3");
        assert!(messages[2].contains("expected a class below 1, found Class(1)"));
        assert!(messages[3].contains("expected a finite score, found Class(0)"));
    }

    fn pairs() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
        // Small integers: ties are frequent.
        prop::collection::vec((-9..9i32, -9..9i32), 2..40).prop_map(|v| {
            v.into_iter()
                .map(|(a, b)| (f64::from(a), f64::from(b)))
                .unzip()
        })
    }

    proptest! {
        #[test]
        fn spearman_sees_order_only((a, b) in pairs()) {
            let warped: Vec<f64> = a.iter().map(|x| (x / 3.0).exp() + x).collect();
            prop_assert!((spearman(&a, &b) - spearman(&warped, &b)).abs() < 1e-12);
        }

        #[test]
        fn pearson_is_symmetric_and_ignores_scale_and_offset((a, b) in pairs()) {
            let r = pearson(&a, &b);
            let moved: Vec<f64> = a.iter().map(|x| -3.5 * x + 0.7).collect();
            prop_assert!((-1.0..=1.0).contains(&r));
            prop_assert!((r - pearson(&b, &a)).abs() < 1e-12);
            prop_assert!((r + pearson(&moved, &b)).abs() < 1e-9);
        }

        #[test]
        fn flipped_predictions_flip_matthews(
            classes in prop::collection::vec((0..2usize, 0..2usize), 1..60),
        ) {
            let (p, g): (Vec<_>, Vec<_>) = classes.into_iter().unzip();
            let flipped: Vec<_> = p.iter().map(|class| 1 - class).collect();
            prop_assert!((matthews(&p, &g) + matthews(&flipped, &g)).abs() < 1e-12);
            prop_assert!((accuracy(&p, &g) + accuracy(&flipped, &g) - 1.0).abs() < 1e-12);
        }

        #[test]
        fn matthews_ignores_the_numbering_of_classes(
            classes in prop::collection::vec((0..3usize, 0..3usize), 1..60),
        ) {
            let (p, g): (Vec<_>, Vec<_>) = classes.into_iter().unzip();
            let turn = |of: &[usize]| of.iter().map(|c| (c + 1) % 3).collect::<Vec<_>>();
            prop_assert!((matthews(&p, &g) - matthews(&turn(&p), &turn(&g))).abs() < 1e-12);
        }
    }
}
