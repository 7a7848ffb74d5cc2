//! Objectives: what a model learns from records, and how well it did.
//!
//! An [`Objective`] says which head predicts, what of a record is the target, how rows become tokens,
//! which targets a batch gives the program, what the loss is, what outputs mean, and how predictions
//! are scored. One is one file; adding it takes that file and a line in [`OBJECTIVES`].
//! `docs/add-an-objective.md` follows one from the start. An objective of your own needs neither:
//! it is a value that [`Task`](crate::task::Task) takes.

mod causal;
mod chat;
mod classification;
mod error;
mod extractive;
mod label;
mod masked;
mod multilabel;
mod outputs;
mod predictor;
mod regression;
mod seq2seq;
mod text;
pub mod written;

pub use causal::Causal;
pub use chat::{Bound, Chat, ContentTokens, Options as ChatOptions, settled as settled_chat};
pub use classification::{Classification, Written};
pub use error::{BindError, NotFinite, ObjectiveError};
pub use extractive::{Extractive, Prediction, Span};
pub use label::LabelColumns;
pub use masked::Masked;
pub use multilabel::MultiLabel;
pub use predictor::{Pass, Predictor, Scored};
pub use regression::Regression;
pub use seq2seq::{Columns, Seq2Seq};
pub use text::RawText;

use std::{fmt::Debug, sync::Arc};

use ailora_graph::{ir::Draw, nn::Tensor};
use ailora_runtime::{engine::Engine, train::Headline};
use indexmap::IndexMap;
use serde_json::Value;

use crate::{
    batch::{Batch, BatchError, Buckets, Encoded, Order, Plan, Shape, evaluation},
    choice::{Kind, options},
    config::Config,
    data::{DataError, Example, Record},
    head::Head,
    metrics::{self, Metric},
    tokenizer::{Tokenizer, TokenizerError},
};

/// Every objective, by the name that a task's description has.
pub static OBJECTIVES: &[Kind<dyn Objective>] = &[
    Kind {
        name: "classification",
        about: "one of several classes of a text or a pair of texts",
        make: |value| Ok(Arc::new(options::<Classification>(value)?.checked()?)),
    },
    Kind {
        name: "multilabel",
        about: "any of several classes of a text or a pair of texts",
        make: |value| Ok(Arc::new(options::<MultiLabel>(value)?.checked()?)),
    },
    Kind {
        name: "regression",
        about: "a number, or several, for a text or a pair of texts",
        make: |value| Ok(Arc::new(options::<Regression>(value)?.checked()?)),
    },
    Kind {
        name: "causal",
        about: "an answer that a language model writes behind a prompt",
        make: |value| Ok(Arc::new(options::<Causal>(value)?.checked()?)),
    },
    Kind {
        name: "seq2seq",
        about: "a text that an encoder-decoder writes about one that it reads",
        make: |value| Ok(Arc::new(options::<Seq2Seq>(value)?.checked()?)),
    },
    Kind {
        name: "chat",
        about: "the assistant's answers in conversations, in the model's own template",
        make: |value| Ok(Arc::new(options::<Chat>(value)?)),
    },
    Kind {
        name: "extractive",
        about: "the part of a text that answers a question",
        make: |value| Ok(Arc::new(options::<Extractive>(value)?.checked()?)),
    },
    Kind {
        name: "text",
        about: "running text that a language model goes on with",
        make: |value| Ok(Arc::new(options::<RawText>(value)?.checked()?)),
    },
    Kind {
        name: "masked",
        about: "tokens of running text that are masked",
        make: |value| Ok(Arc::new(options::<Masked>(value)?)),
    },
];

/// What every evaluation reports: the mean loss over the held-out targets.
pub const LOSS: &str = "loss";
/// Of objectives that predict tokens: the exponential of the mean loss over all held-out targets.
pub const PERPLEXITY: &str = "perplexity";
/// Of objectives that predict tokens: the share of the held-out targets that have the largest logit.
pub const TOKEN_ACCURACY: &str = "token_accuracy";

/// What a model learns from records, and how well it did.
///
/// A record becomes an [`Example`] with a [`target`](Self::target), examples become
/// [`encode`](Self::encode)d rows, rows become batches, which [`prepare`](Self::prepare) gives their
/// targets. [`loss`](Self::loss) reads these in the program. What the program puts out for held-out
/// rows [`predict`](Self::predict) reads, and [`evaluate`](Self::evaluate) scores.
pub trait Objective: Debug + Send + Sync {
    /// The head that predicts.
    fn head(&self) -> Head;

    /// The columns of a record that [`target`](Self::target) reads.
    fn columns(&self) -> Vec<&str>;

