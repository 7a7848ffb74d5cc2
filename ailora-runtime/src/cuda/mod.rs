//! The CUDA backend: the libraries' matrix products, kernels generated from the plan for the rest,
//! one arena, and a captured graph for each plan.
//!
//! It is built without CUDA; the driver and the libraries are looked for when a [`Device`] is opened.

mod device;
mod error;
mod library;
mod source;

pub use device::Device;
pub use error::CudaError;
pub use source::Element;
