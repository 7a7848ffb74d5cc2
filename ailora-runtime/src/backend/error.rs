use thiserror::Error;

use super::precision::Precision;
use crate::{collective::CollectiveError, cuda::error::CudaError, run::RunError};

/// A backend that cannot be opened, or that fails.
#[derive(Debug, Error)]
pub enum BackendError {
    /// An input or a parameter does not fit.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The device failed, or there is none.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The processor, in another precision than its own.
    #[error(
        "the CPU computes in f32 only, not in {0}: leave --precision out, or take a device (--device \
         cuda) that is there"
    )]
    Precision(Precision),
    /// The ranks cannot go on together.
    #[error(transparent)]
    Ranks(#[from] CollectiveError),
    /// A program that is trained has no output of this name.
    #[error("the compiled program has no output `{0}`; training needs a loss and its gradients")]
    NoOutput(String),
}
