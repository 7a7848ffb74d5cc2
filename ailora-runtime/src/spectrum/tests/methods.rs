use super::oracle::Weight;
use super::*;
use crate::spectrum::{Request, spectrum, triplets_of};

fn geometric(n: usize, last: f64) -> Vec<f64> {
    (0..n)
        .map(|i| last.powf(i as f64 / (n - 1) as f64))
        .collect()
}

/// Values spread evenly over `[low, 1]`.
fn linear(n: usize, low: f64) -> Vec<f64> {
    (0..n)
        .map(|i| 1.0 - (1.0 - low) * i as f64 / (n - 1) as f64)
        .collect()
}

/// Small matrices of every kind, whose truth Jacobi rotations give.
fn small() -> Vec<(&'static str, Weight)> {
    let with = |rows: usize, cols: usize, s: &[f64]| Weight::with_spectrum(rows, cols, s, 5).0;
    let identity = Weight {
        data: (0..900).map(|i| f32::from(u8::from(i % 31 == 0))).collect(),
        rows: 30,
        cols: 30,
    };
    let clusters: Vec<f64> = (0..40)
        .map(|i| 0.1_f64.powi(i / 10) * (1.0 + 1e-7 * f64::from(i % 10)))
        .collect();
    let mut clusters_sorted = clusters;
    clusters_sorted.sort_by(|a, b| b.total_cmp(a));
    vec![
        ("square", Weight::gaussian(48, 48, 1)),
        ("tall", Weight::gaussian(90, 31, 2)),
        ("slightly tall", Weight::gaussian(45, 40, 2)),
        ("wide", Weight::gaussian(20, 77, 3)),
        ("separated", with(40, 40, &linear(40, 0.02))),
        ("geometric", with(40, 30, &geometric(30, 1e-9))),
        ("clusters", with(50, 40, &clusters_sorted)),
        ("rank deficient", with(40, 40, &linear(25, 0.5))),
        ("tall rank deficient", with(120, 40, &linear(25, 0.5))),
        ("wide rank deficient", with(40, 120, &linear(25, 0.5))),
        ("rank one", with(33, 33, &[3.0])),
        (
            "zero",
            Weight {
                data: vec![0.0; 12 * 17],
                rows: 12,
                cols: 17,
            },
        ),
        ("identity", identity),
        ("row", Weight::gaussian(1, 64, 6)),
        ("column", Weight::gaussian(64, 1, 7)),
        (
            "one",
            Weight {
                data: vec![-2.5],
                rows: 1,
                cols: 1,
            },
        ),
        (
            "tiny",
            Weight {
                data: Weight::gaussian(9, 9, 8)
                    .data
                    .iter()
                    .map(|x| x * 1e-37)
                    .collect(),
                rows: 9,
                cols: 9,
            },
        ),
        (
            "huge",
            Weight {
                data: Weight::gaussian(9, 9, 9)
                    .data
                    .iter()
                    .map(|x| x * 1e37)
                    .collect(),
                rows: 9,
                cols: 9,
            },
        ),
    ]
}

#[test]
fn exact_triplets_are_those_of_jacobi_rotations() {
    for (case, weight) in small() {
        let truth = weight.jacobi();
        let limit = weight.rows.min(weight.cols);
        for end in ENDS {
            for k in [1, 3, 8, 16, limit] {
                if k <= limit {
                    let t = compute(&weight, end, k, &Options::default());
                    assert_eq!(t.method, Method::Exact);
                    assert_outermost(
                        &weight,
                        &t,
                        end,
                        k,
                        &truth,
                        &format!("{case}, {end:?}, k = {k}"),
                    );
                }
            }
        }
        let all = spectrum(&weight.matrix()).unwrap();
        for (found, expected) in all.iter().zip(&truth.s) {
            assert!(
                (found - expected).abs() <= 1e-12 * truth.s[0],
                "{case}: spectrum has {found}, not {expected}"
            );
        }
    }
}

/// The exact method, which the test above holds to Jacobi, on a matrix too large for rotations.
fn full(weight: &Weight) -> Svd {
    let k = weight.rows.min(weight.cols);
    let t = compute(
        weight,
        End::Principal,
        k,
        &Options {
            exact_up_to: k,
            ..Options::default()
        },
    );
    let columns = |m: &[f64]| {
        (0..k)
            .map(|i| m.iter().skip(i).step_by(k).copied().collect())
            .collect()
    };
    Svd {
        u: columns(&t.u),
        v: columns(&t.v),
        s: t.s,
    }
}

