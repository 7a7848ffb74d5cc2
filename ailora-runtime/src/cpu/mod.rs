//! The CPU backend: the crates gemm and faer for products, rayon across rows, heads and products,
//! fused loops for the rest. Float32. The same inputs give the same bits, whatever else the machine
//! does.

mod attention;
mod gemm;
mod loops;
mod math;
mod memory;
mod rows;
mod tensors;

use std::time::Instant;

use ailora_graph::ir::{DType, Draw, Name, ops::loss::IGNORED};
use thiserror::Error;

use crate::{
    plan::{Buffer, Input, Kernel, Plan, Step},
    store::Params,
};
use memory::Memory;

/// A value for an input of a plan.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Floats.
    F32(&'a [f32]),
    /// Ids.
    I32(&'a [i32]),
}

/// A plan that cannot be run on what was given.
#[derive(Debug, Error)]
pub enum RunError {
    /// An input without a value.
    #[error("input `{0}` has no value")]
    MissingInput(Name),
    /// An input of another size or type.
    #[error("input `{name}` is {expected}, found {found}")]
    WrongInput {
        /// Its name.
        name: Name,
        /// Its type.
        expected: String,
        /// What was given.
        found: String,
    },
    /// An id that is not below the number of rows or classes.
    #[error("input `{name}`: id {id} at position {position} is not in 0..{limit}")]
    IdOutOfRange {
        /// The input's name.
        name: Name,
        /// The id.
        id: i32,
        /// Its position.
        position: usize,
        /// How many ids there are.
        limit: usize,
    },
    /// A parameter that the store does not have, or has in another size.
    #[error("parameter `{0}` is missing from the store or has another shape there")]
    MissingParameter(Name),
}

/// Memory and threads of the CPU. One arena serves every plan that is run in it.
#[derive(Debug, Default)]
pub struct Cpu {
    arena: Vec<Line>,
}

/// A cache line: the arena's alignment.
#[derive(Clone, Copy, Debug, Default, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// The results of a run, in the arena until the next.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    plan: &'a Plan,
    arena: &'a [f32],
    params: &'a Params,
}

impl<'a> Outputs<'a> {
    /// The elements of an output.
    pub fn get(&self, name: &str) -> Option<&'a [f32]> {
        let (view, _) = self.plan.outputs.get(name)?;
        match &self.plan.buffers[view.buffer] {
            Buffer::Arena { start, .. } => Some(&self.arena[start + view.start..][..view.len()]),
            Buffer::Parameter { name, .. } => {
                Some(&self.params.get(&**name)?.data[view.start..][..view.len()])
            }
        }
    }
}

impl Cpu {
    /// A backend whose arena grows to the plans that it runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the arena large enough for `plan`, so that running it allocates nothing.
    pub fn reserve(&mut self, plan: &Plan) {
        let lines = plan.arena_len.div_ceil(16);
        if self.arena.len() < lines {
            self.arena.resize(lines, Line::default());
        }
    }

    /// Executes a plan.
    ///
    /// # Errors
    /// An input or a parameter that is missing or of another size, an id out of range.
    pub fn run<'a>(
        &'a mut self,
        plan: &'a Plan,
        params: &'a Params,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
    ) -> Result<Outputs<'a>, RunError> {
        self.run_observed(plan, params, inputs, |step, memory| {
            execute(step, memory, draw);
        })
    }

    /// Executes a plan and adds to `seconds` what each of its steps took.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn profile<'a>(
        &'a mut self,
        plan: &'a Plan,
        params: &'a Params,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
        seconds: &mut Vec<f64>,
    ) -> Result<Outputs<'a>, RunError> {
        seconds.resize(plan.steps.len(), 0.0);
        let mut seconds = seconds.iter_mut();
        self.run_observed(plan, params, inputs, |step, memory| {
            let start = Instant::now();
            execute(step, memory, draw);
            if let Some(total) = seconds.next() {
                *total += start.elapsed().as_secs_f64();
            }
        })
    }

    fn run_observed<'a>(
        &'a mut self,
        plan: &'a Plan,
        params: &'a Params,
        inputs: &[(&str, Value<'_>)],
        mut run_step: impl FnMut(&Step, &Memory),
    ) -> Result<Outputs<'a>, RunError> {
        self.reserve(plan);
        let arena: &mut [f32] = bytemuck::cast_slice_mut(&mut self.arena);
        let sizes = |name: &str, data: &[f32]| {
            let known = plan.parameters.iter().find(|(other, _)| &**other == name);
            known.is_none_or(|(_, ty)| ty.len() == data.len())
        };
        let memory = Memory::new(plan, arena, |name| {
            let data = params.get(name)?.data.as_slice();
            sizes(name, data).then_some(data)
        });
        let memory = memory.map_err(RunError::MissingParameter)?;
        for input in &plan.inputs {
            let given = inputs.iter().find(|(name, _)| *name == &*input.name);
            let (_, value) = given.ok_or_else(|| RunError::MissingInput(input.name.clone()))?;
            bind(input, *value, &memory)?;
        }
        for step in &plan.steps {
            run_step(step, &memory);
        }
        let arena: &[f32] = bytemuck::cast_slice(&self.arena);
        Ok(Outputs {
            plan,
            arena,
            params,
        })
    }
}

