//! Rotary positions (Su et al., 2021), and how they are stretched for longer texts.

use std::{f64::consts::TAU, path::Path};

use crate::{
    closed::{Field, Table, Unknown, applied, inert, only},
    fields::{FieldError, Fields},
};

/// What `rope_parameters` and `rope_scaling` have.
pub(crate) const TABLE: Table = Table {
    file: "config.json, rope_parameters",
    fields: &[FIELDS],
    unknown: Unknown::Refused,
};

const FIELDS: &[Field] = &[
    applied("rope_type", "default, linear, dynamic, yarn or llama3"),
    applied("type", "an older name of `rope_type`"),
    applied("rope_theta", "the base of the angles"),
    applied("factor", "how many times longer texts become"),
    applied("original_max_position_embeddings", "of llama3 and yarn"),
    applied("low_freq_factor", "of llama3"),
    applied("high_freq_factor", "of llama3"),
    applied("attention_factor", "of yarn"),
    applied("beta_fast", "of yarn"),
    applied("beta_slow", "of yarn"),
    applied("mscale", "of yarn"),
    applied("mscale_all_dim", "of yarn"),
    applied("truncate", "of yarn"),
    only(
        "partial_rotary_factor",
        &["1.0", "1"],
        "heads that are rotated in part are not supported",
    ),
    inert("short_factor", "of longrope, which is refused"),
    inert("long_factor", "of longrope, which is refused"),
    inert("finetuned", "how the model was trained"),
];

/// The angles by which pairs of a head turn from one position to the next.
#[derive(Clone, Debug)]
pub(super) struct Rotary {
    frequencies: Vec<f32>,
    /// What cosines and sines are multiplied by.
    factor: f32,
}

impl Rotary {
    /// Reads the fields of a model whose heads are `depth` wide, as transformers takes them:
    /// `rope_scaling` before `rope_parameters`, and their `rope_theta` before the model's.
    pub fn read(fields: Fields<'_>, depth: usize, longest: usize) -> Result<Self, FieldError> {
        let [old, new] = ["rope_scaling", "rope_parameters"];
        let (field, rope) = match fields.object(old)? {
            Some(rope) => (old, Some(rope)),
            None => (new, fields.object(new)?),
        };
        let empty = serde_json::Map::new();
        let rope = rope.unwrap_or(&empty);
        TABLE
            .check(Path::new(field), rope)
            .map_err(|cause| FieldError::Nested {
                field,
                cause: Box::new(cause),
            })?;
        let rope = Fields::new(rope);
        let theta = match rope.positive("rope_theta")? {
            Some(theta) => theta,
            None => fields.positive("rope_theta")?.unwrap_or(10_000.0),
        };
        let kind = match rope.text("rope_type")? {
            Some(kind) => kind,
            None => rope.text("type")?.unwrap_or("default"),
        };
        let original = || -> Result<f64, FieldError> {
            const FIELD: &str = "original_max_position_embeddings";
            let own = fields.positive(FIELD)?;
            Ok(own.or(rope.positive(FIELD)?).unwrap_or(longest as f64))
        };
        let powers = (0..depth / 2).map(|i| theta.powf(-(2.0 * i as f64) / depth as f64));
        let plain = |frequencies: Vec<f64>| Self {
            frequencies: frequencies.into_iter().map(|x| x as f32).collect(),
            factor: 1.0,
        };
        match kind {
            // What is dynamic begins beyond the longest text.
            "default" | "dynamic" => Ok(plain(powers.collect())),
            "linear" => {
                let factor = needed(rope, "factor")?;
                Ok(plain(powers.map(|frequency| frequency / factor).collect()))
            }
            "llama3" => {
                let scaled = llama3(rope, original()?)?;
                Ok(plain(powers.map(scaled).collect()))
            }
            "yarn" => yarn(rope, powers.collect(), theta, original()?, longest),
            other => Err(FieldError::Value {
                field: "rope_type",
                found: other.to_owned(),
                expected: "default, linear, dynamic, yarn or llama3".into(),
            }),
        }
    }

    /// Cosines and sines of the angles at positions, `[positions, d/2]` each, in float32 throughout
    /// as transformers has them.
    pub fn at(&self, positions: &[i32]) -> [Vec<f32>; 2] {
        let angles = positions.iter().flat_map(|&position| {
            let turn = move |frequency: &f32| position as f32 * frequency;
            self.frequencies.iter().map(turn)
        });
        let angles: Vec<f32> = angles.collect();
        [f32::cos, f32::sin].map(|f| angles.iter().map(|&angle| f(angle) * self.factor).collect())
    }
}

fn needed(rope: Fields<'_>, field: &'static str) -> Result<f64, FieldError> {
    let expected = || "a number above 0, which this rope_type needs".into();
    rope.positive(field)?
        .ok_or_else(|| FieldError::missing(field, expected()))
}

/// Slow turns are slowed down more, and what lies between is interpolated.
fn llama3(rope: Fields<'_>, original: f64) -> Result<impl Fn(f64) -> f64, FieldError> {
    let factor = needed(rope, "factor")?;
    let low = needed(rope, "low_freq_factor")?;
    let high = needed(rope, "high_freq_factor")?;
    FieldError::unless(high > low, "high_freq_factor", high, || {
        format!("more than `low_freq_factor`, which is {low}")
    })?;
    Ok(move |frequency: f64| {
        let turns = original * frequency / TAU;
        let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    })
}

