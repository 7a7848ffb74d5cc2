//! Translates a plan for a device, which need not be present: the types of its buffers, its kernels' text,
//! and the memory that it takes.

use std::{collections::HashMap, path::PathBuf};

use ailora_graph::{
    fuse::cost::{Costs, ProductCost},
    ir::Program,
};

use super::{CudaError, Device, compile::Compiler, optimizer, spectrum, switch};
use crate::{
    backend::{Footprint, Platform, Precision},
    kernels::device::{Action, Actions, Operand, Source, Target},
    plan::{self, Places, Plan, Step, View, rematerialising},
};

impl Target {
    /// A large device of compute capability 9.0.
    pub const HOPPER: Self = Self {
        shared: 227 << 10,
        processors: 132,
        warpgroups: true,
    };
    /// A large device of compute capability 8.0.
    pub const AMPERE: Self = Self {
        shared: 160 << 10,
        processors: 108,
        warpgroups: false,
    };
}

/// A device as planning knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planner {
    pub target: Target,
    pub precision: Precision,
}

impl Platform for Planner {
    fn precision(&self) -> Precision {
        self.precision
    }

    /// From a Hopper's rates.
    fn costs(&self) -> Costs {
        costs(self.precision)
    }

    /// Rematerialising, as arithmetic costs a device less than memory.
    fn plan(&self, program: &Program) -> Plan {
        rematerialising(program)
    }

    fn footprint(&self, plans: &[Plan], trained: usize) -> Footprint {
        let mut parameters: HashMap<&str, usize> = HashMap::new();
        let mut arena = 0;
        let mut states: HashMap<&str, usize> = HashMap::new();
        for plan in plans {
            for (name, ty) in &plan.states {
                let bytes = states.entry(name).or_default();
                *bytes = ty.bytes().max(*bytes);
            }
            for (name, ty) in &plan.parameters {
                parameters.insert(name, ty.bytes());
            }
            let actions = actions(plan, self.target);
            arena = arena.max(places(plan, &actions).bytes);
        }
        Footprint {
            parameters: parameters.values().sum(),
            arena: arena + states.values().sum::<usize>(),
            state: optimizer::BYTES * trained,
            workspace: Device::PRODUCT_WORKSPACE,
        }
    }
}

fn costs(precision: Precision) -> Costs {
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

/// What each step of a plan becomes on a device.
pub(super) fn actions(plan: &Plan, target: Target) -> Vec<Actions> {
    let operands = |views: &[View]| -> Vec<Operand> {
        let operand = |&view: &View| Operand {
            dtype: plan.buffers[view.buffer].dtype(),
            view,
        };
        views.iter().map(operand).collect()
    };
    let actions = |step: &Step| {
        let (reads, writes) = (operands(&step.reads), operands(&step.writes));
        step.kernel.operation().actions(&reads, &writes, target)
    };
    plan.steps.iter().map(actions).collect()
}

/// Where a plan's buffers and what its steps work in lie.
pub(super) fn places(plan: &Plan, actions: &[Actions]) -> Places {
    let bytes = |buffer: &plan::Buffer| match buffer {
        plan::Buffer::Arena { len, dtype, .. } => aligned(len * dtype.bytes()),
        plan::Buffer::Parameter { .. } | plan::Buffer::State { .. } => 0,
    };
    let bytes: Vec<usize> = plan.buffers.iter().map(bytes).collect();
    let scratch: Vec<usize> = actions.iter().map(|a| aligned(a.scratch)).collect();
    plan.places(&bytes, &scratch)
}

/// The generated kernels among actions.
pub(super) fn kernels(actions: &[Actions]) -> impl Iterator<Item = &Source> {
    let actions = actions.iter().flat_map(|actions| &actions.list);
    actions.filter_map(|action| match action {
        Action::Kernel(kernel) => Some(kernel),
        Action::Product(_) => None,
    })
}

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}

/// Compiles all kernels of plans for an architecture such as `sm_80` or `sm_90a`, and the optimiser's
/// and the decompositions', which needs the compiler but no device; how many there are.
///
/// # Errors
/// The compiler is missing, or a kernel does not compile.
pub fn compile(plans: &[Plan], arch: &str, cache: Option<PathBuf>) -> Result<usize, CudaError> {
    let compiler = Compiler::new(arch.to_owned(), cache)?;
    let target = match arch {
        "sm_90a" => Target::HOPPER,
        _ => Target::AMPERE,
    };
    let actions: Vec<Actions> = plans
        .iter()
        .flat_map(|plan| actions(plan, target))
        .collect();
    let (optimizer, switch) = (optimizer::source(), switch::source());
    let mut codes: Vec<&str> = kernels(&actions)
        .map(|kernel| kernel.code.as_str())
        .chain([optimizer.as_str(), switch.as_str()])
        .chain(spectrum::KERNELS)
        .collect();
    codes.sort_unstable();
    codes.dedup();
    compiler.compile(&codes).map(|binaries| binaries.len())
}
