//! One long file: whatever adds a node is here, where the invariants of a program are kept.

use std::collections::HashMap;

use egg::{Id, RecExpr};
use indexmap::IndexMap;
use thiserror::Error;

use super::{
    DType, Draw, Name, Node, Op, Real, Tensor, Type,
    op::Leaf,
    ops::{
        cast::Cast,
        elementwise::{Binary, Unary},
        matmul::MatMul,
        reduce::Reduce,
        view::{Expand, Permute, Reshape, Slice},
    },
};

/// A node that cannot be part of a program.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// Arguments whose types do not fit the operation.
    #[error("{op} of {args}: {expected}")]
    Type {
        /// The operation.
        op: String,
        /// The types of its arguments.
        args: String,
        /// What it expects.
        expected: String,
    },
    /// A derivative asked of an operation that has none.
    #[error("{op} has no derivative")]
    NotDifferentiable {
        /// The operation.
        op: String,
    },
    /// A state that is put into and read beside that.
    #[error("state `{0}` is put into, and read beside that; read the result of `put` instead")]
    State(Name),
    /// One name given to leaves of different types.
    #[error("`{name}` is {first} in one place and {second} in another")]
    Redefined {
        /// The name.
        name: Name,
        /// Its first type.
        first: Type,
        /// The other.
        second: Type,
    },
}

/// A pure tensor program: a graph of operations without cycles, each node with its type, in an
/// order in which arguments come first. Equal nodes are one node.
#[derive(Clone, Debug, Default)]
pub struct Program {
    nodes: RecExpr<Node>,
    types: Vec<Type>,
    known: HashMap<Node, Id>,
    leaves: HashMap<Name, Type>,
    outputs: IndexMap<Name, Id>,
}

impl Program {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an operation on earlier nodes, or finds the equal one.
    ///
    /// # Errors
    /// The arguments' types do not fit.
    pub fn add(&mut self, op: impl Into<Op>, args: &[Id]) -> Result<Id, ProgramError> {
        let node = Node {
            op: op.into(),
            args: args.to_vec(),
        };
        if let Some(&id) = self.known.get(&node) {
            return Ok(id);
        }
        let ty = self.infer(&node)?;
        let id = self.nodes.add(node.clone());
        self.types.push(ty);
        self.known.insert(node, id);
        Ok(id)
    }

    fn infer(&self, node: &Node) -> Result<Type, ProgramError> {
        if let Some(ty) = node.op.leaf_type() {
            return Ok(ty);
        }
        let args: Vec<&Type> = node.args.iter().map(|&id| self.ty(id)).collect();
        let inferred = match node.op.operation() {
            Some(operation) => operation.infer(&args),
            None => Err("a leaf has no arguments".into()),
        };
        inferred.map_err(|expected| ProgramError::Type {
            op: node.op.to_string(),
            args: args
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            expected,
        })
    }

    fn leaf(&mut self, op: fn(Leaf) -> Op, name: &str, ty: Type) -> Result<Id, ProgramError> {
        let name: Name = name.into();
        let first = self
            .leaves
            .entry(name.clone())
            .or_insert_with(|| ty.clone());
        if *first != ty {
            return Err(ProgramError::Redefined {
                name,
                first: first.clone(),
                second: ty,
            });
        }
        self.add(op(Leaf { name, ty }), &[])
    }

    /// A value given at each run.
    ///
    /// # Errors
    /// The name has another type elsewhere.
    pub fn input(&mut self, name: &str, ty: Type) -> Result<Id, ProgramError> {
        self.leaf(Op::Input, name, ty)
    }

    /// A parameter that is not trained.
    ///
    /// # Errors
    /// The name has another type elsewhere.
    pub fn frozen(&mut self, name: &str, ty: Type) -> Result<Id, ProgramError> {
        self.leaf(Op::Frozen, name, ty)
    }

    /// A parameter that is trained.
    ///
    /// # Errors
    /// The name has another type elsewhere.
    pub fn trained(&mut self, name: &str, ty: Type) -> Result<Id, ProgramError> {
        self.leaf(Op::Trained, name, ty)
    }

    /// An array that stays where it is between runs. What a program puts into it is a result of its name,
    /// which a run leaves there instead of giving it.
    ///
    /// # Errors
    /// The name has another type elsewhere.
    pub fn state(&mut self, name: &str, ty: Type) -> Result<Id, ProgramError> {
        self.leaf(Op::State, name, ty)
    }

