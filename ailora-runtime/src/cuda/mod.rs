//! The CUDA backend: the libraries' matrix products, kernels generated from the plan for the rest,
//! one arena, and a captured graph for each plan.
//!
//! It is built without CUDA; the driver and the libraries are looked for when a [`Device`] is opened.

mod compile;
mod device;
mod error;
mod execute;
mod gemm;
mod kept;
mod library;
mod optimizer;
mod source;
mod spectrum;
mod staging;

pub use device::Device;
pub use error::CudaError;
pub(crate) use optimizer::{Optimizer, Queued, Share};
pub use source::Element;
pub use spectrum::CudaSolver;

use std::{collections::HashMap, path::PathBuf};

use ailora_graph::{
    fuse::cost::{Costs, ProductCost},
    ir::{Draw, Name, Type},
};
use cudarc::{driver::CudaFunction, nvrtc::Ptx};
use indexmap::IndexMap;

use crate::{
    backend::Precision,
    plan::Plan,
    run::{Outputs, RunError, Value, bound},
    weights::Weights,
};
use compile::Compiler;
use device::Buffer;
use error::During;
use execute::{Executable, Launch};
use gemm::Products;
use source::Target;
use staging::Staging;

/// Which device, and how it computes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The device's number, from 0.
    pub ordinal: usize,
    /// What it computes in.
    pub precision: Precision,
    /// Where machine code and chosen algorithms are kept.
    pub cache: Option<PathBuf>,
}

/// A device with parameters and compiled plans on it.
#[derive(Debug)]
pub struct Cuda {
    resources: Resources,
    programs: Vec<Executable>,
    outputs: IndexMap<Name, Vec<f32>>,
}

/// What all plans share.
#[derive(Debug)]
struct Resources {
    device: Device,
    precision: Precision,
    compiler: Compiler,
    products: Products,
    functions: HashMap<String, CudaFunction>,
    parameters: HashMap<String, Parameter>,
    arena: Buffer,
    staging: Staging,
}

/// An array of parameters on the device.
#[derive(Debug)]
struct Parameter {
    buffer: Buffer,
    element: Element,
}

impl Cuda {
    /// Opens a device.
    ///
    /// # Errors
    /// A library is missing, or there is no such device.
    pub fn open(options: &Options) -> Result<Self, CudaError> {
        let device = Device::open(options.ordinal)?;
        let folder = options.cache.clone();
        let resources = Resources {
            precision: options.precision,
            compiler: Compiler::new(device.arch(), folder.clone())?,
            products: Products::new(&device, options.precision, folder.as_ref())?,
            functions: HashMap::new(),
            parameters: HashMap::new(),
            arena: device.allocate(0, "activations")?,
            staging: Staging::default(),
            device,
        };
        Ok(Self {
            resources,
            programs: Vec::new(),
            outputs: IndexMap::new(),
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.resources.device
    }

    /// What it computes in.
    pub fn precision(&self) -> Precision {
        self.resources.precision
    }

    /// Compiles a plan, the next in order, and makes the arena large enough for it.
    ///
    /// # Errors
    /// A kernel does not compile, or memory does not suffice.
    pub fn add(&mut self, plan: &Plan) -> Result<(), CudaError> {
        let program = Executable::new(&mut self.resources, plan)?;
        let needed = program.bytes();
        if self.resources.arena.bytes() < needed {
            // Freed before, or there would have to be room for both.
            self.resources.arena = self.resources.device.allocate(0, "activations")?;
            self.resources.arena = self.resources.device.allocate(needed, "activations")?;
        }
        self.programs.push(program);
        Ok(())
    }

    /// Bytes that training takes here, of plans over one set of parameters, of whose numbers `trained`
    /// are trained.
    pub fn footprint<'a>(
        &self,
        plans: impl IntoIterator<Item = &'a Plan>,
        trained: usize,
    ) -> Footprint {
        let target = self.resources.device.target();
        Footprint::on(target, plans, self.precision(), trained)
    }

    /// Bytes of the arena: activations, gradients and scratch of the largest plan.
    pub fn arena_bytes(&self) -> usize {
        self.resources.arena.bytes()
    }

    /// Executes plan number `id`, which is `plan`, and copies its results.
    ///
    /// # Errors
    /// An input or a parameter that is missing or does not fit; the device failed.
    pub fn run(
        &mut self,
        id: usize,
        plan: &Plan,
        weights: &mut Weights,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
    ) -> Result<Outputs<'_>, CudaError> {
        self.execute(id, plan, weights, inputs, draw)?;
        self.results(id, plan)
    }

    /// Executes plan number `id` and leaves its results on the device.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn execute(
        &mut self,
        id: usize,
        plan: &Plan,
        weights: &mut Weights,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
    ) -> Result<(), CudaError> {
        let inputs = bound(&plan.inputs, inputs)?;
        self.resources.provide(plan, weights)?;
        self.programs[id].run(&mut self.resources, plan, &inputs, draw)
    }

    fn results(&mut self, id: usize, plan: &Plan) -> Result<Outputs<'_>, CudaError> {
        self.programs[id].outputs(&self.resources, plan, &mut self.outputs)?;
        Ok(Outputs::copied(&self.outputs))
    }

    /// Seconds of a run of the steps that are `timed`, without moving inputs or results.
    ///
    /// # Errors
    /// As [`run`](Self::run); a product that cannot be captured.
    pub fn time(
        &mut self,
        id: usize,
        plan: &Plan,
        weights: &mut Weights,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
        timed: &[bool],
    ) -> Result<f64, CudaError> {
        let inputs = bound(&plan.inputs, inputs)?;
        self.resources.provide(plan, weights)?;
        self.programs[id].time(&mut self.resources, plan, &inputs, draw, timed)
    }

    /// As [`run`](Self::run); adds to `seconds` what each step of the plan took on the device.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn profile(
        &mut self,
        id: usize,
        plan: &Plan,
        weights: &mut Weights,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
        seconds: &mut Vec<f64>,
    ) -> Result<Outputs<'_>, CudaError> {
        let inputs = bound(&plan.inputs, inputs)?;
        self.resources.provide(plan, weights)?;
        self.programs[id].profile(&mut self.resources, plan, &inputs, draw, seconds)?;
        self.results(id, plan)
    }
}

