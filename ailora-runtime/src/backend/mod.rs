//! What executes plans: one trait, which the processor and devices implement, so that nothing else asks
//! which of them it is.

mod error;
mod precision;
mod stepper;

pub use error::BackendError;
pub use precision::Precision;
pub use stepper::{Share, Stepper, Update, Updated};

use std::{fmt, sync::Arc};

use ailora_graph::{
    fuse::{cost::Costs, layout::Pack},
    ir::Program,
};

use crate::{
    plan::Plan,
    run::{Outputs, Run},
    spectrum::Solver,
    switch::Kept,
    weights::Weights,
};

/// Where plans are executed, so far as planning has to know: the hardware need not be there.
pub trait Platform: fmt::Debug {
    /// What it computes in.
    fn precision(&self) -> Precision;

    /// What products and sums take on it, roughly.
    fn costs(&self) -> Costs;

    /// The plan of a program in the form that is best there.
    fn plan(&self, program: &Program) -> Plan;

    /// Bytes that training takes there, of plans over one set of parameters, of whose numbers `trained`
    /// are trained.
    fn footprint(&self, plans: &[Plan], trained: usize) -> Footprint;
}

/// Executes plans over one set of parameters, and makes training steps with them.
pub trait Backend: Platform + Stepper + Send {
    /// What it is, for people.
    fn name(&self) -> String;

    /// What decomposes large matrices, if not the processor.
    fn solver(&self) -> Option<Arc<dyn Solver>>;

    /// Lays parameters into a pack, where this backend keeps it.
    fn pack(&self, weights: &mut Weights, pack: &Pack);

    /// Makes everything ready that running a plan, the next in order, needs: also the parameters, where
    /// they are read here, in the type that is computed in.
    ///
    /// # Errors
    /// Memory does not suffice, or the device fails.
    fn add(&mut self, plan: &Plan, weights: &mut Weights) -> Result<(), BackendError>;

    /// Executes a plan that was added.
    ///
    /// # Errors
    /// An input or a parameter that is missing or does not fit; the device fails.
    fn run<'a>(&'a mut self, run: Run<'a, '_>) -> Result<Outputs<'a>, BackendError>;

    /// As [`run`](Self::run), but leaves the results where they are.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn execute(&mut self, run: Run<'_, '_>) -> Result<(), BackendError>;

    /// A result of the last [`execute`](Self::execute), which was of this plan.
    ///
    /// # Errors
    /// There is none of this name; the device fails.
    fn output(
        &self,
        id: usize,
        plan: &Plan,
        weights: &Weights,
        name: &str,
    ) -> Result<Vec<f32>, BackendError>;

    /// As [`run`](Self::run); adds to `seconds` what each step of the plan took.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn profile<'a>(
        &'a mut self,
        run: Run<'a, '_>,
        seconds: &mut Vec<f64>,
    ) -> Result<Outputs<'a>, BackendError>;

    /// Seconds of a run of those steps of a plan that are `timed`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn time(&mut self, run: Run<'_, '_>, timed: &[bool]) -> Result<f64, BackendError>;

    /// Puts values that are kept beside the parameters in their places, for the next run. Where a device has
    /// the parameters, so it has these after the first time, and `weights` keeps what it had.
    ///
    /// # Errors
    /// Memory does not suffice, or the device fails.
    fn put(&mut self, weights: &mut Weights, kept: &Kept) -> Result<(), BackendError> {
        kept.write(weights);
        Ok(())
    }

    /// Frees what a device has of such values.
    fn forget(&mut self, _kept: &Kept) {}

    /// Bytes of the arena: what is neither a parameter nor the optimiser's.
    fn arena_bytes(&self) -> usize;

    /// The most bytes that plans take if `trained` numbers are trained: parameters, the largest arena,
    /// gradients and the optimiser's state.
    fn peak_bytes(&self, plans: &[Plan], weights: &Weights, trained: usize) -> usize;

    /// Bytes of what is allocated where it computes.
    ///
    /// # Errors
    /// The device does not answer.
    fn memory(&self) -> Result<MemoryUse, BackendError>;
}

/// Bytes that are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Now, by whomever, where the memory is a device's.
    pub used: usize,
    /// The most at a time, by this backend.
    pub peak: usize,
}

/// Bytes that training takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Of parameters.
    pub parameters: usize,
    /// Of activations, gradients on the way and scratch.
    pub arena: usize,
    /// Of gradients and the optimiser's state.
    pub state: usize,
    /// What products may work in.
    pub workspace: usize,
}

impl Footprint {
    /// All together.
    pub fn total(&self) -> usize {
        self.parameters + self.arena + self.state + self.workspace
    }
}
