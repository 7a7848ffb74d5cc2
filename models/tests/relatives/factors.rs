//! The factors that OLoRA and MiCA start from.

use ailora_graph::{
    adapter::Layout,
    method::constructors::{mica, olora},
};
use ailora_runtime::spectrum::{Matrix, spectrum};

use super::{site, started};

/// `Q_r` is orthonormal, `Q_r R_r` is the projection of the weight onto its first columns, and MiCA's `B`
/// is orthonormal with the least of the weight.
#[test]
fn factors_span_what_they_should() {
    let sites = [
        site("a", [6, 5], Layout::OutIn, olora(2).with_alpha(3.0)),
        site("b", [6, 5], Layout::OutIn, mica(2)),
    ];
    let params = started(&sites, 0);
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let column = |name: &str, width: usize, k: usize| -> Vec<f32> {
        params[name]
            .floats()
            .iter()
            .skip(k)
            .step_by(width)
            .copied()
            .collect()
    };
    for b in ["a.lora_B.weight", "b.lora_B.weight"] {
        for i in 0..2 {
            for j in 0..2 {
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((dot(&column(b, 2, i), &column(b, 2, j)) - expected).abs() < 1e-6);
            }
        }
    }
    // The first two columns of W are in Q's span, and R = Q^T W.
    for k in 0..5 {
        let w = column("a.weight", 5, k);
        for i in 0..2 {
            let q = column("a.lora_B.weight", 2, i);
            let r = params["a.lora_A.weight"].floats()[5 * i + k];
            assert!((dot(&q, &w) - f64::from(r)).abs() < 1e-5);
        }
        let inside: f64 = (0..2)
            .map(|i| dot(&column("a.lora_B.weight", 2, i), &w).powi(2))
            .sum();
        assert!((dot(&w, &w) - inside).abs() < 1e-5 || k >= 2, "{k}");
    }
    // |B^T W| is the root of the sum of the two least squared singular values of five.
    let values = {
        let weight = params["b.weight"].floats();
        let matrix = Matrix::new("b", &weight, 6, 5).unwrap();
        spectrum(&matrix).unwrap()
    };
    let inside: f64 = (0..5)
        .flat_map(|k| (0..2).map(move |i| (k, i)))
        .map(|(k, i)| dot(&column("b.lora_B.weight", 2, i), &column("b.weight", 5, k)).powi(2))
        .sum();
    assert!((inside - values[3].powi(2) - values[4].powi(2)).abs() < 1e-5);
    assert!(params["b.lora_A.weight"].floats().iter().all(|x| *x == 0.0));
}