/// Bytes that training takes on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Of parameters.
    pub parameters: usize,
    /// Of activations, gradients on the way and scratch.
    pub arena: usize,
    /// Of gradients, float32 values and the optimiser's moments of what is trained.
    pub state: usize,
    /// What products may work in.
    pub workspace: usize,
}

impl Footprint {
    /// Of plans over one set of parameters, of whose numbers `trained` are trained, on a Hopper, which
    /// need not be there; [`Cuda::footprint`] is about the device that is.
    pub fn new<'a>(
        plans: impl IntoIterator<Item = &'a Plan>,
        precision: Precision,
        trained: usize,
    ) -> Self {
        Self::on(Target::HOPPER, plans, precision, trained)
    }

    fn on<'a>(
        target: Target,
        plans: impl IntoIterator<Item = &'a Plan>,
        precision: Precision,
        trained: usize,
    ) -> Self {
        let mut parameters: HashMap<&str, usize> = HashMap::new();
        let mut arena = 0;
        for plan in plans {
            for (name, ty) in &plan.parameters {
                parameters.insert(name, element(precision, ty).bytes() * ty.len());
            }
            let elements = execute::elements(plan, precision);
            let actions = execute::actions(plan, &elements, target);
            arena = arena.max(execute::places(plan, &elements, &actions).bytes);
        }
        Self {
            parameters: parameters.values().sum(),
            arena,
            state: optimizer::BYTES * trained,
            workspace: Device::PRODUCT_WORKSPACE,
        }
    }

    /// All together.
    pub fn total(&self) -> usize {
        self.parameters + self.arena + self.state + self.workspace
    }
}

/// The type of a parameter's elements: matrices are as narrow as what is computed in.
fn element(precision: Precision, ty: &Type) -> Element {
    match precision {
        Precision::Bf16 if ty.rank() >= 2 => Element::Bf16,
        _ => Element::F32,
    }
}

/// What products and sums take on a device, from a Hopper's rates.
pub fn costs(precision: Precision) -> Costs {
    const START: f64 = 3e-6;
    const BYTE: f64 = 1.0 / 2.5e12;
    let (flops, bytes) = match precision {
        Precision::F32 => (45e12, 4.0),
        Precision::Tf32 => (350e12, 4.0),
        Precision::Bf16 => (700e12, 2.0),
    };
    let element = bytes * BYTE;
    let product = ProductCost {
        flop: 1.0 / flops,
        left: element,
        right: element,
        result: element,
        start: START,
    };
    Costs {
        product,
        outer: product,
        // Read twice and written.
        element: 3.0 * element,
        merges: precision != Precision::Bf16,
        vector: 16 / bytes as usize,
    }
}

/// Compiles all kernels of plans for an architecture such as `sm_80` or `sm_90a`, and the optimiser's
/// and the decompositions', which needs the compiler but no device; how many there are.
///
/// # Errors
/// The compiler is missing, or a kernel does not compile.
pub fn compile(
    plans: &[Plan],
    precision: Precision,
    arch: &str,
    cache: Option<PathBuf>,
) -> Result<usize, CudaError> {
    let compiler = Compiler::new(arch.to_owned(), cache)?;
    let target = match arch {
        "sm_90a" => Target::HOPPER,
        _ => Target::AMPERE,
    };
    let actions: Vec<source::Actions> = plans
        .iter()
        .flat_map(|plan| execute::actions(plan, &execute::elements(plan, precision), target))
        .collect();
    let mut codes: Vec<&str> = execute::kernels(&actions)
        .map(|kernel| kernel.code.as_str())
        .chain([optimizer::SOURCE])
        .chain(spectrum::KERNELS)
        .collect();
    codes.sort_unstable();
    codes.dedup();
    compiler.compile(&codes).map(|binaries| binaries.len())
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

    fn launch(&self, launch: &Launch) -> Result<(), CudaError> {
        match launch {
            Launch::Kernel {
                function,
                grid,
                block,
                shared,
                arguments,
            } => self
                .device
                .launch(function, *grid, (*block, *shared), arguments),
            Launch::Product(product) => self.products.run(&self.device, product),
        }
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
            let element = element(self.precision, ty);
            let bytes = element.bytes() * ty.len();
            // Zero where no parameter lies.
            let buffer = self
                .device
                .allocate(bytes, &format!("parameter `{name}`"))?;
            self.parameters
                .insert(name.to_string(), Parameter { buffer, element });
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
        let Parameter { buffer, element } = &self.parameters[place.array];
        self.staging
            .upload(&self.device, &array.data, buffer, *element, place)
    }
}