#[test]
fn truncated_triplets_are_those_of_the_full_decomposition() {
    let with = |rows: usize, cols: usize, s: &[f64]| Weight::with_spectrum(rows, cols, s, 11).0;
    let mut outliers = linear(420, 0.5);
    outliers[0] = 50.0;
    outliers[419] = 1e-6;
    outliers[418] = 1e-3;
    // Wider than the wanted triplets, narrower than a block, at both ends.
    let plateaus: Vec<f64> = (0..420)
        .map(|i| {
            if i < 20 {
                1.0
            } else if i < 400 {
                0.5
            } else {
                0.01
            }
        })
        .collect();
    let cases = [
        ("gaussian", Weight::gaussian(450, 450, 1)),
        ("tall", Weight::gaussian(700, 420, 2)),
        ("wide", Weight::gaussian(420, 900, 3)),
        ("separated", with(420, 440, &linear(420, 0.01))),
        ("geometric", with(430, 420, &geometric(420, 1e-5))),
        ("outliers", with(420, 420, &outliers)),
        ("plateaus", with(420, 450, &plateaus)),
    ];
    for (case, weight) in cases {
        let truth = full(&weight);
        for (end, method) in [
            (End::Principal, Method::Lanczos),
            (End::Minor, Method::InverseLanczos),
        ] {
            for k in [1, 8, 16] {
                let t = compute(&weight, end, k, &truncated());
                let case = format!("{case}, {end:?}, k = {k}");
                assert_eq!(t.method, method, "{case}");
                assert_outermost(&weight, &t, end, k, &truth, &case);
            }
        }
    }
}

#[test]
fn truncated_triplets_are_those_the_matrix_was_built_from() {
    // Gaps of 0.05 of the largest value keep the rounding of the weight to f32 below 1e-6 of it.
    let s: Vec<f64> = (0..430)
        .map(|i| {
            if i < 8 {
                2.0 - 0.1 * f64::from(i)
            } else if i < 422 {
                1.0
            } else {
                0.5 - 0.05 * f64::from(i - 422)
            }
        })
        .collect();
    let (weight, built) = Weight::with_spectrum(430, 460, &s, 17);
    for end in ENDS {
        let t = compute(&weight, end, 8, &truncated());
        assert_ne!(t.method, Method::Fallback);
        let (b, a) = t.factors(4.0).unwrap();
        let kept = if end == End::Principal {
            0..8
        } else {
            422..430
        };
        for row in (0..430).step_by(7) {
            for col in 0..460 {
                let made: f64 = (0..8)
                    .map(|i| 4.0 * f64::from(b[row * 8 + i]) * f64::from(a[i * 460 + col]))
                    .sum();
                let part: f64 = kept
                    .clone()
                    .map(|i| built.u[i][row] * built.s[i] * built.v[i][col])
                    .sum();
                assert!(
                    (made - part).abs() <= 1e-6 * s[0],
                    "{end:?} [{row}, {col}]: {made}, not {part}"
                );
            }
        }
    }
}

#[test]
fn principal_triplets_beyond_the_rank_are_found_without_a_fallback() {
    for (case, rank) in [("rank one", 1), ("rank five", 5), ("rank 300", 300)] {
        let s: Vec<f64> = (0..rank).map(|i| 1.0 + f64::from(i)).rev().collect();
        let (weight, _) = Weight::with_spectrum(420, 500, &s, 23);
        let t = compute(&weight, End::Principal, 16, &truncated());
        assert_eq!(t.method, Method::Lanczos, "{case}");
        assert_outermost(&weight, &t, End::Principal, 16, &full(&weight), case);
    }
}

/// A matrix of exact rank `rank`: a product of small integers.
fn integer_rank(n: usize, rank: usize) -> Weight {
    let mut normal = oracle::normals(31);
    let mut integers = |len: usize| {
        (0..len)
            .map(|_| normal().round() as f32)
            .collect::<Vec<_>>()
    };
    let (left, right) = (integers(n * rank), integers(n * rank));
    let entry = |i: usize, j: usize| {
        (0..rank)
            .map(|l| left[i * rank + l] * right[j * rank + l])
            .sum::<f32>()
    };
    Weight {
        data: (0..n * n).map(|at| entry(at / n, at % n)).collect(),
        rows: n,
        cols: n,
    }
}

#[test]
fn a_truncated_method_that_fails_falls_back_to_the_full_decomposition() {
    for rank in [420, 405, 200, 1] {
        let weight = integer_rank(421, rank);
        let t = compute(&weight, End::Minor, 8, &truncated());
        assert_eq!(t.method, Method::Fallback, "rank {rank}");
        assert_outermost(
            &weight,
            &t,
            End::Minor,
            8,
            &full(&weight),
            &format!("rank {rank}"),
        );
        let exact = compute(
            &weight,
            End::Minor,
            8,
            &Options {
                exact_up_to: 421,
                ..Options::default()
            },
        );
        assert_eq!((t.u, t.s, t.v), (exact.u, exact.s, exact.v), "rank {rank}");
    }
}

