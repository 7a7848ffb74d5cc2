//! The linear parts of a program: matrix products with parameters, and what sums and scales them.

use std::collections::{HashMap, HashSet};

use crate::ir::{Id, Name, Op, Program, ProgramError, Type, ops::elementwise::Binary};

/// A linear part of a program, as a program of matrices of its own.
///
/// Its leaves are named by their order, so that equal parts of different layers are equal programs.
#[derive(Clone, Debug)]
pub struct Region {
    /// What it computes: leaves are matrices, whatever leading axes they have outside.
    pub program: Program,
    /// What its inputs and parameters stand for outside.
    pub leaves: HashMap<Name, Id>,
    /// What its outputs stand for outside.
    pub outputs: HashMap<Name, Id>,
}

/// The regions of a program, in the order of their first nodes. They share no node.
///
/// A value that something outside reads is a result of its region, and a leaf to what else reads
/// it, so that no region reaches through a non-linear operation or along a residual stream. Products
/// with a parameter that many layers share are in none: they would make one region of all layers, which
/// would be no two alike.
///
/// # Errors
/// None for a program that passed its own type checks.
pub fn regions(program: &Program) -> Result<Vec<Region>, ProgramError> {
    let linear = Linear::of(program);
    let mut groups: Vec<Vec<Id>> = Vec::new();
    let mut group_of: HashMap<usize, usize> = HashMap::new();
    let mut sets = linear.connected();
    for id in program.ids().filter(|&id| linear.is_linear(id)) {
        let set = sets.find(usize::from(id));
        let group = *group_of.entry(set).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(id);
    }
    groups
        .into_iter()
        .filter(|group| linear.products(group) > 1)
        .map(|group| linear.extract(&group))
        .collect()
}

/// The value whose rows a node's are: a reshape of leading axes changes none.
pub fn rows_of(program: &Program, mut id: Id) -> Id {
    while let Op::Reshape(_) = program[id].op {
        let arg = program[id].args[0];
        if program.ty(arg).rank() < 2 || program.shape(arg).last() != program.shape(id).last() {
            break;
        }
        id = arg;
    }
    id
}

/// Whether a node is a parameter that can be packed.
fn is_matrix(program: &Program, id: Id) -> bool {
    matches!(program[id].op, Op::Frozen(_) | Op::Trained(_)) && program.ty(id).rank() == 2
}

fn matrix_type(ty: &Type) -> Type {
    match ty.shape.split_last() {
        Some((&width, lead)) => Type::new(ty.dtype, [lead.iter().product(), width]),
        None => ty.clone(),
    }
}

struct Linear<'a> {
    program: &'a Program,
    kind: Vec<bool>,
    /// Read by linear nodes only.
    internal: Vec<bool>,
}

impl<'a> Linear<'a> {
    fn of(program: &'a Program) -> Self {
        let mut kind = vec![false; program.len()];
        let live = program.live();
        let shared = shared(program, &live);
        for id in program.ids().filter(|&id| live[usize::from(id)]) {
            let node = &program[id];
            let arg = |i: usize| rows_of(program, node.args[i]);
            let is_linear = |id: Id| kind[usize::from(id)];
            kind[usize::from(id)] = match &node.op {
                Op::MatMul(product) => {
                    let matrices = program.ty(node.args[1]).rank() == 2
                        && (program.ty(node.args[0]).rank() == 2 || !product.trans_a);
                    let weight = matches!(program[arg(1)].op, Op::Frozen(_) | Op::Trained(_));
                    matrices && (weight != product.trans_a) && !shared.contains(&arg(1))
                }
                Op::Binary(Binary::Mul) => [(0, 1), (1, 0)].into_iter().any(|(x, c)| {
                    matches!(program[node.args[c]].op, Op::Const(_)) && is_linear(arg(x))
                }),
                Op::Binary(Binary::Add) => {
                    program.shape(node.args[0]) == program.shape(node.args[1])
                        && program.ty(id).rank() >= 2
                        && (is_linear(arg(0)) || is_linear(arg(1)))
                }
                _ => false,
            };
        }
        let mut internal = kind.clone();
        for id in program.ids().filter(|&id| live[usize::from(id)]) {
            // A reshape of rows is read as what it reshapes.
            if kind[usize::from(id)] || rows_of(program, id) != id {
                continue;
            }
            for &arg in &program[id].args {
                internal[usize::from(rows_of(program, arg))] = false;
            }
        }
        for &id in program.outputs().values() {
            internal[usize::from(rows_of(program, id))] = false;
        }
        Self {
            program,
            kind,
            internal,
        }
    }

