use std::collections::HashMap;

use luminal::prelude::{Graph, GraphTensor, NodeIndex, Shape, ShapeTracker};

use crate::{Module, Visitor, dialect, ir::Type};

/// What is known of a graph's loads.
#[derive(Clone, Debug, Default)]
pub struct Leaves {
    by_node: HashMap<NodeIndex, Leaf>,
}

/// What is known of one load.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub name: String,
    pub ty: Type,
    pub kind: Kind,
}

/// What a load is to a program.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Parameter,
    Input,
    State,
}

impl Leaves {
    /// The parameters of a model under their paths.
    pub fn of<M: Module + ?Sized>(model: &M) -> Self {
        let (parameters, _) = Visitor::inventory(model);
        let by_node = parameters.into_iter().map(|parameter| {
            let leaf = Leaf {
                name: parameter.name,
                ty: Type::f32(parameter.shape),
                kind: Kind::Parameter,
            };
            (parameter.node, leaf)
        });
        Self {
            by_node: by_node.collect(),
        }
    }

    /// Names a node as an input of the given type. Loads that are not named are inputs under
    /// luminal's own name for them, of floats.
    pub fn input(&mut self, node: NodeIndex, name: &str, ty: Type) {
        self.name(node, name, ty, Kind::Input);
    }

    /// Names a node as an array that stays where it is between runs.
    pub fn state(&mut self, node: NodeIndex, name: &str, ty: Type) {
        self.name(node, name, ty, Kind::State);
    }

    fn name(&mut self, node: NodeIndex, name: &str, ty: Type, kind: Kind) {
        let name = name.to_owned();
        self.by_node.insert(node, Leaf { name, ty, kind });
    }

    /// The node that loads the input `name` of a lifted program.
    pub fn node_of(&self, graph: &Graph, name: &str) -> Option<NodeIndex> {
        let named = self.by_node.iter().find(|(_, leaf)| leaf.name == name);
        named.map(|(node, _)| *node).or_else(|| {
            let mut nodes = graph.graph.node_indices();
            nodes.find(|&node| !self.by_node.contains_key(&node) && load_name(graph, node) == name)
        })
    }

    pub(super) fn get(&self, node: NodeIndex) -> Option<&Leaf> {
        self.by_node.get(&node)
    }
}

/// A result that is asked of a graph.
#[derive(Clone, Debug)]
pub struct Output {
    pub(super) name: String,
    pub(super) node: NodeIndex,
    /// The view that is asked for; the node's buffer as it lies where there is none.
    pub(super) tracker: Option<ShapeTracker>,
    /// The graph it was made in, if that is known.
    graph: Option<*const Graph>,
}

impl Output {
    /// A contiguous result of the given dimensions.
    pub fn new(name: &str, node: NodeIndex, shape: &[usize]) -> Self {
        Self {
            name: name.to_owned(),
            node,
            tracker: Some(dialect::tracker(shape)),
            graph: None,
        }
    }

    /// A node's buffer as it lies, whatever handles make of it.
    pub fn buffer(name: &str, node: NodeIndex) -> Self {
        Self {
            name: name.to_owned(),
            node,
            tracker: None,
            graph: None,
        }
    }

    /// The tensor that a luminal handle stands for.
    pub fn of<S: Shape>(name: &str, tensor: &GraphTensor<S>) -> Self {
        Self {
            name: name.to_owned(),
            node: tensor.id,
            tracker: Some(tensor.shape),
            graph: Some(tensor.graph_ref),
        }
    }

    pub(super) fn is_of(&self, graph: &Graph) -> bool {
        graph.graph.contains_node(self.node)
            && self.graph.is_none_or(|own| std::ptr::eq(own, graph))
    }
}

/// The name of a load that was not given one: luminal's, and the node's index where several share it.
pub(super) fn load_name(graph: &Graph, node: NodeIndex) -> String {
    let label = |node| {
        let operator = graph.graph.node_weight(node);
        operator
            .map(|operator| format!("{operator:?}"))
            .unwrap_or_default()
    };
    let own = label(node);
    let name = own.strip_suffix(" Load").unwrap_or(&own);
    let namesakes = graph
        .graph
        .node_indices()
        .filter(|&other| label(other) == own)
        .count();
    if namesakes > 1 {
        format!("{name}.{}", node.index())
    } else {
        name.to_owned()
    }
}
