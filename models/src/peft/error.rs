use std::path::PathBuf;

use ailora_graph::ir::{EvalError, ProgramError};
use ailora_runtime::{spectrum::SpectrumError, store::StoreError};
use thiserror::Error;

use super::{CONFIG, CombineError, WEIGHTS};
use crate::{
    closed::{Refused, json::JsonError},
    fields::FieldError,
    model::ModelError,
    weights::WeightsError,
};

/// An adapter folder that cannot be written or read.
#[derive(Debug, Error)]
pub enum PeftError {
    /// A file of the folder cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tensors cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file of settings cannot be read as a JSON object.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A field asks for something that is not done, or nobody knows it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Adapters that cannot be combined as it is asked.
    #[error(transparent)]
    Combine(#[from] CombineError),
    /// The folder has no such file.
    #[error("{folder}: no {file} there; an adapter folder holds {CONFIG} and {WEIGHTS}", folder = folder.display())]
    NoFile {
        /// The folder.
        folder: PathBuf,
        /// The file.
        file: &'static str,
    },
    /// The configuration and the tensors are not those of one LoRA adapter.
    #[error("{path}: {reason}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that does not fit the model.
    #[error("{path}: the adapter's tensor `{name}` is {found:?}; {expected}", path = path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What would fit.
        expected: String,
    },
    /// A number that is none.
    #[error(
        "{path}: the adapter's tensor `{name}` has {found} among its numbers, so that every result \
         would be NaN; train or save the adapter again", path = path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What it has.
        found: f32,
    },
    /// What training should have left is missing.
    #[error("the trained parameters have no `{0}`")]
    Missing(String),
    /// A projection whose weight is stored the other way round.
    #[error("{0}: PEFT's linear layers store `[out, in]`; this projection stores `[in, out]`")]
    Layout(String),
    /// An adapter that PEFT has no form of.
    #[error(
        "{site}: PEFT has no form of the adapter `{adapter}`, so that it cannot be saved; choose another \
         adapter for it, or declare its form with `Adapter::peft`"
    )]
    NoForm {
        /// Module path of the projection.
        site: String,
        /// The adapter.
        adapter: &'static str,
    },
    /// Adapters of different kinds, of which a folder of PEFT's holds one.
    #[error(
        "{site} has an adapter of PEFT's kind {found}, and other projections have {expected}; a folder \
         holds one kind: choose adapters of one"
    )]
    Mixed {
        /// Module path of the projection.
        site: String,
        /// Its kind.
        found: &'static str,
        /// That of projections before it.
        expected: &'static str,
    },
    /// Magnitudes at some projections only, where PEFT has them at all or none.
    #[error(
        "{site} has {found}magnitudes (`dora`), unlike projections before it; PEFT's `use_dora` is for a \
         whole folder: set `dora` for all projections or for none"
    )]
    MixedDora {
        /// Module path of the projection.
        site: String,
        /// Nothing, or `no `.
        found: &'static str,
    },
    /// An adapter that comes to no weight.
    #[error(
        "{site}: the adapter `{adapter}` has no merged weight, so that it stays beside the model: use \
         the model with `--adapter`"
    )]
    NotMergeable {
        /// Module path of the projection.
        site: String,
        /// The adapter.
        adapter: &'static str,
    },
    /// A parameter that is to be left out as its seed gives it, and is another.
    #[error(
        "`{name}` is not what seed {seed} draws, so that it cannot be left out of the folder; save it too"
    )]
    NotDrawn {
        /// The parameter.
        name: String,
        /// The seed.
        seed: u64,
    },
    /// An adapter whose expressions do not fit.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// An adapter's parameter that does not fit.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A weight has no singular value decomposition.
    #[error(transparent)]
    Spectrum(#[from] SpectrumError),
    /// The model cannot be built as the adapter needs it.
    #[error("{folder}: the base cannot be changed as this adapter needs it: {source}", folder = folder.display())]
    Field {
        /// The adapter's folder.
        folder: PathBuf,
        /// Why not.
        source: FieldError,
    },
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
}
