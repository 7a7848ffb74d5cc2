//! Metrics of classes.

use super::{dot, ratio};

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

/// Mean over the classes of F1, `2 TP / (2 TP + FP + FN)`: over so many, of which one that does not occur
/// counts as 0, or over those that occur among predictions or labels.
pub fn macro_f1(predicted: &[Vec<usize>], gold: &[Vec<usize>], classes: Option<usize>) -> f64 {
    let counts = Counts::of(predicted, gold, classes.unwrap_or(0));
    let scores =
        (0..counts.marked.len()).filter(|&class| classes.is_some() || counts.marked[class] > 0.0);
    let scores: Vec<f64> = scores
        .map(|class| ratio(2.0 * counts.both[class], counts.marked[class]))
        .collect();
    ratio(scores.iter().sum(), scores.len() as f64)
}

/// F1 over the classes of all rows together, `2 TP / (2 TP + FP + FN)`; of rows with one class each it is
/// the [`accuracy`].
pub fn micro_f1(predicted: &[Vec<usize>], gold: &[Vec<usize>]) -> f64 {
    let Counts { both, marked } = Counts::of(predicted, gold, 0);
    ratio(2.0 * both.iter().sum::<f64>(), marked.iter().sum())
}

/// Share of rows with exactly the classes of the label, which scikit-learn calls subset accuracy.
pub fn exact_match(predicted: &[Vec<usize>], gold: &[Vec<usize>]) -> f64 {
    let equal = predicted.iter().zip(gold).filter(|(p, g)| p == g);
    ratio(equal.count() as f64, gold.len() as f64)
}

/// How often each class occurs.
struct Counts {
    /// In prediction and label of a row.
    both: Vec<f64>,
    /// In predictions and in labels.
    marked: Vec<f64>,
}

impl Counts {
    /// Of `least` classes, or as many as there are.
    fn of(predicted: &[Vec<usize>], gold: &[Vec<usize>], least: usize) -> Self {
        let all = predicted.iter().chain(gold).flatten();
        let classes = all.clone().max().map_or(0, |max| max + 1).max(least);
        let (mut both, mut marked) = (vec![0.0; classes], vec![0.0; classes]);
        all.for_each(|class| marked[*class] += 1.0);
        for (predicted, gold) in predicted.iter().zip(gold) {
            let shared = predicted.iter().filter(|class| gold.contains(class));
            shared.for_each(|class| both[*class] += 1.0);
        }
        Self { both, marked }
    }
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

    /// One class a row, each as a set.
    fn sets(classes: &[usize]) -> Vec<Vec<usize>> {
        classes.iter().map(|class| vec![*class]).collect()
    }

    /// Expected values: scikit-learn 1.9.1. Class 3 does not occur; class 4 is predicted only.
    #[test]
    fn f1_of_several_classes_equals_scikit_learn() {
        let p = sets(&[
            2, 2, 2, 4, 0, 1, 0, 0, 2, 4, 2, 1, 0, 1, 1, 1, 2, 1, 1, 2, 0, 2, 1, 2,
        ]);
        let g = sets(&[
            2, 1, 2, 2, 0, 1, 0, 0, 2, 0, 2, 0, 0, 1, 1, 0, 0, 1, 1, 2, 0, 2, 1, 2,
        ]);
        close(macro_f1(&p, &g, None), 0.584453781512605);
        close(micro_f1(&p, &g), 0.75);
        close(exact_match(&p, &g), 0.75);
    }

    /// Expected values: scikit-learn 1.9.1, its default and with `labels=[0, 1, 2]`.
    #[test]
    fn a_class_without_a_row_has_no_part_in_the_mean() {
        let (p, g) = (sets(&[0, 1, 1]), sets(&[0, 0, 1]));
        close(accuracy(&[0, 1, 1], &[0, 0, 1]), 2.0 / 3.0);
        close(macro_f1(&p, &g, None), 2.0 / 3.0);
        close(macro_f1(&p, &g, Some(3)), 4.0 / 9.0);
    }

    /// Expected values: scikit-learn 1.9.1, of indicator matrices of four classes, the last of which no row
    /// has.
    #[test]
    fn f1_of_any_classes_equals_scikit_learn() {
        let p = [
            &[1, 2][..],
            &[],
            &[],
            &[0, 1, 2],
            &[0, 1],
            &[0, 2],
            &[0, 1, 2],
            &[0, 1],
            &[0],
            &[2],
        ];
        let g = [
            &[0, 1, 2][..],
            &[],
            &[],
            &[0, 1, 2],
            &[1, 2],
            &[0, 2],
            &[],
            &[0, 2],
            &[0],
            &[0, 2],
        ];
        let [p, g] = [p, g].map(|rows| rows.map(<[usize]>::to_vec));
        close(macro_f1(&p, &g, Some(4)), 0.5359848484848484);
        close(micro_f1(&p, &g), 0.7096774193548387);
        close(exact_match(&p, &g), 0.5);
    }

    #[test]
    fn what_is_undefined_is_zero() {
        assert_eq!(macro_f1(&[vec![]], &[vec![]], Some(2)), 0.0);
        assert_eq!(micro_f1(&[vec![]], &[vec![]]), 0.0);

        assert_eq!(matthews(&[1, 1, 1], &[0, 1, 0]), 0.0);
        assert_eq!(f1(&[0, 0], &[0, 0]), 0.0);
    }

    proptest! {
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
