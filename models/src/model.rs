//! Programs of a pretrained model with a head.

use ailora_graph::{
    Visitor,
    adapter::Site,
    ir::Program,
    lift::LiftError,
    module::Parameter,
    nn::{Cx, Tensor},
};
use ailora_runtime::passes::LOSS;
use thiserror::Error;

use crate::{
    batch::{Batch, Inputs, Shape},
    config::Config,
    family::Network,
    generate::{Cache, Places, kept},
    head::Head,
};

/// A model or a program that cannot be built.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A head that models of this family have not.
    #[error("{family} has no head for {head}; it has heads for {heads}")]
    NoHead {
        /// The family.
        family: &'static str,
        /// The head asked for.
        head: Head,
        /// Those there are.
        heads: String,
    },
    /// A model that does not go on with texts.
    #[error("{class} does not generate text; give a language model, such as llama or bart")]
    NotGenerating {
        /// What transformers calls the model.
        class: &'static str,
    },
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

/// What a program gives of logits, by name, for a batch of a shape, such as the mean loss; it adds the
/// inputs that it reads.
pub type Measures<'a> = dyn for<'g> Fn(&Tensor<'g>, Shape) -> Vec<(&'static str, Tensor<'g>)> + 'a;

/// What a step of generation gives beside the output `logits`, `[rows, vocabulary]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Choices {
    /// How many of the largest logits, as the output `top`, `[rows, top, 2]`; see
    /// [`Top`](ailora_graph::ir::ops::top::Top).
    pub top: usize,
    /// Whether there is the logarithm of each row's sum of exponentials, as the output `log_sum`, `[rows]`.
    pub log_sum: bool,
}

pub(crate) const LOGITS: &str = "logits";
pub(crate) const TOP: &str = "top";
pub(crate) const LOG_SUM: &str = "log_sum";

fn named<'a, 'g>(outputs: &'a [(String, Tensor<'g>)]) -> Vec<(&'a str, &'a Tensor<'g>)> {
    let named = outputs.iter();
    named.map(|(name, value)| (name.as_str(), value)).collect()
}

/// A pretrained model with a head: programs for any batch, and what adapts it.
#[derive(Clone, Debug)]
pub struct Model {
    config: Config,
    head: Head,
    class: &'static str,
    parameters: Vec<Parameter>,
    sites: Vec<Site>,
}

