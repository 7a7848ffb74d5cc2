//! Seconds and residuals of truncated triplets beside a full decomposition of the same Gaussian
//! matrix, in one run.
//!
//! `cargo run --release -p ailora-runtime --example svd_time -- 1024 4096`

use ailora_runtime::spectrum::{End, Matrix, Options, Triplets, triplets};
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let sizes = std::env::args()
        .skip(1)
        .map(|n| n.parse())
        .collect::<Result<Vec<usize>, _>>()?;
    println!(
        "{:>6} {:>4} {:>10} {:>15} {:>8} {:>9} {:>8} {:>6}",
        "n", "r", "end", "method", "seconds", "residual", "full s", "ratio"
    );
    for n in sizes {
        let data = gaussian(n * n);
        let matrix = Matrix::new("gaussian", &data, n, n)?;
        let full = Options {
            exact_up_to: n,
            ..Options::default()
        };
        let (full_seconds, _) = time(|| triplets(&matrix, End::Minor, 16, &full))?;
        for end in [End::Principal, End::Minor] {
            for r in [8, 16, 64] {
                let (
                    seconds,
                    Triplets {
                        method, residual, ..
                    },
                ) = time(|| triplets(&matrix, end, r, &Options::default()))?;
                let (end, method) = (format!("{end:?}"), format!("{method:?}"));
                let ratio = seconds / full_seconds;
                println!(
                    "{n:>6} {r:>4} {end:>10} {method:>15} {seconds:>8.2} {residual:>9.1e} {full_seconds:>8.2} {ratio:>6.2}"
                );
            }
        }
    }
    Ok(())
}

fn time<T, E>(compute: impl FnOnce() -> Result<T, E>) -> Result<(f64, T), E> {
    let start = Instant::now();
    let value = compute()?;
    Ok((start.elapsed().as_secs_f64(), value))
}

/// Standard normal numbers from a fixed seed (a linear congruential generator and Box-Muller).
fn gaussian(len: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    (0..len)
        .map(|_| {
            ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32
        })
        .collect()
}
