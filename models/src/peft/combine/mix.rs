//! Tensors of several adapters, made one: pruned, weighted and summed.

use ailora_runtime::torch_random::TorchRandom;

use super::kind::{Combine, Majority, Pruning};

/// How the values of several adapters at a place become one.
#[derive(Debug)]
pub struct Mix {
    pruning: Option<(Pruning, f64)>,
    majority: Option<Majority>,
    random: TorchRandom,
}

impl Mix {
    /// As settings that were checked say. What is dropped at random is what PyTorch drops after
    /// `torch.manual_seed(seed)`, tensor after tensor in the order of the calls.
    pub fn new(how: &Combine) -> Self {
        let density = how.density.unwrap_or(1.0);
        let pruning = how.kind.pruning().filter(|_| density < 1.0);
        Self {
            pruning: pruning.map(|pruning| (pruning, density)),
            majority: how.kind.elects().then(|| how.majority.unwrap_or_default()),
            random: TorchRandom::new(how.seed.unwrap_or_default()),
        }
    }

    /// The weighted sum of what is left of tensors of one length. Where they elect a sign, they do so
    /// before they are weighted, and of those that agree with it the sum is divided by their number.
    pub fn of(&mut self, mut tensors: Vec<Vec<f64>>, weights: &[f64]) -> Vec<f64> {
        for tensor in &mut tensors {
            self.prune(tensor);
        }
        let len = tensors.first().map_or(0, Vec::len);
        let place = |i: usize| {
            let values = tensors.iter().map(|tensor| tensor[i]);
            let weighted = values.clone().zip(weights);
            let Some(majority) = self.majority else {
                return weighted.map(|(x, w)| x * w).sum();
            };
            let sign = elected(majority, values);
            let kept = weighted.filter(|(x, _)| x * sign > 0.0);
            let (sum, count) = kept.fold((0.0, 0.0), |(sum, n), (x, w)| (sum + x * w, n + 1.0));
            sum / f64::max(count, 1.0)
        };
        (0..len).map(place).collect()
    }

    fn prune(&mut self, tensor: &mut [f64]) {
        match self.pruning {
            None => {}
            Some((Pruning::Magnitude, density)) => keep_largest(tensor, density),
            Some((Pruning::Random, density)) => {
                for x in tensor {
                    // Where nothing is left, nothing is made larger.
                    *x = match self.random.bernoulli(density) {
                        true => *x / density,
                        false => 0.0,
                    };
                }
            }
        }
    }
}

/// The sign that values elect at a place; that of a draw is plus.
fn elected(majority: Majority, values: impl Iterator<Item = f64>) -> f64 {
    let votes: f64 = match majority {
        Majority::Total => values.sum(),
        Majority::Frequency => values
            .map(|x| if x == 0.0 { 0.0 } else { x.signum() })
            .sum(),
    };
    if votes >= 0.0 { 1.0 } else { -1.0 }
}

/// Leaves that share of the values, rounded down, that is largest; of equal ones the first.
fn keep_largest(tensor: &mut [f64], density: f64) {
    let kept = (density * tensor.len() as f64) as usize;
    let mut order: Vec<usize> = (0..tensor.len()).collect();
    order.sort_by(|&a, &b| tensor[b].abs().total_cmp(&tensor[a].abs()));
    for &i in order.iter().skip(kept) {
        tensor[i] = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::kind::Combination, *};

    fn mix(kind: Combination, density: f64, seed: u64) -> Mix {
        Mix::new(&Combine {
            kind,
            density: kind.pruning().map(|_| density),
            seed: Some(seed),
            ..Combine::default()
        })
    }

    /// Signs are elected by what is left before it is weighted, and the sum is divided by how many agree.
    #[test]
    fn ties_trims_elects_weights_and_divides() {
        let tensors = || vec![vec![4.0, -1.0, 0.5, 2.0], vec![-1.0, 3.0, 0.5, -2.0]];
        for (weights, density, expected) in [
            ([1.0, 1.0], 1.0, [4.0, 3.0, 0.5, 2.0]),
            ([0.1, 1.0], 1.0, [0.4, 3.0, 0.275, 0.2]),
            ([1.0, 1.0], 0.5, [4.0, 3.0, 0.0, 2.0]),
        ] {
            let found = mix(Combination::Ties, density, 0).of(tensors(), &weights);
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-12, "{found} {expected}");
            }
        }
    }

    #[test]
    fn the_number_of_values_elects_where_it_is_asked() {
        let tensors = || vec![vec![5.0], vec![-1.0], vec![-2.0]];
        let mut total = mix(Combination::Ties, 1.0, 0);
        assert_eq!(total.of(tensors(), &[1.0; 3]), [5.0]);
        let mut frequency = Mix {
            majority: Some(Majority::Frequency),
            ..total
        };
        assert_eq!(frequency.of(tensors(), &[1.0; 3]), [-1.5]);
    }

    /// PEFT 0.21 gives NaN of both DARE kinds: zero times a mask of zeros, divided by zero.
    #[test]
    fn nothing_is_left_at_density_zero() {
        for kind in Combination::ALL
            .into_iter()
            .filter(|k| k.pruning().is_some())
        {
            let tensors = vec![vec![4.0, -1.0], vec![-1.0, 3.0]];
            let found = mix(kind, 0.0, 3).of(tensors, &[1.0, 0.5]);
            assert_eq!(found, [0.0, 0.0], "{kind}");
        }
    }

    /// The mean over many seeds is the input; each seed gives zeros and values over the density.
    #[test]
    fn dare_keeps_the_mean() {
        const SEEDS: u64 = 10_000;
        let input = [2.0, -1.0, 0.25];
        let mut sums = [0.0; 3];
        for seed in 0..SEEDS {
            let mut dare = mix(Combination::DareLinear, 0.3, seed);
            let found = dare.of(vec![input.to_vec()], &[1.0]);
            for ((sum, found), x) in sums.iter_mut().zip(&found).zip(input) {
                assert!(*found == 0.0 || (found - x / 0.3).abs() < 1e-12);
                *sum += found;
            }
        }
        for (sum, x) in sums.iter().zip(input) {
            let mean = sum / SEEDS as f64;
            // Four standard deviations of the mean.
            let deviation = x.abs() * (0.7 / 0.3 / SEEDS as f64).sqrt();
            assert!((mean - x).abs() <= 4.0 * deviation, "{mean} {x}");
        }
    }
}
