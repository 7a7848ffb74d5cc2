//! Under construction.

pub mod batch;
pub mod metrics;
pub mod task;
pub mod tokenizer;
