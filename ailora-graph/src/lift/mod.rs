//! From a luminal graph to a tensor program.
//!
//! Our own dialect maps one to one. Plain luminal primitives are read with the views on their
//! edges, matrix products are recognised in luminal's broadcast-multiply-and-sum, and then softmax
//! and normalisation in theirs. What luminal itself would compute wrongly is refused.

mod error;
mod leaves;
mod matmul;
mod recognize;
mod view;

pub use error::LiftError;
use leaves::Kind;
pub use leaves::{Leaves, Output};

use std::collections::{HashMap, HashSet};

use luminal::{
    graph::Graph,
    op,
    prelude::{NodeIndex, ShapeTracker, petgraph::Direction},
};

use crate::{
    dialect::Dialect,
    ir::{
        Id, Op, Program, ProgramError, Type,
        ops::{
            elementwise::{Binary, Unary},
            reduce::{Combine, Reduce},
        },
    },
};
use view::View;

/// Reads the part of `graph` that `outputs` need.
///
/// # Errors
/// A node that has no meaning here, whose views luminal computes wrongly, or whose shapes do not
/// fit; the error names it.
pub fn lift(graph: &Graph, leaves: &Leaves, outputs: &[Output]) -> Result<Program, LiftError> {
    let mut lifter = Lifter {
        graph,
        leaves,
        program: Program::new(),
        values: HashMap::new(),
    };
    if let Some(output) = outputs.iter().find(|output| !output.is_of(graph)) {
        return Err(LiftError::Foreign {
            output: output.name.clone(),
        });
    }
    for node in lifter.order(outputs) {
        let value = lifter.node(node)?;
        lifter.values.insert(node, value);
    }
    for output in outputs {
        let id = match &output.tracker {
            Some(tracker) => {
                let view = lifter.view(output.node, tracker)?;
                lifter.added(output.node, |p| view.whole(p))?
            }
            None => lifter.values[&output.node],
        };
        lifter.program.set_output(output.name.as_str(), id);
    }
    recognize::recognize(&lifter.program).map_err(LiftError::Program)
}

/// The inputs of a node: their sources and the views through which it reads them.
type Sources = Vec<(NodeIndex, ShapeTracker)>;

struct Lifter<'a> {
    graph: &'a Graph,
    leaves: &'a Leaves,
    program: Program,
    values: HashMap<NodeIndex, Id>,
}