    /// What a record says is to be predicted. Only the objective reads it again.
    ///
    /// # Errors
    /// A column holds something else; [`Record::wrong`] makes the error.
    fn target(&self, record: &Record<'_>) -> Result<Value, DataError>;

    /// Checks that what is to be predicted of an example suits its texts.
    ///
    /// # Errors
    /// It does not; [`Record::wrong`] makes the error.
    fn check(&self, _: &Example, _: &Record<'_>) -> Result<(), DataError> {
        Ok(())
    }

    /// Gives a padded batch the targets of its rows. The batch's tokens may change too, by `draw`.
    ///
    /// # Errors
    /// A row without a target.
    fn prepare(&self, batch: &mut Batch, rows: &[&Encoded], draw: Draw) -> Result<(), BatchError>;

    /// The names of the classes, by their index; empty if there are no classes.
    fn classes(&self) -> &[String] {
        &[]
    }

    /// This objective for a model with this configuration and tokenizer; nothing, if it is the same
    /// for all.
    ///
    /// # Errors
    /// The model has other labels, or its tokenizer lacks a token.
    fn bind(&self, _: &Config, _: &Tokenizer) -> Result<Option<Arc<dyn Objective>>, BindError> {
        Ok(None)
    }

    /// What the head's outputs are called in a model's files, if they have names.
    fn output_names(&self) -> &[String] {
        self.classes()
    }

    /// Examples as rows of tokens, in their order: the text and, behind it, the second one of a pair.
    /// What is then longer than `max_len` loses tokens of its longer text first.
    ///
    /// An objective that [`predict`](Self::predict)s gives each example one row, unless its
    /// [`predictions`](Self::predictions) put the rows of an example together: those that
    /// [`encode_held_out`](Self::encode_held_out) makes, each with its [`Part`](crate::batch::Part). Of one
    /// that supervises itself a row may hold several examples, or an example take several rows.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_batch`].
    fn encode(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        let texts = examples
            .iter()
            .map(|example| (example.text.as_str(), example.pair.as_deref()));
        let encodings = tokenizer.encode_batch(&texts.collect::<Vec<_>>(), max_len)?;
        let row = |(encoding, example): (_, &Example)| Encoded {
            encoding,
            target: example.target.clone(),
            part: None,
        };
        Ok(encodings.into_iter().zip(examples).map(row).collect())
    }

    /// The longest row, in tokens, unless it is said.
    fn max_len(&self) -> usize {
        128
    }

    /// Whether every example is a row with something to learn, so that there are as many rows as examples.
    fn has_row_each(&self) -> bool {
        true
    }

    /// Examples as rows of tokens to evaluate on or to predict, where those are other ones than to train on.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn encode_held_out(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        self.encode(examples, tokenizer, max_len)
    }

    /// What scores on these rows depend on beside the model, by name; it is reported with them.
    fn conditions(&self, _: &HeldOut) -> IndexMap<String, f64> {
        IndexMap::new()
    }

    /// Whether anything that is to be predicted is left of a row that may have been cut.
    fn has_targets(&self, _: &Encoded) -> bool {
        true
    }

    /// Which of a row's tokens are learned: predicted from those before them, or found.
    fn learned(&self, row: &Encoded) -> Vec<bool> {
        let segments = row.encoding.type_ids.iter();
        segments.map(|segment| *segment == 1).collect()
    }

    /// How rows are put into batches.
    fn order(&self) -> Order {
        Order::ByLength
    }

    /// The sizes of the program for these rows, padded to `len` tokens.
    fn shape(&self, rows: &[&Encoded], len: usize) -> Shape {
        Shape::new(rows.len(), len)
    }

    /// The padded lengths that the texts to generate may have; 0 where none are.
    fn target_lengths(&self) -> Vec<usize> {
        vec![0]
    }

