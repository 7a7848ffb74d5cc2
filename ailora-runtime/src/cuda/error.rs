use cudarc::{
    cublas, cublaslt,
    cusolver::result::CusolverError,
    driver::{DriverError, sys::CUresult},
};
use thiserror::Error;

use crate::run::RunError;

/// What can go wrong on the way to a device, and on it.
#[derive(Debug, Error)]
pub enum CudaError {
    /// A library is missing.
    #[error(
        "{name} was not found on the loader's path{looked}. Install CUDA 12 or newer, or \
         name the folder of its libraries in AILORA_CUDA_LIBRARIES; `--device cpu` needs neither"
    )]
    Library {
        /// Its name, without version.
        name: String,
        /// The folders where it is not either.
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
         Take a smaller batch, shorter sequences or --gradient-checkpointing"
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
    /// The device failed under what runs on it, and this process cannot use it any more.
    #[error(
        "{what}: {error}. The device is lost to this process: start again, with --resume to go on \
         from the last checkpoint; `nvidia-smi` and the system's log say more"
    )]
    Lost {
        /// What was tried.
        what: String,
        /// The driver's error.
        error: DriverError,
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
        let what = what.to_owned();
        self.map_err(|error| match is_final(error) {
            true => CudaError::Lost { what, error },
            false => CudaError::Driver { what, error },
        })
    }
}

/// Whether the driver gives this error for whatever comes later, too.
fn is_final(DriverError(error): DriverError) -> bool {
    use CUresult::*;
    matches!(
        error,
        CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_CONTAINED
            | CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_EXTERNAL_DEVICE
            | CUDA_ERROR_UNKNOWN
    )
}
