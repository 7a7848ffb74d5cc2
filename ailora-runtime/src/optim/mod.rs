//! Optimisation: AdamW with parameter groups, schedules, clipping.

mod adamw;
mod schedule;

pub use adamw::{AdamW, AdamWConfig, Group, Moments};
pub use schedule::{Schedule, ScheduleKind};

/// The Euclidean norm of several gradients as one vector.
pub fn global_norm<'a>(gradients: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    let squares = gradients
        .into_iter()
        .map(|gradient| gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>());
    squares.sum::<f64>().sqrt()
}
