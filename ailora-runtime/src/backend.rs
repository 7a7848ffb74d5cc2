//! What executes plans: the processor, or a device.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use ailora_graph::{
    adapt::distribute,
    fuse::cost::Costs,
    ir::{Draw, Program, ProgramError},
};
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use crate::cuda::{self, Cuda, CudaSolver};
use crate::{
    cpu::Cpu,
    engine::EngineError,
    plan::Plan,
    run::{Outputs, Value},
    spectrum::Solver,
    weights::Weights,
};

/// Executes plans over one set of parameters.
#[derive(Debug)]
pub enum Backend {
    /// The processor.
    Cpu(Cpu),
    /// A CUDA device.
    #[cfg(feature = "cuda")]
    Cuda(Box<Cuda>),
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
    /// An adapted program in the form that loses nothing, before it is differentiated: where
    /// matrices are kept in less than float32, residual weights are not formed.
    ///
    /// # Errors
    /// None for a program that passed its own type checks.
    pub fn lossless(self, adapted: Program) -> Result<Program, ProgramError> {
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

impl Backend {
    /// The processor.
    pub fn cpu() -> Self {
        Self::Cpu(Cpu::new())
    }

    /// The backend that `device` names. Machine code is kept in `cache`.
    ///
    /// # Errors
    /// There is no such device, or what it needs is not installed; with [`Device::Auto`] neither is
    /// an error. A precision that the processor does not compute in, where it is what is opened.
    pub fn open(
        device: Device,
        precision: Precision,
        cache: Option<PathBuf>,
    ) -> Result<Self, EngineError> {
        let cpu = || match precision {
            Precision::F32 => Ok(Self::cpu()),
            _ => Err(EngineError::Precision(precision)),
        };
        let ordinal = match device {
            Device::Cpu => return cpu(),
            Device::Cuda(ordinal) => ordinal,
            Device::Auto => 0,
        };
        let opened = Self::cuda(ordinal, precision, cache);
        match opened {
            Err(why) if device == Device::Auto => {
                tracing::debug!(%why, "no device");
                cpu()
            }
            opened => opened,
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda(
        ordinal: usize,
        precision: Precision,
        cache: Option<PathBuf>,
    ) -> Result<Self, EngineError> {
        let cuda = Cuda::open(&cuda::Options {
            ordinal,
            precision,
            cache,
        })?;
        Ok(Self::Cuda(Box::new(cuda)))
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(_: usize, _: Precision, _: Option<PathBuf>) -> Result<Self, EngineError> {
        Err(EngineError::NoCuda)
    }

    /// What it is, for people.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu(_) => format!("CPU, {} threads", rayon::current_num_threads()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.device().name().to_owned(),
        }
    }

    /// What it computes in.
    pub fn precision(&self) -> Precision {
        match self {
            Self::Cpu(_) => Precision::F32,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.precision(),
        }
    }

    /// What products and sums take on it, roughly.
    pub fn costs(&self) -> Costs {
        match self {
            Self::Cpu(_) => Costs::default(),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda::costs(cuda.precision()),
        }
    }

    /// What decomposes large matrices, if not the processor.
    pub fn solver(&self) -> Option<Arc<dyn Solver>> {
        match self {
            Self::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => match CudaSolver::open(cuda.device().ordinal()) {
                Ok(solver) => Some(Arc::new(solver)),
                Err(why) => {
                    tracing::warn!(%why, "weights are decomposed by the processor");
                    None
                }
            },
        }
    }

    /// Makes everything ready that running a plan, the next in order, needs.
    ///
    /// # Errors
    /// The device's memory does not suffice, or it fails.
    pub fn add(&mut self, plan: &Plan) -> Result<(), EngineError> {
        match self {
            Self::Cpu(cpu) => cpu.reserve(plan)?,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.add(plan)?,
        }
        Ok(())
    }

    /// Executes `plan`, the one that was added as number `id`.
    ///
    /// # Errors
    /// An input or a parameter that is missing or does not fit; the device fails.
    pub fn run<'a>(
        &'a mut self,
        #[cfg_attr(
            not(feature = "cuda"),
            expect(unused_variables, reason = "a device keeps plans")
        )]
        id: usize,
        plan: &'a Plan,
        weights: &'a mut Weights,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
    ) -> Result<Outputs<'a>, EngineError> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.run(plan, weights.arrays(), inputs, draw)?),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => Ok(cuda.run(id, plan, weights, inputs, draw)?),
        }
    }

    /// As [`run`](Self::run); adds to `seconds` what each step of the plan took.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn profile<'a>(
        &'a mut self,
        #[cfg_attr(
            not(feature = "cuda"),
            expect(unused_variables, reason = "a device keeps plans")
        )]
        id: usize,
        plan: &'a Plan,
        weights: &'a mut Weights,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
        seconds: &mut Vec<f64>,
    ) -> Result<Outputs<'a>, EngineError> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.profile(plan, weights.arrays(), inputs, draw, seconds)?),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => Ok(cuda.profile(id, plan, weights, inputs, draw, seconds)?),
        }
    }

    /// Bytes of the arena: what is neither a parameter nor the optimiser's.
    pub fn arena_bytes(&self) -> usize {
        match self {
            Self::Cpu(cpu) => cpu.arena_bytes(),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.arena_bytes(),
        }
    }
}
