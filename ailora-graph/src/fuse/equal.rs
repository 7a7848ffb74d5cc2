//! The e-graph of a region: expressions over the program's own operations, and what they equal.

use std::collections::HashMap;

use egg::{Analysis, DidMerge, EGraph, Id};

use super::layout::{Block, Layout};
use crate::ir::{
    Leaf, Node, Op, Program, Real, Type,
    ops::{
        concat::Concat,
        elementwise::Binary,
        matmul::MatMul,
        merge::Merge,
        view::{Pad, Slice},
    },
};

/// What is known of every member of a class of equal expressions.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Their type.
    pub ty: Type,
    /// Where they lie in memory before anything runs, or once a pack is merged: parameters, and
    /// concatenations of them with each other and with zeros as the layout has them.
    pub block: Option<Block>,
}

/// Types and places.
pub struct Places(pub Layout);

impl Analysis<Node> for Places {
    type Data = Facts;

    fn make(graph: &mut EGraph<Node, Self>, node: &Node, _: Id) -> Facts {
        let args: Vec<&Facts> = node.args.iter().map(|&arg| &graph[arg].data).collect();
        let layout = &graph.analysis.0;
        let ty = node.op.leaf_type().or_else(|| {
            let types: Vec<&Type> = args.iter().map(|facts| &facts.ty).collect();
            node.op.operation()?.infer(&types).ok()
        });
        // Rules add nodes whose types fit only.
        let ty = ty.unwrap_or_else(|| Type::f32([]));
        let block = match &node.op {
            Op::Frozen(leaf) | Op::Trained(leaf) => {
                layout.block(&leaf.name, [leaf.ty.shape[0], leaf.ty.shape[1]])
            }
            Op::Concat(concat) => {
                let mut blocks = args.iter().map(|facts| facts.block);
                let first = blocks.next().flatten();
                blocks.fold(first, |whole, next| whole?.beside(&next?, concat.axis))
            }
            Op::Merge(_) => args[0].block.map(Block::merged),
            Op::Slice(slice) => args[0].block.map(|mut block| {
                block.at[slice.axis] += slice.start;
                block.shape[slice.axis] = slice.end - slice.start;
                block
            }),
            Op::Pad(pad) => args[0]
                .block
                .and_then(|block| layout.padded(&block, pad.axis, [pad.before, pad.after])),
            _ => None,
        };
        Facts { ty, block }
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        debug_assert_eq!(a.ty, b.ty, "equal expressions have one type");
        let taken = a.block.is_none() && b.block.is_some();
        let kept = a.block.is_some() && b.block.is_none();
        if taken {
            a.block = b.block;
        }
        DidMerge(taken, kept)
    }
}

/// A product in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// The class of the result.
    pub result: Id,
    /// Which sides are transposed.
    pub op: MatMul,
    /// The class of the left side.
    pub left: Id,
    /// The class of the right side.
    pub right: Id,
    /// Where the right side lies, if that is known before anything runs.
    pub block: Option<Block>,
}

/// Columns of a class of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The whole.
    pub whole: Id,
    /// The class of the part.
    pub part: Id,
    /// Its first column.
    pub start: usize,
    /// Its columns.
    pub width: usize,
}

/// A region's e-graph.
pub struct Equal {
    /// The classes.
    pub graph: EGraph<Node, Places>,
    /// The class of each output.
    pub outputs: Vec<Id>,
    /// The merged packs: of which pack, at which scale, and the class.
    merged: Vec<(usize, Real, Id)>,
    /// Whether packs may be merged.
    pub merges: bool,
    /// How often each rule found something new.
    pub found: Vec<(&'static str, usize)>,
}

impl Equal {
    /// The region's own expressions.
    pub fn new(region: &Program, layout: Layout) -> Self {
        let mut graph = EGraph::new(Places(layout));
        let mut images: HashMap<Id, Id> = HashMap::new();
        for id in region.ids() {
            let node = &region[id];
            let args = node.args.iter().map(|arg| images[arg]).collect();
            let image = graph.add(Node {
                op: node.op.clone(),
                args,
            });
            images.insert(id, image);
        }
        let outputs = region.outputs().values().map(|id| images[id]).collect();
        graph.rebuild();
        Self {
            graph,
            outputs,
            merged: Vec::new(),
            merges: true,
            found: Vec::new(),
        }
    }

    /// Adds an expression.
    pub fn add(&mut self, op: impl Into<Op>, args: &[Id]) -> Id {
        let args = args.iter().map(|&arg| self.graph.find(arg)).collect();
        self.graph.add(Node {
            op: op.into(),
            args,
        })
    }

