//! What becomes of a program before it is planned, in one place. [`Passes`] take a pretrained model's: it
//! is adapted, in the form that its precision computes without loss, with slices pushed down, and
//! differentiated where it trains. The [`Pipeline`] takes any: its values get their element types, what
//! depends on frozen parameters alone is split off, the rest fused.

use std::collections::HashSet;

use ailora_graph::{
    adapt::{AdaptError, Mode, adapt, adapt_part, shape_gradients},
    adapter::{Site, Trainable},
    checkpoint::checkpoint,
    element_types::element_types,
    fuse::{Fused, cost::Costs, fuse, layout::Pack, placed},
    grad::{self, GradError},
    hoist::{Hoisted, hoist},
    ir::{DType, Program, ProgramError},
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
        let adapted = adapt_part(program, &sites, self.sites, self.trainable, Mode::Infer)?;
        Ok(push_down_slices(&self.precision.split_residual(adapted)?)?)
    }

    /// The program of a training step: the output [`LOSS`] and its gradients alone.
    ///
    /// # Errors
    /// The adapters do not fit it, or it has no loss that can be differentiated.
    pub fn step(&self, program: &Program) -> Result<Program, PassError> {
        let adapted = push_down_slices(&self.adapted(program, Mode::Train)?)?;
        let mut step = grad::step(&adapted, LOSS)?;
        shape_gradients(&mut step, self.sites)?;
        Ok(step)
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

/// What runs together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fusion {
    /// Nothing: each operation has a kernel of its own.
    Off,
    /// Chains of element-wise operations, and sums with the products that they add up. Products are
    /// as the program says.
    Elementwise,
    /// That, and products: few and wide, whichever form is cheapest at these costs.
    At(Costs),
}

/// The passes that every program goes through before it is planned.
#[derive(Clone, Copy, Debug)]
pub struct Pipeline {
    /// What matrices are kept in ([`element_types()`]).
    pub matrices: DType,
    /// What runs together.
    pub fusion: Fusion,
    /// Whether only what lies between blocks is kept for the backward pass, which computes the rest
    /// again ([`checkpoint()`]).
    pub checkpoints: bool,
}

/// A program that went through a [`Pipeline`].
#[derive(Clone, Debug)]
pub struct Optimized {
    /// What is computed once, and what at each run, with each parameter under its own name.
    pub hoisted: Hoisted,
    /// What is computed at each run as it is to be planned: fused, and its parameters where they lie.
    pub fused: Fused,
}

impl Pipeline {
    /// A program that is alone over its parameters.
    ///
    /// # Errors
    /// As [`optimize_beside`](Self::optimize_beside).
    pub fn optimize(&self, program: &Program) -> Result<Optimized, ProgramError> {
        self.optimize_beside(program, &[], |_| true)
    }

    /// A program beside others: `packs` are those in which parameters lie already, and `is_free` says
    /// which of the other parameters may be packed.
    ///
    /// # Errors
    /// A state that is put into and read beside that.
    pub fn optimize_beside(
        &self,
        program: &Program,
        packs: &[Pack],
        is_free: impl Fn(&str) -> bool,
    ) -> Result<Optimized, ProgramError> {
        program.check_states()?;
        let hoisted = hoist(&element_types(program, self.matrices)?)?;
        let mut fused = match &self.fusion {
            Fusion::Off | Fusion::Elementwise => Fused {
                program: placed(&hoisted.step, packs)?,
                packs: packs.to_vec(),
                reports: Vec::new(),
                regions: Vec::new(),
            },
            Fusion::At(costs) => fuse(&hoisted.step, costs, packs, is_free)?,
        };
        if self.checkpoints {
            fused.program = checkpoint(&fused.program, LOSS)?;
        }
        Ok(Optimized { hoisted, fused })
    }
}
