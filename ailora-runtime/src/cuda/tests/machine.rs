//! Plans on the host, by the kernels of devices.

use ailora_graph::{
    element_types::element_types,
    ir::{DType, Draw, Program, ops::matmul::MatMul, random::Key},
};

use super::{emulate::Kernels, nvrtc};
use crate::{
    cpu::Cpu,
    cuda::planner::{actions, kernels, places},
    kernels::device::{Action, Actions, Param, Product, Source, Target},
    plan::{Buffer, Places, Plan, plan, separate},
    run::Value,
    store::{Array, Params},
};

const DRAW: Draw = Draw { seed: 3, step: 5 };

/// Memory whose first element is aligned.
struct Aligned {
    lines: Vec<[u128; 4]>,
}

impl Aligned {
    /// Elements that are no numbers.
    fn new(bytes: usize) -> Self {
        let lines = vec![[u128::MAX; 4]; bytes / 64 + 2];
        Self { lines }
    }

    /// As states begin.
    fn zeros(bytes: usize) -> Self {
        let lines = vec![[0; 4]; bytes / 64 + 2];
        Self { lines }
    }

    fn start(&mut self) -> *mut u8 {
        let start = self.lines.as_mut_ptr().cast::<u8>();
        // SAFETY: there is a line more than needed.
        unsafe { start.add(start.align_offset(64)) }
    }
}

/// Where a plan's buffers lie, as on a device.
struct Memory<'a> {
    plan: &'a Plan,
    places: Places,
    arena: Aligned,
    parameters: Vec<Option<Aligned>>,
}

impl<'a> Memory<'a> {
    fn new(plan: &'a Plan, actions: &[Actions]) -> Self {
        let places = places(plan, actions);
        let parameters = plan.buffers.iter().map(|buffer| match buffer {
            Buffer::Arena { .. } => None,
            Buffer::Parameter { len, .. } => Some(Aligned::new(4 * len)),
            Buffer::State { len, .. } => Some(Aligned::zeros(4 * len)),
        });
        Self {
            plan,
            arena: Aligned::new(places.bytes),
            places,
            parameters: parameters.collect(),
        }
    }

    fn at(&mut self, buffer: usize, i: usize) -> *mut u8 {
        let first = self.places.buffers[buffer];
        let byte = i * self.plan.buffers[buffer].dtype().bytes();
        // SAFETY: views lie in their buffers.
        unsafe {
            match &mut self.parameters[buffer] {
                Some(own) => own.start().add(byte),
                None => self.arena.start().add(first + byte),
            }
        }
    }

    /// The bytes of an element.
    fn element(&mut self, buffer: usize, i: usize) -> (DType, &mut [u8]) {
        let dtype = self.plan.buffers[buffer].dtype();
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.at(buffer, i), dtype.bytes()) };
        (dtype, bytes)
    }

    fn get(&mut self, buffer: usize, i: usize) -> f32 {
        let (dtype, bytes) = self.element(buffer, i);
        let mut x = [0.0];
        dtype.decode(bytes, &mut x);
        x[0]
    }

    fn set(&mut self, buffer: usize, i: usize, x: f32) {
        let (dtype, bytes) = self.element(buffer, i);
        dtype.encode(&[x], bytes);
    }

    fn address(&mut self, time: usize, param: &Param, key: &[u64]) -> *mut u8 {
        let step = &self.plan.steps[time];
        match param {
            Param::Read(i) => self.at(step.reads[*i].buffer, step.reads[*i].start),
            Param::Write(i) => self.at(step.writes[*i].buffer, step.writes[*i].start),
            Param::Key(_) => key.as_ptr().cast_mut().cast(),
            // SAFETY: the kernels asked for as much.
            Param::Scratch(byte) => unsafe {
                self.arena.start().add(self.places.scratch[time] + byte)
            },
        }
    }
}

