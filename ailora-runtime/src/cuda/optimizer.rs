//! Gradients, moments and values of what is trained, on the device.

use std::collections::{HashMap, VecDeque};

use ailora_graph::{grad::gradient_name, ir::DType};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::{CudaFunction, sys::CUdeviceptr};
use indexmap::IndexMap;

use super::{
    Cuda, CudaError, Device, Resources,
    device::{Buffer, Rectangle},
    staging::Locked,
};
use crate::{
    backend::{BackendError, Share, Stepper, Update, Updated},
    collective::Collective,
    optim::{AdamW, AdamWConfig, Moments},
    plan::Plan,
    run::Run,
    weights::{Place, Weights},
};

/// Bytes for each number that is trained: gradient, value and two moments, float32.
pub(super) const BYTES: usize = 16;
/// Elements that a block handles.
const COUNT: usize = 4096;
const THREADS: u32 = 256;

shared_structs! {
    /// A trained parameter.
    struct Parameter {
        /// Where compiled plans read it: rows of `width`, `stride` apart.
        place: CUdeviceptr,
        /// Its first element in the flat arrays.
        start: u64,
        /// How many it has.
        len: u64,
        width: u32,
        stride: u32,
        /// Its multiple of the base rate.
        lr: f64,
        weight_decay: f64,
        is_bf16: u64,
    }

    /// What a block handles: `COUNT` elements of a parameter, from `first` on.
    struct Part {
        parameter: u32,
        first: u32,
    }

    /// What a step came to; the losses of its micro-batches follow.
    struct Outcome {
        /// Of the gradients.
        norm: f64,
        /// What multiplies them.
        factor: f32,
        /// 0 if training diverged.
        finite: u32,
    }
}

/// The kernels.
pub(super) fn source() -> String {
    format!(
        "{STRUCTS}\n#define COUNT {COUNT}u\n\n{}",
        include_str!("optimizer.cu")
    )
}

/// The optimiser's state, once a step was made, and where outcomes of steps will be that nobody waited
/// for.
#[derive(Debug, Default)]
pub(super) struct Training {
    optimizer: Option<Optimizer>,
    queued: VecDeque<Locked>,
}

impl Training {
    /// Whether a step was made.
    pub fn is_under_way(&self) -> bool {
        self.optimizer.is_some()
    }
}

/// What the optimiser keeps on a device, and its kernels.
#[derive(Debug)]
struct Optimizer {
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

impl Optimizer {
    /// The state of `adamw` and the values of its parameters, which plans on the device read.
    fn new(resources: &Resources, adamw: &AdamW, weights: &Weights) -> Result<Self, CudaError> {
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
                place: array.buffer.at(start * array.dtype.bytes()),
                start: total as u64,
                len: len as u64,
                width: width.max(1) as u32,
                stride: stride as u32,
                lr,
                weight_decay: adamw.weight_decay(name),
                is_bf16: u64::from(array.dtype == DType::Bf16),
            });
            parts.extend((0..len).step_by(COUNT).map(|first| Part {
                parameter: index,
                first: first as u32,
            }));
            ranges.insert(name.clone(), (total, len));
            total += len;
        }
        let flat = |what| resources.device.allocate(BYTES / 4 * total, what);
        let state = Self {
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
                .functions(&source(), ["accumulate", "squares", "clip_norm", "adamw"])?,
            ranges,
        };
        let device = &resources.device;
        device.upload(&parameters, &state.parameters, 0)?;
        device.upload(&parts, &state.parts, 0)?;
        state.load_values(device, weights, |_| true)?;
        for (name, &(start, _)) in &state.ranges {
            if let Some(Moments { first, second }) = adamw.moments().get(name) {
                device.upload(first, &state.first, 4 * start)?;
                device.upload(second, &state.second, 4 * start)?;
            }
        }
        Ok(state)
    }

    /// Takes over the values of those parameters that `which` is true of.
    fn load_values(
        &self,
        device: &Device,
        weights: &Weights,
        which: impl Fn(&str) -> bool,
    ) -> Result<(), CudaError> {
        for (name, &(start, _)) in self.ranges.iter().filter(|(name, _)| which(name)) {
            if let Some(value) = weights.get(name) {
                device.upload(&value.floats(), &self.values, 4 * start)?;
            }
        }
        Ok(())
    }

    /// Makes room for the losses of so many micro-batches.
    fn reserve(&mut self, device: &Device, batches: usize) -> Result<(), CudaError> {
        let bytes = size_of::<Outcome>() + 4 * batches;
        if self.outcome.bytes() < bytes {
            let larger = device.allocate(bytes, "a step's outcome")?;
            let (from, to) = (self.outcome.at(0), larger.at(0));
            // SAFETY: the larger one has room, and memory is freed when the work before is done.
            unsafe { device.copy(&Rectangle::row(from, to, self.outcome.bytes()))? };
            self.outcome = larger;
        }
        Ok(())
    }
}

