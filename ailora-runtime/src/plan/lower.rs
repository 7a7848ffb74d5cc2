//! From units to kernels over buffers that have sizes but no places yet.

use std::collections::HashMap;

use ailora_graph::ir::{
    DType, Id, Name, Op, Program, Type,
    ops::matmul::MatMul,
    shape::{broadcast_strides, strides},
};
use indexmap::IndexMap;

use super::{
    Input, Instruction, Kernel, Loop, LoopOp, Operand, Source, Step, Strided, View,
    units::{Unit, is_fusible},
};

/// A plan whose buffers have no places in the arena yet.
#[derive(Debug, Default)]
pub(super) struct Lowered {
    pub steps: Vec<Step>,
    pub buffers: Vec<Storage>,
    pub inputs: Vec<Input>,
    pub outputs: IndexMap<Name, (View, Type)>,
    pub parameters: Vec<(Name, Type)>,
}

/// What a buffer holds, and while which steps.
#[derive(Debug)]
pub(super) struct Storage {
    pub len: usize,
    pub kind: Kind,
}

#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    Parameter(Name),
    /// Written before the first step.
    Input,
    /// A number, written before the first step.
    Value,
}

pub(super) fn lower(program: &Program, schedule: &[Unit]) -> Lowered {
    let mut lowering = Lowering {
        program,
        out: Lowered::default(),
        views: vec![None; program.len()],
        last_use: last_uses(program, schedule),
        readers: readers(program),
        limits: limits(program),
    };
    for (time, unit) in schedule.iter().enumerate() {
        lowering.unit(time, unit);
    }
    for (name, &id) in program.outputs() {
        let view = lowering.view(id);
        let ty = program.ty(id).clone();
        lowering.out.outputs.insert(name.clone(), (view, ty));
    }
    lowering.out
}

struct Lowering<'a> {
    program: &'a Program,
    out: Lowered,
    views: Vec<Option<View>>,
    /// For each node, the time of the last unit that reads it, through views too.
    last_use: Vec<usize>,
    /// For each node, the nodes that read it.
    readers: Vec<Vec<Id>>,
    limits: HashMap<Id, usize>,
}

/// The node whose memory `id` is a view of.
fn root(program: &Program, mut id: Id) -> Id {
    while is_view(program, id) {
        id = program[id].args[0];
    }
    id
}

/// Whether a node is its argument's memory under another shape.
fn is_view(program: &Program, id: Id) -> bool {
    match &program[id].op {
        Op::Reshape(_) => true,
        // Rows of a row-major tensor lie together.
        Op::Slice(slice) => slice.axis == 0,
        _ => false,
    }
}

fn last_uses(program: &Program, schedule: &[Unit]) -> Vec<usize> {
    let mut last = vec![0; program.len()];
    for (time, unit) in schedule.iter().enumerate() {
        let members: Vec<Id> = match unit {
            Unit::Single(id) => vec![*id],
            Unit::Loop(members) => members.clone(),
            Unit::Gemm { node, product, .. } => vec![*node, *product],
        };
        for arg in members.iter().flat_map(|&id| &program[id].args) {
            last[usize::from(root(program, *arg))] = time;
        }
    }
    for &id in program.outputs().values() {
        last[usize::from(root(program, id))] = usize::MAX;
    }
    last
}

/// For ids, how many rows or classes they choose from.
fn limits(program: &Program) -> HashMap<Id, usize> {
    let mut limits: HashMap<Id, usize> = HashMap::new();
    for id in program.ids() {
        let args = &program[id].args;
        let (ids, limit) = match &program[id].op {
            Op::Embedding(_) => (args[1], program.shape(args[0])[0]),
            Op::EmbeddingGrad(grad) => (args[0], grad.rows),
            Op::CrossEntropy(_) | Op::CrossEntropyGrad(_) => (args[1], program.shape(args[0])[1]),
            _ => continue,
        };
        let entry = limits.entry(root(program, ids)).or_insert(limit);
        *entry = limit.min(*entry);
    }
    limits
}

