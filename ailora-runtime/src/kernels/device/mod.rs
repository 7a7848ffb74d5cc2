//! What kernels become on a device: CUDA C++, with every size in it, so that loops unroll and layers of one
//! shape share one kernel; only pointers are arguments. Nothing here needs a device.

pub(crate) mod text;

use ailora_graph::ir::{DType, Name, ops::matmul::MatMul};

use crate::view::View;

/// What kernels need that multiply by tensor cores.
pub(crate) const TENSOR_CORES: &str = include_str!("tensor_cores.cuh");

/// The device that kernels are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Bytes of memory that a block may share.
    pub shared: usize,
    /// Its multiprocessors.
    pub processors: usize,
    /// Whether warpgroups multiply matrices straight from shared memory.
    pub warpgroups: bool,
}

/// An argument of a plan's kernel in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Operand {
    pub dtype: DType,
    /// Where it lies in its buffer, whose first element is aligned to 64 bytes.
    pub view: View,
}

impl Operand {
    /// From one row to the next, of rows of `width`.
    pub fn row_stride(&self, width: usize) -> usize {
        match self.view.is_dense() {
            true => width,
            false => self.view.stride,
        }
    }
}

/// What a parameter of a kernel points to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Param {
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
pub(crate) struct Source {
    pub code: String,
    pub params: Vec<Param>,
    pub grid: [u32; 3],
    pub block: u32,
    /// Bytes of memory that a block shares, beside what the text declares.
    pub shared: usize,
}

/// A matrix product on the device, `d = alpha op(a) op(b)`, or `d = alpha op(a) op(b) + c`, over two
/// nested batches.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Product {
    pub op: MatMul,
    /// Rows and columns of the result, and the depth.
    pub sizes: [usize; 3],
    pub alpha: f32,
    pub accumulate: bool,
    /// `a`, `b`, `c` and `d`; `c` may be `d`, and is if nothing is added.
    pub operands: [Matrix; 4],
    /// How often, and elements from one `a`, `b`, `c` and `d` to the next: the outer batch and the
    /// inner.
    pub batches: [(usize, [usize; 4]); 2],
}

/// A matrix in device memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    pub at: Param,
    /// Elements from there to the first.
    pub offset: usize,
    /// From one row to the next.
    pub stride: usize,
    pub dtype: DType,
}

/// What the device does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Kernel(Source),
    Product(Box<Product>),
}

impl Action {
    pub fn product(product: Product) -> Self {
        Self::Product(Box::new(product))
    }
}

/// What the device does for one step of a plan, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Actions {
    pub list: Vec<Action>,
    /// Bytes of memory that they work in.
    pub scratch: usize,
}

impl From<Source> for Actions {
    fn from(kernel: Source) -> Self {
        Self {
            list: vec![Action::Kernel(kernel)],
            scratch: 0,
        }
    }
}

impl Extend<Source> for Actions {
    fn extend<T: IntoIterator<Item = Source>>(&mut self, kernels: T) {
        self.list.extend(kernels.into_iter().map(Action::Kernel));
    }
}

/// A matrix from where a parameter points.
pub(crate) fn matrix(at: Param, stride: usize, dtype: DType) -> Matrix {
    Matrix {
        at,
        offset: 0,
        stride,
        dtype,
    }
}
