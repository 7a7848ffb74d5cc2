//! Training any adapted program, a step at a time.

use ailora_graph::{
    adapter::{AdapterError, Site, Trainable},
    ir::Program,
};
use ailora_runtime::{
    backend::Backend,
    cpu::Cpu,
    engine::{Engine, EngineError, PlanId},
    init::{InitError, complete},
    optim::{AdamW, AdamWConfig, Schedule, ScheduleKind},
    passes::{PassError, Passes},
    run::Value,
    spectrum::Options,
    store::Params,
    train::{MicroBatch, StepReport, TrainError, Trainer},
};
use thiserror::Error;

use crate::run::groups;

/// A program that cannot be tuned.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is the error it wraps")]
pub enum TunerError {
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    Pass(#[from] PassError),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// Trains the adapters of a program of your own, whose output `loss` falls.
///
/// ```
/// use ailora::{Tuner, ir::Type, prelude::*, runtime::{run::Value, store::Array}};
///
/// #[adapt(project = principal(2))]
/// struct Model { project: Linear }
///
/// let cx = Cx::new();
/// let model = Model { project: Linear::new(&cx, 4, 4, false) };
/// let x = cx.input("x", Type::f32([1, 4]));
/// let y = model.project.forward(&x);
/// let loss = (&y * &y).mean([0, 1]).reshape([]);
/// let program = cx.program(&model, &[("loss", &loss)])?;
///
/// let (_, sites) = Visitor::inventory(&model);
/// let data = (0..16).map(|i| (i * i % 7) as f32 - 3.0).collect();
/// let weight = Array::new([4, 4], data);
/// let mut tuner = Tuner::new(&program, &sites, [("project.weight".into(), weight)].into(), 1e-2)?;
/// let x = [1.0, 2.0, 3.0, 4.0];
/// let first = tuner.step(&[("x", Value::F32(&x))])?;
/// let second = tuner.step(&[("x", Value::F32(&x))])?;
/// assert!(second.loss < first.loss);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Tuner {
    trainer: Trainer,
    plan: PlanId,
}

impl Tuner {
    /// A tuner on the processor, from seed 0.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn new(
        program: &Program,
        sites: &[Site],
        params: Params,
        lr: f64,
    ) -> Result<Self, TunerError> {
        Self::on(
            Box::new(Cpu::new()),
            program,
            sites,
            &Trainable::Adapters,
            params,
            lr,
            0,
        )
    }

    /// Adapts a program, whose frozen parameters `params` has by name, differentiates it and compiles
    /// it for a backend. `trainable` trains. Adapters that `params` does not have start as their sites say. AdamW moves
    /// them at the constant rate `lr`, each times its own factor; `seed` fixes random starts and
    /// dropout.
    ///
    /// # Errors
    /// Sites or patterns that the program does not have, a program without a `loss`, a parameter that is missing
    /// or of another shape.
    pub fn on(
        backend: Box<dyn Backend>,
        program: &Program,
        sites: &[Site],
        trainable: &Trainable,
        mut params: Params,
        lr: f64,
        seed: u64,
    ) -> Result<Self, TunerError> {
        let passes = Passes {
            sites,
            trainable,
            precision: backend.precision(),
        };
        let names = || program.frozen_parameters().map(|leaf| &*leaf.name);
        trainable.check(sites, names())?;
        let rates = trainable.rates(sites, names());
        let program = passes.step(program)?;
        let options = Options {
            solver: backend.solver(),
            ..Options::default()
        };
        complete(sites, &mut params, seed, &options, |_| {})?;
        let mut engine = Engine::fused(backend, params);
        let plan = engine.compile(&program)?;
        let (groups, _) = groups(rates, engine.weights());
        let optimizer = AdamW::new(AdamWConfig::default(), groups, engine.weights());
        let schedule = Schedule {
            kind: ScheduleKind::Constant,
            warmup: 0,
            total: 1,
        };
        let trainer = Trainer::new(engine, optimizer, lr, schedule, None, seed);
        Ok(Self { trainer, plan })
    }

    /// Makes a step on values for all inputs of the program.
    ///
    /// # Errors
    /// An input that is missing or of another size, or a loss that is not finite.
    pub fn step(&mut self, inputs: &[(&str, Value<'_>)]) -> Result<StepReport, TunerError> {
        let batch = MicroBatch {
            plan: self.plan,
            inputs: inputs.to_vec(),
            rows: 1,
            targets: 1,
        };
        Ok(self.trainer.step(&[batch])?)
    }

    /// What is trained, by name: what the adapters declare, such as `PATH.lora_A.weight`, and the
    /// program's own parameters.
    ///
    /// # Errors
    /// The device that has it failed.
    pub fn trained(&self) -> Result<Params, TunerError> {
        Ok(self.trainer.trained()?)
    }
}
