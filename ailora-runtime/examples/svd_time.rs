//! Seconds and residuals of truncated triplets beside a full decomposition of the same Gaussian
//! matrix, in one run.
//!
//! `cargo run --release -p ailora-runtime --example svd_time -- 1024 4096`
//!
//! With `--device cuda`, seconds of all the weights of a model on the device instead, half of them
//! principal, half minor.

use ailora_runtime::{
    backend::{Backend, Precision},
    spectrum::{End, Matrix, Options, SpectrumError, Triplets, triplets},
};
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = args.iter().position(|arg| arg == "--device") {
        let device = args.get(at + 1).map_or("cuda", |device| device);
        return on_device(Backend::open(device.parse()?, Precision::F32, None)?);
    }
    let sizes = args
        .iter()
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

/// The queries and values of RoBERTa-large and of LLaMA-2-7B: Gaussian weights, and such whose
/// singular values fall off.
fn on_device(backend: Backend) -> Result<(), Box<dyn Error>> {
    let options = Options {
        solver: backend.solver(),
        ..Options::default()
    };
    println!("{}", backend.name());
    for (n, r, layers) in [(1024, 8, 24), (4096, 32, 32)] {
        for decay in [0.0, 8.0] {
            let mut data = gaussian(n * n);
            for (i, x) in data.iter_mut().enumerate() {
                *x *= (-decay * (i / n) as f64 / n as f64).exp() as f32;
            }
            let matrix = Matrix::new("weight", &data, n, n)?;
            // The first one loads the library.
            triplets(&matrix, End::Principal, r, &options)?;
            for end in [End::Principal, End::Minor] {
                let (seconds, worst) = time(|| {
                    let mut worst = (0.0_f64, None);
                    for _ in 0..layers {
                        let found = triplets(&matrix, end, r, &options)?;
                        worst = (worst.0.max(found.residual), Some(found.method));
                    }
                    Ok::<_, SpectrumError>(worst)
                })?;
                println!(
                    "{layers} of {n} x {n}, r = {r}, decay {decay}, {end:?}: {seconds:.2} s, \
                     residual {:.1e}, {:?}",
                    worst.0, worst.1
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
