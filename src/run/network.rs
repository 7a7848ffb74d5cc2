//! The graph of a model of your own, built for a batch.

use ailora_graph::{
    Module, Visitor,
    adapter::Site,
    ir::Program,
    lift::LiftError,
    module::Parameter,
    nn::{Cx, Tensor},
};
use indexmap::IndexMap;
use thiserror::Error;

use super::Columns;

/// A model that cannot be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The data have no such column.
    #[error("the model reads `{name}`, and the data have no such column, but {known}")]
    NoColumn {
        /// What is read.
        name: String,
        /// What there is.
        known: String,
    },
    /// The graph does not fit together.
    #[error(transparent)]
    Lift(#[from] LiftError),
    /// The model's own reason.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// A model's graph: its program, and what there is to train in it.
#[derive(Clone, Debug)]
pub struct Built {
    /// The program, with an output `loss` and whatever a score needs.
    pub program: Program,
    /// The parameters under their paths.
    pub parameters: Vec<Parameter>,
    /// The projections, as annotated.
    pub sites: Vec<Site>,
}

impl Built {
    /// The parameters of a model that reads such columns.
    ///
    /// # Errors
    /// The model cannot be built for them.
    pub fn parameters_of(
        network: &dyn Network,
        columns: &Columns,
    ) -> Result<Vec<Parameter>, BuildError> {
        Ok(network
            .build(&Batch::new(&Cx::new(), columns, 1))?
            .parameters)
    }
}

/// Builds a model for batches of some size: a function such as
///
/// ```
/// use ailora::{prelude::*, run::{Batch, BuildError, Built}};
///
/// #[adapt(hidden = principal(2))]
/// struct Model { hidden: Linear, out: Linear }
///
/// fn build(batch: &Batch<'_>) -> Result<Built, BuildError> {
///     let cx = batch.cx();
///     let linear = |inputs, outputs| Linear::new(cx, inputs, outputs, true);
///     let model = Model { hidden: linear(4, 8), out: linear(8, 3) };
///     let hidden = model.hidden.forward(&batch.column("x")?).gelu();
///     let logits = model.out.forward(&hidden);
///     let loss = logits.cross_entropy(&batch.column("label")?);
///     batch.built(&model, &[("loss", &loss), ("logits", &logits)])
/// }
/// ```
pub trait Network {
    /// The graph for a batch.
    ///
    /// # Errors
    /// The model reads a column that is not there, or does not fit together.
    fn build(&self, batch: &Batch<'_>) -> Result<Built, BuildError>;
}

impl<F: Fn(&Batch<'_>) -> Result<Built, BuildError>> Network for F {
    fn build(&self, batch: &Batch<'_>) -> Result<Built, BuildError> {
        self(batch)
    }
}

/// What a model is built for: the columns of a batch, as inputs of a graph.
#[derive(Debug)]
pub struct Batch<'g> {
    cx: &'g Cx,
    rows: usize,
    columns: IndexMap<String, Tensor<'g>>,
}

impl<'g> Batch<'g> {
    pub(super) fn new(cx: &'g Cx, columns: &Columns, rows: usize) -> Self {
        let input = |(name, ty): (&str, _)| (name.to_owned(), cx.input(name, ty));
        Self {
            cx,
            rows,
            columns: columns.types(rows).map(input).collect(),
        }
    }

    /// The graph under construction, to make parameters in.
    pub fn cx(&self) -> &'g Cx {
        self.cx
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A column of the data.
    ///
    /// # Shapes
    /// `[rows]` and one row's dimensions
    ///
    /// # Errors
    /// There is none of this name.
    pub fn column(&self, name: &str) -> Result<Tensor<'g>, BuildError> {
        let column = self.columns.get(name).cloned();
        column.ok_or_else(|| BuildError::NoColumn {
            name: name.to_owned(),
            known: self.columns.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// What was built: a model, and outputs by name. `loss` is a mean over targets.
    ///
    /// # Errors
    /// Something in the graph did not fit.
    pub fn built<M: Module + ?Sized>(
        &self,
        model: &M,
        outputs: &[(&str, &Tensor<'_>)],
    ) -> Result<Built, BuildError> {
        let (parameters, sites) = Visitor::inventory(model);
        Ok(Built {
            program: self.cx.program(model, outputs)?,
            parameters,
            sites,
        })
    }
}
