//! The CUDA backend: the libraries' matrix products, kernels generated from the plan for the rest,
//! one arena, and a captured graph for each plan.
//!
//! It is built without CUDA; the driver and the libraries are looked for when a [`Device`] is opened.

#[macro_use]
mod structs;
mod compile;
mod device;
pub(crate) mod error;
mod execute;
mod gemm;
mod kept;
mod library;
mod optimizer;
mod planner;
mod spectrum;
mod staging;
mod switch;
#[cfg(test)]
mod tests;

pub use device::Device;
pub use error::CudaError;
pub use planner::compile;
pub use spectrum::CudaSolver;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use ailora_graph::{
    fuse::{cost::Costs, layout::Pack},
    ir::{DType, Name, Program},
};
use cudarc::{driver::CudaFunction, nvrtc::Ptx};
use indexmap::IndexMap;

use crate::{
    backend::{Backend, BackendError, Footprint, MemoryUse, Platform, Precision},
    kernels::device::Target,
    plan::Plan,
    run::{Outputs, Run, RunError, bound},
    spectrum::Solver,
    switch::Kept,
    weights::Weights,
};
use compile::Compiler;
use device::{Buffer, Rectangle};
use error::During;
use execute::{Executable, Launch};
use gemm::Products;
use optimizer::Training;
use planner::Planner;
use staging::Staging;
use switch::Residents;

/// The device of a number, from 0, as a backend. Machine code and chosen algorithms are kept in `cache`.
///
/// # Errors
/// A library is missing, or there is no such device.
pub fn open(
    ordinal: usize,
    precision: Precision,
    cache: Option<PathBuf>,
) -> Result<Box<dyn Backend>, CudaError> {
    Ok(Box::new(Cuda::open(ordinal, precision, cache)?))
}

/// A Hopper, which need not be there, for planning.
///
/// # Errors
/// None; a build without CUDA has none.
pub fn platform(precision: Precision) -> Result<Box<dyn Platform>, CudaError> {
    let target = Target::HOPPER;
    Ok(Box::new(Planner { target, precision }))
}

/// A device with parameters and compiled plans on it.
#[derive(Debug)]
pub struct Cuda {
    resources: Resources,
    programs: Vec<Executable>,
    outputs: IndexMap<Name, Vec<f32>>,
    training: Training,
    residents: Residents,
}

/// What all plans share.
#[derive(Debug)]
struct Resources {
    device: Device,
    planner: Planner,
    compiler: Compiler,
    products: Products,
    functions: HashMap<String, CudaFunction>,
    parameters: HashMap<String, Parameter>,
    /// What stays between runs, by name.
    states: HashMap<String, Buffer>,
    /// How often memory that plans know moved.
    moves: usize,
    arena: Buffer,
    staging: Staging,
}

/// An array of parameters on the device.
#[derive(Debug)]
struct Parameter {
    buffer: Buffer,
    dtype: DType,
}

impl Cuda {
    /// Opens the device of a number, from 0. Machine code and chosen algorithms are kept in `cache`.
    ///
    /// # Errors
    /// A library is missing, or there is no such device.
    pub fn open(
        ordinal: usize,
        precision: Precision,
        cache: Option<PathBuf>,
    ) -> Result<Self, CudaError> {
        let device = Device::open(ordinal)?;
        let target = device.target();
        let resources = Resources {
            planner: Planner { target, precision },
            compiler: Compiler::new(device.arch(), cache.clone())?,
            products: Products::new(&device, precision, cache.as_ref())?,
            functions: HashMap::new(),
            parameters: HashMap::new(),
            states: HashMap::new(),
            moves: 0,
            arena: device.allocate(0, "activations")?,
            staging: Staging::default(),
            device,
        };
        Ok(Self {
            resources,
            programs: Vec::new(),
            outputs: IndexMap::new(),
            training: Training::default(),
            residents: Residents::default(),
        })
    }

    /// Compiles a plan, the next in order, and makes the arena and its states large enough for it.
    fn compile(&mut self, plan: &Plan) -> Result<(), CudaError> {
        let program = Executable::new(&mut self.resources, plan)?;
        let needed = program.bytes();
        if self.resources.arena.bytes() < needed {
            // Freed before, or there would have to be room for both.
            self.resources.arena = self.resources.device.allocate(0, "activations")?;
            self.resources.arena = self.resources.device.allocate(needed, "activations")?;
            self.resources.moves += 1;
        }
        self.resources.hold(plan)?;
        self.programs.push(program);
        Ok(())
    }

