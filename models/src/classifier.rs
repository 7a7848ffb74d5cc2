//! Programs of a model with a classification or regression head.

use ailora_graph::{
    Visitor,
    adapter::Site,
    ir::{Program, Type},
    lift::LiftError,
    module::Parameter,
    nn::{Cx, Tensor},
};
use thiserror::Error;

use crate::{
    batch::{Batch, Targets},
    config::Config,
    family::{Inputs, Network},
};

/// A program that cannot be built.
#[derive(Debug, Error)]
pub enum ModelError {
    /// Sequences longer than the model has positions for.
    #[error("sequences of {len} tokens are too long: the model has positions for {max}")]
    TooLong {
        /// The length asked for.
        len: usize,
        /// The model's limit.
        max: usize,
    },
    /// A size of zero.
    #[error("{what} is 0; expected at least 1")]
    Empty {
        /// What is empty.
        what: &'static str,
    },
    /// Shapes that do not fit.
    #[error(transparent)]
    Lift(#[from] LiftError),
}

/// A pretrained model with a head: programs for any batch, and what adapts it.
#[derive(Clone, Debug)]
pub struct Classifier {
    config: Config,
    outputs: usize,
    regression: bool,
}

impl Classifier {
    /// A model with a head of `outputs` logits: classes, or a score that is the first of them.
    pub fn new(config: Config, outputs: usize, regression: bool) -> Self {
        Self {
            config,
            outputs,
            regression,
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many logits the head has.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The program for batches of `batch` sequences of `len` tokens, with dropout if `training`.
    ///
    /// Besides the family's inputs, a loss has the input `labels`, i32 `[batch]`, or `scores`, f32
    /// `[batch]`, for a regression. The outputs are `logits`, `[batch, outputs]`, and `loss`, `[]`:
    /// the mean cross-entropy, or the mean squared error of the first logit.
    ///
    /// # Errors
    /// Sequences that are longer than the model has positions for; a size of zero.
    pub fn program(
        &self,
        batch: usize,
        len: usize,
        training: bool,
        with_loss: bool,
    ) -> Result<Program, ModelError> {
        self.check(batch, len)?;
        let cx = if training { Cx::training() } else { Cx::new() };
        let model = self.build(&cx);
        let logits = model.logits(&model.hidden(&cx, batch, len));
        if !with_loss {
            return Ok(cx.program(&*model, &[("logits", &logits)])?);
        }
        let loss = self.loss(&logits, batch);
        Ok(cx.program(&*model, &[("logits", &logits), ("loss", &loss)])?)
    }

    /// The program of the pretrained model alone, without dropout; its output is
    /// `last_hidden_state`, `[batch, len, width]`.
    ///
    /// # Errors
    /// As [`Classifier::program`].
    pub fn encoder(&self, batch: usize, len: usize) -> Result<Program, ModelError> {
        self.check(batch, len)?;
        let cx = Cx::new();
        let model = self.build(&cx);
        let hidden = model.hidden(&cx, batch, len);
        Ok(cx.program(&*model, &[("last_hidden_state", &hidden)])?)
    }

    /// Every projection with what its annotation says.
    pub fn sites(&self) -> Vec<Site> {
        Visitor::inventory(&*self.build(&Cx::new())).1
    }

    /// Every parameter with its shape.
    pub fn parameters(&self) -> Vec<Parameter> {
        Visitor::inventory(&*self.build(&Cx::new())).0
    }

    /// The values of a program's inputs, targets included where the batch has them.
    pub fn inputs(&self, batch: &Batch) -> Inputs {
        let inputs = self.config.architecture.inputs(batch);
        match &batch.targets {
            Targets::Unlabelled => inputs,
            Targets::Classes(labels) => inputs.with_ids("labels", labels.clone()),
            Targets::Scores(scores) => inputs.with_floats("scores", scores.clone()),
        }
    }

    fn build(&self, cx: &Cx) -> Box<dyn Network> {
        self.config.architecture.build(cx, self.outputs)
    }

    fn check(&self, batch: usize, len: usize) -> Result<(), ModelError> {
        let sizes = [
            ("the number of sequences", batch),
            ("the length of the sequences", len),
            ("the number of the head's outputs", self.outputs),
        ];
        if let Some((what, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(ModelError::Empty { what });
        }
        let max = self.config.architecture.max_len();
        if len > max {
            return Err(ModelError::TooLong { len, max });
        }
        Ok(())
    }

    fn loss<'g>(&self, logits: &Tensor<'g>, batch: usize) -> Tensor<'g> {
        let cx = logits.cx();
        if !self.regression {
            return logits.cross_entropy(&cx.input("labels", Type::i32([batch])));
        }
        let scores = cx.input("scores", Type::f32([batch]));
        let error = &logits.slice(1, 0, 1).reshape([batch]) - &scores;
        (&error * &error).mean([0]).reshape([])
    }
}
