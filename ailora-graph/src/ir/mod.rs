//! The intermediate representation, from lifting to planning: typed operations without side effects.

pub mod dtype;
mod op;
pub mod ops;
mod print;
mod program;
pub mod random;
mod real;
pub mod shape;
mod tensor;

pub use dtype::DType;
pub use op::{Leaf, Node, Op, Operation};
pub use program::{Bindings, EvalError, Program, ProgramError};
pub use random::Draw;
pub use real::Real;
pub use shape::Type;
pub use tensor::Tensor;

pub use egg::Id;

/// A name of a parameter, an input, an output or a stream of random numbers.
pub type Name = std::sync::Arc<str>;