    /// Executes a plan and leaves its results on the device.
    fn execute(&mut self, run: Run<'_, '_>) -> Result<(), CudaError> {
        let inputs = bound(&run.plan.inputs, run.inputs)?;
        self.resources.provide(run.plan, run.weights)?;
        self.programs[run.id].run(&mut self.resources, run.plan, &inputs, run.draw)
    }

    fn results(&mut self, id: usize, plan: &Plan) -> Result<Outputs<'_>, CudaError> {
        self.programs[id].outputs(&self.resources, plan, &mut self.outputs)?;
        Ok(Outputs::copied(&self.outputs))
    }
}

impl Platform for Cuda {
    fn precision(&self) -> Precision {
        self.resources.planner.precision()
    }

    fn costs(&self) -> Costs {
        self.resources.planner.costs()
    }

    fn plan(&self, program: &Program) -> Plan {
        self.resources.planner.plan(program)
    }

    fn footprint(&self, plans: &[Plan], trained: usize) -> Footprint {
        self.resources.planner.footprint(plans, trained)
    }
}

impl Backend for Cuda {
    fn name(&self) -> String {
        self.resources.device.name().to_owned()
    }

    fn solver(&self) -> Option<Arc<dyn Solver>> {
        match CudaSolver::open(self.resources.device.ordinal()) {
            Ok(solver) => Some(Arc::new(solver)),
            Err(why) => {
                tracing::warn!(%why, "weights are decomposed by the processor");
                None
            }
        }
    }

    fn pack(&self, weights: &mut Weights, pack: &Pack) {
        weights.pack_elsewhere(pack);
    }

    fn add(&mut self, plan: &Plan, _: &mut Weights) -> Result<(), BackendError> {
        Ok(self.compile(plan)?)
    }

    fn run<'a>(&'a mut self, run: Run<'a, '_>) -> Result<Outputs<'a>, BackendError> {
        let Run { id, plan, .. } = run;
        Self::execute(self, run)?;
        Ok(self.results(id, plan)?)
    }

    fn execute(&mut self, run: Run<'_, '_>) -> Result<(), BackendError> {
        Ok(Self::execute(self, run)?)
    }

    fn output(
        &self,
        id: usize,
        plan: &Plan,
        _: &Weights,
        name: &str,
    ) -> Result<Vec<f32>, BackendError> {
        Ok(self.programs[id].output(&self.resources, plan, name)?)
    }

    /// Seconds are those on the device.
    fn profile<'a>(
        &'a mut self,
        run: Run<'a, '_>,
        seconds: &mut Vec<f64>,
    ) -> Result<Outputs<'a>, BackendError> {
        let Run { id, plan, .. } = run;
        let inputs = bound(&plan.inputs, run.inputs)?;
        self.resources.provide(plan, run.weights)?;
        self.programs[id].profile(&mut self.resources, plan, &inputs, run.draw, seconds)?;
        Ok(self.results(id, plan)?)
    }

    /// Without moving inputs or results. A product that cannot be captured is an error.
    fn time(&mut self, run: Run<'_, '_>, timed: &[bool]) -> Result<f64, BackendError> {
        let inputs = bound(&run.plan.inputs, run.inputs)?;
        self.resources.provide(run.plan, run.weights)?;
        let program = &mut self.programs[run.id];
        Ok(program.time(&mut self.resources, run.plan, &inputs, run.draw, timed)?)
    }

    fn put(&mut self, weights: &mut Weights, kept: &Kept) -> Result<(), BackendError> {
        Ok(Self::put(self, weights, kept)?)
    }

    fn forget(&mut self, kept: &Kept) {
        self.residents.forget(kept);
    }

    fn arena_bytes(&self) -> usize {
        self.resources.arena.bytes()
    }

    fn peak_bytes(&self, plans: &[Plan], _: &Weights, trained: usize) -> usize {
        self.footprint(plans, trained).total()
    }

    fn memory(&self) -> Result<MemoryUse, BackendError> {
        let (free, total) = self.resources.device.memory()?;
        Ok(MemoryUse {
            used: total - free,
            peak: self.resources.device.peak_bytes(),
        })
    }
}