/// Executes the actions of a step, whose first kernel has number `next`.
fn execute(
    memory: &mut Memory,
    kernels: &Kernels,
    time: usize,
    actions: &Actions,
    next: &mut usize,
) {
    for action in &actions.list {
        match action {
            Action::Kernel(source) => {
                let params = source.params.iter();
                let keys: Vec<[u64; 1]> = params
                    .map(|param| match param {
                        Param::Key(name) => [DRAW.key(name).word()],
                        _ => [0],
                    })
                    .collect();
                let params = source.params.iter().zip(&keys);
                let arguments: Vec<*mut u8> = params
                    .map(|(param, key)| memory.address(time, param, key))
                    .collect();
                kernels.launch(*next, source, &arguments);
                *next += 1;
            }
            Action::Product(product) => {
                let matrices = product.operands.each_ref();
                let addresses = matrices.map(|matrix| memory.address(time, &matrix.at, &[]));
                multiply(product, addresses);
            }
        }
    }
}

/// Values for the inputs of a plan: normal numbers, some ids.
fn values(plan: &Plan, bf16: bool) -> Vec<Vec<f32>> {
    let inputs = plan.inputs.iter();
    inputs
        .map(|input| {
            let key: Key = DRAW.key(&input.name);
            let range = input.range.map_or(i32::MAX as usize, |range| range.limit);
            let ignorable = input.range.is_some_and(|range| range.ignorable);
            (0..input.ty.len() as u64)
                .map(|i| match input.ty.dtype {
                    DType::I32 if ignorable && i % 3 == 1 => -100.0,
                    DType::I32 => (key.uniform(i) * range as f64).floor() as f32,
                    _ if bf16 => half::bf16::from_f64(key.normal(i)).to_f32(),
                    _ => key.normal(i) as f32,
                })
                .collect()
        })
        .collect()
}

/// Holds the kernels of a program to the CPU backend, fused and not, in float32 and bfloat16.
pub(super) fn agree(program: &Program) {
    for bf16 in [false, true] {
        let program = typed(program, bf16);
        for plan in [plan(&program), separate(&program)] {
            agree_on(&plan, bf16, Target::AMPERE, |_, _, _| {});
        }
    }
}

/// A program whose matrices are kept in bfloat16 or in float32.
pub(super) fn typed(program: &Program, bf16: bool) -> Program {
    let matrices = if bf16 { DType::Bf16 } else { DType::F32 };
    element_types(program, matrices).unwrap()
}

/// The same for one plan, whose inputs `change` may alter by name.
pub(super) fn agree_on(
    plan: &Plan,
    bf16: bool,
    target: Target,
    change: impl Fn(&str, usize, &mut f32),
) {
    let mut values = values(plan, bf16);
    for (input, values) in plan.inputs.iter().zip(&mut values) {
        for (i, x) in values.iter_mut().enumerate() {
            change(&input.name, i, x);
        }
    }
    let all = actions(plan, target);
    let sources: Vec<&Source> = kernels(&all).collect();
    nvrtc::check(sources.iter().copied(), target);
    let Some(functions) = Kernels::new(&sources) else {
        return;
    };
    let mut memory = Memory::new(plan, &all);
    for (input, values) in plan.inputs.iter().zip(&values) {
        let view = input.view;
        for (i, &x) in values.iter().enumerate() {
            let at = view.start + i / view.width * view.stride + i % view.width;
            memory.set(view.buffer, at, x);
        }
    }
    let params = parameters(plan, &mut memory);
    let mut next = 0;
    for (time, actions) in all.iter().enumerate() {
        execute(&mut memory, &functions, time, actions, &mut next);
    }
    let ids: Vec<Vec<i32>> = values
        .iter()
        .map(|values| values.iter().map(|&x| x as i32).collect())
        .collect();
    let inputs: Vec<(&str, Value)> = plan
        .inputs
        .iter()
        .enumerate()
        .map(|(i, input)| {
            let value = match input.ty.dtype {
                DType::I32 => Value::I32(&ids[i]),
                _ => Value::F32(&values[i]),
            };
            (&*input.name, value)
        })
        .collect();
    let mut cpu = Cpu::new();
    let outputs = cpu.run(plan, &params, &inputs, DRAW).unwrap();
    for (name, (view, _)) in &plan.outputs {
        let expected = outputs.get(name).unwrap();
        let finite = expected.iter().filter(|x| x.is_finite());
        let largest = finite.fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let tolerance = match bf16 {
            true => 0.03,
            false => 3e-6,
        };
        for (i, &expected) in expected.iter().enumerate() {
            let found = memory.get(view.buffer, view.start + i);
            let close = (found - expected).abs() <= tolerance * largest.max(expected.abs());
            let same = found == expected || (found.is_nan() && expected.is_nan());
            assert!(
                close || same,
                "{name}[{i}] of {} is {found} and not {expected}, bf16: {bf16}\n{}",
                view.len(),
                sources.iter().map(|s| &*s.code).collect::<String>()
            );
        }
    }
}

