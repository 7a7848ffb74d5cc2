//! What `ailora` computes: models, adapters, and the programs of training steps. Nothing here executes
//! on a device or does I/O.
//!
//! A model is a struct whose `forward` adds nodes to a [`luminal`] graph ([`nn`]). The stages after
//! that are pure functions:
//!
//! [`lift()`](lift::lift) reads the graph as a [`Program`](ir::Program), the intermediate representation:
//! typed operations on tensors without side effects; [`adapt()`](adapt::adapt) adds the adapters to the
//! chosen projections;
//! [`push_down_slices()`](slice_pushdown::push_down_slices) leaves out rows that nothing reads;
//! [`gradients()`](grad::gradients) appends the backward pass for what trains;
//! [`element_types()`](element_types::element_types) assigns the element type of each value;
//! [`hoist()`](hoist::hoist) splits off what depends on frozen parameters only;
//! [`fuse()`](fuse::fuse) replaces the matrix products of adapted projections by fewer, wider ones. A
//! program can be printed, evaluated in float64 by the reference interpreter
//! ([`Program::eval`](ir::Program::eval)), and compared before and after fusion ([`explain`]).

// Lets the macros name this crate from inside it.
extern crate self as ailora_graph;

pub mod adapt;
pub mod adapter;
pub mod checkpoint;
pub mod config;
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

pub use adapter::{AdapterSpec, Scaling, Strategy, Trainable};
pub use ailora_macros::{Module, adapt};
pub use config::AdaptConfig;
pub use module::{Module, Projection, Visitor};