    /// A number.
    pub fn constant(&mut self, value: f64) -> Id {
        let node = Node {
            op: Op::Const(Real(value)),
            args: Vec::new(),
        };
        *self.known.entry(node.clone()).or_insert_with(|| {
            self.types.push(Type::f32([]));
            self.nodes.add(node)
        })
    }

    /// Names a node as a result of the program, replacing an earlier result of the name.
    pub fn set_output(&mut self, name: impl Into<Name>, id: Id) {
        self.outputs.insert(name.into(), id);
    }

    /// The results by name, in the order they were named.
    pub fn outputs(&self) -> &IndexMap<Name, Id> {
        &self.outputs
    }

    /// Names no node as a result any more.
    pub fn clear_outputs(&mut self) {
        self.outputs.clear();
    }

    /// Keeps the results whose names `keep` accepts.
    pub fn retain_outputs(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.outputs.retain(|name, _| keep(name));
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Every node, arguments first.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = Id> + use<> {
        (0..self.len()).map(Id::from)
    }

    /// The type of a node.
    pub fn ty(&self, id: Id) -> &Type {
        &self.types[usize::from(id)]
    }

    /// The dimensions of a node.
    pub fn shape(&self, id: Id) -> &[usize] {
        &self.ty(id).shape
    }

    /// The inputs that the results need, in order of first use.
    pub fn inputs(&self) -> impl Iterator<Item = &Leaf> {
        self.live_nodes().filter_map(|node| match &node.op {
            Op::Input(leaf) => Some(leaf),
            _ => None,
        })
    }

    /// The parameters that the results need and that are not trained.
    pub fn frozen_parameters(&self) -> impl Iterator<Item = &Leaf> {
        self.live_nodes().filter_map(|node| match &node.op {
            Op::Frozen(leaf) => Some(leaf),
            _ => None,
        })
    }

    /// The parameters that the results need and that are trained.
    pub fn trained_parameters(&self) -> impl Iterator<Item = &Leaf> {
        self.live_nodes().filter_map(|node| match &node.op {
            Op::Trained(leaf) => Some(leaf),
            _ => None,
        })
    }

    fn live_nodes(&self) -> impl Iterator<Item = &Node> {
        let live = self.live();
        self.ids()
            .filter(move |&id| live[usize::from(id)])
            .map(|id| &self[id])
    }

    /// The value that a node is a view of, through any number of views; the node itself if it is none.
    pub fn source(&self, mut id: Id) -> Id {
        while self[id].op.is_view() {
            id = self[id].args[0];
        }
        id
    }

    /// Checks that nothing reads a state which is put into: what is put takes the place of what was there.
    ///
    /// # Errors
    /// The first that is read.
    pub fn check_states(&self) -> Result<(), ProgramError> {
        let mut put = HashMap::new();
        let mut read = HashMap::new();
        for node in self.live_nodes() {
            let states = node.args.iter().enumerate();
            for (i, &arg) in states {
                if let Op::State(leaf) = &self[arg].op {
                    let into = matches!(node.op, Op::Put(_)) && i == 0;
                    let readers = if into { &mut put } else { &mut read };
                    *readers.entry(&leaf.name).or_insert(0) += 1;
                }
            }
        }
        let wrong = |(name, puts): (&&Name, &usize)| {
            (*puts > 1 || read.contains_key(*name)).then(|| (*name).clone())
        };
        match put.iter().filter_map(wrong).min() {
            Some(name) => Err(ProgramError::State(name)),
            None => Ok(()),
        }
    }

    /// For each node, whether a result depends on it.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.len()];
        for &id in self.outputs.values() {
            live[usize::from(id)] = true;
        }
        for id in self.ids().rev() {
            if live[usize::from(id)] {
                for &arg in &self[id].args {
                    live[usize::from(arg)] = true;
                }
            }
        }
        live
    }

    /// For each node, whether it depends on a node that `from` names.
    pub fn depends_on(&self, from: impl Fn(&Op) -> bool) -> Vec<bool> {
        let mut depends = vec![false; self.len()];
        for id in self.ids() {
            let node = &self[id];
            depends[usize::from(id)] =
                from(&node.op) || node.args.iter().any(|&arg| depends[usize::from(arg)]);
        }
        depends
    }