    fn is_linear(&self, id: Id) -> bool {
        self.kind[usize::from(id)]
    }

    /// The values that a linear node reads, numbers apart.
    fn args(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        let args = self.program[id].args.iter();
        args.map(|&arg| rows_of(self.program, arg))
            .filter(|&arg| !matches!(self.program[arg].op, Op::Const(_)))
    }

    /// Linear nodes are connected that multiply one value, or read each other. A value that is read
    /// from outside stands, for those that multiply it, apart from what computes it.
    fn connected(&self) -> Sets {
        let len = self.program.len();
        let mut sets = Sets((0..2 * len).collect());
        for id in self.program.ids().filter(|&id| self.is_linear(id)) {
            let multiplies = matches!(self.program[id].op, Op::MatMul(_));
            for arg in self.args(id) {
                if self.internal[usize::from(arg)] {
                    sets.join(usize::from(id), usize::from(arg));
                } else if multiplies {
                    sets.join(usize::from(id), len + usize::from(arg));
                }
            }
        }
        sets
    }

    fn products(&self, group: &[Id]) -> usize {
        let is_product = |id: &&Id| matches!(self.program[**id].op, Op::MatMul(_));
        group.iter().filter(is_product).count()
    }

    fn extract(&self, group: &[Id]) -> Result<Region, ProgramError> {
        let outer = self.program;
        let mut region = Region {
            program: Program::new(),
            leaves: HashMap::new(),
            outputs: HashMap::new(),
        };
        let mut images: HashMap<Id, Id> = HashMap::new();
        for &id in group {
            let mut args = Vec::new();
            for &arg in &outer[id].args {
                let arg = rows_of(outer, arg);
                let image = match images.get(&arg) {
                    Some(&image) if self.internal[usize::from(arg)] => image,
                    _ => region.leaf(outer, arg)?,
                };
                args.push(image);
            }
            let image = region.program.add(outer[id].op.clone(), &args)?;
            images.insert(id, image);
            if !self.internal[usize::from(id)] {
                let name: Name = format!("y{}", region.outputs.len()).into();
                region.program.set_output(name.clone(), image);
                region.outputs.insert(name, id);
            }
        }
        Ok(region)
    }
}

/// The parameters that multiply more values, the same way round, than a block of a model has for one
/// weight, such as the random matrices of VeRA.
fn shared(program: &Program, live: &[bool]) -> HashSet<Id> {
    const OF_A_BLOCK: usize = 2;
    let mut lefts: HashMap<(Id, bool), HashSet<Id>> = HashMap::new();
    for id in program.ids().filter(|&id| live[usize::from(id)]) {
        if let (Op::MatMul(product), &[left, right]) = (&program[id].op, &program[id].args[..])
            && matches!(program[right].op, Op::Frozen(_))
        {
            let own = lefts.entry((right, product.trans_b)).or_default();
            own.insert(rows_of(program, left));
        }
    }
    let many = lefts
        .into_iter()
        .filter(|(_, lefts)| lefts.len() > OF_A_BLOCK);
    many.map(|((parameter, _), _)| parameter).collect()
}

impl Region {
    fn leaf(&mut self, outer: &Program, id: Id) -> Result<Id, ProgramError> {
        if let Op::Const(value) = outer[id].op {
            return Ok(self.program.constant(value.0));
        }
        let known = self.leaves.iter().find(|(_, known)| **known == id);
        let n = self.leaves.len();
        let name: Name = match known {
            Some((name, _)) => name.clone(),
            None if is_matrix(outer, id) => format!("w{n}").into(),
            None => format!("x{n}").into(),
        };
        self.leaves.insert(name.clone(), id);
        let ty = matrix_type(outer.ty(id));
        match outer[id].op {
            Op::Frozen(_) if is_matrix(outer, id) => self.program.frozen(&name, ty),
            Op::Trained(_) if is_matrix(outer, id) => self.program.trained(&name, ty),
            _ => self.program.input(&name, ty),
        }
    }
}

/// Disjoint sets.
struct Sets(Vec<usize>);

impl Sets {
    fn find(&mut self, mut x: usize) -> usize {
        while self.0[x] != x {
            self.0[x] = self.0[self.0[x]];
            x = self.0[x];
        }
        x
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        self.0[a.max(b)] = a.min(b);
    }
}
