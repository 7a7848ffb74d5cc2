//! A model compiled for several shapes of input over one set of parameters.

use std::{collections::HashSet, sync::Arc};

use ailora_graph::{
    fuse::{Report, layout::Pack, placed},
    ir::{Draw, Program, ProgramError},
};
use thiserror::Error;

use crate::{
    backend::{Backend, BackendError},
    collective::{Collective, CollectiveError, Single},
    cpu::Cpu,
    passes::{Fusion, Optimized, Pipeline},
    plan::{Plan, Step, plan, separate},
    run::{Outputs, Run, RunError, Value},
    store::{Array, Params},
    switch::Kept,
    weights::Weights,
};

/// A program that cannot be compiled or run.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A pass failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// An input or a parameter does not fit.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The ranks cannot go on together.
    #[error(transparent)]
    Ranks(#[from] CollectiveError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Names a compiled program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlanId(pub(crate) usize);

/// Parameters, and the programs over them, compiled.
#[derive(Debug)]
pub struct Engine {
    weights: Weights,
    packs: Vec<Pack>,
    /// Parameters of which it is decided where they lie.
    laid_out: HashSet<String>,
    plans: Vec<Plan>,
    reports: Vec<Vec<Report>>,
    backend: Box<dyn Backend>,
    pipeline: Pipeline,
    ranks: Arc<dyn Collective>,
}

impl Engine {
    /// An engine without programs, which fuses those that it compiles.
    pub fn new(params: Params) -> Self {
        Self::fused(Box::new(Cpu::new()), params)
    }

    /// An engine without programs on a backend, which fuses those that it compiles as is cheapest
    /// there.
    pub fn fused(backend: Box<dyn Backend>, params: Params) -> Self {
        let costs = backend.costs();
        Self::on(backend, params, Fusion::At(costs))
    }

    /// An engine without programs.
    pub fn with_fusion(params: Params, fusion: Fusion) -> Self {
        Self::on(Box::new(Cpu::new()), params, fusion)
    }

    /// An engine without programs on a backend.
    pub fn on(backend: Box<dyn Backend>, params: Params, fusion: Fusion) -> Self {
        let pipeline = Pipeline {
            matrices: backend.precision().matrices(),
            fusion,
            checkpoints: false,
        };
        Self {
            weights: Weights::new(params),
            packs: Vec::new(),
            laid_out: HashSet::new(),
            plans: Vec::new(),
            reports: Vec::new(),
            backend,
            pipeline,
            ranks: Arc::new(Single),
        }
    }

    /// This engine as one of several ranks, which train and evaluate together.
    #[must_use]
    pub fn among(mut self, ranks: Arc<dyn Collective>) -> Self {
        self.ranks = ranks;
        self
    }

    /// The ranks that this engine is one of.
    pub fn ranks(&self) -> &Arc<dyn Collective> {
        &self.ranks
    }

    /// Programs compiled from now on keep only what lies between blocks for their backward pass, and
    /// compute the rest again ([`checkpoint()`](ailora_graph::checkpoint::checkpoint)): less memory for more arithmetic.
    #[must_use]
    pub fn checkpointing(mut self, checkpoints: bool) -> Self {
        self.pipeline.checkpoints = checkpoints;
        self
    }

    /// Decides by a program where the parameters that it reads lie, whatever is compiled before it.
    /// Where several programs share parameters, this is the one that is run most: the training step.
    ///
    /// # Errors
    /// A parameter that is missing or has another shape.
    pub fn lay_out(&mut self, program: &Program) -> Result<(), EngineError> {
        let step = self.optimized(program)?.hoisted.step;
        let read = step.frozen_parameters().chain(step.trained_parameters());
        self.laid_out.extend(read.map(|leaf| leaf.name.to_string()));
        Ok(())
    }

    /// Compiles a program. Expressions over frozen parameters are computed here, once for all
    /// programs that contain them. Parameters of which [`lay_out`](Self::lay_out) has decided nothing lie
    /// where the first program that reads them wants them.
    ///
    /// # Errors
    /// A parameter that is missing or has another shape.
    pub fn compile(&mut self, program: &Program) -> Result<PlanId, EngineError> {
        let fused = self.optimized(program)?.fused;
        let plan = match self.pipeline.fusion {
            Fusion::Off => separate(&fused.program),
            Fusion::Elementwise | Fusion::At(_) => self.backend.plan(&fused.program),
        };
        self.backend.add(&plan, &mut self.weights)?;
        self.plans.push(plan);
        self.reports.push(fused.reports);
        Ok(PlanId(self.plans.len() - 1))
    }

    /// What of a program is computed at each run. What depends on frozen parameters alone is computed here
    /// and is a parameter from now on, and parameters are laid where the program wants them.
    fn optimized(&mut self, program: &Program) -> Result<Optimized, EngineError> {
        let (plans, laid_out) = (&self.plans, &self.laid_out);
        let is_free = |name: &str| {
            let mut read = plans.iter().flat_map(|plan| &plan.parameters);
            !laid_out.contains(name) && !read.any(|(known, _)| **known == *name)
        };
        let pipeline = self.pipeline;
        let optimized = pipeline.optimize_beside(program, &self.packs, is_free)?;
        self.compute_once(&optimized.hoisted.once)?;
        for pack in &optimized.fused.packs[self.packs.len()..] {
            self.backend.pack(&mut self.weights, pack);
            self.packs.push(pack.clone());
        }
        Ok(optimized)
    }

    /// Computes those outputs of a program over frozen parameters that are no parameters yet.
    fn compute_once(&mut self, once: &Program) -> Result<(), EngineError> {
        let mut once = once.clone();
        once.retain_outputs(|name| self.weights.len(name).is_none());
        if once.outputs().is_empty() {
            return Ok(());
        }
        // Where a device has the packs, what lies in them lies here by itself.
        let packs = self.packs.iter();
        let packs = packs.filter(|pack| self.weights.arrays().contains_key(&*pack.name));
        let packs: Vec<Pack> = packs.cloned().collect();
        let once = plan(&placed(&once, &packs)?);
        let read = once.parameters.iter().map(|(name, _)| &**name);
        let narrow = self.weights.widen(read);
        let computed = computed(&once, self.weights.arrays());
        self.weights.narrow(narrow);
        self.weights.extend(computed?);
        Ok(())
    }

    /// Frees the parameters that no compiled program reads.
    pub fn release_unread(&mut self) {
        let plans = &self.plans;
        self.weights.retain(|name| {
            plans
                .iter()
                .any(|plan| plan.parameters.iter().any(|(read, _)| **read == *name))
        });
    }

    /// Executes a compiled program.
    ///
    /// # Errors
    /// An input that is missing, of another size, or has an id out of range.
    pub fn run(
        &mut self,
        id: PlanId,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
    ) -> Result<Outputs<'_>, EngineError> {
        let (backend, run) = self.prepared(id, inputs, draw);
        Ok(backend.run(run)?)
    }

    /// Executes a compiled program and leaves its results where they are, for [`output`](Self::output).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn execute(
        &mut self,
        id: PlanId,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
    ) -> Result<(), EngineError> {
        let (backend, run) = self.prepared(id, inputs, draw);
        Ok(backend.execute(run)?)
    }

    /// A result of the last program that was [executed](Self::execute), which was this one.
    ///
    /// # Errors
    /// The program has no such output; the device fails.
    pub fn output(&self, id: PlanId, name: &str) -> Result<Vec<f32>, EngineError> {
        let plan = &self.plans[id.0];
        Ok(self.backend.output(id.0, plan, &self.weights, name)?)
    }

    /// Seconds of a run of those steps of a compiled program that `which` is true of.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn time(
        &mut self,
        id: PlanId,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
        which: impl Fn(&Plan, &Step) -> bool,
    ) -> Result<f64, EngineError> {
        let plan = &self.plans[id.0];
        let timed: Vec<bool> = plan.steps.iter().map(|step| which(plan, step)).collect();
        let (backend, run) = self.prepared(id, inputs, draw);
        Ok(backend.time(run, &timed)?)
    }

    /// Executes a compiled program and adds to `seconds` what each step of its plan took.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn profile(
        &mut self,
        id: PlanId,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
        seconds: &mut Vec<f64>,
    ) -> Result<Outputs<'_>, EngineError> {
        let (backend, run) = self.prepared(id, inputs, draw);
        Ok(backend.profile(run, seconds)?)
    }

    /// The backend, with what it runs.
    pub(crate) fn prepared<'a, 'i>(
        &'a mut self,
        id: PlanId,
        inputs: &'i [(&'i str, Value<'i>)],
        draw: Draw,
    ) -> (&'a mut dyn Backend, Run<'a, 'i>) {
        let run = Run {
            id: id.0,
            plan: &self.plans[id.0],
            weights: &mut self.weights,
            inputs,
            draw,
        };
        (&mut *self.backend, run)
    }

    /// A compiled program.
    pub fn plan(&self, id: PlanId) -> &Plan {
        &self.plans[id.0]
    }

    /// How many programs are compiled.
    pub fn programs(&self) -> usize {
        self.plans.len()
    }

    /// What fusion did with each distinct linear region of a compiled program.
    pub fn reports(&self, id: PlanId) -> &[Report] {
        &self.reports[id.0]
    }

    /// The parameters by name.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The parameters by name, to be changed. Expressions over frozen parameters are not computed
    /// again.
    pub fn weights_mut(&mut self) -> &mut Weights {
        &mut self.weights
    }

    /// Puts values that are kept beside the parameters in their places: the next run computes with them. What
    /// no program reads is left out. On a device it is one launch, and [`weights`](Self::weights) keeps what
    /// it had.
    ///
    /// # Errors
    /// The device fails.
    pub fn put(&mut self, kept: &Kept) -> Result<(), EngineError> {
        Ok(self.backend.put(&mut self.weights, kept)?)
    }

    /// Frees what a device has of values that are kept beside the parameters.
    pub fn forget(&mut self, kept: &Kept) {
        self.backend.forget(kept);
    }

    /// The most bytes that the programs take where they are executed, if `trained` numbers are
    /// trained: parameters, the largest arena, gradients and the optimiser's state.
    pub fn peak_bytes(&self, trained: usize) -> usize {
        self.backend.peak_bytes(&self.plans, &self.weights, trained)
    }

    /// What executes the programs.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// What executes the programs, with the parameters.
    pub(crate) fn backend_mut(&mut self) -> (&mut dyn Backend, &mut Weights) {
        (&mut *self.backend, &mut self.weights)
    }
}

/// The results of a plan over parameters alone.
fn computed(plan: &Plan, params: &Params) -> Result<Vec<(String, Array)>, RunError> {
    // An arena of its own: it may be larger than any step's.
    let mut cpu = Cpu::new();
    let outputs = cpu.run(plan, params, &[], Draw::default())?;
    let arrays = plan.outputs.iter().filter_map(|(name, (_, ty))| {
        let array = Array::new(ty.shape.clone(), outputs.get(name)?.to_vec());
        Some((name.to_string(), array))
    });
    Ok(arrays.collect())
}
