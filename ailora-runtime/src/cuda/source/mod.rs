//! Kernels of a plan as CUDA C++. Every size is written into the text, so that loops unroll and
//! layers of one shape share one kernel; only pointers are arguments. Nothing here needs a device.

mod attention;
mod loops;
mod outer;
mod softmax;
mod tensors;
#[cfg(test)]
pub(super) mod tests;
mod text;

use ailora_graph::ir::{
    Name,
    ops::{
        elementwise::Binary,
        matmul::{Dims, MatMul},
        merge::Merge,
    },
};

use crate::plan::{Instruction, Kernel, Loop, LoopOp, Source as From, Step, Stored, View};

/// What every kernel's text begins with: element types, random bits, reductions over a block.
pub(super) const PRELUDE: &str = include_str!("prelude.cuh");

/// What kernels need that multiply by tensor cores.
const TENSOR_CORES: &str = include_str!("tensor_cores.cuh");

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

/// The device that kernels are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Bytes of memory that a block may share.
    pub shared: usize,
    /// Its multiprocessors.
    pub processors: usize,
    /// Whether warpgroups multiply matrices straight from shared memory.
    pub warpgroups: bool,
}

impl Target {
    /// A large device of compute capability 9.0.
    pub const HOPPER: Self = Self {
        shared: 227 << 10,
        processors: 132,
        warpgroups: true,
    };
    /// A large device of compute capability 8.0.
    pub const AMPERE: Self = Self {
        shared: 160 << 10,
        processors: 108,
        warpgroups: false,
    };
}

/// An argument of a plan's kernel in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Operand {
    pub element: Element,
    /// Where it lies in its buffer, whose first element is aligned to 64 bytes.
    pub view: View,
}

impl Operand {
    /// From one row to the next, of rows of `width`.
    fn row_stride(&self, width: usize) -> usize {
        match self.view.is_dense() {
            true => width,
            false => self.view.stride,
        }
    }
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
    /// Bytes of memory that a block shares, beside what the text declares.
    pub shared: usize,
}

/// A matrix product on the device, `d = alpha op(a) op(b)`, or `d = alpha op(a) op(b) + c`, over two
/// nested batches.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Product {
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
    Product(Box<Product>),
}

impl Action {
    fn product(product: Product) -> Self {
        Self::Product(Box::new(product))
    }
}

/// What the device does for one step of a plan, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Actions {
    pub list: Vec<Action>,
    /// Bytes of memory that they work in.
    pub scratch: usize,
}

/// What a device does for a step whose buffers hold elements of these types.
pub(super) fn actions(step: &Step, elements: &[Element], target: Target) -> Actions {
    let operands = |views: &[View]| -> Vec<Operand> {
        let operand = |&view: &View| Operand {
            element: elements[view.buffer],
            view,
        };
        views.iter().map(operand).collect()
    };
    let (reads, writes) = (operands(&step.reads), operands(&step.writes));
    match &step.kernel {
        Kernel::Gemm {
            op,
            dims,
            alpha,
            accumulate,
        } => product(*op, *dims, *alpha, *accumulate, &reads, writes[0]),
        Kernel::Outer { depth, products } => {
            outer::actions(*depth, products, &reads, &writes, target)
        }
        Kernel::Merge { op, shape } => merge(op, *shape, &reads, &writes),
        Kernel::Loop(walk) => loops::source(walk, &reads, &writes).into(),
        Kernel::Attention { op, dims, biases } => {
            let task = attention::Task::new(op, *dims, *biases, &reads);
            attention::forward(task, writes[0], target)
        }
        Kernel::AttentionGrad {
            op,
            dims,
            biases,
            wants,
        } => {
            let task = attention::Task::new(op, *dims, *biases, &reads);
            attention::backward(task, *wants, &writes, target)
        }
        Kernel::Rotary { width, half } => tensors::rotary(*width, *half, &reads, &writes).into(),
        Kernel::Gather { width } => tensors::gather(*width, &reads, &writes).into(),
        Kernel::ScatterAdd { width } => tensors::scatter_add(*width, &reads, &writes),
        Kernel::TakeAlong { op, widths } => {
            tensors::take_along(*op, *widths, &reads, &writes).into()
        }
        Kernel::TakeAlongGrad { op, widths } => {
            tensors::take_along_grad(*op, *widths, &reads, &writes)
        }
        Kernel::Reduce {
            combine,
            shape,
            strides,
        } => tensors::reduce(*combine, shape, strides, &reads, &writes),
        Kernel::Copy(moved) => tensors::copy(moved, &reads, &writes),
        Kernel::CrossEntropy { classes, smoothing } => {
            tensors::cross_entropy(*classes, *smoothing, &reads, &writes)
        }
        Kernel::CrossEntropyGrad { classes, smoothing } => {
            tensors::cross_entropy_grad(*classes, *smoothing, &reads, &writes)
        }
    }
}

impl std::convert::From<Source> for Actions {
    fn from(kernel: Source) -> Self {
        Self {
            list: vec![Action::Kernel(kernel)],
            scratch: 0,
        }
    }
}

