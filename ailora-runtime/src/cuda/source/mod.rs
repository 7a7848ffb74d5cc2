//! Kernels of a plan as CUDA C++. Every size is written into the text, so that loops unroll and
//! layers of one shape share one kernel; only pointers are arguments. Nothing here needs a device.

use ailora_graph::ir::{Name, ops::matmul::MatMul};

use crate::plan::View;

/// What every kernel's text begins with: element types, random bits, reductions over a block.
pub(super) const PRELUDE: &str = include_str!("prelude.cuh");

/// The type of elements in device memory. Arithmetic is float32 whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE float32.
    F32,
    /// The upper half of a float32.
    Bf16,
    /// Ids.
    I32,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// An argument of a plan's kernel in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Operand {
    pub element: Element,
    /// Where it lies in its buffer, whose first element is aligned to 64 bytes.
    pub view: View,
}

/// What a parameter of a kernel points to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Param {
    /// The first element of one of the step's reads.
    Read(usize),
    /// The first element of one of the step's writes.
    Write(usize),
    /// The 64-bit key of a stream of random numbers in this step.
    Key(Name),
    /// A byte of the step's scratch memory, aligned to 64 bytes.
    Scratch(usize),
}

/// A kernel `extern "C" __global__ void KERNEL(...)` that follows the prelude.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Source {
    pub code: String,
    pub params: Vec<Param>,
    pub grid: [u32; 3],
    pub block: u32,
}

/// A matrix product on the device, `c = alpha op(a) op(b)`, or `c += ...`, over two nested batches.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Product {
    pub op: MatMul,
    /// Rows and columns of the result, and the depth.
    pub sizes: [usize; 3],
    pub alpha: f32,
    pub accumulate: bool,
    /// `a`, `b` and `c`.
    pub operands: [Matrix; 3],
    /// How often, and elements from one `a`, `b` and `c` to the next: the outer batch and the inner.
    pub batches: [(usize, [usize; 3]); 2],
}

/// A matrix in device memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    pub at: Param,
    /// Elements from there to the first.
    pub offset: usize,
    /// From one row to the next.
    pub stride: usize,
    pub element: Element,
}

/// What the device does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Kernel(Source),
    Product(Product),
}

/// What the device does for one step of a plan, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Actions {
    pub list: Vec<Action>,
    /// Bytes of memory that they work in.
    pub scratch: usize,
}
