//! What stands for CUDA in a build without it: the same functions, which say so.

pub(crate) mod error;

pub use error::CudaError;

use std::path::PathBuf;

use crate::{
    backend::{Backend, Platform, Precision},
    plan::Plan,
};

/// No device.
///
/// # Errors
/// Always.
pub fn open(_: usize, _: Precision, _: Option<PathBuf>) -> Result<Box<dyn Backend>, CudaError> {
    Err(CudaError)
}

/// No device to plan for.
///
/// # Errors
/// Always.
pub fn platform(_: Precision) -> Result<Box<dyn Platform>, CudaError> {
    Err(CudaError)
}

/// No compiler of kernels.
///
/// # Errors
/// Always.
pub fn compile(_: &[Plan], _: &str, _: Option<PathBuf>) -> Result<usize, CudaError> {
    Err(CudaError)
}
