//! Training: steps, the loop over epochs, checkpoints, and events for observers.

mod checkpoint;
mod fit;
mod progress;
mod trainer;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use fit::{Batches, Control, Event, Fit, FitError, Outcome, Workload, fit};
pub use progress::{BestError, Better, Evaluation, Headline, Keep, Progress};
pub use trainer::{MicroBatch, StepReport, Steps, TrainError, Trainer};