/// Random values of the parameters, which bfloat16 has, in a plan's memory and by name.
fn parameters(plan: &Plan, memory: &mut Memory) -> Params {
    let mut params = Params::new();
    for (buffer, place) in plan.buffers.iter().enumerate() {
        let Buffer::Parameter { name, len, .. } = place else {
            continue;
        };
        let key = DRAW.key(name);
        let data: Vec<f32> = (0..*len as u64)
            .map(|i| half::bf16::from_f64(key.normal(i)).to_f32())
            .collect();
        for (i, &x) in data.iter().enumerate() {
            memory.set(buffer, i, x);
        }
        let shape = vec![*len];
        params.insert(name.to_string(), Array::new(shape, data));
    }
    params
}

/// A product as the device's library computes it.
fn multiply(product: &Product, addresses: [*mut u8; 4]) {
    let [outer, inner] = product.batches;
    let [m, n, k] = product.sizes;
    // SAFETY: the plan's operands lie within their buffers.
    let get = |i: usize, at: usize| -> f32 {
        let matrix = &product.operands[i];
        let at = matrix.offset + at;
        unsafe {
            match matrix.dtype {
                DType::Bf16 => (*addresses[i].cast::<half::bf16>().add(at)).to_f32(),
                _ => *addresses[i].cast::<f32>().add(at),
            }
        }
    };
    let place = |i: usize, row: usize, column: usize, transposed: bool| {
        let [row, column] = if transposed {
            [column, row]
        } else {
            [row, column]
        };
        row * product.operands[i].stride + column
    };
    let MatMul { trans_a, trans_b } = product.op;
    for o in 0..outer.0 {
        for j in 0..inner.0 {
            let start = [0, 1, 2, 3].map(|i| o * outer.1[i] + j * inner.1[i]);
            for row in 0..m {
                for column in 0..n {
                    let terms = (0..k).map(|p| {
                        f64::from(get(0, start[0] + place(0, row, p, trans_a)))
                            * f64::from(get(1, start[1] + place(1, p, column, trans_b)))
                    });
                    let sum = product.alpha * terms.sum::<f64>() as f32;
                    let at = start[2] + place(2, row, column, false);
                    let old = if product.accumulate { get(2, at) } else { 0.0 };
                    let at = start[3] + place(3, row, column, false);
                    let (to, matrix) = (addresses[3], &product.operands[3]);
                    let at = matrix.offset + at;
                    // SAFETY: as above.
                    unsafe {
                        match matrix.dtype {
                            DType::Bf16 => {
                                let x = half::bf16::from_f32(old + sum);
                                *to.cast::<half::bf16>().add(at) = x;
                            }
                            _ => *to.cast::<f32>().add(at) = old + sum,
                        }
                    }
                }
            }
        }
    }
}
