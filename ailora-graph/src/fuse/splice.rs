//! Replaces a program's regions by their solutions.

use std::collections::{HashMap, HashSet};

use super::{Fusion, parameter, region::Region};
use crate::ir::{Id, Name, Node, Op, Program, ProgramError, ops::elementwise::Binary};

pub(super) enum Interrupt {
    Error(ProgramError),
    /// A region whose solution waits for itself.
    Cycle(usize),
}

impl From<ProgramError> for Interrupt {
    fn from(error: ProgramError) -> Self {
        Self::Error(error)
    }
}

/// Builds the fused program from its outputs down.
pub(super) struct Splice<'a> {
    fusion: &'a Fusion<'a>,
    replacements: &'a [(Region, usize)],
    /// The region and its output that computes a node.
    region_of: HashMap<Id, (usize, Name)>,
    pub(super) program: Program,
    outer_images: HashMap<Id, Id>,
    inner_images: Vec<HashMap<Id, Id>>,
}

/// A node to be built: of the program, or of a region's solution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Outer(Id),
    Inner(usize, Id),
}

impl<'a> Splice<'a> {
    pub(super) fn new(
        fusion: &'a Fusion<'a>,
        replacements: &'a [(Region, usize)],
        skipped: &[bool],
    ) -> Self {
        let mut region_of = HashMap::new();
        for (i, (region, _)) in replacements.iter().enumerate() {
            for (name, &id) in region.outputs.iter().filter(|_| !skipped[i]) {
                region_of.insert(id, (i, name.clone()));
            }
        }
        Self {
            fusion,
            replacements,
            region_of,
            program: Program::new(),
            outer_images: HashMap::new(),
            inner_images: vec![HashMap::new(); replacements.len()],
        }
    }

    pub(super) fn run(&mut self) -> Result<(), Interrupt> {
        let outer = self.fusion.outer;
        let mut open: HashSet<At> = HashSet::new();
        for &id in outer.outputs().values() {
            let mut stack = vec![At::Outer(id)];
            while let Some(&at) = stack.last() {
                if self.image(at).is_some() {
                    stack.pop();
                    continue;
                }
                let needs = self.needs(at);
                let missing: Vec<At> = needs
                    .into_iter()
                    .filter(|&need| self.image(need).is_none())
                    .collect();
                if missing.is_empty() {
                    self.build(at)?;
                    open.remove(&at);
                    stack.pop();
                    continue;
                }
                open.insert(at);
                for need in missing {
                    if open.contains(&need) {
                        let region = stack.iter().rev().find_map(|at| match at {
                            At::Inner(region, _) => Some(*region),
                            At::Outer(_) => None,
                        });
                        return match region {
                            Some(region) => Err(Interrupt::Cycle(region)),
                            None => unreachable!("a program has no cycle"),
                        };
                    }
                    stack.push(need);
                }
            }
        }
        for (name, &id) in outer.outputs() {
            let image = self.outer_images[&id];
            self.program.set_output(name.clone(), image);
        }
        Ok(())
    }

    fn image(&self, at: At) -> Option<Id> {
        match at {
            At::Outer(id) => self.outer_images.get(&id).copied(),
            At::Inner(region, id) => self.inner_images[region].get(&id).copied(),
        }
    }

