use std::time::Instant;

use super::{BenchError, Form, Options, Pass, form::Variants};
use crate::{
    ir::Draw,
    runtime::{
        engine::{Engine, EngineError, PlanId},
        kernels::Kernel,
        plan::{Plan, Step},
        run::Value,
    },
};

/// A form, compiled, and what its runs took.
pub(super) struct Contender {
    pub(super) form: Form,
    pub(super) engine: Engine,
    pub(super) plan: PlanId,
    pub(super) seconds: Vec<f64>,
}

/// All forms of a model.
pub(super) struct Contenders {
    pub(super) frozen: Contender,
    pub(super) unfused: Contender,
    pub(super) fused: Contender,
    /// Training has no merged form.
    pub(super) merged: Option<Contender>,
}

impl Contender {
    fn new(variants: &Variants<'_>, form: Form, options: &Options) -> Result<Self, BenchError> {
        let (mut engine, program) = variants.form(form, options)?;
        let plan = engine.compile(program)?;
        engine.release_unread();
        Ok(Self {
            form,
            engine,
            plan,
            seconds: Vec::new(),
        })
    }

    fn outputs(
        &mut self,
        inputs: &[(&str, Value<'_>)],
    ) -> Result<Vec<(String, Vec<f32>)>, BenchError> {
        let names: Vec<String> = self
            .engine
            .plan(self.plan)
            .outputs
            .keys()
            .map(ToString::to_string)
            .collect();
        let found = self.engine.run(self.plan, inputs, Draw::default())?;
        let value = |name: String| {
            let data = found.output(&name).map_err(EngineError::from)?.to_vec();
            Ok((name, data))
        };
        names.into_iter().map(value).collect()
    }

    /// Notes what the kernels of a run take.
    fn time(&mut self, inputs: &[(&str, Value<'_>)]) -> Result<(), BenchError> {
        let is_own = |plan: &Plan, step: &Step| !delivers(plan, step) && !stages(plan, step);
        let draw = Draw::default();
        let seconds = self.engine.time(self.plan, inputs, draw, is_own)?;
        self.seconds.push(seconds);
        Ok(())
    }
}

impl Contenders {
    pub(super) fn new(
        variants: &Variants<'_>,
        pass: Pass,
        options: &Options,
    ) -> Result<Self, BenchError> {
        let new = |form: Form| Contender::new(variants, form, options);
        Ok(Self {
            frozen: new(Form::Frozen)?,
            unfused: new(Form::Unfused)?,
            fused: new(Form::Fused)?,
            merged: match pass {
                Pass::Forward => Some(new(Form::Merged)?),
                Pass::Both => None,
            },
        })
    }

    /// The largest relative difference between the unfused form and the others that are adapted.
    ///
    /// # Errors
    /// It is too large.
    pub(super) fn check(
        &mut self,
        inputs: &[(&str, Value<'_>)],
        tolerance: f64,
    ) -> Result<f64, BenchError> {
        let expected = self.unfused.outputs(inputs)?;
        let mut worst = 0.0_f64;
        for contender in std::iter::once(&mut self.fused).chain(&mut self.merged) {
            let found = contender.outputs(inputs)?;
            for ((output, found), (_, expected)) in found.iter().zip(&expected) {
                let difference = difference(found, expected);
                // NaN is no agreement.
                if difference.is_nan() || difference > tolerance {
                    return Err(BenchError::Disagree {
                        form: contender.form,
                        output: output.clone(),
                        difference,
                        tolerance,
                    });
                }
                worst = worst.max(difference);
            }
        }
        Ok(worst)
    }

    /// Runs the forms in turns.
    pub(super) fn time(
        &mut self,
        inputs: &[(&str, Value<'_>)],
        options: &Options,
    ) -> Result<(), BenchError> {
        let forms = 3 + usize::from(self.merged.is_some());
        let enough = options.seconds * forms as f64;
        let start = Instant::now();
        let mut runs = 0;
        while runs < options.runs.max(1) || start.elapsed().as_secs_f64() < enough {
            self.frozen.time(inputs)?;
            self.unfused.time(inputs)?;
            self.fused.time(inputs)?;
            if let Some(merged) = &mut self.merged {
                merged.time(inputs)?;
            }
            runs += 1;
        }
        Ok(())
    }
}

/// Whether a step only moves rows out of a wide matrix, or some of them, to an output. Inside a
/// model, what reads them reads them where they are.
fn delivers(plan: &Plan, step: &Step) -> bool {
    let Kernel::Copy(moved) = &step.kernel else {
        return false;
    };
    let is_rows = matches!((&moved.from[..], &moved.to[..]), ([_, 1], [_, 1]));
    let is_row = moved.shape.last() == Some(&1);
    let mut outputs = plan.outputs.values();
    (is_rows || is_row) && outputs.any(|(view, _)| step.writes.contains(view))
}

/// Whether a step only brings an input into the form that a model would have it in.
fn stages(plan: &Plan, step: &Step) -> bool {
    let mut inputs = plan.inputs.iter();
    matches!(step.kernel, Kernel::Loop(_)) && inputs.any(|input| step.reads.contains(&input.view))
}

/// The norm of the difference over the norm.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let apart: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = expected.iter().map(|&x| square(x)).sum();
    if found.len() == expected.len() {
        (apart / norm.max(f64::MIN_POSITIVE)).sqrt()
    } else {
        f64::INFINITY
    }
}
