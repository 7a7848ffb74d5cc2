//! The methods against matrices built from known factors and against a one-sided Jacobi
//! decomposition.

mod cached;
mod methods;
mod oracle;
mod properties;

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
    let (rows, cols) = (weight.rows, weight.cols);
    let limit = rows.min(cols);
    let kept = match end {
        End::Principal => 0..k,
        End::Minor => limit - k..limit,
    };
    let top = truth.s[0].max(f64::MIN_POSITIVE);
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
    for (i, (found, expected)) in t.s.iter().zip(&truth.s[kept.clone()]).enumerate() {
        assert!(
            (found - expected).abs() <= 1e-11 * top,
            "{case}: value {i} is {found}, not {expected}"
        );
    }

    let column = |m: &[f64], i: usize| m.iter().skip(i).step_by(k).copied().collect::<Vec<_>>();
    let (u, v): (Vec<_>, Vec<_>) = (0..k).map(|i| (column(&t.u, i), column(&t.v, i))).unzip();
    for i in 0..k {
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
            for (name, basis) in [("u", &u), ("v", &v)] {
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

    let gap = match end {
        _ if k == limit => top,
        End::Principal => truth.s[k - 1] - truth.s[k],
        End::Minor => truth.s[limit - k - 1] - truth.s[limit - k],
    };
    if gap < 1e-3 * top {
        return;
    }
    for (name, basis, known) in [("U", &u, &truth.u), ("V", &v, &truth.v)] {
        // A null vector of a rectangular matrix is not unique on its longer side.
        let known: Vec<_> = kept
            .clone()
            .filter(|&i| truth.s[i] > 1e-9 * top)
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
                (made - part).abs() <= 1e-6 * top,
                "{case}: part[{row}, {col}] is {made}, not {part}"
            );
        }
    }
}
