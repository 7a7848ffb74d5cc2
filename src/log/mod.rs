//! What a run leaves behind for people and programs that watch it.

mod jsonl;
mod tensorboard;

pub use jsonl::JsonLines;
pub use tensorboard::TensorBoard;
