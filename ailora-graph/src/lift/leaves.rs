use std::collections::HashMap;

use luminal::prelude::{GraphTensor, NodeIndex, Shape, ShapeTracker};

use crate::{Module, Visitor, ir::Type, nn};

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
    pub parameter: bool,
}

impl Leaves {
    /// The parameters of a model under their paths.
    pub fn of<M: Module + ?Sized>(model: &M) -> Self {
        let (parameters, _) = Visitor::inventory(model);
        let by_node = parameters.into_iter().map(|parameter| {
            let leaf = Leaf {
                name: parameter.name,
                ty: Type::f32(parameter.shape),
                parameter: true,
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
        let leaf = Leaf {
            name: name.to_owned(),
            ty,
            parameter: false,
        };
        self.by_node.insert(node, leaf);
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
    pub(super) tracker: ShapeTracker,
}

impl Output {
    /// A contiguous result of the given dimensions.
    pub fn new(name: &str, node: NodeIndex, shape: &[usize]) -> Self {
        Self {
            name: name.to_owned(),
            node,
            tracker: nn::tracker(shape),
        }
    }

    /// The tensor that a luminal handle stands for.
    pub fn of<S: Shape>(name: &str, tensor: &GraphTensor<S>) -> Self {
        Self {
            name: name.to_owned(),
            node: tensor.id,
            tracker: tensor.shape,
        }
    }
}
