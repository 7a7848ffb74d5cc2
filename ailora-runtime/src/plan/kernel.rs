use ailora_graph::ir::{
    Name,
    ops::{
        attention::{Attention, Dims as AttentionDims},
        elementwise::{Binary, Unary},
        matmul::{Dims as MatMulDims, MatMul},
        merge::{Merge, Update},
        reduce::Combine,
        take_along::TakeAlong,
    },
};

/// What a backend executes. The views that each one reads and writes are in its step, in the order
/// given here.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// `c = alpha op(a) op(b)`, or `c += ...`. Reads `a`, `b` and, if it lies elsewhere, what the
    /// product is added to; writes `c`.
    Gemm {
        /// Which sides are transposed.
        op: MatMul,
        /// The sizes.
        dims: MatMulDims,
        /// The factor on the product.
        alpha: f32,
        /// Whether the product is added to something: what `c` holds, or the third read.
        accumulate: bool,
    },
    /// Sums of outer products of rows, as adapters' gradients are: `c = alpha a^T b` for several pairs
    /// `a`, `b` of so many rows. Reads `a` and `b` of each pair; writes `c` of each.
    Outer {
        /// Rows of every `a` and `b`.
        depth: usize,
        /// The products.
        products: Vec<Outer>,
    },
    /// Reads a pack; writes it with its adapters in its weights.
    Merge {
        /// The operation.
        op: Merge,
        /// The pack's rows and columns.
        shape: [usize; 2],
    },
    /// A fused chain of element-wise and row-wise operations. Reads the loop's operands; writes its
    /// results.
    Loop(Loop),
    /// Reads `q, k, v, mask` and the biases; writes the output.
    Attention {
        /// The operation.
        op: Attention,
        /// The sizes.
        dims: AttentionDims,
        /// To which of `q, k, v` a bias is added first: a number for each column.
        biases: [bool; 3],
    },
    /// Reads `q, k, v, mask, dy` and the biases; writes the wanted gradients.
    AttentionGrad {
        /// The forward operation.
        op: Attention,
        /// The sizes.
        dims: AttentionDims,
        /// To which of `q, k, v` a bias is added first: a number for each column.
        biases: [bool; 3],
        /// Which of `dq, dk, dv` are wanted.
        wants: [bool; 3],
    },
    /// Reads vectors, cosines and sines; writes the turned vectors.
    Rotary {
        /// Width of a row of the vectors.
        width: usize,
        /// Half the width of a head.
        half: usize,
    },
    /// Reads a table and ids; writes the rows.
    Gather {
        /// Width of a row.
        width: usize,
    },
    /// Reads ids and rows; writes a table of their sums.
    ScatterAdd {
        /// Width of a row.
        width: usize,
    },
    /// Reads matrices and ids `[s, t]`, the same for all; writes the elements `[s, t]` of each.
    TakeAlong {
        /// Which row of a matrix is read for which place.
        op: TakeAlong,
        /// Columns of a matrix and of the ids.
        widths: [usize; 2],
    },
    /// Reads ids `[s, t]` and elements; writes matrices of their sums.
    TakeAlongGrad {
        /// Which row of a matrix is added to for which place.
        op: TakeAlong,
        /// Columns of a matrix and of the ids.
        widths: [usize; 2],
    },
    /// Reads a tensor's rows; writes it combined along axes of `shape` where `strides` is 0.
    Reduce {
        /// How elements are combined.
        combine: Combine,
        /// Dimensions of the argument.
        shape: Vec<usize>,
        /// Strides of the result along them.
        strides: Vec<usize>,
    },
    /// Reads a tensor; writes its elements elsewhere, over zeros if they do not fill the result.
    Copy(Strided),
    /// Reads logits and labels; writes the mean loss.
    CrossEntropy {
        /// Columns of the logits.
        classes: usize,
        /// How much of each target is spread over all classes.
        smoothing: f32,
    },
    /// Reads logits and labels; writes the gradient.
    CrossEntropyGrad {
        /// Columns of the logits.
        classes: usize,
        /// How much of each target is spread over all classes.
        smoothing: f32,
    },
}

impl Kernel {
    /// How many matrix products it is, beside those of attention.
    pub fn products(&self) -> usize {
        match self {
            Self::Gemm { .. } => 1,
            Self::Merge { op, .. } => op.updates.len(),
            Self::Outer { products, .. } => products.len(),
            _ => 0,
        }
    }

    /// Multiply-add operations of the matrix products in it, times two.
    pub fn gemm_flops(&self) -> u64 {
        let product = |m: usize, n: usize, k: usize| 2 * (m * n * k) as u64;
        match self {
            Self::Gemm { dims, .. } => dims.batch as u64 * product(dims.m, dims.n, dims.k),
            Self::Outer { depth, products } => {
                let each = products
                    .iter()
                    .map(|p| product(p.shape[0], p.shape[1], *depth));
                each.sum()
            }
            Self::Merge { op, .. } => {
                let updates = op.updates.iter().map(Update::sizes);
                updates.map(|[m, n, k]| product(m, n, k)).sum()
            }
            Self::Attention { dims, .. } => {
                2 * (dims.batch * dims.heads) as u64 * product(dims.queries, dims.keys, dims.depth)
            }
            Self::AttentionGrad { dims, .. } => {
                5 * (dims.batch * dims.heads) as u64 * product(dims.queries, dims.keys, dims.depth)
            }
            _ => 0,
        }
    }
}

/// One of several sums of outer products.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outer {
    /// Columns of `a` and of `b`.
    pub shape: [usize; 2],
    /// The factor on the product.
    pub alpha: f32,
}

/// A rearrangement: element `i` of `shape` goes from `from · i + from_start` to `to · i + to_start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strided {
    /// Dimensions of what is moved.
    pub shape: Vec<usize>,
    /// Strides of the source.
    pub from: Vec<usize>,
    /// First element of the source.
    pub from_start: usize,
    /// Strides of the destination.
    pub to: Vec<usize>,
    /// First element of the destination.
    pub to_start: usize,
    /// Whether the destination is zeroed before.
    pub clear: bool,
}

impl Strided {
    /// All elements of `shape`, from strides to strides.
    pub(super) fn between(shape: &[usize], from: Vec<usize>, to: Vec<usize>) -> Self {
        Self {
            shape: shape.to_vec(),
            from,
            from_start: 0,
            to,
            to_start: 0,
            clear: false,
        }
    }
}

/// A loop over the rows of a domain, in which every instruction handles one row at a time, in
/// registers of that width.
#[derive(Clone, Debug)]
pub struct Loop {
    /// Dimensions of the domain before the last: their product counts the rows.
    pub rows: Vec<usize>,
    /// The last dimension.
    pub width: usize,
    /// Whether an instruction needs whole rows; if not, rows may be split.
    pub whole_rows: bool,
    /// How the step's reads are walked.
    pub operands: Vec<Operand>,
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
    pub is_distant: bool,
}

/// How a loop walks one of its operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
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
