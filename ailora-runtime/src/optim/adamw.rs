use std::collections::HashSet;

use indexmap::IndexMap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::weights::Weights;

/// The constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, of parameters with two axes longer than 1: biases, norms and other vectors stay
    /// as they are.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// Parameters that learn at one multiple of the base rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The multiple.
    pub lr: f64,
    /// Their names.
    pub parameters: Vec<String>,
}

/// The running averages of one parameter's gradient and of its square.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Of the gradient.
    pub first: Vec<f32>,
    /// Of its square.
    pub second: Vec<f32>,
}

/// Adam with decoupled weight decay (Loshchilov & Hutter, 2019), in float32.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    groups: Vec<Group>,
    step: u64,
    moments: IndexMap<String, Moments>,
    /// Parameters with one axis longer than 1.
    vectors: HashSet<String>,
}

impl AdamW {
    /// An optimiser for the parameters of `groups`, whose sizes `weights` knows.
    pub fn new(config: AdamWConfig, groups: Vec<Group>, weights: &Weights) -> Self {
        let names = || groups.iter().flat_map(|group| &group.parameters);
        let is_vector = |name: &&String| {
            let long = |shape: &[usize]| shape.iter().filter(|length| **length > 1).count();
            weights.shape(name).is_some_and(|shape| long(shape) < 2)
        };
        let vectors = names().filter(is_vector).cloned().collect();
        let moments = names()
            .filter_map(|name| {
                let zeros = vec![0.0; weights.len(name)?];
                let moments = Moments {
                    first: zeros.clone(),
                    second: zeros,
                };
                Some((name.clone(), moments))
            })
            .collect();
        Self {
            config,
            groups,
            step: 0,
            moments,
            vectors,
        }
    }

    /// How many updates were made.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The constants.
    pub fn config(&self) -> AdamWConfig {
        self.config
    }

    /// The parameters, by how fast they learn.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The weight decay of a parameter.
    pub fn weight_decay(&self, name: &str) -> f64 {
        match self.vectors.contains(name) {
            true => 0.0,
            false => self.config.weight_decay,
        }
    }

    /// Counts an update that was [applied](Self::apply), or made elsewhere.
    pub fn advance(&mut self) {
        self.step += 1;
    }

    /// The moments of every parameter, in the order of the groups.
    pub fn moments(&self) -> &IndexMap<String, Moments> {
        &self.moments
    }

    /// Goes on from a saved state.
    pub fn restore(&mut self, step: u64, moments: IndexMap<String, Moments>) {
        self.step = step;
        self.moments = moments;
    }

    /// One update at the base rate `lr`. Each gradient is multiplied by `factor` first.
    pub fn update(
        &mut self,
        weights: &mut Weights,
        gradients: &IndexMap<String, Vec<f32>>,
        lr: f64,
        factor: f64,
    ) {
        self.apply(self.step + 1, weights, gradients, lr, factor);
        self.advance();
    }

    /// As [`update`](Self::update), as update number `step`, from 1, which is not counted.
    pub fn apply(
        &mut self,
        step: u64,
        weights: &mut Weights,
        gradients: &IndexMap<String, Vec<f32>>,
        lr: f64,
        factor: f64,
    ) {
        let AdamWConfig {
            beta1, beta2, eps, ..
        } = self.config;
        let correction1 = 1.0 - beta1.powi(step as i32);
        let correction2 = (1.0 - beta2.powi(step as i32)).sqrt();
        for group in &self.groups {
            let lr = lr * group.lr;
            let rate = (lr / correction1) as f32;
            let (b1, b2) = (beta1 as f32, beta2 as f32);
            let (eps, root, factor) = (eps as f32, 1.0 / correction2 as f32, factor as f32);
            for name in &group.parameters {
                let keep = (1.0 - lr * self.weight_decay(name)) as f32;
                let (Some(rows), Some(gradient), Some(moments)) = (
                    weights.rows_mut(name),
                    gradients.get(name),
                    self.moments.get_mut(name),
                ) else {
                    continue;
                };
                const CHUNK: usize = 1 << 16;
                let width = rows.first().map_or(1, |row| row.len()).max(1);
                // A parameter by itself is one row, shared among threads in chunks; rows of a pack
                // are short.
                let chunk = width.min(CHUNK);
                let values: Vec<&mut [f32]> = rows
                    .into_iter()
                    .flat_map(|row| row.chunks_mut(chunk))
                    .collect();
                let state = moments
                    .first
                    .par_chunks_mut(chunk)
                    .zip(moments.second.par_chunks_mut(chunk));
                values
                    .into_par_iter()
                    .zip(gradient.par_chunks(chunk))
                    .zip(state)
                    .with_min_len(CHUNK / chunk)
                    .for_each(|((param, gradient), (first, second))| {
                        for (((p, &g), m), v) in
                            param.iter_mut().zip(gradient).zip(first).zip(second)
                        {
                            let g = g * factor;
                            *m = b1 * *m + (1.0 - b1) * g;
                            *v = b2 * *v + (1.0 - b2) * g * g;
                            *p = *p * keep - rate * *m / (v.sqrt() * root + eps);
                        }
                    });
            }
        }
    }
}
