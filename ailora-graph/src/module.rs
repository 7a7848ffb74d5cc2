//! Models as trees of named parts: what `#[adapt]` and `#[derive(Module)]` implement.

use luminal::prelude::{GraphTensor, NodeIndex, Shape};

use crate::adapter::{AdapterSpec, Layout, Site};

/// A part of a model: it shows its parameters and projections to a [`Visitor`], in field order.
///
/// Derive it with `#[derive(Module)]`, or with `#[adapt(...)]` where projections carry adapters.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a module",
    label = "this field is not a module",
    note = "derive it with `#[derive(Module)]`, or leave the field out with `#[module(skip)]`"
)]
pub trait Module {
    /// Shows every part to `visitor`.
    fn visit(&self, visitor: &mut Visitor);
}

/// A module that multiplies by one weight matrix and so can carry an adapter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a projection and cannot be adapted",
    label = "this field is not a projection",
    note = "adapters go on linear layers: `nn::Linear`, luminal's `Linear<A, B>`, or a type that \
            implements `Projection`"
)]
pub trait Projection: Module {
    /// The largest rank the shape allows, where the shape is known at compile time.
    const MAX_RANK: usize = usize::MAX;
}

/// A parameter of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Module path and field, such as `encoder.layer.0.output.dense.weight`.
    pub name: String,
    /// The node of the graph that loads it.
    pub node: NodeIndex,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

/// Walks a model and notes its parameters and projections under their paths.
#[derive(Debug, Default)]
pub struct Visitor {
    path: Vec<String>,
    spec: Option<AdapterSpec>,
    parameters: Vec<Parameter>,
    sites: Vec<Site>,
}

impl Visitor {
    /// Every parameter and projection of `model`, in field order.
    pub fn inventory<M: Module + ?Sized>(model: &M) -> (Vec<Parameter>, Vec<Site>) {
        let mut visitor = Self::default();
        model.visit(&mut visitor);
        (visitor.parameters, visitor.sites)
    }

    /// Visits a child under its field's name.
    pub fn child<M: Module + ?Sized>(&mut self, name: &str, child: &M) {
        self.path.push(name.to_owned());
        child.visit(self);
        self.path.pop();
    }

    /// Visits a projection that carries an adapter.
    pub fn adapted<P: Projection + ?Sized>(&mut self, name: &str, child: &P, spec: AdapterSpec) {
        self.spec = Some(spec);
        self.child(name, child);
        self.spec = None;
    }

    /// Notes a parameter of the module being visited; the module itself where `name` is empty.
    pub fn parameter(&mut self, name: &str, node: NodeIndex, shape: &[usize]) {
        self.parameters.push(Parameter {
            name: self.join(name),
            node,
            shape: shape.to_vec(),
        });
    }

    /// Notes that the module being visited multiplies by its parameter `weight`, and adds its
    /// parameter `bias` if there is one. `shape` is the weight's, as it lies in memory.
    pub fn projection(
        &mut self,
        weight: &str,
        bias: Option<&str>,
        shape: [usize; 2],
        layout: Layout,
    ) {
        let [in_features, out_features] = match layout {
            Layout::InOut => shape,
            Layout::OutIn => [shape[1], shape[0]],
        };
        self.sites.push(Site {
            path: self.path.join("."),
            weight: self.join(weight),
            bias: bias.map(|name| self.join(name)),
            in_features,
            out_features,
            layout,
            spec: self.spec.take().unwrap_or(AdapterSpec::frozen()),
        });
    }

    fn join(&self, name: &str) -> String {
        let path = self.path.join(".");
        match (path.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (_, true) => path,
            _ => format!("{path}.{name}"),
        }
    }
}

impl<M: Module + ?Sized> Module for &M {
    fn visit(&self, visitor: &mut Visitor) {
        (**self).visit(visitor);
    }
}

impl<M: Module + ?Sized> Module for Box<M> {
    fn visit(&self, visitor: &mut Visitor) {
        (**self).visit(visitor);
    }
}

impl<M: Module> Module for Option<M> {
    fn visit(&self, visitor: &mut Visitor) {
        if let Some(module) = self {
            module.visit(visitor);
        }
    }
}

impl<P: Projection> Projection for Option<P> {
    const MAX_RANK: usize = P::MAX_RANK;
}

impl<M: Module> Module for [M] {
    fn visit(&self, visitor: &mut Visitor) {
        for (i, module) in self.iter().enumerate() {
            visitor.child(&i.to_string(), module);
        }
    }
}

impl<M: Module, const N: usize> Module for [M; N] {
    fn visit(&self, visitor: &mut Visitor) {
        self.as_slice().visit(visitor);
    }
}

impl<M: Module> Module for Vec<M> {
    fn visit(&self, visitor: &mut Visitor) {
        self.as_slice().visit(visitor);
    }
}

macro_rules! without_parameters {
    ($($ty:ty),*) => {
        $(impl Module for $ty { fn visit(&self, _: &mut Visitor) {} })*
    };
}
without_parameters!(
    bool,
    char,
    u8,
    u16,
    u32,
    u64,
    usize,
    i8,
    i16,
    i32,
    i64,
    isize,
    f32,
    f64,
    String,
    ()
);

impl<T: ?Sized> Module for std::marker::PhantomData<T> {
    fn visit(&self, _: &mut Visitor) {}
}

/// A bare tensor of a luminal model is a parameter.
impl<S: Shape> Module for GraphTensor<S> {
    fn visit(&self, visitor: &mut Visitor) {
        let shape = self.shape.shape();
        let shape: Vec<_> = shape.iter().filter_map(|dim| dim.to_usize()).collect();
        visitor.parameter("", self.id, &shape);
    }
}

impl<const A: usize, const B: usize> Module for luminal::nn::linear::Linear<A, B> {
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("weight", &self.weight);
        visitor.projection("weight", None, [A, B], Layout::InOut);
    }
}

impl<const A: usize, const B: usize> Projection for luminal::nn::linear::Linear<A, B> {
    const MAX_RANK: usize = if A < B { A } else { B };
}

impl<const N: usize, const DIM: usize> Module for luminal::nn::embedding::Embedding<N, DIM> {
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("weight", &self.weight);
    }
}

impl<const DIM: usize> Module for luminal::nn::norm::LayerNorm<DIM> {
    fn visit(&self, _: &mut Visitor) {}
}

impl<const DIM: usize> Module for luminal::nn::norm::RMSNorm<DIM> {
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("weight", &self.weight);
    }
}

impl<M: Module, const N: usize> Module for luminal::nn::Repeated<M, N> {
    fn visit(&self, visitor: &mut Visitor) {
        self.modules.visit(visitor);
    }
}
