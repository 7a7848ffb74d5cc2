use serde::{Deserialize, Serialize};

/// How the learning rate falls after its warmup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// In a straight line to zero.
    #[default]
    Linear,
    /// Along half a cosine to zero (Loshchilov & Hutter, 2017).
    Cosine,
    /// Not at all.
    Constant,
}

/// The factor on the learning rate at each step, which is transformers': it rises in a straight line
/// during the warmup, from 0 at its first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What it does after the warmup.
    pub kind: ScheduleKind,
    /// Steps of the warmup.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
}

impl Schedule {
    /// A schedule of `total` steps, over the share `warmup` of which the rate rises: as many whole steps
    /// as hold it, as in transformers.
    pub fn new(kind: ScheduleKind, warmup: f64, total: u64) -> Self {
        Self {
            kind,
            warmup: (warmup * total as f64).ceil() as u64,
            total,
        }
    }

    /// The factor at a step, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let whole = self.total.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / whole).min(1.0);
        match self.kind {
            ScheduleKind::Linear => 1.0 - done,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            ScheduleKind::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_rise_and_fall() {
        let at = |kind, step| {
            Schedule {
                kind,
                warmup: 4,
                total: 20,
            }
            .factor(step)
        };
        for kind in [
            ScheduleKind::Linear,
            ScheduleKind::Cosine,
            ScheduleKind::Constant,
        ] {
            assert_eq!([0, 1, 4].map(|step| at(kind, step)), [0.0, 0.25, 1.0]);
        }
        assert_eq!(
            [8, 12, 20, 25].map(|s| at(ScheduleKind::Linear, s)),
            [0.75, 0.5, 0.0, 0.0]
        );
        assert!((at(ScheduleKind::Cosine, 12) - 0.5).abs() < 1e-12);
        assert!((at(ScheduleKind::Cosine, 8) - 0.853_553_390_593).abs() < 1e-12);
        assert_eq!(at(ScheduleKind::Cosine, 20), 0.0);
        assert_eq!(at(ScheduleKind::Constant, 100), 1.0);
        assert_eq!(
            Schedule {
                kind: ScheduleKind::Linear,
                warmup: 0,
                total: 0
            }
            .factor(0),
            1.0
        );
    }
}
