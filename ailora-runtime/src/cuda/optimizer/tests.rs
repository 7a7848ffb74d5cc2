//! The optimiser's kernels on the host.

use ailora_graph::ir::Draw;
use half::bf16;

use super::*;
use crate::{cuda::tests::emulate::Kernels, kernels::device::Source};

const DECAYS: [f64; 2] = [0.02, 0.0];
const RATES: [f64; 2] = [1.0, 2.0];
/// Rows, width and stride of a parameter in float32, and of one in bfloat16.
const PLACES: [(usize, usize, usize); 2] = [(1000, 9, 11), (30, 7, 7)];
const SHARES: [f32; 2] = [0.25, 0.75];
const BASE: f64 = 0.05;

/// The state of two parameters on the host, for the kernels.
struct State {
    kernels: Kernels,
    sources: Vec<Source>,
    places: (Vec<f32>, Vec<bf16>),
    parts: Vec<Part>,
    gradients: Vec<f32>,
    values: Vec<f32>,
    moments: [Vec<f32>; 2],
    sums: Vec<f64>,
    /// An outcome, and the losses.
    outcome: Vec<u64>,
}

fn len(i: usize) -> usize {
    PLACES[i].0 * PLACES[i].1
}

fn noise(name: &str, step: u64, len: usize) -> Vec<f32> {
    let key = Draw { seed: 1, step }.key(name);
    (0..len as u64).map(|i| key.normal(i) as f32).collect()
}

impl State {
    fn new() -> Option<Self> {
        let names = ["accumulate", "squares", "clip_norm", "adamw"];
        let parts: Vec<Part> = (0..2)
            .flat_map(|i| {
                let firsts = (0..len(i)).step_by(COUNT);
                firsts.map(move |first| Part {
                    parameter: i as u32,
                    first: first as u32,
                })
            })
            .collect();
        let sources = names.map(|name| Source {
            code: source()
                .replace(&format!("void {name}("), "void KERNEL(")
                .replace("extern \"C\"", ""),
            params: Vec::new(),
            grid: [
                if name == "clip_norm" {
                    1
                } else {
                    parts.len() as u32
                },
                1,
                1,
            ],
            block: THREADS,
            shared: 0,
        });
        let all = len(0) + len(1);
        let elements = |i: usize| PLACES[i].0 * PLACES[i].2;
        Some(Self {
            kernels: Kernels::new(&sources.each_ref())?,
            sources: sources.into(),
            places: (vec![0.0; elements(0)], vec![bf16::ZERO; elements(1)]),
            sums: vec![0.0; parts.len()],
            parts,
            gradients: vec![f32::NAN; all],
            values: noise("values", 0, all),
            moments: [vec![0.0; all], vec![0.0; all]],
            outcome: vec![0; 3],
        })
    }

    fn launch(&self, i: usize, arguments: &[u64]) {
        let arguments: Vec<*mut u8> = arguments.iter().map(|&a| a as *mut u8).collect();
        self.kernels.launch(i, &self.sources[i], &arguments);
    }

    /// A step on these gradients of each micro-batch, as [`Stepper::update`] makes it.
    fn step(
        &mut self,
        step: i32,
        clip: f64,
        follows: bool,
        micro: &[(f32, Vec<f32>); 2],
    ) -> Outcome {
        let places = [address(&mut self.places.0), address(&mut self.places.1)];
        let mut start = 0;
        let mut parameters: Vec<Parameter> = (0..2)
            .map(|i| {
                let (_, width, stride) = PLACES[i];
                start += len(i);
                Parameter {
                    place: places[i],
                    start: (start - len(i)) as u64,
                    len: len(i) as u64,
                    width: width as u32,
                    stride: stride as u32,
                    lr: RATES[i],
                    weight_decay: DECAYS[i],
                    is_bf16: i as u64,
                }
            })
            .collect();
        let lists = [address(&mut parameters), address(&mut self.parts)];
        let [first, second] = &mut self.moments;
        let moments = [address(first), address(second)];
        let values = address(&mut self.values);
        let gradients = address(&mut self.gradients);
        let sums = address(&mut self.sums);
        let outcome = address(&mut self.outcome);
        for (i, (loss, own)) in micro.iter().enumerate() {
            let (mut loss, mut own) = (*loss, own.clone());
            let (wide, narrow) = own.split_at_mut(len(0));
            let mut sources = [address(wide), address(narrow)];
            let share = u64::from(SHARES[i].to_bits());
            let rest = [address(&mut sources), gradients, share, u64::from(i == 0)];
            let loss = [address(std::slice::from_mut(&mut loss)), outcome, i as u64];
            self.launch(0, &[&lists[..], &rest, &loss].concat());
        }
        self.launch(1, &[&lists[..], &[gradients, sums]].concat());
        let count = self.parts.len() as u64;
        let numbers = [count, clip.to_bits(), 2, u64::from(follows), outcome];
        self.launch(2, &[&[sums][..], &numbers].concat());
        let AdamWConfig {
            beta1, beta2, eps, ..
        } = config();
        let corrections = [1.0 - beta1.powi(step), (1.0 - beta2.powi(step)).sqrt()];
        let numbers = [BASE, beta1, beta2, eps];
        let numbers = [&numbers[..], &corrections].concat();
        let numbers: Vec<u64> = numbers.into_iter().map(f64::to_bits).collect();
        let arrays = [gradients, values, moments[0], moments[1], outcome];
        self.launch(3, &[&lists[..], &arrays, &numbers].concat());
        bytemuck::cast_slice::<u64, Outcome>(&self.outcome[..2])[0]
    }
}