    /// The mean loss of a batch over its targets, `[]`. It adds the inputs that it reads to the
    /// graph, under the names that [`prepare`](Self::prepare) uses.
    fn loss<'g>(&self, logits: &Tensor<'g>, shape: Shape) -> Tensor<'g> {
        self.head().loss(logits, shape)
    }

    /// How many of a batch's targets are tokens with the largest logit, `[]`, for evaluations; nothing of
    /// other targets. It reads the inputs that [`loss`](Self::loss) adds.
    fn matches<'g>(&self, logits: &Tensor<'g>, shape: Shape) -> Option<Tensor<'g>> {
        self.head().matches(logits, shape)
    }

    /// What a row's logits say, as the metrics compare it with the targets. Of a head with several
    /// outputs the logits are one after the other.
    fn predict(&self, logits: &[f32]) -> Value {
        logits.into()
    }

    /// What the logits of all rows say of each example, in the order of the examples: of each row by
    /// [`predict`](Self::predict), if every example is a row.
    fn predictions(&self, _: &[Encoded], logits: &[Vec<f32>]) -> Vec<Value> {
        logits.iter().map(|row| self.predict(row)).collect()
    }

    /// The tokens behind which a language model writes its answer to each example, or which an
    /// encoder-decoder reads, at most `max_len` of these; none, where logits are what is predicted.
    ///
    /// # Errors
    /// A text that the tokenizer cannot represent.
    fn prompts(
        &self,
        _: &[Example],
        _: &Tokenizer,
        _: usize,
    ) -> Result<Option<Vec<Vec<u32>>>, TokenizerError> {
        Ok(None)
    }

    /// The token that ends an answer, beside those that the model's files name.
    fn end(&self, _: &Tokenizer) -> Option<u32> {
        None
    }

    /// What texts are scored with that the model writes; empty where none are.
    fn text_metrics(&self) -> &[Metric] {
        &[]
    }

    /// What such a text is scored against: a text, or a list of texts that are equally right.
    fn reference(&self, target: &Value) -> Value {
        target.clone()
    }

    /// A prediction as a user reads it.
    fn describe(&self, prediction: &Value) -> Value {
        prediction.clone()
    }

    /// What predictions are scored with; the first is the headline.
    fn metrics(&self) -> &[Metric] {
        &[]
    }

    /// Whether [`evaluate`](Self::evaluate) needs the logits of held-out rows, and not their loss alone.
    fn scores_logits(&self) -> bool {
        !self.metrics().is_empty()
    }

    /// The scores of [`evaluate`](Self::evaluate), by any of which one may be better than another; the
    /// first is the headline, unless a run names another.
    fn headlines(&self) -> Vec<Headline> {
        let mut headlines: Vec<Headline> = self.metrics().iter().map(Metric::headline).collect();
        headlines.push(Headline::lower(LOSS));
        if self.head().predicts_tokens() {
            headlines.push(Headline::lower(PERPLEXITY));
            headlines.push(Headline::higher(TOKEN_ACCURACY));
        }
        headlines
    }

    /// Scores of held-out rows by name, [`headlines`](Self::headlines): the metrics; the mean loss over the
    /// rows' targets; of tokens, the perplexity and the share that is predicted. Behind them come their
    /// [`conditions`](Self::conditions).
    ///
    /// # Errors
    /// A row that cannot be predicted or scored.
    fn evaluate(
        &self,
        predictor: &mut Predictor,
        engine: &mut Engine,
        split: &HeldOut,
    ) -> Result<IndexMap<String, f64>, ObjectiveError> {
        let Scored {
            loss,
            token_accuracy,
            logits,
        } = predictor.score(engine, split)?;
        let mut scores = IndexMap::new();
        if !self.metrics().is_empty() {
            let predictions = self.predictions(&split.rows, &logits);
            let targets = split.rows.iter().map(|row| row.target.clone());
            let targets: Vec<Value> = targets.map(Option::unwrap_or_default).collect();
            scores = metrics::score(self.metrics(), &predictions, &targets)?;
        }
        scores.insert(LOSS.to_owned(), loss);
        if let Some(share) = token_accuracy {
            scores.insert(PERPLEXITY.to_owned(), loss.exp());
            scores.insert(TOKEN_ACCURACY.to_owned(), share);
        }
        scores.extend(self.conditions(split));
        Ok(scores)
    }
}

/// Rows of one held-out split.
#[derive(Debug)]
pub struct HeldOut {
    /// The split's name.
    pub name: String,
    /// Its rows.
    pub rows: Vec<Encoded>,
    /// How they are batched.
    pub batches: Vec<Plan>,
    /// What is drawn for it, where an objective draws anything.
    pub seed: u64,
}

impl HeldOut {
    /// Rows in batches of `batch_size`, as `objective` orders them.
    ///
    /// # Errors
    /// A row longer than all buckets, or a batch size of zero.
    pub fn new(
        name: &str,
        rows: Vec<Encoded>,
        objective: &dyn Objective,
        buckets: &Buckets,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self, BatchError> {
        let lengths: Vec<usize> = rows.iter().map(Encoded::tokens).collect();
        Ok(Self {
            name: name.to_owned(),
            batches: evaluation(objective.order(), &lengths, buckets, batch_size)?,
            rows,
            seed,
        })
    }
}

/// The targets of a batch's rows, each as `read` has it.
///
/// # Errors
/// A row has none, or `read` makes nothing of it; `expected` says what it should be.
pub fn targets<T>(
    batch: &Batch,
    rows: &[&Encoded],
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<T>, BatchError> {
    let target = |(row, &index): (&&Encoded, &usize)| {
        let found = row.target.as_ref();
        found.and_then(&read).ok_or_else(|| BatchError::Target {
            index,
            expected: expected.to_owned(),
            found: found.map_or("no label".to_owned(), Value::to_string),
        })
    };
    rows.iter().zip(&batch.indices).map(target).collect()
}
