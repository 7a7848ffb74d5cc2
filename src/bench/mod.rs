//! What adapters cost a model, and what fusion saves of that: measured, on the model's own shapes.
//!
//! ```
//! use ailora::{bench, ir::Type, prelude::*, runtime::{run::Value, store::Array}};
//!
//! #[adapt(q = principal(2), v = minor(2))]
//! struct Projections { q: Linear, k: Linear, v: Linear }
//!
//! let cx = Cx::new();
//! let linear = || Linear::new(&cx, 16, 16, false);
//! let model = Projections { q: linear(), k: linear(), v: linear() };
//! let x = cx.input("x", Type::f32([32, 16]));
//! let [q, k, v] = [&model.q, &model.k, &model.v].map(|linear| linear.forward(&x));
//! let program = cx.program(&model, &[("q", &q), ("k", &k), ("v", &v)])?;
//!
//! let number = |i: usize| (i * 7 % 13) as f32 / 13.0 - 0.5;
//! let weight = |start: usize| {
//!     Array::new([16, 16], (0..256).map(|i| number(i * i + start)).collect())
//! };
//! let names = ["q.weight", "k.weight", "v.weight"];
//! let params = names.iter().enumerate().map(|(i, name)| (name.to_string(), weight(i))).collect();
//! let data: Vec<f32> = (0..32 * 16).map(number).collect();
//! let (_, sites) = Visitor::inventory(&model);
//! let subject = bench::Subject {
//!     program: &program,
//!     sites: &sites,
//!     params: &params,
//!     inputs: &[("x", Value::F32(&data))],
//!     below: &["x"],
//! };
//! let row = bench::compare(&subject, bench::Pass::Both, &bench::Options::quick())?;
//! println!("fused takes {:.2} of unfused", row.ratios.fused_to_unfused);
//! # assert!(row.fused.products < row.unfused.products);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod baseline;
mod form;
mod measure;
mod row;

pub use baseline::{Baseline, BaselineError, Comparison, Regression};
pub use form::{Form, Pass};
pub use row::{Measurement, Prediction, Ratios, Row};

use thiserror::Error;

use crate::{
    adapter::Site,
    fuse::cost::Costs,
    grad::GradError,
    ir::{Program, ProgramError},
    runtime::{
        backend::Precision,
        device::Device,
        engine::EngineError,
        init::{self, InitError},
        passes::PassError,
        run::Value,
        spectrum,
        store::Params,
    },
};
use form::Variants;
use measure::Contenders;

/// How far outputs of two forms may be apart, relative to their norm.
fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-4,
        Precision::Tf32 => 5e-3,
        Precision::Bf16 => 5e-2,
    }
}

/// A model before adaptation, and what it is run on.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The model. Its outputs are computed in every form; those of float32 are differentiated.
    pub program: &'a Program,
    /// What is to be adapted.
    pub sites: &'a [Site],
    /// The pretrained parameters by name.
    pub params: &'a Params,
    /// A value for each input.
    pub inputs: &'a [(&'a str, Value<'a>)],
    /// The inputs that stand for what earlier layers compute: the backward pass goes on to them,
    /// adapters or not.
    pub below: &'a [&'a str],
}

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where it runs.
    pub device: Device,
    /// What a device computes in.
    pub precision: Precision,
    /// What fusion takes products to cost there.
    pub costs: Costs,
    /// Seconds for each form, at least.
    pub seconds: f64,
    /// Runs of each form, at least.
    pub runs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            precision: Precision::F32,
            costs: Costs::default(),
            seconds: 0.3,
            runs: 3,
        }
    }
}

impl Options {
    /// A first impression: three runs a form.
    pub fn quick() -> Self {
        Self {
            seconds: 0.0,
            ..Self::default()
        }
    }
}

/// A model that cannot be measured.
#[derive(Debug, Error)]
pub enum BenchError {
    /// Adapters that the program cannot take.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// An operation without a derivative.
    #[error(transparent)]
    Grad(#[from] GradError),
    /// Adapters that cannot be initialised.
    #[error(transparent)]
    Init(#[from] InitError),
    /// A program that cannot be compiled or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An expression whose types do not fit.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// An input from below that the program does not have.
    #[error("`below` names `{name}`, which is no float input of the program; those are {found}")]
    Below {
        /// The name.
        name: String,
        /// The names there are.
        found: String,
    },
    /// A form that computes something else, or nothing finite.
    #[error(
        "output `{output}` of the form `{form}` is {difference:.1e} of its norm away from the \
         unfused one; expected at most {tolerance:.0e}: a fault in fusion, or values that are not finite"
    )]
    Disagree {
        /// The form.
        form: Form,
        /// The output.
        output: String,
        /// The norm of the difference over the norm.
        difference: f64,
        /// What it may be.
        tolerance: f64,
    },
}

/// Measures a model frozen, adapted, adapted and fused, and, forward only, with its adapters merged.
///
/// Before anything is timed, all adapted forms must compute the same. `A` starts as its site says;
/// to `B` small random numbers are added, so that no adapter is zero. What is timed is the kernels
/// of a run: not moving inputs into place, nor the rows of wide products to the outputs, which a
/// model reads where they are. The forms take turns, so that what else the machine does meets all
/// of them.
///
/// # Errors
/// A program that cannot be adapted, differentiated, compiled or run on these inputs, and forms that
/// disagree.
pub fn compare(subject: &Subject<'_>, pass: Pass, options: &Options) -> Result<Row, BenchError> {
    let mut params = subject.params.clone();
    let spectral = spectrum::Options::default();
    init::initialise(subject.sites, &mut params, 0, &spectral, |_| {})?;
    let variants = Variants::new(subject, pass, params, options)?;
    let mut contenders = Contenders::new(&variants, pass, options)?;
    let inputs = variants.inputs(subject);
    let difference = contenders.check(&inputs, tolerance(options.precision))?;
    contenders.time(&inputs, options)?;
    Ok(row::of(&contenders, pass, difference))
}

#[cfg(test)]
mod tests;
