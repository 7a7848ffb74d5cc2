//! Which backend a run takes, by name: the one place that knows them all.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    backend::{Backend, BackendError, Platform, Precision},
    cpu::Cpu,
    cuda,
};

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
