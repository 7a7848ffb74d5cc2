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
    generate::{Cache, entry, memory},
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

    /// The program of what generation reads of input texts, for an encoder-decoder: the outputs are
    /// `memory.0`, `memory.1`..., `[rows, len, width]`.
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
        let names: Vec<String> = (0..parts.len()).map(memory).collect();
        let outputs: Vec<_> = names.iter().map(String::as_str).zip(&parts).collect();
        Ok(cx.program(&*network, &outputs)?)
    }

    /// The program of one step of generation: `len` tokens of each of `rows` sequences behind places
    /// for `cached` earlier ones. Besides the family's inputs there are `cache.0`, `cache.1`...,
    /// `[rows, cached, width]`, the keys and values so far; the outputs of these names are what the
    /// step adds, `[rows, len, width]`, beside `logits`, those behind the last token, `[rows, vocabulary]`.
    /// An encoder-decoder reads the [`memory`](Self::memory) of texts of `source` tokens too.
    ///
    /// # Errors
    /// A model that does not generate; a size of zero.
    pub fn step(
        &self,
        rows: usize,
        len: usize,
        cached: usize,
        source: usize,
    ) -> Result<Program, ModelError> {
        self.check(Shape {
            rows,
            len,
            target_len: len,
        })?;
        let cx = Cx::new();
        let network = build(&self.config, self.head, &cx)?;
        let mut cache = Cache::new(&cx, rows, cached).with_source(source);
        let hidden = network.step(&cx, len, &mut cache);
        let hidden = hidden.ok_or(ModelError::NotGenerating { class: self.class })?;
        let logits = network.logits(&hidden.slice(1, len - 1, len));
        let mut outputs = vec![("logits".to_owned(), &logits)];
        let added = cache.added().iter().enumerate();
        outputs.extend(added.map(|(i, added)| (entry(i), added)));
        let outputs: Vec<_> = outputs
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        Ok(cx.program(&*network, &outputs)?)
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
