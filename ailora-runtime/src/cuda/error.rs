use cudarc::{cublas, cublaslt, cusolver::result::CusolverError, driver::DriverError};
use thiserror::Error;

use crate::run::RunError;

/// What can go wrong on the way to a device, and on it.
#[derive(Debug, Error)]
pub enum CudaError {
    /// A library is missing.
    #[error(
        "{name} was not found on the loader's path nor in: {looked}. Install CUDA 12 or newer, or \
         name the folder of its libraries in AILORA_CUDA_LIBRARIES; `--device cpu` needs neither"
    )]
    Library {
        /// Its name, without version.
        name: String,
        /// Folders.
        looked: String,
    },
    /// There is no such device.
    #[error("there is no CUDA device {ordinal}: the driver shows {count}")]
    NoDevice {
        /// The one that was asked for, from 0.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The device cannot run the kernels.
    #[error("{name} has compute capability {major}.{minor}; 8.0 or newer is needed")]
    TooOld {
        /// The device.
        name: String,
        /// Its compute capability.
        major: i32,
        /// The second digit.
        minor: i32,
    },
    /// Memory does not suffice.
    #[error(
        "out of memory on the device: {what} needs {wanted} MiB, {free} of {total} MiB are free. \
         Take a smaller batch or shorter sequences"
    )]
    OutOfMemory {
        /// What it is for.
        what: String,
        /// MiB asked for.
        wanted: usize,
        /// MiB free.
        free: usize,
        /// MiB of the device.
        total: usize,
    },
    /// A kernel did not compile.
    #[error("a kernel did not compile for {arch}; please report this:\n{log}\n{code}")]
    Compile {
        /// The architecture.
        arch: String,
        /// What the compiler said.
        log: String,
        /// The kernel.
        code: String,
    },
    /// A call into the driver failed.
    #[error("{what}: {error}")]
    Driver {
        /// What was tried.
        what: String,
        /// The driver's error.
        error: DriverError,
    },
    /// An input or a parameter does not fit.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A plan leaves no gradient, or no loss.
    #[error("the compiled program has no output `{0}`; training needs a loss and its gradients")]
    NoOutput(String),
    /// A matrix product failed.
    #[error("a matrix product failed: {0}")]
    Product(String),
    /// A decomposition failed.
    #[error("a decomposition failed: {0}")]
    Decomposition(#[from] CusolverError),
}

impl From<cublas::result::CublasError> for CudaError {
    fn from(error: cublas::result::CublasError) -> Self {
        Self::Product(error.to_string())
    }
}

impl From<cublaslt::result::CublasError> for CudaError {
    fn from(error: cublaslt::result::CublasError) -> Self {
        Self::Product(error.to_string())
    }
}

/// Names what a call of the driver was for.
pub(super) trait During<T> {
    fn during(self, what: &str) -> Result<T, CudaError>;
}

impl<T> During<T> for Result<T, DriverError> {
    fn during(self, what: &str) -> Result<T, CudaError> {
        self.map_err(|error| CudaError::Driver {
            what: what.to_owned(),
            error,
        })
    }
}
