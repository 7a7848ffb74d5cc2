//! Factors of rotary angles, which Llama 3 files have in place of what made them.

use std::f64::consts::TAU;

/// The `llama3` scaling of Hugging Face: slow turns are slowed down by `factor`, fast ones are not,
/// and what lies between is interpolated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scaling {
    pub factor: f64,
    pub low: f64,
    pub high: f64,
    pub original: f64,
}

/// What each pair's angle is divided by at most differently.
const TOLERANCE: f64 = 1e-5;

impl Scaling {
    /// By what it divides the angle that turns so many times within a length of 1.
    fn divisor(&self, turns: f64) -> f64 {
        let turns = self.original * turns;
        let smooth = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / self.factor + smooth)
    }

    /// The scaling that divides the angles of pairs by `factors`, if there is one; the one without
    /// effect is none.
    pub fn of(factors: &[f32], theta: f64) -> Option<Option<Self>> {
        let count = factors.len() as f64;
        let turns = (0..factors.len()).map(|i| theta.powf(-(i as f64) / count) / TAU);
        let points: Vec<(f64, f64)> = turns.zip(factors.iter().map(|&f| f.into())).collect();
        let factor = points.iter().map(|point| point.1).fold(1.0, f64::max);
        let fits = |scaling: &Self| {
            points.iter().all(|&(turns, expected)| {
                (scaling.divisor(turns) - expected).abs() <= TOLERANCE * expected
            })
        };
        if points.iter().all(|&(_, factor)| factor == 1.0) {
            return Some(None);
        }
        if !points.iter().all(|&(_, factor)| factor.is_finite()) {
            return None;
        }
        // Between the ends the inverse is linear in the turns: smooth = slope * turns + start.
        let smooth = |divisor: f64| (1.0 / divisor - 1.0 / factor) / (1.0 - 1.0 / factor);
        let between = points
            .iter()
            .map(|&(turns, divisor)| (turns, smooth(divisor)));
        let between: Vec<(f64, f64)> = between.filter(|p| p.1 > 1e-4 && p.1 < 1.0 - 1e-4).collect();
        // `low`, `high` and the length scale together; every published model has 1 and 4.
        let usual = |original: f64| Self {
            factor,
            low: 1.0,
            high: 4.0,
            original,
        };
        let whole = |x: f64| match x.round() {
            round if (round - x).abs() < 1e-3 * x => round,
            _ => x,
        };
        let mut candidates = Vec::new();
        match &between[..] {
            [] => {
                // Any length will do that has the step where it is.
                let steps = points.windows(2).filter(|p| p[0].1 != p[1].1);
                candidates.extend(steps.flat_map(|p| {
                    let middle = (p[0].0 * p[1].0).sqrt();
                    [usual((2.0 / middle).round()), usual((1.0 / p[1].0).floor())]
                }));
                candidates.extend(points.last().map(|p| usual((0.5 / p.0).floor())));
            }
            [(turns, smooth)] => candidates.push(usual(whole((1.0 + 3.0 * smooth) / turns))),
            [first, .., last] => {
                let slope = (last.1 - first.1) / (last.0 - first.0);
                let start = first.1 - slope * first.0;
                let high = whole(1.0 - 1.0 / start);
                candidates.push(Self {
                    high,
                    ..usual(whole(slope * (high - 1.0)))
                });
            }
        }
        candidates.into_iter().find(fits).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(scaling: Scaling, pairs: usize, theta: f64) -> Vec<f32> {
        let turns = (0..pairs).map(|i| theta.powf(-(i as f64) / pairs as f64) / TAU);
        turns.map(|turns| scaling.divisor(turns) as f32).collect()
    }

    #[test]
    fn what_made_the_factors_is_found_again() {
        for (factor, high, original, pairs, theta) in [
            (8.0, 4.0, 8192.0, 64, 500_000.0),
            (32.0, 4.0, 8192.0, 32, 500_000.0),
            (4.0, 6.0, 1024.0, 32, 10_000.0),
            (8.0, 4.0, 128.0, 4, 10_000.0),
            (2.0, 4.0, 64.0, 4, 10_000.0),
        ] {
            let scaling = Scaling {
                factor,
                low: 1.0,
                high,
                original,
            };
            let expected = factors(scaling, pairs, theta);
            let found = Scaling::of(&expected, theta).unwrap().unwrap();
            let again = factors(found, pairs, theta);
            for (again, expected) in again.iter().zip(&expected) {
                assert!((again - expected).abs() <= 1e-4 * expected, "{found:?}");
            }
            if pairs > 4 {
                assert_eq!(found, scaling);
            }
        }
    }

    #[test]
    fn other_factors_are_none_of_it() {
        assert_eq!(Scaling::of(&[1.0; 8], 1e4), Some(None));
        for factors in [
            [1.0, 1.0, 3.0, 2.0],
            [1.0, 4.0, 4.0, 1.0],
            [0.5, 1.0, 1.0, 1.0],
            [1.0, 1.2, 1.4, 8.0],
        ] {
            assert_eq!(Scaling::of(&factors, 1e4), None, "{factors:?}");
        }
    }
}
