//! The CPU backend: the crates gemm and faer for products, rayon across rows, heads and products,
//! fused loops for the rest. Float32. The same inputs give the same bits, whatever else the machine
//! does.

mod stepper;

use std::{collections::HashMap, sync::Arc, time::Instant};

use ailora_graph::{
    fuse::{cost::Costs, layout::Pack},
    ir::{Draw, Program},
};

use crate::{
    backend::{Backend, BackendError, Footprint, MemoryUse, Platform, Precision},
    kernels::host::{Call, Line, Memory, Place},
    plan::{Buffer, Input, Plan, Step, plan},
    run::{Outputs, Run, RunError, Value, bound},
    spectrum::Solver,
    store::{Array, Params},
    weights::Weights,
};
use stepper::Training;

/// Bytes of each number that is trained: gradient and two moments, float32.
const STATE: usize = 3 * size_of::<f32>();

/// Memory and threads of the CPU. One arena serves every plan that is run in it.
#[derive(Debug, Default)]
pub struct Cpu {
    storage: Storage,
    training: Option<Training>,
}

/// What plans compute in.
#[derive(Debug, Default)]
struct Storage {
    arena: Vec<Line>,
    /// What stays between runs, by name.
    states: HashMap<String, Vec<Line>>,
}

impl Cpu {
    /// A backend whose arena grows to the plans that it runs.
    pub fn new() -> Self {
        Self::default()
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
        run_in(&mut self.storage, plan, params, inputs, |step, memory| {
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
        run_in(&mut self.storage, plan, params, inputs, |step, memory| {
            let start = Instant::now();
            execute(step, memory, draw);
            if let Some(total) = seconds.next() {
                *total += start.elapsed().as_secs_f64();
            }
        })
    }
}

impl Platform for Cpu {
    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn costs(&self) -> Costs {
        Costs::default()
    }

    fn plan(&self, program: &Program) -> Plan {
        plan(program)
    }

    fn footprint(&self, plans: &[Plan], trained: usize) -> Footprint {
        let read = plans.iter().flat_map(|plan| &plan.parameters);
        let parameters: HashMap<_, usize> = read
            .map(|(name, ty)| (name, size_of::<f32>() * ty.len()))
            .collect();
        Footprint {
            parameters: parameters.values().sum(),
            arena: plans.iter().map(Plan::arena_bytes).max().unwrap_or(0)
                + plans.iter().map(Plan::state_bytes).max().unwrap_or(0),
            state: STATE * trained,
            workspace: 0,
        }
    }
}

impl Backend for Cpu {
    fn name(&self) -> String {
        format!("CPU, {} threads", rayon::current_num_threads())
    }

    fn solver(&self) -> Option<Arc<dyn Solver>> {
        None
    }

    fn pack(&self, weights: &mut Weights, pack: &Pack) {
        weights.pack(pack);
    }

    fn add(&mut self, plan: &Plan, weights: &mut Weights) -> Result<(), BackendError> {
        weights.widen(plan.parameters.iter().map(|(name, _)| &**name));
        Ok(reserve(&mut self.storage, plan)?)
    }

    fn run<'a>(&'a mut self, run: Run<'a, '_>) -> Result<Outputs<'a>, BackendError> {
        let params = run.weights.arrays();
        Ok(Self::run(self, run.plan, params, run.inputs, run.draw)?)
    }

    fn execute(&mut self, run: Run<'_, '_>) -> Result<(), BackendError> {
        Self::run(self, run.plan, run.weights.arrays(), run.inputs, run.draw)?;
        Ok(())
    }

    fn output(
        &self,
        _: usize,
        plan: &Plan,
        weights: &Weights,
        name: &str,
    ) -> Result<Vec<f32>, BackendError> {
        let arena = bytemuck::cast_slice(&self.storage.arena);
        let outputs = Outputs::in_place(plan, arena, weights.arrays());
        Ok(outputs.output(name)?.to_vec())
    }

