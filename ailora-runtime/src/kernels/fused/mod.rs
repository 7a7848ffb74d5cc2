//! Fused chains of element-wise and row-wise operations: the one kernel whose text is written as it is
//! needed.

mod convert;
mod cpu;
mod cuda;

use ailora_graph::ir::{
    Name,
    ops::elementwise::{Binary, Unary},
};

use super::{
    Operation,
    device::{self, Actions, Target},
};
use crate::kernels::host::Call;

/// A loop over the rows of a domain, in which every instruction handles one row at a time, in
/// registers of that width. Reads the loop's operands; writes its results.
#[derive(Clone, Debug, PartialEq)]
pub struct Loop {
    /// Dimensions of the domain before the last: their product counts the rows.
    pub rows: Vec<usize>,
    /// The last dimension.
    pub width: usize,
    /// Whether an instruction needs whole rows; if not, rows may be split.
    pub whole_rows: bool,
    /// How the step's reads are walked.
    pub operands: Vec<Access>,
    /// The instructions, in order.
    pub instructions: Vec<Instruction>,
    /// How many registers.
    pub registers: usize,
    /// What is stored in each of the step's writes when the instructions of a row are done.
    pub results: Vec<Stored>,
}

/// A register that a loop stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The register.
    pub register: usize,
    /// Strides of the result along the domain's row dimensions.
    pub rows: Vec<usize>,
    /// Whether it is large and nothing reads it soon, so that it had better not go into the caches.
    pub is_non_temporal: bool,
}

/// How a loop walks one of its operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Strides along the domain's row dimensions.
    pub rows: Vec<usize>,
    /// 1, or 0 for one element a row.
    pub column: usize,
}

/// Where an instruction finds an argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// A register.
    Register(usize),
    /// An operand of the loop.
    Operand(usize),
    /// A number.
    Number(f32),
}

/// One operation on a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// What is computed.
    pub op: LoopOp,
    /// Its arguments.
    pub args: Vec<Source>,
    /// The register of the result, which is none of the arguments.
    pub to: usize,
}

/// What a loop can compute in a row.
#[derive(Clone, Debug, PartialEq)]
pub enum LoopOp {
    /// The argument itself.
    Copy,
    /// Element by element.
    Unary(Unary),
    /// Element by element.
    Binary(Binary),
    /// Zeroes elements by their position in the domain.
    Dropout {
        /// The probability.
        rate: f64,
        /// The stream of random numbers.
        stream: Name,
    },
    /// Softmax of the row.
    Softmax,
    /// From `y` and `dy`.
    SoftmaxGrad,
    /// Unit variance of the row, and zero mean if centred.
    Normalize {
        /// Whether the mean is subtracted.
        centered: bool,
        /// Added to the variance.
        eps: f32,
    },
    /// From `x` and `dy`.
    NormalizeGrad {
        /// Whether the mean is subtracted.
        centered: bool,
        /// Added to the variance.
        eps: f32,
    },
}

impl LoopOp {
    /// Whether it needs its whole row at once.
    pub fn needs_row(&self) -> bool {
        matches!(
            self,
            Self::Softmax | Self::SoftmaxGrad | Self::Normalize { .. } | Self::NormalizeGrad { .. }
        )
    }
}

impl Operation for Loop {
    fn label(&self) -> &'static str {
        "fused loop"
    }

    fn takes_gaps(&self, _: usize) -> bool {
        true
    }

    fn run(&self, call: &Call<'_>) {
        cpu::run(self, call);
    }

    fn actions(&self, reads: &[device::Operand], writes: &[device::Operand], _: Target) -> Actions {
        cuda::source(self, reads, writes).into()
    }
}