impl Lowering<'_> {
    fn unit(&mut self, time: usize, unit: &Unit) {
        match unit {
            Unit::Single(id) => self.single(*id),
            Unit::Loop(members) => self.fused(time, members),
            Unit::Gemm {
                node,
                product,
                alpha,
                onto,
            } => {
                let Op::MatMul(op) = self.program[*product].op else {
                    return;
                };
                let view = match onto {
                    Some(onto) => self.view(*onto),
                    None => self.fresh(*node),
                };
                self.views[usize::from(*node)] = Some(view);
                self.gemm(*product, op, *alpha as f32, onto.is_some(), view);
            }
        }
    }

    fn gemm(&mut self, product: Id, op: MatMul, alpha: f32, accumulate: bool, to: View) {
        let args = self.program[product].args.clone();
        let dims = op.dims(self.program.shape(args[0]), self.program.shape(args[1]));
        let kernel = Kernel::Gemm {
            op,
            dims,
            alpha,
            accumulate,
        };
        self.step(kernel, &args, to);
    }

    fn single(&mut self, id: Id) {
        let program = self.program;
        let node = &program[id];
        let args = &node.args[..];
        let shape = |i: usize| program.shape(args[i]);
        let kernel = match &node.op {
            Op::Input(leaf) => {
                let view = self.buffer(leaf.ty.len(), Kind::Input);
                let limit = (leaf.ty.dtype == DType::I32)
                    .then(|| self.limits.get(&id).copied())
                    .flatten();
                self.out.inputs.push(Input {
                    name: leaf.name.clone(),
                    ty: leaf.ty.clone(),
                    view,
                    limit,
                });
                self.views[usize::from(id)] = Some(view);
                return;
            }
            Op::Frozen(leaf) | Op::Trained(leaf) => {
                let view = self.buffer(leaf.ty.len(), Kind::Parameter(leaf.name.clone()));
                let parameter = (leaf.name.clone(), leaf.ty.clone());
                self.out.parameters.push(parameter);
                self.views[usize::from(id)] = Some(view);
                return;
            }
            // Loops hold numbers as immediates; any other reader gets a loop that writes it.
            Op::Const(value) => {
                let number = value.0 as f32;
                let needed = self.last_use[usize::from(id)] == usize::MAX
                    || self.readers[usize::from(id)]
                        .iter()
                        .any(|&reader| !is_fusible(&program[reader].op));
                if needed {
                    let to = self.fresh(id);
                    self.views[usize::from(id)] = Some(to);
                    self.step(Kernel::Loop(Loop::fill(number)), &[], to);
                }
                return;
            }
            _ if is_view(program, id) => {
                let mut view = self.view(args[0]);
                if let Op::Slice(slice) = &node.op {
                    view.start += slice.start * strides(shape(0))[0];
                }
                view.len = program.ty(id).len();
                self.views[usize::from(id)] = Some(view);
                return;
            }
            Op::MatMul(op) => {
                let op = *op;
                let to = self.fresh(id);
                self.views[usize::from(id)] = Some(to);
                self.gemm(id, op, 1.0, false, to);
                return;
            }
            Op::Attention(op) => Kernel::Attention {
                op: op.clone(),
                dims: op.dims(shape(0), shape(1)),
            },
            Op::AttentionGrad(op) => Kernel::AttentionGrad {
                op: op.forward.clone(),
                dims: op.forward.dims(shape(0), shape(1)),
                wants: op.wants,
            },
            Op::Embedding(_) => Kernel::Gather { width: shape(0)[1] },
            Op::EmbeddingGrad(_) => Kernel::ScatterAdd {
                width: program.shape(id)[1],
            },
            Op::Reduce(op) => Kernel::Reduce {
                combine: op.combine,
                shape: shape(0).to_vec(),
                strides: broadcast_strides(program.shape(id), shape(0)),
            },
            Op::Permute(_) | Op::Slice(_) | Op::Pad(_) => Kernel::Copy(self.rearrangement(id)),
            Op::CrossEntropy(_) => Kernel::CrossEntropy {
                classes: shape(0)[1],
            },
            Op::CrossEntropyGrad(_) => Kernel::CrossEntropyGrad {
                classes: shape(0)[1],
            },
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Dropout(_)
            | Op::Expand(_)
            | Op::Reshape(_)
            | Op::Softmax(_)
            | Op::SoftmaxGrad(_)
            | Op::Normalize(_)
            | Op::NormalizeGrad(_) => unreachable!("loops and views are handled above"),
        };
        let to = self.fresh(id);
        self.views[usize::from(id)] = Some(to);
        self.step(kernel, &node.args, to);
    }

    fn rearrangement(&self, id: Id) -> Strided {
        let node = &self.program[id];
        let from = self.program.shape(node.args[0]);
        let to = self.program.shape(id);
        let (from_strides, to_strides) = (strides(from), strides(to));
        let plain = Strided {
            shape: to.to_vec(),
            from: from_strides.clone(),
            from_start: 0,
            to: to_strides.clone(),
            to_start: 0,
            clear: false,
        };
        match &node.op {
            Op::Permute(permute) => Strided {
                from: permute
                    .axes
                    .iter()
                    .map(|&axis| from_strides[axis])
                    .collect(),
                ..plain
            },
            Op::Slice(slice) => Strided {
                from_start: slice.start * from_strides[slice.axis],
                ..plain
            },
            Op::Pad(pad) => Strided {
                shape: from.to_vec(),
                to_start: pad.before * to_strides[pad.axis],
                clear: true,
                ..plain
            },
            _ => plain,
        }
    }

    /// A loop over the members' common shape.
    fn fused(&mut self, time: usize, members: &[Id]) {
        let program = self.program;
        let whole_rows = members
            .iter()
            .any(|&id| loop_op(&program[id].op).needs_row());
        let shape = program.shape(members[0]).to_vec();
        let mut operands: Vec<Id> = Vec::new();
        let mut instructions = Vec::new();
        for (to, &id) in members.iter().enumerate() {
            let args = program[id].args.iter().map(|&arg| {
                if let Some(register) = members.iter().position(|&member| member == arg) {
                    return Source::Register(register);
                }
                if let Op::Const(value) = &program[arg].op {
                    return Source::Number(value.0 as f32);
                }
                let known = operands.iter().position(|&operand| operand == arg);
                Source::Operand(known.unwrap_or_else(|| {
                    operands.push(arg);
                    operands.len() - 1
                }))
            });
            let args = args.collect();
            let op = loop_op(&program[id].op);
            instructions.push(Instruction { op, args, to });
        }
        let leaves: Vec<Id> = members
            .iter()
            .copied()
            .filter(|&id| self.is_read_outside(id, members))
            .collect();
        let results = leaves
            .iter()
            .filter_map(|id| members.iter().position(|member| member == id))
            .collect();
        let strides = operands
            .iter()
            .map(|&id| broadcast_strides(program.shape(id), &shape))
            .collect();
        let domain = Domain::collapsed(&shape, strides, whole_rows);
        let kernel = domain.walk(instructions, results, whole_rows);
        let reads: Vec<View> = operands.iter().map(|&id| self.view(id)).collect();
        let mut taken: Vec<usize> = Vec::new();
        let writes: Vec<View> = leaves
            .iter()
            .map(|&id| {
                // A result may take the place of an operand that nothing reads later: rows are
                // read before they are stored.
                let dying = operands.iter().copied().find(|&operand| {
                    let owner = root(program, operand);
                    let view = self.view(operand);
                    program.shape(operand) == shape
                        && self.last_use[usize::from(owner)] == time
                        && self.view(owner) == view
                        && !taken.contains(&view.buffer)
                        && !matches!(self.out.buffers[view.buffer].kind, Kind::Parameter(_))
                        && operands
                            .iter()
                            .all(|&o| o == operand || self.view(o).buffer != view.buffer)
                });
                let view = match dying {
                    Some(operand) => self.view(operand),
                    None => self.fresh(id),
                };
                taken.push(view.buffer);
                self.views[usize::from(id)] = Some(view);
                view
            })
            .collect();
        self.out.steps.push(Step {
            kernel: Kernel::Loop(kernel),
            reads,
            writes,
        });
    }

    fn is_read_outside(&self, id: Id, members: &[Id]) -> bool {
        let is_output = self.program.outputs().values().any(|&output| output == id);
        let readers = &self.readers[usize::from(id)];
        is_output || readers.iter().any(|reader| !members.contains(reader))
    }

    fn step(&mut self, kernel: Kernel, args: &[Id], to: View) {
        let reads = args.iter().map(|&arg| self.view(arg)).collect();
        self.out.steps.push(Step {
            kernel,
            reads,
            writes: vec![to],
        });
    }

    fn buffer(&mut self, len: usize, kind: Kind) -> View {
        self.out.buffers.push(Storage { len, kind });
        View {
            buffer: self.out.buffers.len() - 1,
            start: 0,
            len,
        }
    }

    fn fresh(&mut self, id: Id) -> View {
        self.buffer(self.program.ty(id).len(), Kind::Value)
    }

    fn view(&self, id: Id) -> View {
        match self.views[usize::from(id)] {
            Some(view) => view,
            None => unreachable!("units are in order of dependence"),
        }
    }
}