    fn profile<'a>(
        &'a mut self,
        run: Run<'a, '_>,
        seconds: &mut Vec<f64>,
    ) -> Result<Outputs<'a>, BackendError> {
        let params = run.weights.arrays();
        let outputs = Self::profile(self, run.plan, params, run.inputs, run.draw, seconds);
        Ok(outputs?)
    }

    fn time(&mut self, run: Run<'_, '_>, timed: &[bool]) -> Result<f64, BackendError> {
        let mut seconds = Vec::new();
        Backend::profile(self, run, &mut seconds)?;
        let own = seconds.iter().zip(timed).filter(|(_, timed)| **timed);
        Ok(own.map(|(seconds, _)| seconds).sum())
    }

    fn arena_bytes(&self) -> usize {
        let states = self
            .storage
            .states
            .values()
            .map(|state| size_of_val(&**state));
        size_of_val(&*self.storage.arena) + states.sum::<usize>()
    }

    fn peak_bytes(&self, _: &[Plan], weights: &Weights, trained: usize) -> usize {
        weights.bytes() + self.arena_bytes() + STATE * trained
    }

    fn memory(&self) -> Result<MemoryUse, BackendError> {
        let bytes = self.arena_bytes();
        Ok(MemoryUse {
            used: bytes,
            peak: bytes,
        })
    }
}

/// Makes arena and states large enough for a plan, so that running it allocates nothing.
fn reserve(storage: &mut Storage, plan: &Plan) -> Result<(), RunError> {
    grow(&mut storage.arena, plan.arena_len)?;
    for (name, ty) in &plan.states {
        let state = storage.states.entry(name.to_string()).or_default();
        grow(state, ty.len())?;
    }
    Ok(())
}

/// Makes memory large enough for so many elements.
fn grow(memory: &mut Vec<Line>, len: usize) -> Result<(), RunError> {
    let lines = len.div_ceil(16);
    if let Some(more) = lines.checked_sub(memory.len()) {
        let reserved = memory.try_reserve_exact(more);
        reserved.map_err(|_| RunError::NoMemory(size_of::<f32>() * len))?;
        memory.resize(lines, Line::default());
    }
    Ok(())
}

/// Executes a plan in the arena, each step by `run_step`.
fn run_in<'a>(
    storage: &'a mut Storage,
    plan: &'a Plan,
    params: &'a Params,
    inputs: &[(&str, Value<'_>)],
    mut run_step: impl FnMut(&Step, &Memory),
) -> Result<Outputs<'a>, RunError> {
    reserve(storage, plan)?;
    let Storage { arena, states } = storage;
    let mut states: HashMap<&str, &mut [f32]> = states
        .iter_mut()
        .map(|(name, state)| (name.as_str(), bytemuck::cast_slice_mut(state)))
        .collect();
    let elements: &mut [f32] = bytemuck::cast_slice_mut(arena);
    let sizes = |name: &str, data: &[f32]| {
        let known = plan.parameters.iter().find(|(other, _)| &**other == name);
        known.is_none_or(|(_, ty)| ty.len() == data.len())
    };
    let buffers = plan.buffers.iter().map(|buffer| match buffer {
        Buffer::State { name, .. } => match states.get_mut(&**name) {
            Some(state) => Ok(Place::State(state.as_mut_ptr(), state.len())),
            None => unreachable!("states were reserved"),
        },
        Buffer::Arena { start, .. } => Ok(Place::Arena(*start)),
        Buffer::Parameter { name, .. } => {
            let data = params.get(&**name).and_then(Array::as_f32);
            data.filter(|data| sizes(name, data))
                .map(Place::Parameter)
                .ok_or_else(|| RunError::MissingParameter(name.clone()))
        }
    });
    let memory = Memory::new(buffers.collect::<Result<_, _>>()?, elements);
    for (input, value) in bound(&plan.inputs, inputs)? {
        fill(input, value, &memory);
    }
    for step in &plan.steps {
        run_step(step, &memory);
    }
    let elements: &[f32] = bytemuck::cast_slice(arena);
    Ok(Outputs::in_place(plan, elements, params))
}

/// Puts a value where the plan reads it.
fn fill(input: &Input, value: Value<'_>, memory: &Memory) {
    let to = memory.region(input.view);
    let data: &[f32] = match value {
        Value::F32(data) => data,
        Value::I32(data) => bytemuck::cast_slice(data),
    };
    let width = input.view.width;
    for (i, row) in data.chunks_exact(width.max(1)).enumerate() {
        // SAFETY: no kernel is running.
        unsafe { to.write(i * to.stride(width), width) }.copy_from_slice(row);
    }
}

fn execute(step: &Step, memory: &Memory, draw: Draw) {
    step.kernel.operation().run(&Call {
        memory,
        reads: &step.reads,
        writes: &step.writes,
        draw,
    });
}
