//! Cross-entropy, its gradient, which labels the logits choose, and what makes them log-probabilities, over as
//! many classes as a vocabulary has words.

mod cpu;
mod cuda;

use ailora_graph::ir::Op;

use super::{IdRange, host::Call};
use super::{
    Node, Operation,
    device::{Actions, Operand, Target},
};

/// Reads logits and labels; writes the mean loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Columns of the logits.
    pub classes: usize,
    /// How much of each target is spread over all classes.
    pub smoothing: f32,
}

/// Reads logits and labels; writes the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropyGrad {
    /// Columns of the logits.
    pub classes: usize,
    /// How much of each target is spread over all classes.
    pub smoothing: f32,
}

/// Reads logits and labels; writes, for each row, 1 if the label has the largest logit, else 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matches {
    /// Columns of the logits.
    pub classes: usize,
}

/// Reads logits; writes the logarithm of each row's sum of exponentials.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogSumExp {
    /// Columns of the logits.
    pub classes: usize,
}

const LABEL: &str = "loss";

fn ids(node: &Node<'_>) -> (usize, IdRange) {
    let range = IdRange {
        limit: node.arguments[0][1],
        ignorable: true,
    };
    (1, range)
}

impl Operation for CrossEntropy {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        match node.op {
            Op::CrossEntropy(op) => Some(Self {
                classes: node.arguments[0][1],
                smoothing: op.smoothing.0 as f32,
            }),
            _ => None,
        }
    }

    fn ids(node: &Node<'_>) -> Option<(usize, IdRange)> {
        matches!(node.op, Op::CrossEntropy(_)).then(|| ids(node))
    }

    fn run(&self, call: &Call<'_>) {
        // SAFETY: nothing else uses the result meanwhile.
        let to = unsafe { call.target(0).write_all() };
        to[0] = cpu::cross_entropy(*self, call.read(0), call.ids(1));
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::cross_entropy(*self, reads, writes)
    }
}

impl Operation for CrossEntropyGrad {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        match node.op {
            Op::CrossEntropyGrad(op) => Some(Self {
                classes: node.arguments[0][1],
                smoothing: op.forward.smoothing.0 as f32,
            }),
            _ => None,
        }
    }

    fn ids(node: &Node<'_>) -> Option<(usize, IdRange)> {
        matches!(node.op, Op::CrossEntropyGrad(_)).then(|| ids(node))
    }

    fn is_in_place(&self) -> bool {
        true
    }

    fn run(&self, call: &Call<'_>) {
        if call.reads[0] != call.writes[0] {
            // SAFETY: the plan keeps the result apart from what is read, if it is not in its place.
            unsafe { call.target(0).write_all() }.copy_from_slice(call.read(0));
        }
        // SAFETY: nothing else uses the result meanwhile.
        let to = unsafe { call.target(0).write_all() };
        cpu::cross_entropy_grad(*self, call.ids(1), to);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::cross_entropy_grad(*self, reads, writes)
    }
}

impl Operation for Matches {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        match node.op {
            Op::Matches(_) => Some(Self {
                classes: node.arguments[0][1],
            }),
            _ => None,
        }
    }

    fn ids(node: &Node<'_>) -> Option<(usize, IdRange)> {
        matches!(node.op, Op::Matches(_)).then(|| ids(node))
    }

    fn run(&self, call: &Call<'_>) {
        // SAFETY: nothing else uses the result meanwhile.
        let to = unsafe { call.target(0).write_all() };
        cpu::matches(*self, call.read(0), call.ids(1), to);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::matches(*self, reads, writes)
    }
}

impl Operation for LogSumExp {
    fn label(&self) -> &'static str {
        LABEL
    }

    fn of(node: &Node<'_>) -> Option<Self> {
        match node.op {
            Op::LogSumExp(_) => Some(Self {
                classes: node.arguments[0][1],
            }),
            _ => None,
        }
    }

    fn run(&self, call: &Call<'_>) {
        // SAFETY: nothing else uses the result meanwhile.
        let to = unsafe { call.target(0).write_all() };
        cpu::log_sum_exp(*self, call.read(0), to);
    }

    fn actions(&self, reads: &[Operand], writes: &[Operand], _: Target) -> Actions {
        cuda::log_sum_exp(*self, reads, writes)
    }
}
