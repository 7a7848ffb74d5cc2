//! How `ailora` computes: plans, the CPU and CUDA backends, initialisation, optimisation, training.
//!
//! [`plan()`](plan::plan) turns a program into a sequence of kernels over fixed memory, which a [`backend`]
//! executes. An [`Engine`](engine::Engine) holds one set of parameters and a plan for each shape of input.
//! [`init`] starts adapters from the [`spectrum`] of the weights; [`train`] trains them.

pub mod backend;
pub mod collective;
pub mod costs;
pub mod cpu;
#[cfg_attr(not(feature = "cuda"), path = "no_cuda/mod.rs")]
pub mod cuda;
pub mod device;
pub mod engine;
pub mod init;
pub mod kernels;
pub mod optim;
pub mod passes;
pub mod plan;
pub mod run;
pub mod spectrum;
pub mod store;
pub mod switch;
pub mod torch_random;
pub mod train;
mod view;
pub mod weights;
