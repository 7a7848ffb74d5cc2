//! From a program to what a backend executes: a fixed list of kernels over fixed memory.
//!
//! [`plan()`] decides everything that does not depend on values: which element-wise chains run as
//! one loop, which products add into an existing result, the order, and where every intermediate
//! value lies in one arena. A backend then only executes; a step allocates nothing.

mod allocate;
mod lower;
mod non_temporal;
mod outer;
mod recompute;
mod units;

pub use crate::view::View;
pub use allocate::Places;
use units::Form;

use ailora_graph::ir::{DType, Name, Program, Type};
use indexmap::IndexMap;

use crate::kernels::{IdRange, Kernel};

/// Where a buffer lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// In the arena, from this element on.
    Arena {
        /// First element.
        start: usize,
        /// How many elements.
        len: usize,
        /// Their type, where a backend has several.
        dtype: DType,
    },
    /// A parameter.
    Parameter {
        /// Its name.
        name: Name,
        /// How many elements.
        len: usize,
        /// Their type, where a backend has several.
        dtype: DType,
    },
    /// An array that stays where it is between runs.
    State {
        /// Its name.
        name: Name,
        /// How many elements.
        len: usize,
        /// Their type, where a backend has several.
        dtype: DType,
    },
}

impl Buffer {
    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Arena { dtype, .. }
            | Self::Parameter { dtype, .. }
            | Self::State { dtype, .. } => *dtype,
        }
    }
}

/// A kernel with its place in the schedule.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is executed.
    pub kernel: Kernel,
    /// What it reads.
    pub reads: Vec<View>,
    /// What it writes.
    pub writes: Vec<View>,
}

/// An input of a plan.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: Name,
    /// Its type.
    pub ty: Type,
    /// Where its value is put before the first kernel.
    pub view: View,
    /// For ids, what each must be.
    pub range: Option<IdRange>,
}

/// A program compiled to kernels over an arena.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kernels in order.
    pub steps: Vec<Step>,
    /// The memory they use.
    pub buffers: Vec<Buffer>,
    /// What must be given at each run.
    pub inputs: Vec<Input>,
    /// The results: where each lies after the last kernel.
    pub outputs: IndexMap<Name, (View, Type)>,
    /// Elements of the arena.
    pub arena_len: usize,
    /// The parameters that are read, frozen and trained.
    pub parameters: Vec<(Name, Type)>,
    /// The arrays that stay between runs, and that these may change.
    pub states: Vec<(Name, Type)>,
}

impl Plan {
    /// Peak bytes of everything that is neither a parameter nor the optimiser's, known before
    /// anything runs.
    pub fn arena_bytes(&self) -> usize {
        4 * self.arena_len
    }

    /// Bytes of the parameters that are read.
    pub fn parameter_bytes(&self) -> usize {
        self.parameters.iter().map(|(_, ty)| 4 * ty.len()).sum()
    }

    /// Bytes of the states, of float32.
    pub fn state_bytes(&self) -> usize {
        self.states.iter().map(|(_, ty)| 4 * ty.len()).sum()
    }

    /// Multiply-add operations of all matrix products, times two.
    pub fn gemm_flops(&self) -> u64 {
        self.steps.iter().map(|step| step.kernel.gemm_flops()).sum()
    }
}

/// Compiles a program: sums go into products, and chains of element-wise operations into one loop.
pub fn plan(program: &Program) -> Plan {
    compile(program, Form::Fused)
}

/// Compiles a program to a kernel an operation, as frameworks without a compiler run it: what
/// [`plan()`] is compared with.
pub fn separate(program: &Program) -> Plan {
    compile(program, Form::Separate)
}

/// As [`plan()`], but what loops can compute again for less than it takes to keep is not kept: less
/// memory and fewer bytes moved for more arithmetic, as devices want it.
pub fn rematerialising(program: &Program) -> Plan {
    compile(program, Form::Rematerialising)
}

fn compile(program: &Program, form: Form) -> Plan {
    let mut schedule = units::schedule(program, form);
    if form == Form::Rematerialising {
        outer::join_outer_products(program, &mut schedule);
        recompute::recompute(program, &mut schedule);
    }
    let mut plan = allocate::allocate(lower::lower(program, &schedule));
    non_temporal::mark(&mut plan);
    plan
}