impl<'a> Lifter<'a> {
    /// The nodes that the outputs need, sources first.
    fn order(&self, outputs: &[Output]) -> Vec<NodeIndex> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        for output in outputs {
            let mut stack = vec![(output.node, false)];
            while let Some((node, expanded)) = stack.pop() {
                if expanded {
                    order.push(node);
                } else if seen.insert(node) {
                    stack.push((node, true));
                    stack.extend(self.sources(node).iter().rev().map(|(s, _)| (*s, false)));
                }
            }
        }
        order
    }

    fn sources(&self, node: NodeIndex) -> Sources {
        let sources = self.graph.get_sources(node);
        sources
            .into_iter()
            .map(|(node, _, view)| (node, view))
            .collect()
    }

    fn node(&mut self, node: NodeIndex) -> Result<Id, LiftError> {
        let sources = self.sources(node);
        if sources.is_empty()
            && let Some(ty) = self.leaf_type(node)?
        {
            return match self.leaves.get(node) {
                Some(leaf) => self.added(node, |p| match leaf.kind {
                    Kind::Parameter => p.frozen(&leaf.name, ty),
                    Kind::Input => p.input(&leaf.name, ty),
                    Kind::State => p.state(&leaf.name, ty),
                }),
                None => {
                    let name = leaves::load_name(self.graph, node);
                    self.added(node, |p| p.input(&name, ty))
                }
            };
        }
        let any = self.operator(node);
        if let Some(dialect) = any.downcast_ref::<Dialect>() {
            return self.dialect(node, dialect, &sources);
        }
        if let Some(constant) = any.downcast_ref::<op::Constant>() {
            let value = match &constant.0 {
                op::ConstantValue::Float(value) => f64::from(*value),
                op::ConstantValue::Expression(value) => {
                    value.exec(&self.graph.dyn_map).ok_or_else(|| {
                        self.refuse(node, "its expression has a dimension without a value")
                    })? as f64
                }
            };
            return Ok(self.program.constant(value));
        }
        let unary = [
            (any.is::<op::Exp2>(), Unary::Exp2),
            (any.is::<op::Log2>(), Unary::Log2),
            (any.is::<op::Sin>(), Unary::Sin),
            (any.is::<op::Recip>(), Unary::Recip),
            (any.is::<op::Sqrt>(), Unary::Sqrt),
        ];
        if let Some((_, function)) = unary.into_iter().find(|(is, _)| *is) {
            // luminal applies these to the whole buffer, and the view to the result.
            let view = self.input_view(node, &sources, 0)?;
            if view.is_padded() && function.apply(0.0) != 0.0 {
                return Err(self.refuse(
                    node,
                    "luminal 0.2 leaves padding 0 here; call `.contiguous()` before it",
                ));
            }
            return self.added(node, |p| p.unary(function, view.source));
        }
        let binary = [
            (any.is::<op::Add>(), Binary::Add),
            (any.is::<op::Mul>(), Binary::Mul),
            (any.is::<op::Mod>(), Binary::Mod),
            (any.is::<op::LessThan>(), Binary::Less),
        ];
        if let Some((_, function)) = binary.into_iter().find(|(is, _)| *is) {
            return self.binary(node, function, &sources);
        }
        let reduce = any
            .downcast_ref::<op::SumReduce>()
            .map(|op| (op.0, Reduce::sum([op.0])))
            .or_else(|| {
                any.downcast_ref::<op::MaxReduce>()
                    .map(|op| (op.0, Reduce::max([op.0])))
            });
        if let Some((axis, reduce)) = reduce {
            return self.reduce(node, axis, reduce, &sources);
        }
        if any.is::<op::Contiguous>() {
            return self.whole(node, &sources, 0);
        }
        Err(self.refuse(
            node,
            "the operation is not part of luminal's primitives or our dialect",
        ))
    }

    fn dialect(
        &mut self,
        node: NodeIndex,
        dialect: &Dialect,
        sources: &Sources,
    ) -> Result<Id, LiftError> {
        let args = (0..sources.len())
            .map(|i| {
                let id = self.whole(node, sources, i)?;
                let shape = dialect
                    .args
                    .get(i)
                    .map(|ty| ty.shape.clone())
                    .unwrap_or_default();
                self.added(node, |p| p.reshape(id, &shape))
            })
            .collect::<Result<Vec<_>, _>>()?;
        match &dialect.op {
            Op::Const(value) => Ok(self.program.constant(value.0)),
            op => self.added(node, |p| p.add(op.clone(), &args)),
        }
    }

    fn binary(
        &mut self,
        node: NodeIndex,
        function: Binary,
        sources: &Sources,
    ) -> Result<Id, LiftError> {
        let a = self.input_view(node, sources, 0)?;
        let b = self.input_view(node, sources, 1)?;
        let logical = a.shape().to_vec();
        if b.shape() != logical {
            let reason = format!("its inputs have shapes {logical:?} and {:?}", b.shape());
            return Err(self.refuse(node, reason));
        }
        self.added(node, |p| {
            let a = a.broadcastable(p)?;
            let b = b.broadcastable(p)?;
            let result = p.add(function, &[a, b])?;
            p.expand(result, &logical)
        })
    }

    fn reduce(
        &mut self,
        node: NodeIndex,
        axis: usize,
        reduce: Reduce,
        sources: &Sources,
    ) -> Result<Id, LiftError> {
        if reduce == Reduce::sum([axis])
            && let Some(product) = self.matmul(node, axis, sources)?
        {
            return Ok(product);
        }
        let view = self.input_view(node, sources, 0)?;
        let mut shape = view.shape().to_vec();
        if axis >= shape.len() {
            return Err(self.refuse(node, "it reduces an axis that its input does not have"));
        }
        if !view.reduces_along(axis) {
            return Err(self.refuse(
                node,
                "luminal 0.2 computes this reduction of permuted or sliced axes wrongly; call \
                 `.contiguous()` before it",
            ));
        }
        if view.is_padded() && reduce.combine == Combine::Max {
            return Err(self.refuse(
                node,
                "luminal 0.2 leaves padding out of a maximum; call `.contiguous()` before it",
            ));
        }
        shape.remove(axis);
        self.added(node, |p| {
            let whole = view.whole(p)?;
            let reduced = p.add(reduce, &[whole])?;
            p.reshape(reduced, &shape)
        })
    }

    /// What `node` sees of its input `i`.
    fn input_view(&self, node: NodeIndex, sources: &Sources, i: usize) -> Result<View, LiftError> {
        let (source, tracker) = sources
            .get(i)
            .ok_or_else(|| self.refuse(node, "an input is missing"))?;
        self.view(*source, tracker)
    }

    fn whole(&mut self, node: NodeIndex, sources: &Sources, i: usize) -> Result<Id, LiftError> {
        let view = self.input_view(node, sources, i)?;
        self.added(node, |p| view.whole(p))
    }

    fn view(&self, source: NodeIndex, tracker: &ShapeTracker) -> Result<View, LiftError> {
        let id = self.values.get(&source).copied();
        let id = id.ok_or_else(|| self.refuse(source, "it depends on itself"))?;
        View::new(&self.program, id, tracker, self.graph)
            .map_err(|reason| self.refuse(source, reason))
    }

    /// Type of a node that loads a value; nothing for one that computes it, like a constant.
    fn leaf_type(&self, node: NodeIndex) -> Result<Option<Type>, LiftError> {
        if let Some(leaf) = self.leaves.get(node) {
            return Ok(Some(leaf.ty.clone()));
        }
        if !self.operator(node).is::<op::Function>() {
            return Ok(None);
        }
        // A load has no shape of its own: any reader's view shows the buffer's dimensions.
        let edge = self
            .graph
            .graph
            .edges_directed(node, Direction::Outgoing)
            .next();
        let (_, _, tracker) = edge
            .and_then(|edge| edge.weight().as_data())
            .ok_or_else(|| self.refuse(node, "nothing reads it, so its shape is unknown"))?;
        view::buffer_shape(&tracker, self.graph)
            .map(|shape| Some(Type::f32(shape)))
            .map_err(|reason| self.refuse(node, reason))
    }

    fn operator(&self, node: NodeIndex) -> &'a dyn std::any::Any {
        match self.graph.graph.node_weight(node) {
            Some(operator) => (**operator).as_any(),
            None => &(),
        }
    }

    fn label(&self, node: NodeIndex) -> String {
        let operator = self.graph.graph.node_weight(node);
        operator.map(|op| format!("{op:?}")).unwrap_or_default()
    }

    fn added(
        &mut self,
        node: NodeIndex,
        f: impl FnOnce(&mut Program) -> Result<Id, ProgramError>,
    ) -> Result<Id, LiftError> {
        f(&mut self.program).map_err(|error| self.wrong(node, error))
    }

    fn refuse(&self, node: NodeIndex, reason: impl Into<String>) -> LiftError {
        LiftError::Node {
            node: node.index(),
            label: self.label(node),
            reason: reason.into(),
        }
    }

    fn wrong(&self, node: NodeIndex, error: ProgramError) -> LiftError {
        self.refuse(node, error.to_string())
    }
}
