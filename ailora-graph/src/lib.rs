//! What `ailora` computes, without a device and without I/O.
//!
//! A model is a struct whose `forward` adds nodes to a [`luminal`] graph ([`nn`]). The stages after
//! it are functions from value to value:
//!
//! [`lift()`](lift::lift) reads the graph as a [`Program`](ir::Program), a pure tensor program with
//! shapes; [`adapt()`](adapt::adapt) replaces the chosen projections by residual + low rank;
//! [`push_down_slices()`](slice_pushdown::push_down_slices) leaves out rows that nothing reads;
//! [`gradients()`](grad::gradients) appends the backward pass towards what trains;
//! [`element_types()`](element_types::element_types) says what each value is kept in;
//! [`hoist()`](hoist::hoist) splits off what depends on frozen parameters only;
//! [`fuse()`](fuse::fuse) makes the products of adapted projections few and wide. Each result can be
//! printed ([`explain`]), and evaluated in float64 by the reference interpreter
//! ([`Program::eval`](ir::Program::eval)).

// Lets the macros name this crate from inside it.
extern crate self as ailora_graph;

pub mod adapt;
pub mod adapter;
pub mod checkpoint;
pub mod dialect;
pub mod element_types;
pub mod explain;
pub mod fuse;
pub mod grad;
pub mod hoist;
pub mod ir;
pub mod lift;
pub mod method;
pub mod module;
pub mod nn;
pub mod slice_pushdown;

pub use adapter::{AdaptConfig, AdapterSpec, Scaling, Strategy, Trainable};
pub use ailora_macros::{Module, adapt};
pub use module::{Module, Projection, Visitor};