impl Cuda {
    /// Sees to it that the address of every gradient that a plan leaves, in the order of the
    /// parameters, is on the device.
    fn find_gradients(&mut self, id: usize, plan: &Plan) -> Result<(), BackendError> {
        let arena = self.resources.arena.at(0);
        let Some(state) = &mut self.training.optimizer else {
            return Ok(());
        };
        if state.sources.get(&id).is_some_and(|known| known.0 == arena) {
            return Ok(());
        }
        let mut addresses = Vec::with_capacity(state.ranges.len());
        for name in state.ranges.keys() {
            let output = gradient_name(name);
            let view = plan.outputs.get(output.as_str()).map(|(view, _)| *view);
            let view = view.ok_or(BackendError::NoOutput(output))?;
            addresses.push(self.programs[id].at(&self.resources, plan, view));
        }
        let device = &self.resources.device;
        let list = device.allocate(8 * addresses.len(), "addresses of gradients")?;
        device.upload(&addresses, &list, 0)?;
        state.sources.insert(id, (arena, list));
        Ok(())
    }
}

fn missing() -> BackendError {
    BackendError::NoOutput("loss".into())
}

impl Stepper for Cuda {
    fn steps_ahead(&self) -> usize {
        1
    }

    fn accumulate(
        &mut self,
        adamw: &AdamW,
        run: Run<'_, '_>,
        share: Share,
    ) -> Result<(), BackendError> {
        let Run {
            id, plan, weights, ..
        } = run;
        if let Some(state) = &self.training.optimizer {
            state.load_values(&self.resources.device, weights, |name| {
                weights.is_changed(name)
            })?;
        }
        let run = Run {
            weights: &mut *weights,
            ..run
        };
        self.execute(run)?;
        if self.training.optimizer.is_none() {
            let state = Optimizer::new(&self.resources, adamw, weights)?;
            self.training.optimizer = Some(state);
        }
        self.find_gradients(id, plan)?;
        let loss = plan.outputs.get("loss").map(|(view, _)| *view);
        let loss = loss.ok_or_else(missing)?;
        let loss = self.programs[id].at(&self.resources, plan, loss);
        let state = self.training.optimizer.as_mut().ok_or_else(missing)?;
        let device = &self.resources.device;
        state.reserve(device, share.of)?;
        let arguments = [
            state.parameters.at(0),
            state.parts.at(0),
            state.sources[&id].1.at(0),
            state.gradients.at(0),
            u64::from(share.weight.to_bits()),
            u64::from(share.first),
            loss,
            state.outcome.at(0),
            share.index as u64,
        ];
        let grid = (state.count, 1, 1);
        // SAFETY: as the kernel declares them; the gradients are those of the plan that was executed, in
        // the arena as it is, and there is room for the loss.
        unsafe { device.launch(&state.functions[0], grid, (THREADS, 0), &arguments)? };
        Ok(())
    }

