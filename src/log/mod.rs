//! Logs of a run's progress: JSON lines and TensorBoard events.

mod jsonl;
mod tensorboard;

pub use jsonl::JsonLines;
pub use tensorboard::TensorBoard;