    /// Rebuilds the program node by node: `f` adds to the new program what stands for a node,
    /// given the images of its arguments. Only what the results need is kept.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn rewrite<E>(
        &self,
        mut f: impl FnMut(&mut Self, Id, &Node, &[Id]) -> Result<Id, E>,
    ) -> Result<Self, E> {
        let mut new = Self::new();
        let mut images = vec![Id::from(0); self.len()];
        let live = self.live();
        for id in self.ids().filter(|&id| live[usize::from(id)]) {
            let node = &self[id];
            let args: Vec<Id> = node.args.iter().map(|&a| images[usize::from(a)]).collect();
            images[usize::from(id)] = f(&mut new, id, node, &args)?;
        }
        for (name, &id) in &self.outputs {
            new.set_output(name.clone(), images[usize::from(id)]);
        }
        Ok(new)
    }

    // What passes write most.

    /// `a + b`, broadcasting.
    ///
    /// # Errors
    /// The shapes do not broadcast.
    pub fn sum(&mut self, a: Id, b: Id) -> Result<Id, ProgramError> {
        self.add(Binary::Add, &[a, b])
    }

    /// `a - b`, broadcasting.
    ///
    /// # Errors
    /// The shapes do not broadcast.
    pub fn difference(&mut self, a: Id, b: Id) -> Result<Id, ProgramError> {
        self.add(Binary::Sub, &[a, b])
    }

    /// `a * b`, broadcasting; the other factor where one is the number 1.
    ///
    /// # Errors
    /// The shapes do not broadcast.
    pub fn product(&mut self, a: Id, b: Id) -> Result<Id, ProgramError> {
        let one = Op::Const(Real(1.0));
        if self[a].op == one {
            return Ok(b);
        }
        if self[b].op == one {
            return Ok(a);
        }
        self.add(Binary::Mul, &[a, b])
    }

    /// `factor * x`; `x` itself for a factor of 1.
    ///
    /// # Errors
    /// `x` is not a float tensor.
    pub fn scale(&mut self, x: Id, factor: f64) -> Result<Id, ProgramError> {
        if factor == 1.0 {
            return Ok(x);
        }
        let factor = self.constant(factor);
        self.product(x, factor)
    }

    /// A unary function of `x`.
    ///
    /// # Errors
    /// `x` is not a float tensor.
    pub fn unary(&mut self, function: Unary, x: Id) -> Result<Id, ProgramError> {
        self.add(function, &[x])
    }

    /// `op(a) · op(b)`, each transposed in its last two axes where asked.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn matmul(
        &mut self,
        a: Id,
        trans_a: bool,
        b: Id,
        trans_b: bool,
    ) -> Result<Id, ProgramError> {
        self.add(MatMul { trans_a, trans_b }, &[a, b])
    }

    /// The elements of `x` under other dimensions; `x` itself if they are its own.
    ///
    /// # Errors
    /// The counts of elements differ.
    pub fn reshape(&mut self, x: Id, shape: &[usize]) -> Result<Id, ProgramError> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        let shape = shape.to_vec();
        // A reshape of a reshape is one reshape.
        let source = match &self[x].op {
            Op::Reshape(_) => self[x].args[0],
            _ => x,
        };
        if self.shape(source) == shape {
            return Ok(source);
        }
        self.add(Reshape { shape }, &[source])
    }

    /// `x` in another type of elements; `x` itself if that is its own.
    ///
    /// # Errors
    /// `x` or the type is not of floats.
    pub fn cast(&mut self, x: Id, to: DType) -> Result<Id, ProgramError> {
        if self.ty(x).dtype == to {
            return Ok(x);
        }
        self.add(Cast { to }, &[x])
    }

    /// `x` with its axes in another order: axis `i` of the result is axis `axes[i]` of `x`.
    ///
    /// # Errors
    /// `axes` is no permutation of the axes.
    pub fn permute(&mut self, x: Id, axes: &[usize]) -> Result<Id, ProgramError> {
        if axes.iter().enumerate().all(|(i, &axis)| i == axis) && axes.len() == self.ty(x).rank() {
            return Ok(x);
        }
        let axes = axes.to_vec();
        self.add(Permute { axes }, &[x])
    }

    /// `x` with its last two axes exchanged.
    ///
    /// # Errors
    /// `x` has fewer than two axes.
    pub fn transpose(&mut self, x: Id) -> Result<Id, ProgramError> {
        let mut axes: Vec<usize> = (0..self.ty(x).rank()).collect();
        if let [.., a, b] = &mut axes[..] {
            std::mem::swap(a, b);
        }
        self.permute(x, &axes)
    }

    /// `x` repeated to `shape`; `x` itself if that is its shape.
    ///
    /// # Errors
    /// `x` does not broadcast to `shape`.
    pub fn expand(&mut self, x: Id, shape: &[usize]) -> Result<Id, ProgramError> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        let shape = shape.to_vec();
        self.add(Expand { shape }, &[x])
    }

    /// The range `start..end` of `x` along `axis`.
    ///
    /// # Errors
    /// The range lies outside.
    pub fn slice(
        &mut self,
        x: Id,
        axis: usize,
        start: usize,
        end: usize,
    ) -> Result<Id, ProgramError> {
        if self.shape(x).get(axis) == Some(&end) && start == 0 {
            return Ok(x);
        }
        self.add(Slice { axis, start, end }, &[x])
    }

    /// `x` summed to `shape`, from which it was broadcast.
    ///
    /// # Errors
    /// `shape` does not broadcast to that of `x`.
    pub fn sum_to(&mut self, x: Id, shape: &[usize]) -> Result<Id, ProgramError> {
        let own = self.shape(x).to_vec();
        let lead = own.len().saturating_sub(shape.len());
        let axes: Vec<usize> = (0..own.len())
            .filter(|&i| own[i] != 1 && (i < lead || shape[i - lead] == 1))
            .collect();
        let summed = if axes.is_empty() {
            x
        } else {
            self.add(Reduce::sum(axes), &[x])?
        };
        self.reshape(summed, shape)
    }
}

