//! A model compiled for several shapes of input over one set of parameters.

use ailora_graph::{
    hoist::hoist,
    ir::{Draw, Program, ProgramError},
};
use thiserror::Error;

use crate::{
    cpu::{Cpu, Outputs, RunError, Value},
    plan::{Plan, plan},
    store::{Array, Params},
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
}

/// Names a compiled program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlanId(usize);

/// Parameters, and the programs over them, compiled.
#[derive(Debug, Default)]
pub struct Engine {
    params: Params,
    plans: Vec<Plan>,
    cpu: Cpu,
}

impl Engine {
    /// An engine without programs.
    pub fn new(params: Params) -> Self {
        Self {
            params,
            ..Self::default()
        }
    }

    /// Compiles a program. Expressions over frozen parameters are computed here, once for all
    /// programs that contain them.
    ///
    /// # Errors
    /// A parameter that is missing or has another shape.
    pub fn compile(&mut self, program: &Program) -> Result<PlanId, EngineError> {
        let mut hoisted = hoist(program)?;
        let params = &self.params;
        hoisted
            .once
            .retain_outputs(|name| !params.contains_key(name));
        if !hoisted.once.outputs().is_empty() {
            let once = plan(&hoisted.once);
            // An arena of its own: it may be larger than any step's.
            let mut cpu = Cpu::new();
            let outputs = cpu.run(&once, &self.params, &[], Draw::default())?;
            let computed: Vec<(String, Array)> = once
                .outputs
                .iter()
                .filter_map(|(name, (_, ty))| {
                    let data = outputs.get(name)?.to_vec();
                    let shape = ty.shape.clone();
                    Some((name.to_string(), Array { shape, data }))
                })
                .collect();
            self.params.extend(computed);
        }
        let plan = plan(&hoisted.step);
        self.cpu.reserve(&plan);
        self.plans.push(plan);
        Ok(PlanId(self.plans.len() - 1))
    }

    /// Frees the parameters that no compiled program reads.
    pub fn release_unread(&mut self) {
        let plans = &self.plans;
        self.params.retain(|name, _| {
            plans
                .iter()
                .any(|plan| plan.parameters.iter().any(|(read, _)| **read == **name))
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
        Ok(self
            .cpu
            .run(&self.plans[id.0], &self.params, inputs, draw)?)
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
        let plan = &self.plans[id.0];
        Ok(self
            .cpu
            .profile(plan, &self.params, inputs, draw, seconds)?)
    }

    /// A compiled program.
    pub fn plan(&self, id: PlanId) -> &Plan {
        &self.plans[id.0]
    }

    /// How many programs are compiled.
    pub fn programs(&self) -> usize {
        self.plans.len()
    }

    /// The parameters by name.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The parameters by name, to be changed. Expressions over frozen parameters are not computed
    /// again.
    pub fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    /// Bytes of the parameters and of the largest arena: all that inference needs.
    pub fn bytes(&self) -> usize {
        let params: usize = self.params.values().map(|array| 4 * array.data.len()).sum();
        let arena = self.plans.iter().map(Plan::arena_bytes).max();
        params + arena.unwrap_or(0)
    }
}