fn bind(input: &Input, value: Value<'_>, memory: &Memory) -> Result<(), RunError> {
    let to = memory.region(input.view);
    let fill = |data: &[f32]| {
        let width = input.view.width;
        for (i, row) in data.chunks_exact(width.max(1)).enumerate() {
            // SAFETY: no kernel is running.
            unsafe { to.write(i * to.stride(width), width) }.copy_from_slice(row);
        }
    };
    let len = input.view.len();
    match (value, input.ty.dtype) {
        (Value::F32(data), DType::F32) if data.len() == len => fill(data),
        (Value::I32(data), DType::I32) if data.len() == len => {
            let limit = input.range.map_or(i32::MAX as usize, |range| range.limit);
            let ignorable = input.range.is_some_and(|range| range.ignorable);
            let outside = |&id: &i32| {
                usize::try_from(id).map_or(!(ignorable && id == IGNORED), |id| id >= limit)
            };
            if let Some(position) = data.iter().position(outside) {
                return Err(RunError::IdOutOfRange {
                    name: input.name.clone(),
                    id: data[position],
                    position,
                    limit,
                });
            }
            fill(bytemuck::cast_slice(data));
        }
        (value, _) => {
            let found = match value {
                Value::F32(data) => format!("{} floats", data.len()),
                Value::I32(data) => format!("{} ids", data.len()),
            };
            return Err(RunError::WrongInput {
                name: input.name.clone(),
                expected: input.ty.to_string(),
                found,
            });
        }
    }
    Ok(())
}

fn execute(step: &Step, memory: &Memory, draw: Draw) {
    let read = |i: usize| memory.read(step.reads[i]);
    let ids = |i: usize| -> &[i32] { bytemuck::cast_slice(read(i)) };
    let region = || memory.region(step.writes[0]);
    let source = |i: usize| memory.region(step.reads[i]);
    // SAFETY: these kernels run on this thread, and the plan keeps what they write apart from what
    // they read.
    let write = || unsafe { region().write_all() };
    match &step.kernel {
        Kernel::Gemm {
            op,
            dims,
            alpha,
            accumulate,
        } => {
            let operands = [source(0), source(1), region()];
            gemm::run(*op, *dims, *alpha, *accumulate, operands);
        }
        Kernel::Merge { op, shape } => gemm::merge(*op, *shape, source(0), region()),
        Kernel::Loop(walk) => loops::run(walk, memory, &step.reads, &step.writes, draw),
        Kernel::Attention { op, dims } => {
            let operands = [0, 1, 2].map(source);
            attention::forward(op, *dims, operands, read(3), region(), draw);
        }
        Kernel::AttentionGrad { op, dims, wants } => {
            let mut writes = step.writes.iter().map(|&view| memory.region(view));
            let gradients = wants.map(|wanted| wanted.then(|| writes.next()).flatten());
            let operands = [0, 1, 2].map(source);
            attention::backward(op, *dims, operands, read(3), source(4), gradients, draw);
        }
        Kernel::Rotary { width, half } => {
            tensors::rotary(*width, *half, source(0), [read(1), read(2)], region());
        }
        Kernel::Gather { width } => tensors::gather(*width, read(0), ids(1), write()),
        Kernel::ScatterAdd { width } => tensors::scatter_add(*width, ids(0), read(1), write()),
        Kernel::Reduce {
            combine,
            shape,
            strides,
        } => tensors::reduce(*combine, shape, strides, source(0), write()),
        Kernel::Copy(moved) => tensors::copy(moved, source(0), region()),
        Kernel::CrossEntropy { classes, smoothing } => {
            write()[0] = tensors::cross_entropy(*classes, *smoothing, read(0), ids(1));
        }
        Kernel::CrossEntropyGrad { classes, smoothing } => {
            tensors::cross_entropy_grad(*classes, *smoothing, read(0), ids(1), write());
        }
    }
}
