//! The methods against matrices built from known factors and against a one-sided Jacobi
//! decomposition.

mod cached;
mod methods;
mod oracle;
mod properties;

use std::ops::Range;

use super::{End, Matrix, Method, Options, SpectrumError, Triplets, triplets};
use oracle::{Svd, dot, norm};

/// Both ends.
const ENDS: [End; 2] = [End::Principal, End::Minor];

/// Options that decompose nothing in full unless they must.
fn truncated() -> Options {
    Options {
        exact_up_to: 0,
        ..Options::default()
    }
}

fn compute(weight: &oracle::Weight, end: End, k: usize, options: &Options) -> Triplets {
    triplets(&weight.matrix(), end, k, options).unwrap()
}

/// Asserts that `t` holds singular triplets of `weight` and that they are the ones at `end` by
/// `truth`: values, defining equations, orthonormality and, if a gap separates them from the
/// others, spans and the part that the factors make.
fn assert_outermost(
    weight: &oracle::Weight,
    t: &Triplets,
    end: End,
    k: usize,
    truth: &Svd,
    case: &str,
) {
    let limit = weight.rows.min(weight.cols);
    let kept = match end {
        End::Principal => 0..k,
        End::Minor => limit - k..limit,
    };
    assert_values(weight, t, kept.clone(), truth, case);
    let column = |m: &[f64], i: usize| m.iter().skip(i).step_by(k).copied().collect::<Vec<_>>();
    let bases = (0..k).map(|i| (column(&t.u, i), column(&t.v, i))).unzip();
    assert_triplets(weight, t, &bases, top(truth), case);
    let gap = match end {
        _ if k == limit => top(truth),
        End::Principal => truth.s[k - 1] - truth.s[k],
        End::Minor => truth.s[limit - k - 1] - truth.s[limit - k],
    };
    if gap < 1e-3 * top(truth) {
        return;
    }
    assert_spans(&bases, kept.clone(), truth, case);
    assert_part(weight, t, kept, truth, case);
}

/// Vectors of the left and of the right side.
type Bases = (Vec<Vec<f64>>, Vec<Vec<f64>>);

/// The largest singular value.
fn top(truth: &Svd) -> f64 {
    truth.s[0].max(f64::MIN_POSITIVE)
}

/// Shapes, signs and order, and the singular values.
fn assert_values(
    weight: &oracle::Weight,
    t: &Triplets,
    kept: Range<usize>,
    truth: &Svd,
    case: &str,
) {
    let (rows, cols, k) = (weight.rows, weight.cols, kept.len());
    assert_eq!(
        (t.k(), t.u.len(), t.v.len()),
        (k, rows * k, cols * k),
        "{case}: shapes"
    );
    assert!(t.residual <= 1e-10, "{case}: residual {}", t.residual);
    assert!(
        t.s.is_sorted_by(|a, b| a >= b) && t.s.iter().all(|s| *s >= 0.0),
        "{case}: {:?}",
        t.s
    );
    for (i, (found, expected)) in t.s.iter().zip(&truth.s[kept]).enumerate() {
        assert!(
            (found - expected).abs() <= 1e-11 * top(truth),
            "{case}: value {i} is {found}, not {expected}"
        );
    }
}

/// `W v = s u`, `W^T u = s v`, orthonormal vectors, and the largest number of each `u` above zero.
fn assert_triplets(weight: &oracle::Weight, t: &Triplets, (u, v): &Bases, top: f64, case: &str) {
    for i in 0..u.len() {
        let image = weight.apply(&v[i]);
        let back = weight.apply_transpose(&u[i]);
        let off = |image: &[f64], x: &[f64]| {
            norm(
                &image
                    .iter()
                    .zip(x)
                    .map(|(a, b)| a - t.s[i] * b)
                    .collect::<Vec<_>>(),
            )
        };
        assert!(
            off(&image, &u[i]) <= 1e-10 * top,
            "{case}: W v_{i} off by {}",
            off(&image, &u[i])
        );
        assert!(
            off(&back, &v[i]) <= 1e-10 * top,
            "{case}: W^T u_{i} off by {}",
            off(&back, &v[i])
        );
        for j in 0..=i {
            let identity = f64::from(u8::from(i == j));
            for (name, basis) in [("u", u), ("v", v)] {
                let product = dot(&basis[i], &basis[j]);
                assert!(
                    (product - identity).abs() <= 1e-10,
                    "{case}: {name}_{i} . {name}_{j} = {product}"
                );
            }
        }
        let largest = u[i].iter().fold(
            0.0_f64,
            |best, &x| if x.abs() > best.abs() { x } else { best },
        );
        assert!(largest > 0.0, "{case}: sign of pair {i}");
    }
}

/// The vectors span what the true ones do.
fn assert_spans((u, v): &Bases, kept: Range<usize>, truth: &Svd, case: &str) {
    for (name, basis, known) in [("U", u, &truth.u), ("V", v, &truth.v)] {
        // A null vector of a rectangular matrix is not unique on its longer side.
        let known: Vec<_> = kept
            .clone()
            .filter(|&i| truth.s[i] > 1e-9 * top(truth))
            .map(|i| &known[i])
            .collect();
        for x in &known {
            let outside = (1.0 - basis.iter().map(|b| dot(x, b).powi(2)).sum::<f64>()).abs();
            assert!(
                outside <= 1e-12,
                "{case}: {name} leaves out sin^2 = {outside} of a true vector"
            );
        }
    }
}

/// Scaled factors make the part of the matrix that the triplets are.
fn assert_part(weight: &oracle::Weight, t: &Triplets, kept: Range<usize>, truth: &Svd, case: &str) {
    let (rows, cols, k) = (weight.rows, weight.cols, kept.len());
    let scale = 0.37;
    let (b, a) = t.factors(scale).unwrap();
    for row in 0..rows {
        for col in 0..cols {
            let made: f64 = (0..k)
                .map(|i| scale * f64::from(b[row * k + i]) * f64::from(a[i * cols + col]))
                .sum();
            let part: f64 = kept
                .clone()
                .map(|i| truth.u[i][row] * truth.s[i] * truth.v[i][col])
                .sum();
            assert!(
                (made - part).abs() <= 1e-6 * top(truth),
                "{case}: part[{row}, {col}] is {made}, not {part}"
            );
        }
    }
}
