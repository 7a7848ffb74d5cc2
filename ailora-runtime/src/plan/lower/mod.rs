//! From units to kernels over buffers that have sizes but no places yet.

mod homes;
mod in_place;
mod loops;

use std::collections::HashMap;

use ailora_graph::ir::{
    DType, Id, Name, Op, Program, Type,
    ops::{attention::Operand as Toward, matmul::MatMul},
};
use indexmap::IndexMap;

use super::{
    Input, Step, View,
    units::{ScaledProduct, Unit, is_fusible},
};
use crate::kernels::{
    IdRange, Kernel, Node,
    attention::{Attention, AttentionGrad},
    copy::Copy,
    fused::Loop,
    gemm::Gemm,
    outer,
};
use homes::{Home, homes};

/// A plan whose buffers have no places in the arena yet.
#[derive(Debug, Default)]
pub(super) struct Lowered {
    pub steps: Vec<Step>,
    pub buffers: Vec<Storage>,
    pub inputs: Vec<Input>,
    pub outputs: IndexMap<Name, (View, Type)>,
    pub parameters: Vec<(Name, Type)>,
    pub states: Vec<(Name, Type)>,
}

/// What a buffer holds, and while which steps.
#[derive(Debug)]
pub(super) struct Storage {
    pub len: usize,
    /// The widest type of what it holds.
    pub dtype: DType,
    pub kind: Kind,
}

#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    Parameter(Name),
    State(Name),
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
        // What is put into a state stays there.
        if matches!(program[id].op, Op::Put(_)) && lowering.is_state(program[id].args[0]) {
            continue;
        }
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

fn node(program: &Program, id: Id) -> Node<'_> {
    let arguments = program[id].args.iter();
    Node {
        op: &program[id].op,
        shape: program.shape(id),
        arguments: arguments.map(|&arg| program.shape(arg)).collect(),
    }
}