/// YaRN (Peng et al., 2023): by how often a pair turns in the original length, it keeps its
/// frequency, is slowed down, or something between; attention is sharpened.
fn yarn(
    rope: Fields<'_>,
    powers: Vec<f64>,
    theta: f64,
    original: f64,
    longest: usize,
) -> Result<Rotary, FieldError> {
    let factor = rope
        .positive("factor")?
        .unwrap_or(longest as f64 / original);
    let temperature = |scale: f64| match factor {
        ..=1.0 => 1.0,
        factor => 0.1 * scale * factor.ln() + 1.0,
    };
    let scales = (rope.number("mscale")?, rope.number("mscale_all_dim")?);
    let sharpened = match (rope.positive("attention_factor")?, scales) {
        (Some(given), _) => given,
        (None, (Some(scale), Some(all))) if scale != 0.0 && all != 0.0 => {
            temperature(scale) / temperature(all)
        }
        (None, _) => temperature(1.0),
    };
    let depth = 2 * powers.len();
    // The pair that turns so often in the original length.
    let pair = |turns: f64| depth as f64 * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
    let low = pair(rope.positive("beta_fast")?.unwrap_or(32.0));
    let high = pair(rope.positive("beta_slow")?.unwrap_or(1.0));
    let [low, high] = match rope.flag_or("truncate", true)? {
        true => [low.floor(), high.ceil()],
        false => [low, high],
    };
    let (low, mut high) = (low.max(0.0), high.min(depth as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let frequencies = powers.iter().enumerate().map(|(i, frequency)| {
        let slowed = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        (frequency * (1.0 - slowed) + frequency / factor * slowed) as f32
    });
    Ok(Rotary {
        frequencies: frequencies.collect(),
        factor: sharpened as f32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(depth: usize, fields: &str) -> Result<Rotary, FieldError> {
        let json = serde_json::from_str(&format!("{{{fields}}}")).unwrap();
        Rotary::read(Fields::new(&json), depth, 512)
    }

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() <= 1e-6 * expected.abs().max(1e-2),
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn spellings_of_one_scaling() {
        let expected = [0.5, 0.5 / 20_f32.sqrt(), 0.025, 0.025 / 20_f32.sqrt()];
        for fields in [
            r#""rope_theta": 400, "rope_scaling": {"type": "linear", "factor": 2.0}"#,
            r#""rope_theta": 400, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2}"#,
            r#""rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 400}"#,
            // As in transformers, `rope_scaling` counts, and all of it.
            r#""rope_theta": 400, "rope_scaling": {"type": "linear", "factor": 2.0},
               "rope_parameters": {"rope_type": "default", "rope_theta": 7}"#,
        ] {
            close(&read(8, fields).unwrap().frequencies, &expected);
        }
        assert_eq!(read(8, "").unwrap().frequencies[0], 1.0);
    }

    /// Expected: transformers' `_compute_llama3_parameters`.
    #[test]
    fn llama3_keeps_fast_turns_and_slows_down_the_others() {
        let found = read(
            8,
            r#""rope_theta": 10000, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128}"#,
        );
        close(
            &found.unwrap().frequencies,
            &[1.0, 0.042_751_2, 0.00125, 0.000_125],
        );
    }

    /// Expected: transformers' `_compute_yarn_parameters`.
    #[test]
    fn yarn_slows_down_slow_turns_and_sharpens_attention() {
        for (fields, expected, factor) in [
            (
                r#""factor": 4.0, "original_max_position_embeddings": 128"#,
                [
                    1.0,
                    0.3736389,
                    0.1321714,
                    0.04254655,
                    0.01118034,
                    0.005141428,
                    0.002364354,
                    0.00108728,
                ],
                1.138_629_4,
            ),
            (
                r#""factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 16,
                   "beta_slow": 2, "mscale": 0.7, "mscale_all_dim": 1.2, "truncate": false"#,
                [
                    1.0,
                    0.2678445,
                    0.03486943,
                    0.01215616,
                    0.00559017,
                    0.002570714,
                    0.001182177,
                    0.0005436398,
                ],
                0.916_791_25,
            ),
            (
                r#""factor": 2.0, "attention_factor": 1.5"#,
                [
                    1.0,
                    0.4598633,
                    0.1903268,
                    0.07779939,
                    0.03130495,
                    0.01233943,
                    0.004728708,
                    0.002174559,
                ],
                1.5,
            ),
        ] {
            let fields = format!(
                r#""rope_parameters": {{"rope_type": "yarn", "rope_theta": 500.0, {fields}}}"#
            );
            let found = read(16, &fields).unwrap();
            close(&found.frequencies, &expected);
            close(&[found.factor], &[factor]);
            let [cos, sin] = found.at(&[0]);
            close(&cos, &[factor; 8]);
            assert_eq!(sin, [0.0; 8]);
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (fields, expected) in [
            (
                r#""rope_scaling": {"rope_type": "longrope", "factor": 2}"#,
                "`rope_type` is longrope; expected default, linear, dynamic, yarn or llama3",
            ),
            (
                r#""rope_scaling": {"type": "linear"}"#,
                "`factor` is missing",
            ),
            (
                r#""rope_parameters": {"full_attention": {"rope_theta": 5}}"#,
                "in `rope_parameters`, `full_attention` is",
            ),
            (
                r#""rope_parameters": {"partial_rotary_factor": 0.5}"#,
                "in `rope_parameters`, `partial_rotary_factor` is 0.5",
            ),
            (
                r#""rope_theta": -1"#,
                "`rope_theta` is -1; expected a number above 0",
            ),
        ] {
            let error = read(8, fields).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
