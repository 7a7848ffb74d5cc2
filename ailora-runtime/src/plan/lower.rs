//! From units to kernels over buffers that have sizes but no places yet.

use std::collections::HashMap;

use ailora_graph::ir::{
    DType, Id, Name, Op, Program, Type,
    ops::{attention::Operand as Toward, concat::Concat, matmul::MatMul},
    shape::{broadcast_strides, pitch},
};
use indexmap::IndexMap;

use super::{
    IdRange, Input, Instruction, Kernel, Loop, LoopOp, Operand, Outer, Source, Step, Stored,
    Strided, View,
    units::{Product, Unit, is_fusible},
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
    /// What is put in before the first step, or computed.
    Value,
}

pub(super) fn lower(program: &Program, schedule: &[Unit]) -> Lowered {
    let biased: HashMap<Id, [Id; 2]> = schedule
        .iter()
        .filter_map(|unit| match *unit {
            Unit::Biased { node, value, bias } => Some((node, [value, bias])),
            _ => None,
        })
        .collect();
    let readers = readers(program);
    let mut lowering = Lowering {
        program,
        out: Lowered::default(),
        views: vec![None; program.len()],
        last_use: last_uses(program, schedule, &biased),
        biased,
        units: units(program, schedule),
        ranges: ranges(program),
        homes: homes(program, schedule, &readers),
        readers,
    };
    for (time, unit) in schedule.iter().enumerate() {
        lowering.unit(time, unit);
    }
    for (name, &id) in program.outputs() {
        let view = lowering.dense(id);
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
    /// The values and biases of the sums that are left to attention.
    biased: HashMap<Id, [Id; 2]>,
    /// For each node, the nodes that read it.
    readers: Vec<Vec<Id>>,
    /// For each node, the times of the units that compute it: the first keeps it, those after it
    /// compute it again for themselves.
    units: Vec<Vec<usize>>,
    ranges: HashMap<Id, IdRange>,
    homes: Vec<Option<Home>>,
}

/// The place in a concatenation that a node is computed into.
#[derive(Clone, Copy, Debug)]
struct Home {
    concat: Id,
    axis: usize,
    start: usize,
}

/// Where each node is computed that a concatenation reads, so that nothing is left to copy. A node
/// in two of them has its home in the first.
fn homes(program: &Program, schedule: &[Unit], readers: &[Vec<Id>]) -> Vec<Option<Home>> {
    let mut homes = vec![None; program.len()];
    let live = program.live();
    for concat in program.ids().filter(|&id| live[usize::from(id)]) {
        let Op::Concat(op) = &program[concat].op else {
            continue;
        };
        let mut start = 0;
        for &arg in &program[concat].args {
            let mut owner = arg;
            while let Op::Reshape(_) = program[owner].op {
                owner = program[owner].args[0];
            }
            let home = &mut homes[usize::from(owner)];
            if home.is_none() && writes_rows(&program[owner].op) {
                *home = Some(Home {
                    concat,
                    axis: op.axis,
                    start,
                });
            }
            start += program.shape(arg)[op.axis];
        }
    }
    // A product that is left in the memory of what it is added to has its home there.
    for unit in schedule.iter().rev() {
        if let Unit::Gemm {
            node,
            onto: Some(onto),
            ..
        } = unit
            && is_for_sum(program, readers, *onto)
        {
            let home = homes[usize::from(*node)].take();
            let under = &mut homes[usize::from(*onto)];
            *under = under.or(home.filter(|_| writes_rows(&program[*onto].op)));
        }
    }
    homes
}

/// Whether a value in memory of its own is computed for one sum only, which may be left there.
fn is_for_sum(program: &Program, readers: &[Vec<Id>], onto: Id) -> bool {
    let op = &program[onto].op;
    let owns_memory = op.operation().is_some() && !op.is_view() && !matches!(op, Op::Concat(_));
    let is_output = program.outputs().values().any(|&output| output == onto);
    owns_memory && !is_output && readers[usize::from(onto)].len() == 1
}

/// Whether the kernel of an operation leaves gaps between rows as they are.
fn writes_rows(op: &Op) -> bool {
    is_fusible(op)
        || matches!(
            op,
            Op::Input(_)
                | Op::MatMul(_)
                | Op::Attention(_)
                | Op::AttentionGrad(_)
                | Op::Rotary(_)
                | Op::Concat(_)
                | Op::Permute(_)
        )
}

fn last_uses(program: &Program, schedule: &[Unit], biased: &HashMap<Id, [Id; 2]>) -> Vec<usize> {
    let mut last = vec![0; program.len()];
    for (time, unit) in schedule.iter().enumerate() {
        for arg in unit.members().into_iter().flat_map(|id| &program[id].args) {
            let read = biased.get(arg).map_or(arg, |[value, _]| value);
            last[usize::from(program.source(*read))] = time;
        }
    }
    for &id in program.outputs().values() {
        last[usize::from(program.source(id))] = usize::MAX;
    }
    last
}

fn last(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or(1)
}

/// For ids, what they choose from.
fn ranges(program: &Program) -> HashMap<Id, IdRange> {
    let mut ranges: HashMap<Id, IdRange> = HashMap::new();
    for id in program.ids() {
        let args = &program[id].args;
        let (ids, limit, ignorable) = match &program[id].op {
            Op::Embedding(_) => (args[1], program.shape(args[0])[0], false),
            Op::EmbeddingGrad(grad) => (args[0], grad.rows, false),
            Op::TakeAlong(_) => (args[1], last(program.shape(args[0])), false),
            Op::TakeAlongGrad(grad) => (args[0], grad.width, false),
            Op::CrossEntropy(_) | Op::CrossEntropyGrad(_) => {
                (args[1], program.shape(args[0])[1], true)
            }
            _ => continue,
        };
        let range = IdRange { limit, ignorable };
        let entry = ranges.entry(program.source(ids)).or_insert(range);
        entry.limit = limit.min(entry.limit);
        entry.ignorable &= ignorable;
    }
    ranges
}

impl Lowering<'_> {
    fn unit(&mut self, time: usize, unit: &Unit) {
        match unit {
            Unit::Single(id) => self.single(time, *id),
            Unit::Loop(members) => self.fused(time, members),
            Unit::AttentionGrad(members) => self.attention_grad(members),
            Unit::Outer(products) => self.outer_products(products),
            Unit::Biased { node, value, .. } => {
                self.views[usize::from(*node)] = Some(self.view(*value));
            }
            Unit::Gemm {
                node,
                product,
                alpha,
                onto,
            } => {
                let Op::MatMul(op) = self.program[*product].op else {
                    return;
                };
                let in_place = onto.filter(|&onto| self.takes_sum(onto, *node, *product, time));
                let view = match in_place {
                    Some(onto) => self.view(onto),
                    None => self.place(*node),
                };
                self.views[usize::from(*node)] = Some(view);
                self.gemm(*product, op, *alpha as f32, *onto, view);
            }
        }
    }

    /// Whether a product that is added to `onto` is left in its memory.
    fn takes_sum(&self, onto: Id, node: Id, product: Id, time: usize) -> bool {
        let view = self.view(onto);
        let factors = &self.program[product].args;
        is_for_sum(self.program, &self.readers, onto)
            || (self.homes[usize::from(node)].is_none()
                && self.is_value(onto)
                && self.dies(onto, time)
                && factors
                    .iter()
                    .all(|&factor| self.view(factor).buffer != view.buffer))
    }

    /// `alpha · product`, plus `onto`, which may lie where the result is left.
    fn gemm(&mut self, product: Id, op: MatMul, alpha: f32, onto: Option<Id>, to: View) {
        let args = self.program[product].args.clone();
        let dims = op.dims(self.program.shape(args[0]), self.program.shape(args[1]));
        let kernel = Kernel::Gemm {
            op,
            dims,
            alpha,
            accumulate: onto.is_some(),
        };
        let elsewhere = onto.filter(|&onto| self.view(onto) != to);
        let reads = args.iter().chain(&elsewhere);
        self.step(kernel, reads.map(|&arg| self.view(arg)).collect(), to);
    }

    fn outer_products(&mut self, products: &[Product]) {
        let program = self.program;
        let factors = |p: &Product| [0, 1].map(|i| program[p.product].args[i]);
        let kernel = Kernel::Outer {
            depth: program.shape(factors(&products[0])[0])[0],
            products: products
                .iter()
                .map(|p| Outer {
                    shape: factors(p).map(|id| last(program.shape(id))),
                    alpha: p.alpha as f32,
                })
                .collect(),
        };
        let reads = products.iter().flat_map(factors);
        let reads = reads.map(|id| self.view(id)).collect();
        let writes = products.iter().map(|p| self.place(p.node)).collect();
        self.out.steps.push(Step {
            kernel,
            reads,
            writes,
        });
    }

    fn attention_grad(&mut self, members: &[Id]) {
        let program = self.program;
        let args = &program[members[0]].args[..];
        let Op::AttentionGrad(grad) = &program[members[0]].op else {
            return;
        };
        let of = |id: Id| match &program[id].op {
            Op::AttentionGrad(grad) => Some(grad.of),
            _ => None,
        };
        let kernel = Kernel::AttentionGrad {
            op: grad.forward.clone(),
            dims: grad
                .forward
                .dims(program.shape(args[0]), program.shape(args[1])),
            biases: self.has_biases(args),
            wants: Toward::ALL.map(|toward| members.iter().any(|&id| of(id) == Some(toward))),
        };
        let mut in_order = members.to_vec();
        in_order.sort_by_key(|&id| of(id));
        let reads = self.attention_operands(args);
        let writes = in_order.into_iter().map(|id| self.place(id)).collect();
        self.out.steps.push(Step {
            kernel,
            reads,
            writes,
        });
    }

    /// Operands of an attention and then their biases: all but its mask may have gaps between rows.
    fn attention_operands(&mut self, args: &[Id]) -> Vec<View> {
        const MASK: usize = 3;
        let mut views: Vec<View> = args
            .iter()
            .enumerate()
            .map(|(i, &arg)| {
                if i == MASK {
                    self.dense(arg)
                } else {
                    self.view(arg)
                }
            })
            .collect();
        let biases = args.iter().filter_map(|arg| self.biased.get(arg));
        views.extend(biases.map(|&[_, bias]| self.view(bias)));
        views
    }

    /// Which of an attention's `q, k, v` it adds biases to.
    fn has_biases(&self, args: &[Id]) -> [bool; 3] {
        Toward::ALL.map(|of| self.biased.contains_key(&args[of as usize]))
    }

    fn single(&mut self, time: usize, id: Id) {
        let program = self.program;
        let node = &program[id];
        let args = &node.args[..];
        let shape = |i: usize| program.shape(args[i]);
        let kernel = match &node.op {
            Op::Input(leaf) => {
                let view = self.place(id);
                let range = (leaf.ty.dtype == DType::I32)
                    .then(|| self.ranges.get(&id).copied())
                    .flatten();
                self.out.inputs.push(Input {
                    name: leaf.name.clone(),
                    ty: leaf.ty.clone(),
                    view,
                    range,
                });
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
                    let to = self.place(id);
                    self.step(Kernel::Loop(Loop::fill(number)), Vec::new(), to);
                }
                return;
            }
            Op::Reshape(_) | Op::Slice(_) if let Some(view) = self.view_of(id) => {
                self.views[usize::from(id)] = Some(view);
                return;
            }
            Op::Reshape(_) | Op::Slice(_) | Op::Permute(_) | Op::Pad(_) => {
                let to = self.place(id);
                let moved = self.rearrangement(id, to);
                self.step(Kernel::Copy(moved), vec![self.view(args[0])], to);
                return;
            }
            Op::Concat(concat) => {
                self.concat(id, concat.axis);
                return;
            }
            Op::MatMul(op) => {
                let op = *op;
                let to = self.place(id);
                self.gemm(id, op, 1.0, None, to);
                return;
            }
            Op::Attention(op) => Kernel::Attention {
                op: op.clone(),
                dims: op.dims(shape(0), shape(1)),
                biases: self.has_biases(args),
            },
            Op::Rotary(_) => Kernel::Rotary {
                width: shape(0)[2],
                half: shape(1)[2],
            },
            Op::Merge(op) => Kernel::Merge {
                op: op.clone(),
                shape: [shape(0)[0], shape(0)[1]],
            },
            Op::Embedding(_) => Kernel::Gather { width: shape(0)[1] },
            Op::EmbeddingGrad(_) => Kernel::ScatterAdd {
                width: program.shape(id)[1],
            },
            Op::TakeAlong(op) => Kernel::TakeAlong {
                op: *op,
                widths: [last(shape(0)), last(shape(1))],
            },
            Op::TakeAlongGrad(op) => Kernel::TakeAlongGrad {
                op: op.forward,
                widths: [op.width, last(shape(0))],
            },
            Op::Reduce(op) => Kernel::Reduce {
                combine: op.combine,
                shape: shape(0).to_vec(),
                strides: broadcast_strides(program.shape(id), shape(0)),
            },
            Op::CrossEntropy(op) => Kernel::CrossEntropy {
                classes: shape(0)[1],
                smoothing: op.smoothing.0 as f32,
            },
            Op::CrossEntropyGrad(op) => Kernel::CrossEntropyGrad {
                classes: shape(0)[1],
                smoothing: op.forward.smoothing.0 as f32,
            },
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Dropout(_)
            | Op::Expand(_)
            | Op::Softmax(_)
            | Op::SoftmaxGrad(_)
            | Op::Normalize(_)
            | Op::NormalizeGrad(_)
            | Op::AttentionGrad(_) => unreachable!("loops and gradients have units of their own"),
        };
        let reads = match &kernel {
            Kernel::Attention { .. } => self.attention_operands(args),
            Kernel::Reduce { .. } => vec![self.view(args[0])],
            Kernel::Rotary { .. } => {
                vec![self.view(args[0]), self.dense(args[1]), self.dense(args[2])]
            }
            _ => args.iter().map(|&arg| self.dense(arg)).collect(),
        };
        let reads_first = matches!(
            kernel,
            Kernel::Rotary { .. } | Kernel::CrossEntropyGrad { .. }
        );
        let to = match reads_first && self.replaces(args[0], id, time) {
            true => reads[0],
            false => self.place(id),
        };
        self.views[usize::from(id)] = Some(to);
        self.step(kernel, reads, to);
    }

    /// How the elements of a node's argument become its own at `to`.
    fn rearrangement(&self, id: Id, to: View) -> Strided {
        let node = &self.program[id];
        let from = self.program.shape(node.args[0]);
        let shape = self.program.shape(id);
        let (from_strides, to_strides) = (self.view(node.args[0]).strides(from), to.strides(shape));
        match &node.op {
            Op::Permute(permute) => {
                let axes = permute.axes.iter();
                Strided::between(
                    shape,
                    axes.map(|&axis| from_strides[axis]).collect(),
                    to_strides,
                )
            }
            Op::Slice(slice) => Strided {
                from_start: slice.start * from_strides[slice.axis],
                ..Strided::between(shape, from_strides, to_strides)
            },
            Op::Pad(pad) => Strided {
                to_start: pad.before * to_strides[pad.axis],
                clear: true,
                ..Strided::between(from, from_strides, to_strides)
            },
            // A reshape, of rows with gaps to rows without.
            _ => Strided::between(
                from,
                from_strides,
                View::dense(0, 0, to.len()).strides(from),
            ),
        }
    }

    /// The memory of a reshape or a slice, where it is a part of its argument's.
    fn view_of(&self, id: Id) -> Option<View> {
        let node = &self.program[id];
        let view = self.view(node.args[0]);
        let shape = self.program.shape(id);
        match &node.op {
            Op::Slice(slice) => {
                let whole = self.program.shape(node.args[0]);
                view.part(whole, slice.axis, slice.start, shape)
            }
            _ => view.reshaped(shape),
        }
    }

    /// Moves what was not computed in its place.
    fn concat(&mut self, id: Id, axis: usize) {
        let program = self.program;
        let whole = self.place(id);
        let shape = program.shape(id);
        let strides = whole.strides(shape);
        let mut start = 0;
        for &arg in &program[id].args {
            let from = self.view(arg);
            let own = program.shape(arg);
            if whole.part(shape, axis, start, own) != Some(from) {
                let moved = Strided {
                    to_start: start * strides[axis],
                    ..Strided::between(own, from.strides(own), strides.clone())
                };
                self.step(Kernel::Copy(moved), vec![from], whole);
            }
            start += own[axis];
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
            .filter(|&id| self.units[usize::from(id)][0] == time && self.is_read_outside(id, time))
            .collect();
        let reads: Vec<View> = operands.iter().map(|&id| self.view(id)).collect();
        let mut taken: Vec<usize> = Vec::new();
        let writes: Vec<View> = leaves
            .iter()
            .map(|&id| {
                let dying = operands.iter().copied().find(|&operand| {
                    let buffer = self.view(operand).buffer;
                    program.shape(operand) == shape
                        && !taken.contains(&buffer)
                        && operands
                            .iter()
                            .all(|&o| o == operand || self.view(o).buffer != buffer)
                        && self.replaces(operand, id, time)
                });
                let view = match dying {
                    Some(operand) => self.view(operand),
                    None => self.place(id),
                };
                taken.push(view.buffer);
                self.views[usize::from(id)] = Some(view);
                view
            })
            .collect();
        let operand_strides = operands.iter().zip(&reads).map(|(&id, view)| {
            let own = program.shape(id);
            let lead = shape.len() - own.len();
            let mut strides = vec![0; shape.len()];
            for (axis, stride) in view.strides(own).into_iter().enumerate() {
                strides[lead + axis] = if own[axis] == 1 { 0 } else { stride };
            }
            strides
        });
        let result_strides = writes.iter().map(|view| view.strides(&shape));
        let strides = operand_strides.chain(result_strides).collect();
        let domain = Domain::collapsed(&shape, strides, whole_rows);
        let registers = leaves
            .iter()
            .filter_map(|id| members.iter().position(|member| member == id));
        let kernel = domain.walk(instructions, registers.collect(), whole_rows);
        self.out.steps.push(Step {
            kernel: Kernel::Loop(kernel),
            reads,
            writes,
        });
    }

    /// Whether a result may take the place of an operand: what lies there is read before it is stored.
    fn replaces(&self, operand: Id, result: Id, time: usize) -> bool {
        self.homes[usize::from(result)].is_none()
            && self.is_value(operand)
            && (self.dies(operand, time) || self.part_dies(operand, result, time))
    }

    fn is_value(&self, id: Id) -> bool {
        self.out.buffers[self.view(id).buffer].kind == Kind::Value
    }

    /// Whether nothing reads an operand's buffer later.
    fn dies(&self, operand: Id, time: usize) -> bool {
        let owner = self.program.source(operand);
        let view = self.view(operand);
        self.last_use[usize::from(owner)] == time
            && view.len() == self.out.buffers[view.buffer].len
            // What it joins may be read later.
            && !matches!(self.program[owner].op, Op::Concat(_))
    }

    /// Whether a result may take the place of an operand that is columns of a wider value,
    /// since all else that reads the value reads other columns.
    fn part_dies(&self, operand: Id, result: Id, time: usize) -> bool {
        let program = self.program;
        if self.is_output(result) || self.is_read_outside(operand, time) {
            return false;
        }
        let mut part = operand;
        while program[part].op.is_view() {
            let whole = program[part].args[0];
            let apart = |other: Id| match (&program[part].op, &program[other].op) {
                (Op::Slice(a), Op::Slice(b)) => {
                    a.axis == b.axis && (a.end <= b.start || b.end <= a.start)
                }
                _ => false,
            };
            let mut readers = self.readers[usize::from(whole)].iter();
            if self.is_output(whole) || !readers.all(|&other| other == part || apart(other)) {
                return false;
            }
            part = whole;
        }
        // What has its home elsewhere may be read there.
        part != operand
            && self.homes[usize::from(part)].is_none()
            && !matches!(program[part].op, Op::Concat(_))
    }

    fn is_output(&self, id: Id) -> bool {
        self.program.outputs().values().any(|&output| output == id)
    }

    /// Whether something reads a node's memory beside the unit of that time.
    fn is_read_outside(&self, id: Id, time: usize) -> bool {
        let own = &self.units[usize::from(id)];
        let mut readers = self.readers[usize::from(id)].iter();
        let reads = |reader: &Id| {
            let mut units = self.units[usize::from(*reader)].iter();
            units.any(|unit| *unit != time && !own.contains(unit))
        };
        self.is_output(id) || readers.any(reads)
    }

    fn step(&mut self, kernel: Kernel, reads: Vec<View>, to: View) {
        self.out.steps.push(Step {
            kernel,
            reads,
            writes: vec![to],
        });
    }

    fn buffer(&mut self, len: usize, kind: Kind) -> View {
        self.out.buffers.push(Storage { len, kind });
        View::dense(self.out.buffers.len() - 1, 0, len)
    }

    /// Where a node is computed: its home if it has one, or a buffer of its own.
    fn place(&mut self, id: Id) -> View {
        if let Some(view) = self.views[usize::from(id)] {
            return view;
        }
        let view = self.at_home(id).unwrap_or_else(|| self.own(id));
        self.views[usize::from(id)] = Some(view);
        view
    }

    /// A buffer for a node. Rows that lie side by side in it begin where products read them fast.
    fn own(&mut self, id: Id) -> View {
        let ty = self.program.ty(id);
        match self.program[id].op {
            Op::Concat(Concat { axis }) if axis + 1 == ty.rank() => {
                let width = ty.shape[axis];
                let (rows, stride) = (ty.len() / width.max(1), pitch(width));
                let whole = self.buffer(rows * stride, Kind::Value);
                View::spaced(whole.buffer, rows, width, stride)
            }
            _ => self.buffer(ty.len(), Kind::Value),
        }
    }

    fn at_home(&mut self, id: Id) -> Option<View> {
        let home = self.homes[usize::from(id)]?;
        let program = self.program;
        let whole = self.place(home.concat);
        let shape = program.shape(home.concat);
        // The node may be another shape of the concatenation's argument.
        let mut part = shape.to_vec();
        let len: usize = part.iter().product::<usize>() / part[home.axis].max(1);
        part[home.axis] = program.ty(id).len() / len.max(1);
        whole
            .part(shape, home.axis, home.start, &part)?
            .reshaped(program.shape(id))
    }

    /// A node's value without gaps.
    fn dense(&mut self, id: Id) -> View {
        let from = self.view(id);
        if from.is_dense() {
            return from;
        }
        let shape = self.program.shape(id);
        let to = self.buffer(from.len(), Kind::Value);
        let moved = Strided::between(shape, from.strides(shape), to.strides(shape));
        self.step(Kernel::Copy(moved), vec![from], to);
        to
    }

    fn view(&self, id: Id) -> View {
        match self.views[usize::from(id)] {
            Some(view) => view,
            None => unreachable!("units are in order of dependence"),
        }
    }
}