    fn solution(&self, region: usize) -> &'a Program {
        &self.fusion.solved[self.replacements[region].1].1.after
    }

    fn needs(&self, at: At) -> Vec<At> {
        match at {
            At::Outer(id) => match self.region_of.get(&id) {
                Some((region, output)) => {
                    vec![At::Inner(*region, self.solution(*region).outputs()[output])]
                }
                None => {
                    let args = &self.fusion.outer[id].args;
                    args.iter().map(|&arg| At::Outer(arg)).collect()
                }
            },
            At::Inner(region, id) => {
                let node = &self.solution(region)[id];
                match &node.op {
                    Op::Input(leaf) => {
                        vec![At::Outer(self.replacements[region].0.leaves[&leaf.name])]
                    }
                    _ => node
                        .args
                        .iter()
                        .map(|&arg| At::Inner(region, arg))
                        .collect(),
                }
            }
        }
    }

    fn build(&mut self, at: At) -> Result<(), ProgramError> {
        let outer = self.fusion.outer;
        match at {
            At::Outer(id) => {
                let node = &outer[id];
                let image = match self.region_of.get(&id) {
                    Some((region, output)) => {
                        let inner = self.solution(*region).outputs()[output];
                        let rows = self.inner_images[*region][&inner];
                        self.shaped(rows, outer.shape(id))?
                    }
                    None => match &node.op {
                        Op::Frozen(leaf) | Op::Trained(leaf) => {
                            parameter(&mut self.program, &self.fusion.packs, &leaf.name, node)?
                        }
                        op => {
                            let args: Vec<Id> =
                                node.args.iter().map(|arg| self.outer_images[arg]).collect();
                            self.program.add(op.clone(), &args)?
                        }
                    },
                };
                self.outer_images.insert(id, image);
            }
            At::Inner(region, id) => {
                let solution = self.solution(region);
                let node = &solution[id];
                let image = match &node.op {
                    Op::Input(leaf) => {
                        let outer_id = self.replacements[region].0.leaves[&leaf.name];
                        let value = self.outer_images[&outer_id];
                        self.program.reshape(value, &leaf.ty.shape)?
                    }
                    Op::Frozen(leaf) | Op::Trained(leaf) => self.pack(region, &leaf.name, node)?,
                    op => {
                        let args: Vec<Id> = node
                            .args
                            .iter()
                            .map(|arg| self.inner_images[region][arg])
                            .collect();
                        self.program.add(op.clone(), &args)?
                    }
                };
                self.inner_images[region].insert(id, image);
            }
        }
        Ok(())
    }

    /// Rows under leading axes. A sum of what is computed already is summed up under them, so that it
    /// can run together with what reads it; one with a product runs with that.
    fn shaped(&mut self, rows: Id, shape: &[usize]) -> Result<Id, ProgramError> {
        let node = self.program[rows].clone();
        let is_product = |&arg: &Id| {
            let inner = &self.program[arg];
            let mut own = std::iter::once(&arg).chain(&inner.args);
            !matches!(inner.op, Op::Slice(_) | Op::Reshape(_))
                && own.any(|&id| matches!(self.program[id].op, Op::MatMul(_)))
        };
        let is_sum = node.op == Op::Binary(Binary::Add);
        if !is_sum || node.args.iter().any(is_product) {
            return self.program.reshape(rows, shape);
        }
        let args: Result<Vec<Id>, _> = node
            .args
            .iter()
            .map(|&arg| self.shaped(arg, shape))
            .collect();
        self.program.add(node.op, &args?)
    }

    /// A leaf of a region's solution: a pack, or a parameter that lies by itself.
    fn pack(&mut self, region: usize, name: &Name, node: &Node) -> Result<Id, ProgramError> {
        let (own, solved) = &self.replacements[region];
        let local = self.fusion.solved[*solved]
            .1
            .layout
            .packs
            .iter()
            .find(|pack| pack.name == *name);
        // Any leaf of the pack tells which pack it is in this region.
        let member = local.and_then(|pack| {
            let leaf = own.leaves.keys().find(|leaf| {
                let layout = &self.fusion.solved[*solved].1.layout;
                let block = layout.block(leaf, [0, 0]);
                block.is_some_and(|block| layout.pack_of(&block).name == pack.name)
            })?;
            self.fusion.parameter(own, leaf)
        });
        let Some(member) = member else {
            return self.program.add(node.op.clone(), &[]);
        };
        let packed = self
            .fusion
            .packs
            .iter()
            .find(|pack| pack.parts.iter().any(|part| part.parameter == member));
        match packed {
            Some(pack) => self.program.frozen(&pack.name, pack.ty()),
            None => {
                let outer = own.leaves[name];
                self.program.add(self.fusion.outer[outer].op.clone(), &[])
            }
        }
    }
}
