use indexmap::IndexMap;

use super::error::BackendError;
use crate::{
    collective::Collective,
    optim::{AdamW, Moments},
    run::Run,
    weights::Weights,
};

/// The optimiser's part of a training step, where a backend computes: it holds the gradients there.
///
/// A step is one [`accumulate`](Self::accumulate) for each micro-batch, an [`update`](Self::update) and a
/// [`wait`](Self::wait). In between the gradients are those of the whole step, neither clipped nor looked
/// at.
pub trait Stepper {
    /// How many steps may be on their way while the next one is queued.
    fn steps_ahead(&self) -> usize;

    /// Runs a plan that leaves a loss and gradients, or queues that, and adds `share` of these to the
    /// step's.
    ///
    /// # Errors
    /// As a run of the plan, or it leaves no loss, or no gradient of something that is trained.
    fn accumulate(
        &mut self,
        adamw: &AdamW,
        run: Run<'_, '_>,
        share: Share,
    ) -> Result<(), BackendError>;

    /// Replaces the step's gradients and the losses of its `of` micro-batches by their sums over the
    /// ranks, each of which has accumulated those that it [owns](Collective::owns), perhaps none; `run` is
    /// of any of them.
    ///
    /// # Errors
    /// A rank or the device failed.
    fn reduce(
        &mut self,
        adamw: &AdamW,
        run: Run<'_, '_>,
        ranks: &dyn Collective,
        of: usize,
    ) -> Result<(), BackendError>;

    /// Makes or queues an update from the gradients; none is made where a loss or their norm is not
    /// finite, or behind a step that is not waited for yet and was not updated.
    ///
    /// # Errors
    /// Nothing was accumulated, or the device failed.
    fn update(
        &mut self,
        adamw: &mut AdamW,
        weights: &mut Weights,
        update: Update,
    ) -> Result<(), BackendError>;

    /// Waits for the first update that was not waited for.
    ///
    /// # Errors
    /// There is none, or the device failed.
    fn wait(&mut self) -> Result<Updated, BackendError>;

    /// Values and moments, by name, of those trained parameters that lie elsewhere than in the engine's
    /// weights and the optimiser's moments.
    ///
    /// # Errors
    /// The device failed.
    fn trained(&self) -> Result<IndexMap<String, (Vec<f32>, Moments)>, BackendError>;

    /// Forgets all of this: the next step starts from the engine's weights and the optimiser's moments.
    fn restart(&mut self);
}

/// A micro-batch's share of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Its number in the step, from 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
    /// Whether it is the first that is accumulated here.
    pub first: bool,
    /// Its targets over the step's.
    pub weight: f32,
}

/// An update of all trained parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The number of the step, from 1.
    pub step: u64,
    /// The base learning rate.
    pub lr: f64,
    /// Whether the step has targets: without any, values and moments stay as they are.
    pub counts: bool,
    /// The norm that gradients are clipped to.
    pub clip: Option<f64>,
    /// How many micro-batches the step has.
    pub batches: usize,
    /// Whether there is an update before it that was not waited for.
    pub follows: bool,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Updated {
    /// The losses of the micro-batches, and perhaps more that are none.
    pub losses: Vec<f32>,
    /// The norm of the gradients, before clipping.
    pub norm: f64,
    /// Whether anything was updated.
    pub updated: bool,
}