impl Resources {
    /// Makes kernels of these texts callable.
    fn compile<'a>(&mut self, codes: impl Iterator<Item = &'a str>) -> Result<(), CudaError> {
        let mut new: Vec<&str> = codes.filter(|c| !self.functions.contains_key(*c)).collect();
        new.sort_unstable();
        new.dedup();
        for (code, binary) in new.iter().zip(self.compiler.compile(&new)?) {
            let [function] = self.load(binary, [compile::ENTRY])?;
            self.functions.insert((*code).to_owned(), function);
        }
        Ok(())
    }

    /// The kernels of these names that a text defines.
    fn functions<const N: usize>(
        &self,
        code: &str,
        names: [&str; N],
    ) -> Result<[CudaFunction; N], CudaError> {
        let binaries = self.compiler.compile(&[code])?;
        self.load(binaries.concat(), names)
    }

    fn load<const N: usize>(
        &self,
        binary: Vec<u8>,
        names: [&str; N],
    ) -> Result<[CudaFunction; N], CudaError> {
        let module = self.device.context().load_module(Ptx::from_binary(binary));
        let module = module.during("loading a kernel")?;
        let mut functions = Vec::with_capacity(N);
        for name in names {
            functions.push(module.load_function(name).during("loading a kernel")?);
        }
        Ok(std::array::from_fn(|i| functions[i].clone()))
    }

    /// Queues a launch.
    ///
    /// # Safety
    /// What lies at its addresses is what the kernel or the product takes there, and stays until it is
    /// done.
    unsafe fn launch(&self, launch: &Launch) -> Result<(), CudaError> {
        match launch {
            Launch::Kernel {
                function,
                grid,
                block,
                shared,
                arguments,
            } => {
                let block = (*block, *shared);
                // SAFETY: by the caller's promise.
                unsafe { self.device.launch(function, *grid, block, arguments) }
            }
            // SAFETY: by the caller's promise.
            Launch::Product(product) => unsafe { self.products.run(&self.device, product) },
        }
    }

    /// Makes a plan's states large enough; what they held stays.
    fn hold(&mut self, plan: &Plan) -> Result<(), CudaError> {
        for (name, ty) in &plan.states {
            let held = self.states.get(&**name);
            if held.is_some_and(|held| held.bytes() >= ty.bytes()) {
                continue;
            }
            let larger = self
                .device
                .allocate(ty.bytes(), &format!("state `{name}`"))?;
            if let Some(held) = held {
                let all = Rectangle::row(held.at(0), larger.at(0), held.bytes());
                // SAFETY: both are as large, and the copy is done before the smaller is freed.
                unsafe { self.device.copy(&all)? };
                self.device.synchronize()?;
            }
            self.states.insert(name.to_string(), larger);
            self.moves += 1;
        }
        Ok(())
    }

    /// Brings the parameters that a plan reads, and those that changed, to the device.
    fn provide(&mut self, plan: &Plan, weights: &mut Weights) -> Result<(), CudaError> {
        for name in weights.take_changed() {
            if weights
                .place(&name)
                .is_some_and(|p| self.parameters.contains_key(p.array))
            {
                self.upload_parameter(weights, &name)?;
            }
        }
        for (name, ty) in &plan.parameters {
            if self.parameters.contains_key(&**name) {
                continue;
            }
            let dtype = ty.dtype;
            // Zero where no parameter lies.
            let buffer = self
                .device
                .allocate(ty.bytes(), &format!("parameter `{name}`"))?;
            self.parameters
                .insert(name.to_string(), Parameter { buffer, dtype });
            let mut parts: Vec<&str> = weights.parts(name).collect();
            if parts.is_empty() {
                if weights.len(name) != Some(ty.len()) {
                    return Err(RunError::MissingParameter(name.clone()).into());
                }
                parts.push(name);
            }
            parts
                .into_iter()
                .try_for_each(|part| self.upload_parameter(weights, part))?;
        }
        Ok(())
    }

    /// Brings a parameter to where it lies on the device.
    fn upload_parameter(&mut self, weights: &Weights, name: &str) -> Result<(), CudaError> {
        let (Some(place), Some(array)) = (weights.place(name), weights.arrays().get(name)) else {
            return Ok(());
        };
        let Parameter { buffer, dtype } = &self.parameters[place.array];
        self.staging
            .upload(&self.device, array, buffer, *dtype, place)
    }
}
