//! Seconds and residuals of truncated triplets beside a full decomposition of the same Gaussian
//! matrix, in one run.
//!
//! `cargo run --release -p ailora-runtime --example svd_time -- 1024 4096`
//!
//! With `--device cuda`, seconds of all the weights of a model on the device instead, half of them
//! principal, half minor, for several kinds of spectra; what is found there is compared to itself and,
//! where that is quick, to a full decomposition.

use ailora_runtime::{
    backend::{Backend, Precision},
    device::Device,
    spectrum::{End, Matrix, Options, Request, Triplets, triplets, triplets_of},
};
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = args.iter().position(|arg| arg == "--device") {
        let device = args.get(at + 1).map_or("cuda", |device| device);
        let device: Device = device.parse()?;
        return on_device(&*device.open(Precision::F32, None)?);
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

/// As many weights as the queries or the values of RoBERTa-large and of LLaMA-2-7B are, with singular
/// values of several kinds.
fn on_device(backend: &dyn Backend) -> Result<(), Box<dyn Error>> {
    println!("{}", backend.name());
    let solver = backend.solver().ok_or("there is no solver")?;
    let options = Options {
        solver: Some(solver.clone()),
        ..Options::default()
    };
    for (n, r, layers) in [(1024, 8, 24), (4096, 32, 32)] {
        for (kind, data) in weights(n) {
            let matrix = Matrix::new("weight", &data, n, n)?;
            for end in [End::Principal, End::Minor] {
                // The first one loads the library.
                let (alone, first) = time(|| solver.triplets(&matrix, end, r.max(16)))?;
                print!("{layers} of {n} x {n}, r = {r}, {kind}, {end:?}: ");
                print!("{}, {:.1} ms alone, ", first.accuracy, 1e3 * alone);
                if !first.accuracy.within(1e-8) {
                    println!("left to the processor");
                    continue;
                }
                let request = Request { matrix, end, k: r };
                let requests = vec![request; layers];
                let (seconds, found) = time(|| triplets_of(&requests, &options, |_| ()))?;
                let again = triplets_of(&requests, &options, |_| ())?;
                let same = found.iter().chain(&again).all(|f| f == &found[0]);
                let Triplets {
                    residual, method, ..
                } = found[0];
                print!("{seconds:.3} s, residual {residual:.1e}, {method:?}, same bits: {same}");
                if n == 1024 {
                    let exact = triplets(&matrix, end, r, &Options::default())?;
                    let (values, space) = differences(&found[0], &exact);
                    print!(", from {:?}: values {values:.1e}, ", exact.method);
                    print!("space {space:.1e}");
                }
                println!();
            }
        }
    }
    Ok(())
}

/// Gaussian weights, such whose rows fall off, and such of given singular values.
fn weights(n: usize) -> [(&'static str, Vec<f32>); 4] {
    let gauss = gaussian(n * n);
    let fall = |(i, x): (usize, &f32)| x * (-8.0 * (i / n) as f64 / n as f64).exp() as f32;
    let decaying = gauss.iter().enumerate().map(fall).collect();
    let clustered = |i| match i {
        ..40 => 2.0,
        _ if i < n - 200 => 1.0,
        _ => 0.1,
    };
    let deficient = |i| {
        if i < n - 200 {
            2.0 - i as f64 / n as f64
        } else {
            0.0
        }
    };
    [
        ("clustered", reflected(n, &gauss, clustered)),
        ("rank-deficient", reflected(n, &gauss, deficient)),
        ("decaying", decaying),
        ("gaussian", gauss),
    ]
}

/// A matrix of given singular values, between two reflections.
fn reflected(n: usize, random: &[f32], value: impl Fn(usize) -> f64) -> Vec<f32> {
    let normal = |x: &[f32]| -> Vec<f64> {
        let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        x.iter().map(|x| f64::from(*x) / norm).collect()
    };
    let (a, b) = (normal(&random[..n]), normal(&random[n..2 * n]));
    let between: f64 = (0..n).map(|i| a[i] * value(i) * b[i]).sum();
    let element = |at| {
        let (i, j) = (at / n, at % n);
        let diagonal = if i == j { value(i) } else { 0.0 };
        let sides = a[i] * a[j] * value(j) + value(i) * b[i] * b[j];
        (diagonal - 2.0 * sides + 4.0 * between * a[i] * b[j]) as f32
    };
    (0..n * n).map(element).collect()
}

/// The largest difference of singular values, relative to the largest, and the sine of the largest
/// angle between the right vectors' spaces at most.
fn differences(found: &Triplets, exact: &Triplets) -> (f64, f64) {
    let k = exact.k();
    let largest = exact.s[0];
    let values = found.s.iter().zip(&exact.s).map(|(a, b)| (a - b).abs());
    let values = values.fold(0.0, f64::max) / largest;
    let dot = |i: usize, j: usize| -> f64 {
        let rows = exact.v.chunks_exact(k).zip(found.v.chunks_exact(k));
        rows.map(|(x, y)| x[i] * y[j]).sum()
    };
    let projection: Vec<f64> = (0..k * k).map(|at| dot(at / k, at % k)).collect();
    let rows = exact.v.chunks_exact(k).zip(found.v.chunks_exact(k));
    let outside = rows.flat_map(|(x, y)| {
        let projection = &projection;
        (0..k).map(move |j| {
            let inside: f64 = (0..k).map(|i| x[i] * projection[i * k + j]).sum();
            (y[j] - inside).powi(2)
        })
    });
    (values, outside.sum::<f64>().sqrt())
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
