use thiserror::Error;

use crate::ir::ProgramError;

/// A graph that cannot be read as a tensor program.
#[derive(Debug, Error)]
pub enum LiftError {
    /// Shapes that did not fit while the graph was built.
    #[error("{op} of {found}: {expected}")]
    Build {
        /// The operation.
        op: String,
        /// The types of its arguments.
        found: String,
        /// What it expects.
        expected: String,
    },
    /// An output that is no node of the graph.
    #[error("output `{output}` is not in the graph; was it made in another one?")]
    Foreign {
        /// Its name.
        output: String,
    },
    /// A node without a meaning here.
    #[error("node {node} ({label}): {reason}")]
    Node {
        /// Its index in the graph.
        node: usize,
        /// What luminal calls it.
        label: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A recognised form whose types do not fit.
    #[error(transparent)]
    Program(ProgramError),
}
