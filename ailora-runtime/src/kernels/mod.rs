//! The operations that plans consist of. Each is a folder with everything about it: which nodes it
//! computes, what it reads and writes, its loop on the CPU and its kernels on a device.
//!
//! The list below is the only place that names them all. [`Kernel`] is an enum and not a trait object, so
//! that plans can be copied and compared, and code that looks for one kind can match on it.

pub mod attention;
pub mod cached_attention;
pub mod copy;
pub mod cross_entropy;
pub(crate) mod device;
pub mod fused;
pub mod gather;
pub mod gemm;
pub(crate) mod host;
pub mod merge;
pub mod outer;
pub mod put;
pub mod reduce;
pub mod rotary;
pub mod row_lengths;
pub mod scatter_add;
pub mod take_along;
pub mod top;

use ailora_graph::ir::Op;

use device::{Actions, Operand, Target};
use host::Call;

/// What ids choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// How many rows or classes there are: each id is below this.
    pub limit: usize,
    /// Whether an id may be [`IGNORED`](ailora_graph::ir::ops::loss::IGNORED) instead, as a label.
    pub ignorable: bool,
}

impl IdRange {
    /// Of so many rows.
    pub(crate) fn below(limit: usize) -> Self {
        Self {
            limit,
            ignorable: false,
        }
    }
}

/// A node that is to be computed: its operation, and the shapes of its result and its arguments.
pub(crate) struct Node<'a> {
    pub op: &'a Op,
    pub shape: &'a [usize],
    pub arguments: Vec<&'a [usize]>,
}

/// An operation with a kernel.
pub(crate) trait Operation {
    /// What it is called in tables.
    fn label(&self) -> &'static str;

    /// How many matrix products it is, beside those of attention.
    fn products(&self) -> usize {
        0
    }

    /// Multiply-add operations of the matrix products in it, times two.
    fn gemm_flops(&self) -> u64 {
        0
    }

    /// The operation that computes a node; none if it does not, or if a unit of several nodes does.
    fn of(_: &Node<'_>) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// Which argument of a node is ids, and what these choose from.
    fn ids(_: &Node<'_>) -> Option<(usize, IdRange)>
    where
        Self: Sized,
    {
        None
    }

    /// Whether an argument may have gaps between its rows.
    fn takes_gaps(&self, _argument: usize) -> bool {
        false
    }

    /// Whether the result may be left in place of the first argument, which is read before.
    fn is_in_place(&self) -> bool {
        false
    }

    /// Executes it on the processor.
    fn run(&self, call: &Call<'_>);

    /// What it becomes on a device.
    #[allow(dead_code, reason = "a build without CUDA has no devices")]
    fn actions(&self, reads: &[Operand], writes: &[Operand], target: Target) -> Actions;
}

/// Declares the operations.
macro_rules! kernels {
    ($($module:ident::$name:ident,)*) => {
        /// What a backend executes. The views that each one reads and writes are in its step, in the order
        /// that its documentation gives.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Kernel {
            $(
                #[doc = concat!("See [`", stringify!($name), "`]($module::", stringify!($name), ").")]
                $name($module::$name),
            )*
        }

        impl Kernel {
            /// The kernel of a node that is computed alone.
            pub(crate) fn of(node: &Node<'_>) -> Option<Self> {
                None$(.or_else(|| $module::$name::of(node).map(Self::$name)))*
            }

            /// Which argument of a node is ids, and what these choose from.
            pub(crate) fn ids(node: &Node<'_>) -> Option<(usize, IdRange)> {
                None$(.or_else(|| $module::$name::ids(node)))*
            }

            pub(crate) fn operation(&self) -> &dyn Operation {
                match self {
                    $(Self::$name(operation) => operation,)*
                }
            }
        }
    };
}

kernels! {
    attention::Attention,
    attention::AttentionGrad,
    cached_attention::CachedAttention,
    copy::Copy,
    cross_entropy::CrossEntropy,
    cross_entropy::CrossEntropyGrad,
    cross_entropy::LogSumExp,
    cross_entropy::Matches,
    fused::Loop,
    gather::Gather,
    gemm::Gemm,
    merge::Merge,
    outer::Outer,
    put::Put,
    reduce::Reduce,
    rotary::Rotary,
    row_lengths::RowLengths,
    scatter_add::ScatterAdd,
    take_along::TakeAlong,
    take_along::TakeAlongGrad,
    top::Top,
}

impl Kernel {
    /// What it is called in tables.
    pub fn label(&self) -> &'static str {
        self.operation().label()
    }

    /// How many matrix products it is, beside those of attention.
    pub fn products(&self) -> usize {
        self.operation().products()
    }

    /// Multiply-add operations of the matrix products in it, times two.
    pub fn gemm_flops(&self) -> u64 {
        self.operation().gemm_flops()
    }
}

fn last(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or(1)
}

/// Where an index lies in a tensor of these strides.
fn dot(index: &[usize], strides: &[usize]) -> usize {
    index.iter().zip(strides).map(|(i, s)| i * s).sum()
}
