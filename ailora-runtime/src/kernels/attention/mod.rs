//! Attention and its gradient, in kernels that keep scores to themselves.

mod cpu;
mod cuda;

use ailora_graph::ir::ops::attention::{self, Dims};

use super::{
    Operation,
    device::{Actions, Operand, Target},
};
use crate::kernels::host::Call;

/// Reads `q, k, v, mask` and the biases; writes the output.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// The operation.
    pub op: attention::Attention,
    /// The sizes.
    pub dims: Dims,
    /// To which of `q, k, v` a bias is added first: a number for each column.
    pub biases: [bool; 3],
}

/// Reads `q, k, v, mask, dy` and the biases; writes the wanted gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGrad {
    /// The forward operation.
    pub op: attention::Attention,
    /// The sizes.
    pub dims: Dims,
    /// To which of `q, k, v` a bias is added first: a number for each column.
    pub biases: [bool; 3],
    /// Which of `dq, dk, dv` are wanted.
    pub wants: [bool; 3],
}

const LABEL: &str = "attention";
/// The argument that is the mask, which has no gaps between its rows.
const MASK: usize = 3;

/// Operations of so many products of each head's queries and keys.
fn flops(products: u64, dims: Dims) -> u64 {
    let product = 2 * (dims.queries * dims.keys * dims.depth) as u64;
    products * (dims.batch * dims.heads) as u64 * product
}

/// The queries, keys and values, with the biases that are read from `first` on.
fn operands<'a>(call: &'a Call<'_>, biases: [bool; 3], first: usize) -> [cpu::Operand<'a>; 3] {
    let mut next = first..;
    [0, 1, 2].map(|i| cpu::Operand {
        values: call.source(i),
        bias: biases[i]
            .then(|| next.next())
            .flatten()
            .map(|i| call.read(i)),
    })
}

impl Operation for Attention {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn gemm_flops(&self) -> u64 {
        flops(2, self.dims)
    }

    fn takes_gaps(&self, argument: usize) -> bool {
        argument != MASK
    }

    fn run(&self, call: &Call<'_>) {
        let operands = operands(call, self.biases, 4);
        let (mask, to) = (call.read(MASK), call.target(0));
        cpu::forward(&self.op, self.dims, operands, mask, to, call.draw);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], target: Target) -> Actions {
        let task = cuda::Task::new(&self.op, self.dims, self.biases, reads);
        cuda::forward(task, writes[0], target)
    }
}

impl Operation for AttentionGrad {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn gemm_flops(&self) -> u64 {
        flops(5, self.dims)
    }

    fn takes_gaps(&self, argument: usize) -> bool {
        argument != MASK
    }

    fn run(&self, call: &Call<'_>) {
        let mut writes = (0..call.writes.len()).map(|i| call.target(i));
        let gradients = self
            .wants
            .map(|wanted| wanted.then(|| writes.next()).flatten());
        let operands = operands(call, self.biases, 5);
        let (mask, dy) = (call.read(MASK), call.source(4));
        let (op, dims) = (&self.op, self.dims);
        cpu::backward(op, dims, operands, mask, dy, gradients, call.draw);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], target: Target) -> Actions {
        let task = cuda::Task::new(&self.op, self.dims, self.biases, reads);
        cuda::backward(task, self.wants, writes, target)
    }
}