fn address<T>(of: &mut [T]) -> u64 {
    of.as_mut_ptr() as u64
}

fn config() -> AdamWConfig {
    AdamWConfig::default()
}

/// AdamW in float64: the norm of the mean gradient, whose values and moments go one step on.
fn expected(
    step: i32,
    clip: f64,
    micro: &[(f32, Vec<f32>); 2],
    values: &mut [f64],
    moments: &mut [Vec<f64>; 2],
) -> f64 {
    let mean = |i: usize| -> f64 {
        let parts = SHARES.iter().zip(micro);
        parts
            .map(|(&share, (_, g))| f64::from(share) * f64::from(g[i]))
            .sum()
    };
    let norm = (0..values.len())
        .map(|i| mean(i) * mean(i))
        .sum::<f64>()
        .sqrt();
    let factor = if clip > 0.0 {
        (clip / (norm + 1e-6)).min(1.0)
    } else {
        1.0
    };
    let AdamWConfig {
        beta1, beta2, eps, ..
    } = config();
    for (i, x) in values.iter_mut().enumerate() {
        let parameter = usize::from(i >= len(0));
        let (lr, weight_decay) = (BASE * RATES[parameter], DECAYS[parameter]);
        let g = factor * mean(i);
        let [m, v] = moments;
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        let corrected = [
            m[i] / (1.0 - beta1.powi(step)),
            v[i] / (1.0 - beta2.powi(step)),
        ];
        *x -= lr * weight_decay * *x + lr * corrected[0] / (corrected[1].sqrt() + eps);
    }
    norm
}

fn close(found: &[f32], expected: &[f64]) {
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let apart = (f64::from(found) - expected).abs();
        assert!(
            apart <= 2e-6 * (1.0 + expected.abs()),
            "{i}: {found} and not {expected}"
        );
    }
}

/// Over parts of parameters, micro-batches and rows with gaps, clipped and not; a step that
/// diverges updates nothing, nor does one that follows it unseen.
#[test]
fn kernels_are_adamw() {
    let Some(mut state) = State::new() else {
        return;
    };
    let mut values: Vec<f64> = state.values.iter().map(|x| f64::from(*x)).collect();
    let mut moments = [0, 1].map(|_| vec![0.0; values.len()]);
    let micro = |step: u64| {
        [0, 1].map(|i| {
            let gradients = noise(&format!("g{i}"), step, len(0) + len(1));
            (0.5 + i as f32, gradients)
        })
    };
    for (step, clip) in [(1, 0.0), (2, 10.0), (3, 1e4)] {
        let micro = micro(step as u64);
        let outcome = state.step(step, clip, step == 2, &micro);
        let norm = expected(step, clip, &micro, &mut values, &mut moments);
        assert!(outcome.finite == 1 && (outcome.norm - norm).abs() <= 1e-6 * norm);
        let losses: &[f32] = bytemuck::cast_slice(&state.outcome[2..]);
        assert_eq!(losses, [0.5, 1.5]);
    }
    close(&state.values, &values);
    for (found, expected) in state.moments.iter().zip(&moments) {
        close(found, expected);
    }
    // Where plans read them: rows apart, and what lies between as it was.
    let (rows, width, stride) = PLACES[0];
    for at in 0..rows * stride {
        let (row, column) = (at / stride, at % stride);
        let value = if column < width {
            state.values[row * width + column]
        } else {
            0.0
        };
        assert_eq!(state.places.0[at], value);
    }
    for (narrow, &wide) in state.places.1.iter().zip(&state.values[len(0)..]) {
        assert_eq!(*narrow, bf16::from_f32(wide));
    }

    let before = state.values.clone();
    let mut diverged = micro(4);
    diverged[1].0 = f32::NAN;
    assert_eq!(state.step(4, 0.0, false, &diverged).finite, 0);
    assert_eq!(state.step(5, 0.0, true, &micro(5)).finite, 0);
    assert_eq!(state.values, before);
    let mut infinite = micro(4);
    infinite[0].1[len(0) + 3] = f32::INFINITY;
    assert_eq!(state.step(4, 0.0, false, &infinite).finite, 0);
    assert_eq!(state.values, before);
    assert_eq!(state.step(4, 0.0, false, &micro(4)).finite, 1);
    assert_ne!(state.values, before);
}
