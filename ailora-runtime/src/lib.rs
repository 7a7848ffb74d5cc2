//! How `ailora` computes: plans, the CPU backend, initialisation, optimisation, training.
//!
//! [`plan()`](plan::plan) turns a program into kernels over fixed memory and a [`backend`] executes them;
//! an [`Engine`](engine::Engine) holds one set of parameters and a plan for each shape of input.
//! [`init`] gives adapters their start from the [`spectrum`] of the weights; [`train`] moves them.

pub mod backend;
pub mod collective;
pub mod costs;
pub mod cpu;
#[cfg_attr(not(feature = "cuda"), path = "no_cuda.rs")]
pub mod cuda;
pub mod engine;
pub mod init;
pub mod kernels;
pub mod optim;
pub mod passes;
pub mod plan;
pub mod run;
pub mod spectrum;
pub mod store;
pub mod train;
pub mod weights;
