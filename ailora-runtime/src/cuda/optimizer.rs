//! Gradients, moments and values of what is trained, on the device.

use std::collections::HashMap;

use ailora_graph::{grad::gradient_name, ir::Draw};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::{CudaFunction, sys::CUdeviceptr};
use indexmap::IndexMap;

use super::{
    Cuda, CudaError, Element,
    device::{Buffer, Rectangle},
    staging::Locked,
};
use crate::{
    optim::{AdamW, AdamWConfig, Moments},
    plan::Plan,
    run::Value,
    weights::{Place, Weights},
};

pub(super) const SOURCE: &str = include_str!("optimizer.cu");
/// Bytes for each number that is trained: gradient, value and two moments, float32.
pub(super) const BYTES: usize = 16;
/// Elements that a block handles.
const COUNT: usize = 4096;
const THREADS: u32 = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Parameter {
    place: CUdeviceptr,
    start: u64,
    len: u64,
    width: u32,
    stride: u32,
    lr: f64,
    is_bf16: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Part {
    parameter: u32,
    first: u32,
}

/// What a step came to; the losses of its micro-batches follow.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Outcome {
    norm: f64,
    factor: f32,
    finite: u32,
}

/// What the optimiser keeps on a device, and its kernels.
#[derive(Debug)]
pub struct Optimizer {
    /// Where each parameter's elements lie in the flat arrays: the first, and how many.
    ranges: IndexMap<String, (usize, usize)>,
    parameters: Buffer,
    parts: Buffer,
    count: u32,
    gradients: Buffer,
    values: Buffer,
    first: Buffer,
    second: Buffer,
    sums: Buffer,
    /// Of the last step.
    outcome: Buffer,
    /// Memory for the outcomes of steps to come.
    spare: Vec<Locked>,
    /// For each plan, the addresses of the gradients.
    sources: HashMap<usize, (CUdeviceptr, Buffer)>,
    functions: [CudaFunction; 4],
}

/// A step that is queued: where its outcome will be.
#[derive(Debug)]
pub struct Queued(Locked);

/// What a step on the device came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Updated {
    /// The losses of the micro-batches, and perhaps more that are none.
    pub losses: Vec<f32>,
    /// The norm of the gradients, before clipping.
    pub norm: f64,
    /// Whether anything was updated.
    pub updated: bool,
}

/// A micro-batch's share of a step.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Its number in the step, from 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
    /// Its targets over the step's.
    pub weight: f32,
}

impl Optimizer {
    /// The state of `adamw` and the values of its parameters, which plans on the device read.
    fn new(cuda: &mut Cuda, adamw: &AdamW, weights: &Weights) -> Result<Self, CudaError> {
        let resources = &mut cuda.resources;
        let mut ranges = IndexMap::new();
        let mut parameters = Vec::new();
        let mut parts = Vec::new();
        let mut total = 0;
        let names = adamw.groups().iter();
        let names = names.flat_map(|group| group.parameters.iter().map(|name| (name, group.lr)));
        for (name, lr) in names {
            let Some(place) = weights.place(name) else {
                continue;
            };
            let Some(array) = resources.parameters.get(place.array) else {
                continue;
            };
            let Place {
                start,
                rows,
                width,
                stride,
                ..
            } = place;
            let len = rows * width;
            let index = parameters.len() as u32;
            parameters.push(Parameter {
                place: array.buffer.at(start * array.element.bytes()),
                start: total as u64,
                len: len as u64,
                width: width.max(1) as u32,
                stride: stride as u32,
                lr,
                is_bf16: u64::from(array.element == Element::Bf16),
            });
            parts.extend((0..len).step_by(COUNT).map(|first| Part {
                parameter: index,
                first: first as u32,
            }));
            ranges.insert(name.clone(), (total, len));
            total += len;
        }
        let flat = |what| resources.device.allocate(BYTES / 4 * total, what);
        let mut state = Self {
            parameters: resources
                .device
                .allocate(size_of_val(&*parameters), "the list of what is trained")?,
            parts: resources
                .device
                .allocate(size_of_val(&*parts), "the list of what is trained")?,
            count: parts.len() as u32,
            gradients: flat("gradients")?,
            values: flat("float32 values of what is trained")?,
            first: flat("the optimiser's first moments")?,
            second: flat("the optimiser's second moments")?,
            sums: resources.device.allocate(8 * parts.len(), "sums")?,
            outcome: resources
                .device
                .allocate(size_of::<Outcome>(), "a step's outcome")?,
            spare: Vec::new(),
            sources: HashMap::new(),
            functions: resources
                .functions(SOURCE, ["accumulate", "squares", "clip_norm", "adamw"])?,
            ranges,
        };
        let device = &resources.device;
        device.upload(&parameters, &state.parameters, 0)?;
        device.upload(&parts, &state.parts, 0)?;
        state.load(device, adamw, weights)?;
        state.count = parts.len() as u32;
        Ok(state)
    }

