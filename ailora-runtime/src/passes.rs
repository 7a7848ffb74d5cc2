//! What becomes of a pretrained model's program before it is compiled, in one place: adapted, in the
//! form that its precision computes without loss, with slices pushed down, and differentiated where it
//! trains.

use std::collections::HashSet;

use ailora_graph::{
    adapt::{AdaptError, Mode, adapt},
    adapter::{Site, Trainable},
    grad::{self, GradError},
    ir::{Program, ProgramError},
    slice_pushdown::push_down_slices,
};
use thiserror::Error;

use crate::backend::Precision;

/// The output that training makes smaller.
pub const LOSS: &str = "loss";

/// A program that cannot be adapted or differentiated.
#[derive(Debug, Error)]
pub enum PassError {
    /// The adapters do not fit the program.
    #[error(transparent)]
    Adapt(#[from] AdaptError),
    /// The loss cannot be differentiated.
    #[error(transparent)]
    Grad(#[from] GradError),
    /// An expression whose types do not fit.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// The passes over programs of one model with these adapters.
#[derive(Clone, Copy, Debug)]
pub struct Passes<'a> {
    /// The projections and what happens to them.
    pub sites: &'a [Site],
    /// What trains beside the adapters, or instead of them.
    pub trainable: &'a Trainable,
    /// What matrices are kept in where the program is executed.
    pub precision: Precision,
}

impl Passes<'_> {
    /// The adapted program, without adapter dropout.
    ///
    /// # Errors
    /// The adapters do not fit it.
    pub fn inference(&self, program: &Program) -> Result<Program, PassError> {
        Ok(push_down_slices(&self.adapted(program, Mode::Infer)?)?)
    }

    /// As [`inference`](Self::inference), of a part of the model: adapters whose projections are in another
    /// part are left out. The programs that generate share a model's weights out among them.
    ///
    /// # Errors
    /// The adapters do not fit it.
    pub fn part(&self, program: &Program) -> Result<Program, PassError> {
        let read: HashSet<&str> = program
            .frozen_parameters()
            .map(|leaf| &*leaf.name)
            .collect();
        let sites = self.sites.iter();
        let sites = sites.filter(|site| read.contains(&*site.weight));
        let sites: Vec<Site> = sites.cloned().collect();
        let passes = Passes {
            sites: &sites,
            ..*self
        };
        passes.inference(program)
    }

    /// The program of a training step: the output [`LOSS`] and its gradients alone.
    ///
    /// # Errors
    /// The adapters do not fit it, or it has no loss that can be differentiated.
    pub fn step(&self, program: &Program) -> Result<Program, PassError> {
        let adapted = push_down_slices(&self.adapted(program, Mode::Train)?)?;
        Ok(grad::step(&adapted, LOSS)?)
    }

    /// The adapted program with all of its outputs, before anything is left out of it.
    ///
    /// # Errors
    /// The adapters do not fit it.
    pub fn adapted(&self, program: &Program, mode: Mode) -> Result<Program, PassError> {
        let adapted = adapt(program, self.sites, self.trainable, mode)?;
        Ok(self.precision.split_residual(adapted)?)
    }
}
