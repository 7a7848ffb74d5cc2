//! Correlations of numbers.

use super::{dot, ratio};

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} != {expected}");
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
        assert_eq!(pearson(&[0.1, 0.1, 0.1], &[1.0, 2.0, 4.0]), 0.0);
        assert_eq!(spearman(&[1.0], &[1.0]), 0.0);
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
    }
}