    fn load(
        &self,
        device: &super::Device,
        adamw: &AdamW,
        weights: &Weights,
    ) -> Result<(), CudaError> {
        for (name, &(start, _)) in &self.ranges {
            if let Some(value) = weights.get(name) {
                device.upload(&value.data, &self.values, 4 * start)?;
            }
            if let Some(Moments { first, second }) = adamw.moments().get(name) {
                device.upload(first, &self.first, 4 * start)?;
                device.upload(second, &self.second, 4 * start)?;
            }
        }
        Ok(())
    }

    /// The address of every gradient that a plan leaves, in the order of the parameters.
    fn sources(&mut self, cuda: &Cuda, id: usize, plan: &Plan) -> Result<(), CudaError> {
        let arena = cuda.resources.arena.at(0);
        if self.sources.get(&id).is_some_and(|known| known.0 == arena) {
            return Ok(());
        }
        let program = &cuda.programs[id];
        let mut addresses = Vec::with_capacity(self.ranges.len());
        for name in self.ranges.keys() {
            let output = gradient_name(name);
            let view = plan.outputs.get(output.as_str()).map(|(view, _)| *view);
            let view = view.ok_or(CudaError::NoOutput(output))?;
            addresses.push(program.at(&cuda.resources, plan, view));
        }
        let device = &cuda.resources.device;
        let list = device.allocate(8 * addresses.len(), "addresses of gradients")?;
        device.upload(&addresses, &list, 0)?;
        self.sources.insert(id, (arena, list));
        Ok(())
    }

    /// Waits for a step.
    ///
    /// # Errors
    /// The device failed.
    pub fn wait(&mut self, Queued(memory): Queued) -> Result<Updated, CudaError> {
        let (outcome, losses) = memory.read()?.split_at(size_of::<Outcome>());
        let Outcome { norm, finite, .. } = bytemuck::pod_read_unaligned(outcome);
        let updated = Updated {
            losses: losses
                .chunks_exact(4)
                .map(bytemuck::pod_read_unaligned)
                .collect(),
            norm,
            updated: finite != 0,
        };
        self.spare.push(memory);
        Ok(updated)
    }
}