    /// The shape of a class.
    pub fn shape(&self, id: Id) -> &[usize] {
        &self.graph[id].data.ty.shape
    }

    /// Where a class lies before anything runs.
    pub fn block(&self, id: Id) -> Option<Block> {
        self.graph[id].data.block
    }

    /// Every node with its class, in a fixed order.
    pub fn nodes(&self) -> Vec<(Id, Node)> {
        let mut ids: Vec<Id> = self.graph.classes().map(|class| class.id).collect();
        ids.sort_unstable();
        ids.into_iter()
            .flat_map(|id| self.graph[id].iter().map(move |node| (id, node.clone())))
            .collect()
    }

    /// Every product.
    pub fn products(&self) -> Vec<Product> {
        let nodes = self.nodes().into_iter();
        nodes
            .filter_map(|(result, node)| match node.op {
                Op::MatMul(op) => {
                    let [left, right] = [0, 1].map(|i| self.graph.find(node.args[i]));
                    Some(Product {
                        result,
                        op,
                        left,
                        right,
                        block: self.block(right),
                    })
                }
                _ => None,
            })
            .collect()
    }

    /// For each class that is a number times a product: the product's class, the number, the class.
    pub fn scaled(&self) -> Vec<(Id, Real, Id)> {
        let number = |id: Id| {
            self.graph[id].iter().find_map(|node| match node.op {
                Op::Const(value) => Some(value),
                _ => None,
            })
        };
        let mut scaled = Vec::new();
        for (id, node) in self.nodes() {
            if node.op != Op::Binary(Binary::Mul) {
                continue;
            }
            for [x, c] in [[0, 1], [1, 0]].map(|order| order.map(|i| self.graph.find(node.args[i])))
            {
                let is_product = self.graph[x]
                    .iter()
                    .any(|node| matches!(node.op, Op::MatMul(_)));
                if let (true, Some(factor)) = (is_product, number(c)) {
                    scaled.push((x, factor, id));
                }
            }
        }
        scaled
    }

    /// Which columns of which class each class is, through classes between them too.
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = Vec::new();
        for (id, node) in self.nodes() {
            match &node.op {
                Op::Concat(Concat { axis: 1 }) if self.block(id).is_none() => {
                    let mut start = 0;
                    for &arg in &node.args {
                        let part = self.graph.find(arg);
                        let width = self.shape(part)[1];
                        members.push(Member {
                            whole: id,
                            part,
                            start,
                            width,
                        });
                        start += width;
                    }
                }
                Op::Slice(slice) if slice.axis == 1 && self.block(id).is_none() => {
                    members.push(Member {
                        whole: self.graph.find(node.args[0]),
                        part: id,
                        start: slice.start,
                        width: slice.end - slice.start,
                    });
                }
                _ => {}
            }
        }
        let mut at = 0;
        while at < members.len() {
            let outer = members[at];
            let within = members.iter().filter(|inner| inner.whole == outer.part);
            let through: Vec<Member> = within
                .map(|inner| Member {
                    whole: outer.whole,
                    start: outer.start + inner.start,
                    ..*inner
                })
                .filter(|member| !members.contains(member))
                .collect();
            members.extend(through);
            at += 1;
        }
        members
    }

    /// Activations side by side; a class whose columns they are, where there is one.
    pub fn concat(&mut self, parts: &[Id]) -> Id {
        self.concat_apart_from(parts, None)
    }

    /// Activations side by side, put together from other classes than `apart_from`.
    pub fn concat_apart_from(&mut self, parts: &[Id], apart_from: Option<Id>) -> Id {
        let members = self.members();
        let parts = &self.flattened(parts)[..];
        let mut merged: Vec<Id> = Vec::new();
        let mut at = 0;
        while at < parts.len() {
            // The longest run that is a whole class, rather computed at once than put together.
            let run = (at + 2..=parts.len()).rev().find_map(|end| {
                let wholes = self.wholes_among(&members, &parts[at..end]).into_iter();
                let whole = wholes
                    .filter(|&whole| Some(whole) != apart_from)
                    .min_by_key(|&whole| !self.is_computed(whole));
                Some((whole?, end))
            });
            let (part, end) = run.unwrap_or((parts[at], at + 1));
            merged.push(part);
            at = end;
        }
        match merged[..] {
            [whole] => whole,
            _ => self.add(Concat { axis: 1 }, &merged),
        }
    }

    /// The classes whose columns, from the first to the last, are `parts`.
    pub fn wholes(&self, parts: &[Id]) -> Vec<Id> {
        self.wholes_among(&self.members(), parts)
    }

