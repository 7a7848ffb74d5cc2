use thiserror::Error;

/// A device was asked for of a build that knows none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this build has no CUDA: build with the feature `cuda`, or take the device `cpu`")]
pub struct CudaError;