    /// Through the host, which waits for the device.
    fn reduce(
        &mut self,
        adamw: &AdamW,
        run: Run<'_, '_>,
        ranks: &dyn Collective,
        of: usize,
    ) -> Result<(), BackendError> {
        let Run { plan, weights, .. } = run;
        if self.training.optimizer.is_none() {
            // A rank without micro-batches has run nothing yet.
            self.resources.provide(plan, weights)?;
            let state = Optimizer::new(&self.resources, adamw, weights)?;
            self.training.optimizer = Some(state);
        }
        let state = self.training.optimizer.as_mut().ok_or_else(missing)?;
        let device = &self.resources.device;
        state.reserve(device, of)?;
        let mut losses = vec![0.0; of];
        let behind = size_of::<Outcome>();
        device.download(&state.outcome, behind, &mut losses)?;
        let owned: Vec<bool> = (0..of).map(|index| ranks.owns(index)).collect();
        for (loss, owned) in losses.iter_mut().zip(&owned) {
            if !owned {
                *loss = 0.0;
            }
        }
        let len = state.ranges.values().map(|(_, len)| len).sum();
        let mut gradients = vec![0.0; len];
        if owned.contains(&true) {
            device.download(&state.gradients, 0, &mut gradients)?;
        }
        ranks.sum_f32(&mut losses)?;
        ranks.sum_f32(&mut gradients)?;
        device.upload(&losses, &state.outcome, behind)?;
        device.upload(&gradients, &state.gradients, 0)?;
        Ok(())
    }

    fn update(
        &mut self,
        adamw: &mut AdamW,
        _: &mut Weights,
        update: Update,
    ) -> Result<(), BackendError> {
        let AdamWConfig {
            beta1, beta2, eps, ..
        } = adamw.config();
        let device = &self.resources.device;
        let Training { optimizer, queued } = &mut self.training;
        let state = optimizer.as_mut().ok_or_else(missing)?;
        let [_, squares, norm, adamw] = &state.functions;
        let [parameters, parts] = [state.parameters.at(0), state.parts.at(0)];
        let [gradients, sums] = [state.gradients.at(0), state.sums.at(0)];
        let sum = [parameters, parts, gradients, sums];
        let clip = [
            sums,
            u64::from(state.count),
            update.clip.unwrap_or(0.0).to_bits(),
            update.batches as u64,
            u64::from(update.follows),
            state.outcome.at(0),
        ];
        let correction1 = 1.0 - beta1.powi(update.step as i32);
        let correction2 = (1.0 - beta2.powi(update.step as i32)).sqrt();
        let numbers = [update.lr, beta1, beta2, eps, correction1, correction2];
        let mut step = vec![
            parameters,
            parts,
            gradients,
            state.values.at(0),
            state.first.at(0),
            state.second.at(0),
            state.outcome.at(0),
        ];
        step.extend(numbers.map(f64::to_bits));
        let grid = (state.count, 1, 1);
        // SAFETY: as the kernels declare them; the buffers are as large as the list of parts says, and
        // parameters lie where that says as long as the device has them.
        unsafe {
            device.launch(squares, grid, (THREADS, 0), &sum)?;
            device.launch(norm, (1, 1, 1), (THREADS, 0), &clip)?;
            if update.counts {
                device.launch(adamw, grid, (THREADS, 0), &step)?;
            }
        }
        let bytes = state.outcome.bytes();
        let spare = state.spare.pop().filter(|spare| spare.bytes() == bytes);
        let mut outcome = match spare {
            Some(spare) => spare,
            None => Locked::new(device, bytes)?,
        };
        outcome.download(device, &state.outcome)?;
        queued.push_back(outcome);
        Ok(())
    }

    fn wait(&mut self) -> Result<Updated, BackendError> {
        let Training { optimizer, queued } = &mut self.training;
        let state = optimizer.as_mut().ok_or_else(missing)?;
        let memory = queued.pop_front().ok_or_else(missing)?;
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
        state.spare.push(memory);
        Ok(updated)
    }

    fn trained(&self) -> Result<IndexMap<String, (Vec<f32>, Moments)>, BackendError> {
        let Some(state) = &self.training.optimizer else {
            return Ok(IndexMap::new());
        };
        let read = |from: &Buffer, (start, len): (usize, usize)| {
            let mut data = vec![0.0; len];
            let device = &self.resources.device;
            device.download(from, 4 * start, &mut data).map(|()| data)
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

    fn restart(&mut self) {
        self.training = Training::default();
    }
}

#[cfg(test)]
mod tests;