fn readers(program: &Program) -> Vec<Vec<Id>> {
    let live = program.live();
    let mut readers = vec![Vec::new(); program.len()];
    for id in program.ids().filter(|&id| live[usize::from(id)]) {
        for &arg in &program[id].args {
            readers[usize::from(arg)].push(id);
        }
    }
    readers
}

fn loop_op(op: &Op) -> LoopOp {
    match op {
        Op::Unary(op) => LoopOp::Unary(*op),
        Op::Binary(op) => LoopOp::Binary(*op),
        Op::Dropout(op) => LoopOp::Dropout {
            rate: op.rate.0,
            stream: op.stream.clone(),
        },
        Op::Softmax(_) => LoopOp::Softmax,
        Op::SoftmaxGrad(_) => LoopOp::SoftmaxGrad,
        Op::Normalize(op) => LoopOp::Normalize {
            eps: op.eps.0 as f32,
        },
        Op::NormalizeGrad(op) => LoopOp::NormalizeGrad {
            eps: op.eps.0 as f32,
        },
        // An expansion is its operand, walked with strides of 0.
        _ => LoopOp::Copy,
    }
}

/// The shape that a loop walks, and the strides of each operand along it.
struct Domain {
    shape: Vec<usize>,
    strides: Vec<Vec<usize>>,
}