fn units(program: &Program, schedule: &[Unit]) -> Vec<Vec<usize>> {
    let mut units = vec![Vec::new(); program.len()];
    for (time, unit) in schedule.iter().enumerate() {
        for id in unit.members() {
            units[usize::from(id)].push(time);
        }
    }
    units
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
            centered: op.centered,
            eps: op.eps.0 as f32,
        },
        Op::NormalizeGrad(op) => LoopOp::NormalizeGrad {
            centered: op.centered,
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
        // Columns lie side by side; what does not is rows of one column.
        if domain.strides.iter().any(|own| own.last() > Some(&1)) {
            domain.shape.push(1);
            domain.strides.iter_mut().for_each(|own| own.push(0));
        }
        domain
    }

    /// The loop over it; the strides of its results are the last ones.
    fn walk(self, instructions: Vec<Instruction>, results: Vec<usize>, whole_rows: bool) -> Loop {
        let (width, rows) = match self.shape.split_last() {
            Some((&width, rows)) => (width, rows.to_vec()),
            None => (1, Vec::new()),
        };
        let mut operands: Vec<Operand> = self
            .strides
            .into_iter()
            .map(|mut strides| Operand {
                column: strides.pop().unwrap_or(0),
                rows: strides,
            })
            .collect();
        let stored = operands.split_off(operands.len() - results.len());
        let results = stored
            .into_iter()
            .zip(results)
            .map(|(walked, register)| Stored {
                register,
                rows: walked.rows,
                is_distant: false,
            })
            .collect();
        let mut walk = Loop {
            rows,
            width,
            whole_rows,
            operands,
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
            results: vec![Stored {
                register: 0,
                rows: Vec::new(),
                is_distant: false,
            }],
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
        for result in &self.results {
            last_read[result.register] = usize::MAX;
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
            result.register = names[result.register];
        }
        self.registers = used;
    }
}