/// `c = alpha op(a) op(b)`, or `c += ...`.
fn product(
    op: MatMul,
    dims: Dims,
    alpha: f32,
    accumulate: bool,
    reads: &[Operand],
    to: Operand,
) -> Actions {
    let Dims {
        batch,
        m,
        n,
        k,
        batched_b,
    } = dims;
    let mut actions = Actions::default();
    let turned = |[rows, columns]: [usize; 2], turned| match turned {
        true => [columns, rows],
        false => [rows, columns],
    };
    let shapes = [turned([m, k], op.trans_a), turned([k, n], op.trans_b)];
    // Both sides have one type, the narrower, to which the other is rounded; and so it is for a
    // narrow result, which the library makes of narrow sides only.
    let mut all = reads[..2].iter().chain([&to]);
    let narrow = all.any(|operand| operand.element == Element::Bf16);
    let common = if narrow { Element::Bf16 } else { Element::F32 };
    let mut side = |i: usize| {
        let [rows, width] = shapes[i];
        let (at, read) = actions.of_type(i, reads[i], common);
        let stride = read.row_stride(width);
        (matrix(at, stride, common), rows * stride)
    };
    let [a, b] = [side(0), side(1)];
    let stride = to.row_stride(n);
    let d = (matrix(Param::Write(0), stride, to.element), m * stride);
    let c = match reads.get(2) {
        Some(&read) => {
            let (at, read) = actions.of_type(2, read, to.element);
            let stride = read.row_stride(n);
            (matrix(at, stride, to.element), m * stride)
        }
        None => d.clone(),
    };
    let steps = [a.1, if batched_b { b.1 } else { 0 }, c.1, d.1];
    actions.list.push(Action::product(Product {
        op,
        sizes: [m, n, k],
        alpha,
        accumulate,
        operands: [a.0, b.0, c.0, d.0],
        batches: [(1, [0; 4]), (batch, steps)],
    }));
    actions
}

fn matrix(at: Param, stride: usize, element: Element) -> Matrix {
    Matrix {
        at,
        offset: 0,
        stride,
        element,
    }
}

impl Actions {
    /// Read number `i` as elements of a type: where it is, or converted, without gaps.
    fn of_type(&mut self, i: usize, read: Operand, element: Element) -> (Param, Operand) {
        if read.element == element {
            return (Param::Read(i), read);
        }
        self.moved(i, read, None, element)
    }

    /// Read number `i` in rows as wide as another read, a bias that is added to each; as elements of
    /// a type, without gaps.
    fn biased(
        &mut self,
        i: usize,
        mut read: Operand,
        bias: (usize, Operand),
        element: Element,
    ) -> (Param, Operand) {
        let width = bias.1.view.len();
        if read.view.is_dense() {
            read.view.rows = read.view.len() / width.max(1);
            (read.view.width, read.view.stride) = (width, width);
        }
        self.moved(i, read, Some(bias), element)
    }

    fn moved(
        &mut self,
        i: usize,
        read: Operand,
        bias: Option<(usize, Operand)>,
        element: Element,
    ) -> (Param, Operand) {
        let at = Param::Scratch(self.scratch);
        let View { rows, width, .. } = read.view;
        let to = Operand {
            element,
            view: View::dense(0, 0, rows * width),
        };
        self.scratch += (element.bytes() * rows * width).next_multiple_of(64);
        let walk = Loop {
            rows: vec![rows],
            width,
            whole_rows: false,
            operands: std::iter::once(read.view.stride)
                .chain(bias.map(|_| 0))
                .map(|stride| crate::plan::Operand {
                    rows: vec![stride],
                    column: 1,
                })
                .collect(),
            instructions: vec![Instruction {
                op: match bias {
                    Some(_) => LoopOp::Binary(Binary::Add),
                    None => LoopOp::Copy,
                },
                args: (0..=usize::from(bias.is_some()))
                    .map(From::Operand)
                    .collect(),
                to: 0,
            }],
            registers: 1,
            results: vec![Stored {
                register: 0,
                rows: vec![width],
                is_distant: false,
            }],
        };
        let reads: Vec<Operand> = [read]
            .into_iter()
            .chain(bias.map(|(_, bias)| bias))
            .collect();
        let mut kernel = loops::source(&walk, &reads, &[to]);
        for param in &mut kernel.params {
            *param = match (&param, bias) {
                (Param::Read(1), Some((bias, _))) => Param::Read(bias),
                (Param::Read(_), _) => Param::Read(i),
                _ => at.clone(),
            };
        }
        self.list.push(Action::Kernel(kernel));
        (at, to)
    }
}

/// A pack with its adapters in its weights: what lies around them is copied, and their products are
/// added.
fn merge(op: &Merge, shape: [usize; 2], reads: &[Operand], writes: &[Operand]) -> Actions {
    let mut actions = Actions::from(tensors::merge(op, shape, reads, writes));
    let [m, n] = op.corner;
    let block = |at: Param, [row, column]: [usize; 2], operand: Operand| {
        let stride = operand.row_stride(shape[1]);
        Matrix {
            at,
            offset: row * stride + column,
            stride,
            element: operand.element,
        }
    };
    for update in &op.updates {
        let ([row, column], inner) = (update.at, update.inner);
        let up = block(Param::Read(0), [row, n + inner], reads[0]);
        let down = block(Param::Read(0), [m + inner, column], reads[0]);
        let weights = block(Param::Write(0), [row, column], writes[0]);
        actions.list.push(Action::product(Product {
            op: MatMul {
                trans_a: false,
                trans_b: false,
            },
            sizes: update.sizes(),
            alpha: op.scale.0 as f32,
            accumulate: true,
            operands: [up, down, weights.clone(), weights],
            batches: [(1, [0; 4]), (1, [0; 4])],
        }));
    }
    actions
}
