//! A projection in a program that is being adapted.

use super::{AdapterParameter, Site};
use crate::ir::{
    Id, Program, ProgramError, Real,
    ops::{dropout::Dropout, matmul::MatMul},
};

/// A projection in a program that is being written.
#[derive(Debug)]
pub struct Projected<'a> {
    /// The program.
    pub program: &'a mut Program,
    /// The projection.
    pub site: &'a Site,
    /// All projections of the model.
    pub sites: &'a [Site],
}

/// What an adapted program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Training: adapters drop elements of their inputs.
    Train,
    /// Everything else: nothing is dropped.
    Infer,
}

/// Where an adapter changes the output of a projection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Behind the bias.
    #[default]
    Output,
    /// Behind the dropout that follows, if one does.
    Sublayer,
    /// There, where a block's residual is added, which has to follow.
    Residual,
}

/// What a projection reads.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// `x`, `[..., in]`.
    pub input: Id,
    /// `W`, `[out, in]`, however it lies in memory.
    pub weight: Id,
    /// `b`, `[out]`; nothing before it is added.
    pub bias: Option<Id>,
    /// What the block gives without the adapter, `[..., out]`, at [`Place::Residual`]: the sum of the output
    /// and the residual, through the norm behind it in a block that ends with one. Nothing elsewhere.
    pub block: Option<Id>,
    /// What the program is for.
    pub mode: Mode,
}

impl Projected<'_> {
    /// A parameter of the adapter.
    ///
    /// # Errors
    /// Its name has another type elsewhere.
    pub fn parameter(&mut self, parameter: &AdapterParameter) -> Result<Id, ProgramError> {
        match parameter.trains {
            true => self.program.trained(&parameter.name, parameter.ty()),
            false => self.program.frozen(&parameter.name, parameter.ty()),
        }
    }

    /// `x W^T`.
    ///
    /// # Errors
    /// The types do not fit.
    pub fn frozen_product(&mut self, operands: Operands) -> Result<Id, ProgramError> {
        self.program
            .matmul(operands.input, false, operands.weight, true)
    }

    /// `x` with the adapter's dropout, while training.
    ///
    /// # Errors
    /// The types do not fit.
    pub fn dropped(&mut self, operands: Operands) -> Result<Id, ProgramError> {
        let rate = self.site.spec.dropout;
        if operands.mode == Mode::Infer || rate == 0.0 {
            return Ok(operands.input);
        }
        let dropout = Dropout {
            rate: Real(rate),
            stream: self.site.path.as_str().into(),
        };
        self.program.add(dropout, &[operands.input])
    }
}

/// A projection's weight as rows of output features, as the factors of adapters lie too, so that they
/// can be fused. One that lies the other way is transposed once, before training.
pub(crate) fn as_rows(p: &mut Program, product: MatMul, weight: Id) -> Result<Id, ProgramError> {
    match product.trans_b {
        true => Ok(weight),
        false => p.transpose(weight),
    }
}
