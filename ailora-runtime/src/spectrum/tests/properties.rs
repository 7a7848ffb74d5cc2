use super::oracle::Weight;
use super::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any shape, rank, steepness of the spectrum, end and number of triplets.
    #[test]
    fn triplets_of_random_matrices(
        (rows, cols) in (1..40_usize, 1..40_usize),
        rank in 0.0..1.0_f64,
        decay in prop_oneof![Just(1.0), 0.3..1.0_f64],
        share in 0.0..1.0_f64,
        minor in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let limit = rows.min(cols);
        let part = |share: f64| 1 + (share * limit as f64) as usize;
        let s: Vec<f64> = (0..part(rank).min(limit)).map(|i| decay.powi(i as i32)).collect();
        let (weight, _) = Weight::with_spectrum(rows, cols, &s, u64::from(seed));
        let (end, k) = (ENDS[usize::from(minor)], part(share).min(limit));
        let t = compute(&weight, end, k, &Options::default());
        assert_outermost(&weight, &t, end, k, &weight.jacobi(), "random");
    }
}