#[test]
fn zero_and_identity_need_no_special_care() {
    let n = 420;
    let zero = Weight {
        data: vec![0.0; n * n],
        rows: n,
        cols: n,
    };
    let identity = Weight {
        data: (0..n * n)
            .map(|i| f32::from(u8::from(i % (n + 1) == 0)))
            .collect(),
        rows: n,
        cols: n,
    };
    for (case, weight) in [("zero", zero), ("identity", identity)] {
        let truth = full(&weight);
        for end in ENDS {
            let t = compute(&weight, end, 16, &truncated());
            assert_outermost(&weight, &t, end, 16, &truth, case);
        }
    }
}

#[test]
fn where_too_many_triplets_are_wanted_everything_is_decomposed() {
    let weight = Weight::gaussian(300, 300, 4);
    for end in ENDS {
        let t = compute(&weight, end, 290, &truncated());
        assert_eq!(t.method, Method::Exact);
        assert_outermost(&weight, &t, end, 290, &full(&weight), "290 of 300");
    }
}

#[test]
fn the_same_request_gives_the_same_bits_alone_or_among_others() {
    // The last is large enough for a decomposition on several threads.
    let weights: Vec<_> = [(420, 430), (64, 20), (1, 9), (421, 5200)]
        .into_iter()
        .map(|(rows, cols)| Weight::gaussian(rows, cols, rows as u64))
        .collect();
    let requests: Vec<_> = weights
        .iter()
        .flat_map(|weight| {
            ENDS.map(|end| Request {
                matrix: weight.matrix(),
                end,
                k: 8.min(weight.rows),
            })
        })
        .collect();
    let calls = std::sync::Mutex::new(Vec::new());
    let together = triplets_of(&requests, &truncated(), |progress| {
        assert_eq!(progress.total, requests.len());
        calls.lock().unwrap().push(progress.done);
    })
    .unwrap();
    let mut calls = calls.into_inner().unwrap();
    calls.sort_unstable();
    assert_eq!(calls, (1..=requests.len()).collect::<Vec<_>>());
    for (request, together) in requests.iter().zip(&together) {
        let alone = triplets(&request.matrix, request.end, request.k, &truncated()).unwrap();
        assert_eq!(&alone, together, "{request:?}");
    }
    // A smaller rank is a slice of a larger one that shares its rounded size.
    let (few, many) = (
        compute(&weights[0], End::Minor, 3, &truncated()),
        compute(&weights[0], End::Minor, 16, &truncated()),
    );
    assert_eq!(few, many.outermost(End::Minor, 3));
}

#[test]
fn of_several_errors_the_first_in_order_is_reported() {
    let weights = [
        Weight::gaussian(8, 9, 1),
        Weight::gaussian(5, 6, 2),
        Weight::gaussian(4, 7, 3),
    ];
    let requests: Vec<_> = weights
        .iter()
        .map(|w| Request {
            matrix: w.matrix(),
            end: End::Minor,
            k: 6,
        })
        .collect();
    let error = triplets_of(&requests, &Options::default(), |_| ()).unwrap_err();
    assert!(
        matches!(
            error,
            SpectrumError::Rank {
                k: 6,
                rows: 5,
                cols: 6,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn bad_input_is_named() {
    let new = |data: &[f32], rows, cols| {
        Matrix::new("layer.0.query", data, rows, cols)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        new(&[1.0; 5], 2, 3),
        "layer.0.query: a 2 x 3 matrix has 6 entries, the data has 5"
    );
    assert!(new(&[], 0, 3).starts_with("layer.0.query: a 0 x 3 matrix has no singular values"));
    assert!(new(&[1.0; 5], usize::MAX, 2).contains("the data has 5"));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let message = new(&[1.0, 2.0, 3.0, 4.0, bad, 6.0], 2, 3);
        assert!(
            message.starts_with(&format!("layer.0.query: entry [1, 1] is {bad}")),
            "{message}"
        );
    }
    let weight = Weight::gaussian(3, 4, 1);
    for k in [0, 4] {
        let message = triplets(&weight.matrix(), End::Minor, k, &Options::default())
            .unwrap_err()
            .to_string();
        assert!(
            message.ends_with(&format!(
                "rank {k} asked of a 3 x 4 matrix; choose a rank from 1 to 3"
            )),
            "{message}"
        );
    }
    let t = compute(&weight, End::Principal, 2, &Options::default());
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(
            matches!(t.factors(scale), Err(SpectrumError::Scale { .. })),
            "{scale}"
        );
    }
    let impossible = Options {
        tolerance: 0.0,
        ..Options::default()
    };
    let error = triplets(&weight.matrix(), End::Minor, 2, &impossible).unwrap_err();
    assert!(matches!(error, SpectrumError::Inaccurate { .. }), "{error}");
}