impl Cuda {
    /// Executes a plan that leaves a loss and gradients, and adds these to the step's. The state is
    /// made when there is none.
    ///
    /// # Errors
    /// As [`run`](Self::run), or the plan leaves no gradient of something that is trained.
    #[allow(
        clippy::too_many_arguments,
        reason = "what a plan runs on, and what becomes of it"
    )]
    pub(crate) fn accumulate(
        &mut self,
        state: &mut Option<Optimizer>,
        adamw: &AdamW,
        (id, plan): (usize, &Plan),
        weights: &mut Weights,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
        share: Share,
    ) -> Result<(), CudaError> {
        self.execute(id, plan, weights, inputs, draw)?;
        if state.is_none() {
            *state = Some(Optimizer::new(self, adamw, weights)?);
        }
        let Some(state) = state else {
            return Ok(());
        };
        state.sources(self, id, plan)?;
        let bytes = size_of::<Outcome>() + 4 * share.of;
        if state.outcome.bytes() < bytes {
            let device = &self.resources.device;
            let larger = device.allocate(bytes, "a step's outcome")?;
            device.copy(&Rectangle::row(
                state.outcome.at(0),
                larger.at(0),
                state.outcome.bytes(),
            ))?;
            state.outcome = larger;
        }
        let loss = plan.outputs.get("loss").map(|(view, _)| *view);
        let loss = loss.ok_or_else(|| CudaError::NoOutput("loss".into()))?;
        let loss = self.programs[id].at(&self.resources, plan, loss);
        let arguments = [
            state.parameters.at(0),
            state.parts.at(0),
            state.sources[&id].1.at(0),
            state.gradients.at(0),
            u64::from(share.weight.to_bits()),
            u64::from(share.index == 0),
            loss,
            state.outcome.at(0),
            share.index as u64,
        ];
        let grid = (state.count, 1, 1);
        self.resources
            .device
            .launch(&state.functions[0], grid, (THREADS, 0), &arguments)
    }

    /// Queues an update from the gradients of `batches` micro-batches; none is made if a loss or the
    /// norm is not finite, or if it `follows` a step that is not waited for yet and was not updated.
    /// `step` counts from 1.
    ///
    /// # Errors
    /// The device failed.
    #[allow(
        clippy::too_many_arguments,
        reason = "what AdamW takes, and its place in the run"
    )]
    pub(crate) fn update(
        &mut self,
        state: &mut Optimizer,
        config: AdamWConfig,
        step: u64,
        lr: f64,
        clip: Option<f64>,
        batches: usize,
        follows: bool,
    ) -> Result<Queued, CudaError> {
        let AdamWConfig {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = config;
        let resources = &self.resources;
        let [_, squares, norm, adamw] = &state.functions;
        let [parameters, parts] = [state.parameters.at(0), state.parts.at(0)];
        let [gradients, sums] = [state.gradients.at(0), state.sums.at(0)];
        let grid = (state.count, 1, 1);
        let arguments = [parameters, parts, gradients, sums];
        resources
            .device
            .launch(squares, grid, (THREADS, 0), &arguments)?;
        let arguments = [
            sums,
            u64::from(state.count),
            clip.unwrap_or(0.0).to_bits(),
            batches as u64,
            u64::from(follows),
            state.outcome.at(0),
        ];
        resources
            .device
            .launch(norm, (1, 1, 1), (THREADS, 0), &arguments)?;
        let correction1 = 1.0 - beta1.powi(step as i32);
        let correction2 = (1.0 - beta2.powi(step as i32)).sqrt();
        let numbers = [
            lr,
            beta1,
            beta2,
            eps,
            weight_decay,
            correction1,
            correction2,
        ];
        let mut arguments = vec![
            parameters,
            parts,
            gradients,
            state.values.at(0),
            state.first.at(0),
            state.second.at(0),
            state.outcome.at(0),
        ];
        arguments.extend(numbers.map(f64::to_bits));
        resources
            .device
            .launch(adamw, grid, (THREADS, 0), &arguments)?;
        let bytes = state.outcome.bytes();
        let spare = state.spare.pop().filter(|spare| spare.bytes() == bytes);
        let mut outcome = match spare {
            Some(spare) => spare,
            None => Locked::new(&resources.device, bytes)?,
        };
        outcome.download(&resources.device, &state.outcome)?;
        Ok(Queued(outcome))
    }

    /// The values of what is trained, and their moments.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn trained(
        &self,
        state: &Optimizer,
    ) -> Result<IndexMap<String, (Vec<f32>, Moments)>, CudaError> {
        let read = |from: &Buffer, (start, len): (usize, usize)| {
            let mut data = vec![0.0; len];
            self.resources
                .device
                .download(from, 4 * start, &mut data)
                .map(|()| data)
        };
        let ranges = state.ranges.iter();
        ranges
            .map(|(name, &range)| {
                let moments = Moments {
                    first: read(&state.first, range)?,
                    second: read(&state.second, range)?,
                };
                Ok((name.clone(), (read(&state.values, range)?, moments)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