impl Model {
    /// The model of a configuration with a head.
    ///
    /// # Errors
    /// A head that the family has not, or without outputs.
    pub fn new(config: Config, head: Head) -> Result<Self, ModelError> {
        if let Head::Sequence { outputs: 0, .. } = head {
            let what = "the number of the head's outputs";
            return Err(ModelError::Empty { what });
        }
        let network = build(&config, head, &Cx::new())?;
        let (parameters, sites) = Visitor::inventory(&*network);
        Ok(Self {
            class: network.class(),
            config,
            head,
            parameters,
            sites,
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it predicts.
    pub fn head(&self) -> Head {
        self.head
    }

    /// What transformers calls the model with this head.
    pub fn class(&self) -> &'static str {
        self.class
    }

    /// The program for batches of a shape, with dropout if `training`, and the head's own
    /// [loss](Head::loss) if `with_loss`; see [`Model::program_with`].
    ///
    /// # Errors
    /// As [`Model::program_with`].
    pub fn program(
        &self,
        shape: Shape,
        training: bool,
        with_loss: bool,
    ) -> Result<Program, ModelError> {
        let head = self.head;
        let own: &Measures<'_> = &|logits, shape| vec![(LOSS, head.loss(logits, shape))];
        self.program_with(shape, training, with_loss.then_some(own))
    }

    /// The program for batches of a shape, with dropout if `training`.
    ///
    /// The inputs are the family's and those that `measures` adds. The outputs are `logits`, or
    /// `start_logits` and `end_logits` `[rows, len]`; and the measures, where some are given.
    ///
    /// # Errors
    /// Sequences that are longer than the model has positions for; a size of zero; a measure whose
    /// shapes do not fit.
    pub fn program_with(
        &self,
        shape: Shape,
        training: bool,
        measures: Option<&Measures<'_>>,
    ) -> Result<Program, ModelError> {
        self.check(shape)?;
        let cx = if training { Cx::training() } else { Cx::new() };
        let network = build(&self.config, self.head, &cx)?;
        let logits = network.logits(&network.hidden(&cx, shape));
        let mut outputs = self.head.outputs(&logits);
        outputs.extend(
            measures
                .into_iter()
                .flat_map(|measures| measures(&logits, shape)),
        );
        let outputs: Vec<_> = outputs.iter().map(|(name, value)| (*name, value)).collect();
        Ok(cx.program(&*network, &outputs)?)
    }

    /// The program of the pretrained model alone, without dropout; its output is
    /// `last_hidden_state`, `[rows, len, width]`.
    ///
    /// # Errors
    /// As [`Model::program`].
    pub fn encoder(&self, shape: Shape) -> Result<Program, ModelError> {
        self.check(shape)?;
        let cx = Cx::new();
        let network = build(&self.config, self.head, &cx)?;
        let hidden = network.hidden(&cx, shape);
        Ok(cx.program(&*network, &[("last_hidden_state", &hidden)])?)
    }

    /// The program of what generation reads of input texts, for an encoder-decoder: it puts keys and
    /// values into the states `memory.0`, `memory.1`..., `[rows, len, width]`, at the places `memory.ids`,
    /// `[rows, len]`.
    ///
    /// # Errors
    /// A model that does not generate from input texts; a size of zero.
    pub fn memory(&self, rows: usize, len: usize) -> Result<Program, ModelError> {
        let shape = Shape {
            rows,
            len,
            target_len: 1,
        };
        self.check(shape)?;
        let cx = Cx::new();
        let network = build(&self.config, self.head, &cx)?;
        let parts = network.memory(&cx, shape);
        if parts.is_empty() {
            return Err(ModelError::NotGenerating { class: self.class });
        }
        Ok(cx.program(&*network, &named(&kept(&cx, &parts)))?)
    }

    /// The program of the first step of generation over `len` tokens of each of `rows` sequences, padded
    /// on the left. Besides the family's inputs there is `cache.ids`, `[rows, len]`: the places of the
    /// states `cache.0`, `cache.1`..., `[places.rows, places.len, width]`, that keep the tokens' keys and
    /// values. The outputs are the [`Choices`] of what follows the last token.
    ///
    /// # Errors
    /// A model that does not generate; a size of zero.
    pub fn first_step(
        &self,
        rows: usize,
        len: usize,
        places: Places,
        choices: Choices,
    ) -> Result<Program, ModelError> {
        self.generating(rows, len, choices, |cx| Cache::first(cx, rows, places))
    }

    /// The program of a later step, of one token of each of `rows` sequences. Each sees the first of the
    /// places that its row of `cache.table`, `[rows, places.len]`, names, as many as `cache.counts`,
    /// `[rows, 1]`, says, its own among them. An encoder-decoder also reads the
    /// [`memory`](Self::memory) of texts, of which `source` says where it lies, by `memory.table` and
    /// `memory.counts`; it has no first step.
    ///
    /// # Errors
    /// As [`first_step`](Self::first_step).
    pub fn step(
        &self,
        rows: usize,
        places: Places,
        source: Option<Places>,
        choices: Choices,
    ) -> Result<Program, ModelError> {
        self.generating(rows, 1, choices, |cx| Cache::next(cx, rows, places, source))
    }

    fn generating(
        &self,
        rows: usize,
        len: usize,
        choices: Choices,
        cache: impl for<'g> FnOnce(&'g Cx) -> Cache<'g>,
    ) -> Result<Program, ModelError> {
        self.check(Shape {
            rows,
            len,
            target_len: len,
        })?;
        let cx = Cx::new();
        let network = build(&self.config, self.head, &cx)?;
        let mut cache = cache(&cx);
        let hidden = network.step(&cx, len, &mut cache);
        let hidden = hidden.ok_or(ModelError::NotGenerating { class: self.class })?;
        let logits = network.logits(&hidden.slice(1, len - 1, len));
        let vocabulary = logits.shape().last().copied().unwrap_or(1);
        let logits = logits.reshape([rows, vocabulary]);
        let mut outputs = cache.held().to_vec();
        if choices.top > 0 {
            outputs.push((TOP.to_owned(), logits.top(choices.top)));
        }
        if choices.log_sum {
            outputs.push((LOG_SUM.to_owned(), logits.log_sum_exp()));
        }
        outputs.push((LOGITS.to_owned(), logits));
        Ok(cx.program(&*network, &named(&outputs))?)
    }

    /// Every projection with what its annotation says.
    pub fn sites(&self) -> Vec<Site> {
        self.sites.clone()
    }

    /// Every parameter with its shape.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The values of a program's inputs, targets included where the batch has them.
    pub fn inputs(&self, batch: &Batch) -> Inputs {
        let inputs = self.config.architecture.inputs(self.head, batch);
        inputs.with(batch.targets.inputs.clone())
    }

    fn check(&self, shape: Shape) -> Result<(), ModelError> {
        let Shape {
            rows,
            len,
            target_len,
        } = shape;
        let generates = matches!(self.head, Head::Seq2SeqLm { .. });
        let sizes = [
            ("the number of sequences", rows),
            ("the length of the sequences", len),
            (
                "the length of the targets",
                if generates { target_len } else { 1 },
            ),
        ];
        if let Some((what, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(ModelError::Empty { what });
        }
        let max = self.config.architecture.max_len();
        let len = len.max(target_len);
        if len > max {
            return Err(ModelError::TooLong { len, max });
        }
        Ok(())
    }
}

/// Adds the parameters of the model with a head to a graph.
fn build(config: &Config, head: Head, cx: &Cx) -> Result<Box<dyn Network>, ModelError> {
    config.architecture.build(cx, head).ok_or_else(|| {
        let has = |head: &Head| config.architecture.build(&Cx::new(), *head).is_some();
        let heads = Head::ALL.iter().filter(|head| has(head));
        ModelError::NoHead {
            family: config.family.model_type,
            head,
            heads: heads.map(Head::to_string).collect::<Vec<_>>().join(", "),
        }
    })
}