    fn wholes_among(&self, members: &[Member], parts: &[Id]) -> Vec<Id> {
        let is_whole = |whole: Id| {
            let mut start = 0;
            let all = parts.iter().all(|&part| {
                let fits = |m: &Member| m.whole == whole && m.part == part && m.start == start;
                let found = members.iter().any(fits);
                start += self.shape(part)[1];
                found
            });
            all && start == self.shape(whole)[1]
        };
        let first = members
            .iter()
            .filter(|m| m.start == 0 && Some(&m.part) == parts.first());
        let mut wholes: Vec<Id> = first
            .map(|m| m.whole)
            .filter(|&whole| is_whole(whole))
            .collect();
        wholes.sort_unstable();
        wholes.dedup();
        wholes
    }

    /// The parts of concatenations that nothing else gives, in their place.
    fn flattened(&self, parts: &[Id]) -> Vec<Id> {
        let mut flat = Vec::new();
        for &part in parts {
            let part = self.graph.find(part);
            let inner = self.graph[part].iter().find_map(|node| match node.op {
                Op::Concat(Concat { axis: 1 }) => Some(&node.args),
                _ => None,
            });
            match inner {
                Some(inner) if !self.is_computed(part) => flat.extend(self.flattened(inner)),
                _ => flat.push(part),
            }
        }
        flat
    }

    /// Whether something other than a concatenation gives a class.
    pub fn is_computed(&self, id: Id) -> bool {
        let mut nodes = self.graph[id].iter();
        nodes.any(|node| !matches!(node.op, Op::Concat(_)))
    }

    /// A parameter with zeros around it along an axis, if they are there in memory.
    pub fn pad(&mut self, id: Id, axis: usize, before: usize, after: usize) -> Option<Id> {
        let block = self.block(id)?;
        self.graph
            .analysis
            .0
            .padded(&block, axis, [before, after])?;
        Some(match (before, after) {
            (0, 0) => id,
            _ => self.add(
                Pad {
                    axis,
                    before,
                    after,
                },
                &[id],
            ),
        })
    }

    /// The merged form of a pack, whose adapters must all have one scale.
    pub fn merge(&mut self, pack: usize, scale: Real) -> Option<Id> {
        let known = self.merged.iter().find(|(known, ..)| *known == pack);
        if let Some(&(_, known, id)) = known {
            return (known == scale).then(|| self.graph.find(id));
        }
        let whole = self.graph.analysis.0.packs[pack].clone();
        let (end, corner, updates) = (whole.end(), whole.corner, whole.updates());
        if end[0] - corner[0] != end[1] - corner[1] {
            return None;
        }
        let ty = whole.ty();
        let leaf = Leaf {
            name: whole.name,
            ty,
        };
        let leaf = self.graph.add(Node {
            op: Op::Frozen(leaf),
            args: Vec::new(),
        });
        let merge = Merge {
            corner,
            updates,
            scale,
        };
        let id = self.add(merge, &[leaf]);
        self.merged.push((pack, scale, id));
        Some(id)
    }

    /// What must be computed before a class can be read: nothing for parameters as they lie, the
    /// merged pack for parts of it.
    pub fn needs(&self, id: Id) -> Option<Id> {
        let Some(block) = self.block(id) else {
            return Some(self.graph.find(id));
        };
        let merged = self.merged.iter().filter(|_| block.of.merged);
        let mut of = merged.filter(|(pack, ..)| *pack == block.of.pack);
        of.next().map(|&(.., id)| self.graph.find(id))
    }

    /// A block of a class that is a whole pack.
    pub fn part(&mut self, whole: Id, at: [usize; 2], shape: [usize; 2]) -> Id {
        (0..2).fold(whole, |part, axis| {
            self.slice(part, axis, at[axis], at[axis] + shape[axis])
        })
    }

    /// Columns or rows of a class.
    pub fn slice(&mut self, id: Id, axis: usize, start: usize, end: usize) -> Id {
        if start == 0 && self.shape(id)[axis] == end {
            return id;
        }
        self.add(Slice { axis, start, end }, &[id])
    }

    /// Notes that two expressions are equal; whether that is new.
    pub fn union(&mut self, a: Id, b: Id) -> bool {
        self.graph.union(a, b)
    }

    /// Whether an expression of `from` is made of `target`.
    pub fn reaches(&self, from: Id, target: Id) -> bool {
        let target = self.graph.find(target);
        let mut seen: Vec<Id> = Vec::new();
        let mut stack = vec![self.graph.find(from)];
        while let Some(id) = stack.pop() {
            if id == target {
                return true;
            }
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            for node in self.graph[id].iter() {
                stack.extend(node.args.iter().map(|&arg| self.graph.find(arg)));
            }
        }
        false
    }
}