impl std::ops::Index<Id> for Program {
    type Output = Node;

    fn index(&self, id: Id) -> &Node {
        &self.nodes[id]
    }
}

/// Values of a program's inputs and parameters by name.
pub type Bindings = HashMap<String, Tensor>;

/// A value missing or of the wrong shape at evaluation.
#[derive(Debug, Error)]
pub enum EvalError {
    /// No value was bound.
    #[error("`{0}` has no value")]
    Unbound(Name),
    /// A value of another shape was bound.
    #[error("`{name}` is {expected}, found a value of shape {found:?}")]
    Shape {
        /// The leaf.
        name: Name,
        /// Its type.
        expected: Type,
        /// The value's shape.
        found: Vec<usize>,
    },
}

impl Program {
    /// The value of every result in float64, computed straight from the definitions: the oracle
    /// that everything faster is compared with. What is kept in less than float32 is rounded to it.
    ///
    /// # Errors
    /// A leaf without a value, or with one of another shape.
    pub fn eval(
        &self,
        bindings: &Bindings,
        draw: Draw,
    ) -> Result<IndexMap<Name, Tensor>, EvalError> {
        let live = self.live();
        let mut values: Vec<Option<Tensor>> = vec![None; self.len()];
        for id in self.ids().filter(|&id| live[usize::from(id)]) {
            let node = &self[id];
            let value = match (&node.op, node.op.operation()) {
                (Op::Const(value), _) => Tensor::scalar(value.0),
                (Op::Input(leaf) | Op::Frozen(leaf) | Op::Trained(leaf) | Op::State(leaf), _) => {
                    let value = bindings
                        .get(&*leaf.name)
                        .ok_or_else(|| EvalError::Unbound(leaf.name.clone()))?;
                    if value.shape != leaf.ty.shape {
                        return Err(EvalError::Shape {
                            name: leaf.name.clone(),
                            expected: leaf.ty.clone(),
                            found: value.shape.clone(),
                        });
                    }
                    value.clone()
                }
                (_, operation) => {
                    let args: Vec<&Tensor> = node
                        .args
                        .iter()
                        .filter_map(|&arg| values[usize::from(arg)].as_ref())
                        .collect();
                    match operation {
                        Some(operation) => operation.eval(&args, self.ty(id), draw),
                        None => unreachable!("leaves are matched above"),
                    }
                }
            };
            let dtype = self.ty(id).dtype;
            let is_rounded = dtype.is_float() && dtype.bytes() < DType::F32.bytes();
            values[usize::from(id)] = Some(match is_rounded {
                true => value.map(|x| dtype.round(x)),
                false => value,
            });
        }
        Ok(self
            .outputs
            .iter()
            .filter_map(|(name, &id)| Some((name.clone(), values[usize::from(id)].clone()?)))
            .collect())
    }
}
