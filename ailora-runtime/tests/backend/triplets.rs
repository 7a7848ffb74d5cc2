//! Singular triplets of a device beside the processor's.

use ailora_runtime::spectrum::{
    End, Matrix, Method, Options, Request, Triplets, triplets, triplets_of,
};

use super::{DRAW, device};

/// Tall and wide matrices, Gaussian ones and such that have null vectors: the last columns, or rows,
/// are twice the first ones.
#[test]
fn triplets_of_large_matrices_equal_the_processors() {
    const SIZES: (usize, usize) = (1100, 1024);
    const NULL: usize = 40;
    const K: usize = 12;
    let key = DRAW.key("weights");
    // Of three uniform numbers, in steps that doubling keeps.
    let number = |at: usize| {
        let sum: f64 = (3 * at..3 * at + 3)
            .map(|i| key.uniform(i as u64) - 0.5)
            .sum();
        (4096.0 * sum).round() as f32 / 4096.0
    };
    for (null, wide) in [(0, false), (0, true), (NULL, false), (NULL, true)] {
        let (rows, cols) = if wide { (SIZES.1, SIZES.0) } else { SIZES };
        let element = |at: usize| {
            let (long, short) = match wide {
                false => (at / cols, at % cols),
                true => (at % cols, at / cols),
            };
            match short.checked_sub(SIZES.1 - null) {
                Some(copy) => 2.0 * number(long * SIZES.1 + copy),
                None => number(long * SIZES.1 + short),
            }
        };
        let data: Vec<f32> = (0..rows * cols).map(element).collect();
        let matrix = Matrix::new("weight", &data, rows, cols).unwrap();
        for end in [End::Principal, End::Minor] {
            let case = format!("{rows} x {cols}, {null} null vectors, {end:?}");
            let expected = triplets(&matrix, end, K, &Options::default()).unwrap();
            let Some(solver) = device::backend().solver() else {
                check_triplets(&data, &expected, &expected, &case);
                continue;
            };
            let options = Options {
                solver: Some(solver),
                ..Options::default()
            };
            let request = Request { matrix, end, k: K };
            let found = triplets_of(&[request; 4], &options, |_| ()).unwrap();
            assert!(found.iter().all(|f| f == &found[0]), "{case}: other bits");
            assert_eq!(found[0].method, Method::Gram, "{case}");
            check_triplets(&data, &found[0], &expected, &case);
        }
    }
}

fn check_triplets(w: &[f32], found: &Triplets, expected: &Triplets, case: &str) {
    let k = found.k();
    let cols = found.v.len() / k;
    let norm = w.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    // The root mean square of the singular values.
    let scale = norm / (cols.min(w.len() / cols) as f64).sqrt();
    for (found, expected) in found.s.iter().zip(&expected.s) {
        assert!(
            (found - expected).abs() <= 1e-8 * scale,
            "{case}: {found} {expected}"
        );
    }
    let mut right: Vec<f64> = Vec::new();
    let mut left = vec![0.0; cols * k];
    for (row, u) in w.chunks_exact(cols).zip(found.u.chunks_exact(k)) {
        let mut image = vec![0.0; k];
        let terms = row.iter().zip(found.v.chunks_exact(k));
        for ((x, v), left) in terms.zip(left.chunks_exact_mut(k)) {
            for i in 0..k {
                image[i] += f64::from(*x) * v[i];
                left[i] += f64::from(*x) * u[i];
            }
        }
        right.extend(image);
    }
    for (image, x, y) in [(&right, &found.u, &found.v), (&left, &found.v, &found.u)] {
        let pairs = image.iter().zip(x).enumerate();
        let missed = pairs.map(|(at, (image, x))| (image - found.s[at % k] * x).powi(2));
        let missed = missed.sum::<f64>().sqrt();
        assert!(missed <= 1e-7 * scale, "{case}: {missed}");
        for (i, j) in (0..k * k).map(|at| (at / k, at % k)) {
            let dot: f64 = y.chunks_exact(k).map(|y| y[i] * y[j]).sum();
            let expected = f64::from(u8::from(i == j));
            assert!((dot - expected).abs() <= 1e-10, "{case}: {i} {j} {dot}");
        }
    }
}
