//! What executes plans: one trait, which the processor and devices implement, so that nothing else asks
//! which of them it is.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use ailora_graph::{
    adapt::distribute,
    fuse::{cost::Costs, layout::Pack},
    ir::{DType, Program, ProgramError},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    collective::CollectiveError,
    cpu::Cpu,
    cuda::{self, CudaError},
    optim::Stepper,
    plan::Plan,
    run::{Outputs, Run, RunError},
    spectrum::Solver,
    weights::Weights,
};

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

/// Where plans are executed, so far as planning has to know: the hardware need not be there.
pub trait Platform: fmt::Debug {
    /// What it computes in.
    fn precision(&self) -> Precision;

    /// What products and sums take on it, roughly.
    fn costs(&self) -> Costs;

    /// The plan of a program in the form that is best there.
    fn plan(&self, program: &Program) -> Plan;

    /// Bytes that training takes there, of plans over one set of parameters, of whose numbers `trained`
    /// are trained.
    fn footprint(&self, plans: &[Plan], trained: usize) -> Footprint;
}

/// Executes plans over one set of parameters, and makes training steps with them.
pub trait Backend: Platform + Stepper + Send {
    /// What it is, for people.
    fn name(&self) -> String;

    /// What decomposes large matrices, if not the processor.
    fn solver(&self) -> Option<Arc<dyn Solver>>;

    /// Lays parameters into a pack, where this backend keeps it.
    fn pack(&self, weights: &mut Weights, pack: &Pack);

    /// Makes everything ready that running a plan, the next in order, needs: also the parameters, where
    /// they are read here, in the type that is computed in.
    ///
    /// # Errors
    /// Memory does not suffice, or the device fails.
    fn add(&mut self, plan: &Plan, weights: &mut Weights) -> Result<(), BackendError>;

    /// Executes a plan that was added.
    ///
    /// # Errors
    /// An input or a parameter that is missing or does not fit; the device fails.
    fn run<'a>(&'a mut self, run: Run<'a, '_>) -> Result<Outputs<'a>, BackendError>;

    /// As [`run`](Self::run); adds to `seconds` what each step of the plan took.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn profile<'a>(
        &'a mut self,
        run: Run<'a, '_>,
        seconds: &mut Vec<f64>,
    ) -> Result<Outputs<'a>, BackendError>;

    /// Seconds of a run of those steps of a plan that are `timed`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn time(&mut self, run: Run<'_, '_>, timed: &[bool]) -> Result<f64, BackendError>;

    /// Bytes of the arena: what is neither a parameter nor the optimiser's.
    fn arena_bytes(&self) -> usize;

    /// The most bytes that plans take if `trained` numbers are trained: parameters, the largest arena,
    /// gradients and the optimiser's state.
    fn peak_bytes(&self, plans: &[Plan], weights: &Weights, trained: usize) -> usize;

    /// Bytes of what is allocated where it computes.
    ///
    /// # Errors
    /// The device does not answer.
    fn memory(&self) -> Result<MemoryUse, BackendError>;
}

/// Bytes that are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Now, by whomever, where the memory is a device's.
    pub used: usize,
    /// The most at a time, by this backend.
    pub peak: usize,
}

/// Bytes that training takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Of parameters.
    pub parameters: usize,
    /// Of activations, gradients on the way and scratch.
    pub arena: usize,
    /// Of gradients and the optimiser's state.
    pub state: usize,
    /// What products may work in.
    pub workspace: usize,
}

impl Footprint {
    /// All together.
    pub fn total(&self) -> usize {
        self.parameters + self.arena + self.state + self.workspace
    }
}

/// Which backend: `cpu`, `cuda` or `cuda:ORDINAL`, or `auto` for a device if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The CUDA device of this number, from 0.
    Cuda(usize),
    /// The first CUDA device, or else the processor.
    Auto,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", ordinal)) if ordinal.parse::<usize>().is_ok() => {
                Ok(Self::Cuda(ordinal.parse().unwrap_or_default()))
            }
            _ => Err(format!(
                "expected cpu, cuda, cuda:ORDINAL or auto, found `{text}`"
            )),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

/// What matrix products are computed in on a device, and activations and frozen matrices kept in.
/// Sums are float32 in all of them, and so are adapters, gradients and the optimiser's state. The
/// processor computes in float32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Float32.
    #[default]
    F32,
    /// Float32, of whose fractions products read the upper 10 bits.
    Tf32,
    /// Bfloat16.
    Bf16,
}

impl Precision {
    /// What matrices are kept in.
    pub fn matrices(self) -> DType {
        match self {
            Self::F32 | Self::Tf32 => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }

    /// An adapted program in the form that loses nothing, before it is differentiated: where
    /// matrices are kept in less than float32, residual weights are not formed.
    ///
    /// # Errors
    /// None for a program that passed its own type checks.
    pub fn split_residual(self, adapted: Program) -> Result<Program, ProgramError> {
        match self {
            Self::Bf16 => distribute(&adapted),
            Self::F32 | Self::Tf32 => Ok(adapted),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("expected f32, tf32 or bf16, found `{text}`")),
        }
    }
}

impl Device {
    /// Opens the backend. Machine code is kept in `cache`.
    ///
    /// # Errors
    /// There is no such device, or what it needs is not installed; with [`Auto`](Self::Auto) neither is
    /// an error. A precision that the processor does not compute in, where it is what is opened.
    pub fn open(
        self,
        precision: Precision,
        cache: Option<PathBuf>,
    ) -> Result<Box<dyn Backend>, BackendError> {
        let cuda = |ordinal| cuda::open(ordinal, precision, cache);
        match self {
            Self::Cpu => Ok(Box::new(cpu(precision)?)),
            Self::Cuda(ordinal) => Ok(cuda(ordinal)?),
            Self::Auto => match cuda(0) {
                Ok(device) => Ok(device),
                Err(why) => {
                    tracing::debug!(%why, "no device");
                    Ok(Box::new(cpu(precision)?))
                }
            },
        }
    }

    /// What planning has to know of the backend, which is opened only to find out what
    /// [`Auto`](Self::Auto) is.
    ///
    /// # Errors
    /// A precision that the processor does not compute in; a build without CUDA.
    pub fn platform(self, precision: Precision) -> Result<Box<dyn Platform>, BackendError> {
        Ok(match self {
            Self::Cpu => Box::new(cpu(precision)?),
            Self::Cuda(_) => cuda::platform(precision)?,
            Self::Auto => self.open(precision, None)?,
        })
    }
}

fn cpu(precision: Precision) -> Result<Cpu, BackendError> {
    match precision {
        Precision::F32 => Ok(Cpu::new()),
        _ => Err(BackendError::Precision(precision)),
    }
}