impl Domain {
    /// `shape` with as few axes as the operands allow: axes of size 1 are dropped, and neighbours
    /// that every operand walks as one are one. The last axis is kept where rows must stay whole.
    fn collapsed(shape: &[usize], strides: Vec<Vec<usize>>, whole_rows: bool) -> Self {
        let mut domain = Self {
            shape: Vec::new(),
            strides: vec![Vec::new(); strides.len()],
        };
        for (axis, &size) in shape.iter().enumerate() {
            let is_row = whole_rows && axis + 1 == shape.len();
            if size == 1 && !is_row {
                continue;
            }
            let continues = |(own, all): (&Vec<usize>, &Vec<usize>)| {
                own.last().is_some_and(|&outer| outer == all[axis] * size)
            };
            let merges = !is_row
                && !domain.shape.is_empty()
                && domain.strides.iter().zip(&strides).all(continues);
            if merges {
                if let Some(last) = domain.shape.last_mut() {
                    *last *= size;
                }
                for (own, all) in domain.strides.iter_mut().zip(&strides) {
                    own.pop();
                    own.push(all[axis]);
                }
            } else {
                domain.shape.push(size);
                for (own, all) in domain.strides.iter_mut().zip(&strides) {
                    own.push(all[axis]);
                }
            }
        }
        domain
    }

    fn walk(self, instructions: Vec<Instruction>, results: Vec<usize>, whole_rows: bool) -> Loop {
        let (width, rows) = match self.shape.split_last() {
            Some((&width, rows)) => (width, rows.to_vec()),
            None => (1, Vec::new()),
        };
        let operands = self.strides.into_iter().map(|mut strides| Operand {
            column: strides.pop().unwrap_or(0),
            rows: strides,
        });
        let mut walk = Loop {
            rows,
            width,
            whole_rows,
            operands: operands.collect(),
            registers: instructions.len(),
            instructions,
            results,
        };
        walk.reuse_registers();
        walk
    }
}

impl Loop {
    /// Writes a number to a tensor without dimensions.
    fn fill(number: f32) -> Self {
        Self {
            rows: Vec::new(),
            width: 1,
            whole_rows: false,
            operands: Vec::new(),
            instructions: vec![Instruction {
                op: LoopOp::Copy,
                args: vec![Source::Number(number)],
                to: 0,
            }],
            registers: 1,
            results: vec![0],
        }
    }

    /// Renames registers so that one whose value is no longer read is written again. A result is
    /// read at the end.
    fn reuse_registers(&mut self) {
        let mut last_read = vec![0; self.registers];
        for (time, instruction) in self.instructions.iter().enumerate() {
            for arg in &instruction.args {
                if let Source::Register(register) = arg {
                    last_read[*register] = time;
                }
            }
        }
        for &result in &self.results {
            last_read[result] = usize::MAX;
        }
        let mut names = vec![0; self.registers];
        let mut free: Vec<usize> = Vec::new();
        let mut used = 0;
        for (time, instruction) in self.instructions.iter_mut().enumerate() {
            let mut dying = Vec::new();
            for arg in &mut instruction.args {
                if let Source::Register(register) = arg {
                    let name = names[*register];
                    if last_read[*register] == time && !dying.contains(&name) {
                        dying.push(name);
                    }
                    *register = name;
                }
            }
            // The result is none of the arguments, so those are free only afterwards.
            let name = free.pop().unwrap_or_else(|| {
                used += 1;
                used - 1
            });
            names[instruction.to] = name;
            instruction.to = name;
            free.extend(dying);
        }
        for result in &mut self.results {
            *result = names[*result];
        }
        self.registers = used;
    }
}
