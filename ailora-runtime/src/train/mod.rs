//! Training: steps, the loop over epochs, checkpoints, and events for observers.

mod checkpoint;
mod fit;
mod trainer;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use fit::{
    Batches, Better, Control, Evaluation, Event, Fit, FitError, Headline, Keep, Outcome, Progress,
    Workload, fit,
};
pub use trainer::{MicroBatch, StepReport, Steps, TrainError, Trainer};
