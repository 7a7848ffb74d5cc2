//! Building models with run-time shapes on a luminal graph.
//!
//! A [`Cx`] holds the graph. A [`Tensor`] is a value in it; its methods add nodes. Layers are
//! structs of [`Param`]s that implement [`Module`]. What does not fit is remembered
//! and reported once, by [`Cx::program`], so that `forward` functions read as the formulas do.
//!
//! ```
//! use ailora_graph::{Module, adapt, ir::Type, nn::{Cx, Linear, Tensor}};
//!
//! #[adapt(q = principal(2), v = minor(2), v_lr = 2.0)]
//! struct Attention { q: Linear, k: Linear, v: Linear, heads: usize }
//!
//! impl Attention {
//!     fn forward<'g>(&self, x: &Tensor<'g>, mask: &Tensor<'g>) -> Tensor<'g> {
//!         let [q, k, v] = [&self.q, &self.k, &self.v].map(|linear| linear.forward(x));
//!         q.attention(&k, &v, mask, self.heads, 0.0)
//!     }
//! }
//!
//! let cx = Cx::new();
//! let linear = || Linear::new(&cx, 8, 8, true);
//! let model = Attention { q: linear(), k: linear(), v: linear(), heads: 2 };
//! let x = cx.input("x", Type::f32([1, 3, 8]));
//! let mask = cx.input("mask", Type::f32([1, 3]));
//! let y = model.forward(&x, &mask);
//! let program = cx.program(&model, &[("y", &y)])?;
//! assert_eq!(program.frozen_parameters().count(), 6);
//! # Ok::<(), ailora_graph::lift::LiftError>(())
//! ```

mod layers;
mod tensor;

pub use layers::{Conv1d, Embedding, LayerNorm, Linear, RmsNorm};
pub use tensor::Tensor;

use std::cell::{Cell, RefCell};

use luminal::prelude::{Graph, NodeIndex, R0};

use crate::{
    Module, Visitor, dialect,
    ir::{Op, Program, Type},
    lift::{Leaves, LiftError, Output, lift},
};

/// A luminal graph under construction.
#[derive(Debug, Default)]
pub struct Cx {
    graph: RefCell<Graph>,
    inputs: RefCell<Vec<(NodeIndex, String, Type)>>,
    states: RefCell<Vec<(NodeIndex, String, Type)>>,
    error: RefCell<Option<LiftError>>,
    streams: Cell<usize>,
    training: bool,
}

/// A parameter: a node of the graph that loads a value.
#[derive(Clone, Debug)]
pub struct Param {
    node: NodeIndex,
    shape: Vec<usize>,
}

impl Param {
    /// Its dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
}

impl Module for Param {
    fn visit(&self, visitor: &mut Visitor) {
        visitor.parameter("", self.node, &self.shape);
    }
}

impl Cx {
    /// An empty graph for evaluation, where dropout does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty graph for training, where dropout is active.
    pub fn training() -> Self {
        Self {
            training: true,
            ..Self::default()
        }
    }

    /// A parameter of the given dimensions. Its name is its path in the model.
    pub fn param(&self, shape: impl Into<Vec<usize>>) -> Param {
        Param {
            node: self.load("parameter"),
            shape: shape.into(),
        }
    }

    /// A value given at each run.
    pub fn input(&self, name: &str, ty: Type) -> Tensor<'_> {
        let node = self.load(name);
        self.inputs
            .borrow_mut()
            .push((node, name.to_owned(), ty.clone()));
        Tensor::new(self, node, ty)
    }

    /// An array that stays where it is between runs ([`Program::state`](crate::ir::Program::state)).
    pub fn state(&self, name: &str, ty: Type) -> Tensor<'_> {
        let node = self.load(name);
        self.states
            .borrow_mut()
            .push((node, name.to_owned(), ty.clone()));
        Tensor::new(self, node, ty)
    }

    /// The value of a parameter.
    pub fn value(&self, param: &Param) -> Tensor<'_> {
        Tensor::new(self, param.node, Type::f32(param.shape.clone()))
    }

    /// The tensor program of `outputs`, with the parameters of `model` under their paths.
    ///
    /// # Errors
    /// The first thing that did not fit while the graph was built, or what `lift` refuses.
    pub fn program<M: Module + ?Sized>(
        &self,
        model: &M,
        outputs: &[(&str, &Tensor<'_>)],
    ) -> Result<Program, LiftError> {
        if let Some(error) = self.error.borrow_mut().take() {
            return Err(error);
        }
        let mut leaves = Leaves::of(model);
        for (node, name, ty) in self.inputs.borrow().iter() {
            leaves.input(*node, name, ty.clone());
        }
        for (node, name, ty) in self.states.borrow().iter() {
            leaves.state(*node, name, ty.clone());
        }
        let outputs: Vec<Output> = outputs
            .iter()
            .map(|(name, tensor)| Output::new(name, tensor.node(), tensor.shape()))
            .collect();
        lift(&self.graph.borrow(), &leaves, &outputs)
    }

    /// The graph, for luminal's own use.
    pub fn into_graph(self) -> Graph {
        self.graph.into_inner()
    }

    fn load(&self, name: &str) -> NodeIndex {
        self.graph.borrow_mut().named_tensor::<R0>(name).id
    }

    /// A name for the next stream of random numbers, in the order of the forward pass.
    fn stream(&self) -> String {
        let n = self.streams.get();
        self.streams.set(n + 1);
        format!("dropout.{n}")
    }

    /// Adds a node, or remembers why it cannot be and stands in a value of the first argument.
    fn add(&self, op: Op, args: &[&Tensor<'_>]) -> Tensor<'_> {
        let types: Vec<&Type> = args.iter().map(|arg| arg.ty()).collect();
        let inferred = match op.operation() {
            Some(operation) => operation.infer(&types),
            None => op.leaf_type().ok_or_else(|| "a leaf without a type".into()),
        };
        match inferred {
            Ok(ty) => {
                let nodes: Vec<NodeIndex> = args.iter().map(|arg| arg.node()).collect();
                let node = dialect::add(&mut self.graph.borrow_mut(), op, &nodes, &types, &ty);
                Tensor::new(self, node, ty)
            }
            Err(expected) => {
                let found: Vec<String> = types.iter().map(ToString::to_string).collect();
                self.error
                    .borrow_mut()
                    .get_or_insert_with(|| LiftError::Build {
                        op: op.to_string(),
                        found: found.join(", "),
                        expected,
                    });
                match args.first() {
                    Some(arg) => Tensor::new(self, arg.node(), arg.ty().clone()),
                    None => Tensor::new(self, self.load("nothing"), Type::f32([])),
                }
            }
        }
    }
}
