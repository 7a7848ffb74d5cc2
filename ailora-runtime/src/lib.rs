//! How `ailora` computes: plans, the CPU backend, initialisation, optimisation, training.

pub mod cpu;
pub mod plan;
pub mod spectrum;
pub mod store;
