use serde::{Deserialize, Serialize};

use super::{
    Pass,
    measure::{Contender, Contenders},
};

/// Forms this near to each other are equally fast.
const TIE: f64 = 0.03;

/// What was measured of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What is computed.
    pub pass: Pass,
    /// Without adapters.
    pub frozen: Measurement,
    /// Adapted.
    pub unfused: Measurement,
    /// Adapted and fused.
    pub fused: Measurement,
    /// The adapters merged; forward only.
    pub merged: Option<Measurement>,
    /// The forms over each other.
    pub ratios: Ratios,
    /// What the cost model said, if there was something to fuse.
    pub predicted: Option<Prediction>,
    /// The largest difference between the adapted forms' outputs, relative to their norm.
    pub difference: f64,
}

/// What was measured of one form.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// The median of the kernels' milliseconds.
    pub ms: f64,
    /// How many runs that is the median of.
    pub runs: usize,
    /// Billions of floating-point operations a second, in matrix products.
    pub gflops: f64,
    /// Bytes of the arena and the parameters.
    pub bytes: usize,
    /// How many matrix products are run.
    pub products: usize,
}

/// What the cost model says that the linear regions take.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Prediction {
    /// Milliseconds as the model says.
    pub unfused_ms: f64,
    /// Milliseconds in the chosen form.
    pub fused_ms: f64,
}

/// Times over each other: medians over the rounds in which the forms took turns, so that what slows
/// a whole round down changes none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ratios {
    /// Below 1 where fusion pays.
    pub fused_to_unfused: f64,
    /// 1 and what adapters add when fused.
    pub fused_to_frozen: f64,
    /// 1 and what adapters add when not.
    pub unfused_to_frozen: f64,
}

impl Ratios {
    /// Percent that adapters add when they are not fused, and when they are.
    pub fn overheads(&self) -> [f64; 2] {
        [self.unfused_to_frozen, self.fused_to_frozen].map(|ratio| 100.0 * (ratio - 1.0))
    }
}

impl Row {
    /// Percent that the fused form's adapters would add if its products ran at the frozen form's rate:
    /// its floating-point operations over those of the frozen form. Nothing that moves is in it.
    pub fn least_overhead(&self) -> f64 {
        let work = |form: &Measurement| form.gflops * form.ms;
        100.0 * (work(&self.fused) / work(&self.frozen) - 1.0)
    }

    /// Whether the form that the cost model takes for faster is so, or both are equally fast: within
    /// 3% of each other. Nothing where it said nothing.
    pub fn is_ranked_right(&self) -> Option<bool> {
        let Prediction {
            unfused_ms,
            fused_ms,
        } = self.predicted?;
        let ratio = self.ratios.fused_to_unfused;
        Some((ratio - 1.0).abs() <= TIE || (fused_ms < unfused_ms) == (ratio < 1.0))
    }
}

pub(super) fn of(contenders: &Contenders, pass: Pass, difference: f64) -> Row {
    Row {
        pass,
        frozen: measurement(&contenders.frozen),
        unfused: measurement(&contenders.unfused),
        fused: measurement(&contenders.fused),
        merged: contenders.merged.as_ref().map(measurement),
        ratios: Ratios {
            fused_to_unfused: ratio(&contenders.fused, &contenders.unfused),
            fused_to_frozen: ratio(&contenders.fused, &contenders.frozen),
            unfused_to_frozen: ratio(&contenders.unfused, &contenders.frozen),
        },
        predicted: prediction(&contenders.fused),
        difference,
    }
}

fn ratio(a: &Contender, b: &Contender) -> f64 {
    median(a.seconds.iter().zip(&b.seconds).map(|(a, b)| a / b))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn measurement(contender: &Contender) -> Measurement {
    let plan = contender.engine.plan(contender.plan);
    let median = median(contender.seconds.iter().copied());
    let products = plan.steps.iter().map(|step| step.kernel.products());
    Measurement {
        ms: 1e3 * median,
        runs: contender.seconds.len(),
        gflops: plan.gemm_flops() as f64 / median / 1e9,
        bytes: plan.arena_bytes() + plan.parameter_bytes(),
        products: products.sum(),
    }
}

fn prediction(fused: &Contender) -> Option<Prediction> {
    let reports = fused.engine.reports(fused.plan);
    let total = |i: usize| -> f64 {
        let each = reports.iter().map(|own| own.count as f64 * own.seconds[i]);
        1e3 * each.sum::<f64>()
    };
    (!reports.is_empty()).then(|| Prediction {
        unfused_ms: total(0),
        fused_ms: total(1),
    })
}