/// For ids, what they choose from.
fn ranges(program: &Program) -> HashMap<Id, IdRange> {
    let mut ranges: HashMap<Id, IdRange> = HashMap::new();
    for id in program.ids() {
        let Some((argument, range)) = Kernel::ids(&node(program, id)) else {
            continue;
        };
        let ids = program.source(program[id].args[argument]);
        let entry = ranges.entry(ids).or_insert(range);
        entry.limit = range.limit.min(entry.limit);
        entry.ignorable &= range.ignorable;
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
                    unreachable!("a product's unit is made of a product")
                };
                let in_place = onto.filter(|&onto| self.takes_sum(onto, *node, *product, time));
                let view = match in_place {
                    Some(onto) => self.view(onto),
                    None => self.place(*node),
                };
                self.keep(*node, view);
                self.gemm(*product, op, *alpha as f32, *onto, view);
            }
        }
    }

    /// `alpha · product`, plus `onto`, which may lie where the result is left.
    fn gemm(&mut self, product: Id, op: MatMul, alpha: f32, onto: Option<Id>, to: View) {
        let args = self.program[product].args.clone();
        let dims = op.dims(self.program.shape(args[0]), self.program.shape(args[1]));
        let kernel = Kernel::Gemm(Gemm {
            op,
            dims,
            alpha,
            accumulate: onto.is_some(),
        });
        let elsewhere = onto.filter(|&onto| self.view(onto) != to);
        let reads = args.iter().chain(&elsewhere);
        self.step(kernel, reads.map(|&arg| self.view(arg)).collect(), to);
    }

    fn outer_products(&mut self, products: &[ScaledProduct]) {
        let program = self.program;
        let factors = |p: &ScaledProduct| [0, 1].map(|i| program[p.product].args[i]);
        let kernel = Kernel::Outer(outer::Outer {
            depth: program.shape(factors(&products[0])[0])[0],
            products: products
                .iter()
                .map(|p| outer::Product {
                    shape: factors(p).map(|id| last(program.shape(id))),
                    alpha: p.alpha as f32,
                })
                .collect(),
        });
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
            unreachable!("its unit is made of gradients of an attention")
        };
        let of = |id: Id| match &program[id].op {
            Op::AttentionGrad(grad) => Some(grad.of),
            _ => None,
        };
        let kernel = Kernel::AttentionGrad(AttentionGrad {
            op: grad.forward.clone(),
            dims: grad
                .forward
                .dims(program.shape(args[0]), program.shape(args[1])),
            biases: self.has_biases(args),
            wants: Toward::ALL.map(|toward| members.iter().any(|&id| of(id) == Some(toward))),
        });
        let mut in_order = members.to_vec();
        in_order.sort_by_key(|&id| of(id));
        let reads = self.operands(&kernel, args);
        let writes = in_order.into_iter().map(|id| self.place(id)).collect();
        self.out.steps.push(Step {
            kernel,
            reads,
            writes,
        });
    }

    /// A kernel's operands, without gaps where it takes none, and then the biases that are left to it.
    fn operands(&mut self, kernel: &Kernel, args: &[Id]) -> Vec<View> {
        let operation = kernel.operation();
        let operands = args.iter().enumerate();
        let mut views: Vec<View> = operands
            .map(|(i, &arg)| match operation.takes_gaps(i) {
                true => self.view(arg),
                false => self.dense(arg),
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
        let args = &program[id].args[..];
        let kernel = match &program[id].op {
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
                let view = self.buffer(&leaf.ty, Kind::Parameter(leaf.name.clone()));
                let parameter = (leaf.name.clone(), leaf.ty.clone());
                self.out.parameters.push(parameter);
                self.views[usize::from(id)] = Some(view);
                return;
            }
            Op::State(leaf) => {
                let view = self.buffer(&leaf.ty, Kind::State(leaf.name.clone()));
                let state = (leaf.name.clone(), leaf.ty.clone());
                self.out.states.push(state);
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
            Op::Reshape(_) | Op::Slice(_) | Op::Cast(_) if let Some(view) = self.view_of(id) => {
                self.keep(id, view);
                return;
            }
            Op::Reshape(_) | Op::Slice(_) | Op::Cast(_) | Op::Permute(_) | Op::Pad(_) => {
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
            Op::Attention(op) => Kernel::Attention(Attention {
                op: op.clone(),
                dims: op.dims(program.shape(args[0]), program.shape(args[1])),
                biases: self.has_biases(args),
            }),
            op => match Kernel::of(&node(program, id)) {
                Some(kernel) => kernel,
                None => unreachable!("{op:?} has a unit of its own or a kernel"),
            },
        };
        let reads = self.operands(&kernel, args);
        let is_in_place = kernel.operation().is_in_place();
        let is_put = matches!(kernel, Kernel::Put(_));
        let stays = is_put && self.is_state(args[0]);
        let to = match stays || (is_in_place && self.replaces(args[0], id, time)) {
            true => reads[0],
            false => self.place(id),
        };
        if is_put && to != reads[0] {
            // It leaves most of what is there as it is.
            let shape = program.shape(id);
            let moved = Copy::between(shape, reads[0].strides(shape), to.strides(shape));
            self.step(Kernel::Copy(moved), vec![reads[0]], to);
        }
        self.keep(id, to);
        self.step(kernel, reads, to);
    }

    /// How the elements of a node's argument become its own at `to`.
    fn rearrangement(&self, id: Id, to: View) -> Copy {
        let node = &self.program[id];
        let from = self.program.shape(node.args[0]);
        let shape = self.program.shape(id);
        let (from_strides, to_strides) = (self.view(node.args[0]).strides(from), to.strides(shape));
        match &node.op {
            Op::Permute(permute) => {
                let axes = permute.axes.iter();
                Copy::between(
                    shape,
                    axes.map(|&axis| from_strides[axis]).collect(),
                    to_strides,
                )
            }
            Op::Slice(slice) => Copy {
                from_start: slice.start * from_strides[slice.axis],
                ..Copy::between(shape, from_strides, to_strides)
            },
            Op::Pad(pad) => Copy {
                to_start: pad.before * to_strides[pad.axis],
                clear: true,
                ..Copy::between(from, from_strides, to_strides)
            },
            // A reshape, of rows with gaps to rows without, or a parameter in another type.
            _ => Copy::between(
                from,
                from_strides,
                View::dense(0, 0, to.len()).strides(from),
            ),
        }
    }

    /// The memory of a reshape, a slice or a cast, where it is a part of its argument's.
    fn view_of(&self, id: Id) -> Option<View> {
        let node = &self.program[id];
        let view = self.view(node.args[0]);
        let shape = self.program.shape(id);
        let buffer = &self.out.buffers[view.buffer];
        match &node.op {
            Op::Cast(cast) => {
                let is_wide_enough = cast.to.bytes() <= buffer.dtype.bytes();
                (is_wide_enough || buffer.kind == Kind::Value).then_some(view)
            }
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
                let moved = Copy {
                    to_start: start * strides[axis],
                    ..Copy::between(own, from.strides(own), strides.clone())
                };
                self.step(Kernel::Copy(moved), vec![from], whole);
            }
            start += own[axis];
        }
    }

    fn step(&mut self, kernel: Kernel, reads: Vec<View>, to: View) {
        self.out.steps.push(Step {
            kernel,
            reads,
            writes: vec![to],
        });
    }

    fn buffer(&mut self, ty: &Type, kind: Kind) -> View {
        let (len, dtype) = (ty.len(), ty.dtype);
        self.out.buffers.push(Storage { len, dtype, kind });
        View::dense(self.out.buffers.len() - 1, 0, len)
    }

    /// Notes where a node's value lies, in a buffer that is then at least as wide as its type.
    fn keep(&mut self, id: Id, view: View) {
        self.views[usize::from(id)] = Some(view);
        let dtype = self.program.ty(id).dtype;
        let buffer = &mut self.out.buffers[view.buffer];
        if buffer.dtype.bytes() < dtype.bytes() {
            buffer.dtype = dtype;
        }
    }

    /// A node's value without gaps.
    fn dense(&mut self, id: Id) -> View {
        let from = self.view(id);
        if from.is_dense() {
            return from;
        }
        let shape = self.program.shape(id);
        let dtype = self.out.buffers[from.buffer].dtype;
        let to = self.buffer(&Type::new(dtype, [from.len()]), Kind::Value);
        let moved = Copy::between(shape, from.strides(shape), to.strides(shape));
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
