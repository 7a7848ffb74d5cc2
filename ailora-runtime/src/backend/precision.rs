use std::{fmt, str::FromStr};

use ailora_graph::{
    adapt::distribute,
    ir::{DType, Program, ProgramError},
};
use serde::{Deserialize, Serialize};

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
