//! Model families: what a `model_type` of Hugging Face means.
//!
//! A family is one file, which reads its fields of `config.json`, defines its modules under the
//! parameter names of Hugging Face, and makes its inputs from a batch. Adding one takes that file
//! and a line in [`FAMILIES`]. What families share has a file of its own, such as the encoder of
//! BERT and RoBERTa.

mod bart;
mod bert;
mod classification_head;
mod deberta;
mod encoder;
mod llama;
mod roberta;
mod rotary;

pub(crate) use rotary::TABLE as ROPE;

use std::{fmt::Debug, sync::Arc};

use ailora_graph::{
    Module,
    nn::{Cx, Tensor},
};

use crate::{
    batch::{Batch, Inputs, Shape},
    closed::Table,
    fields::{FieldError, Fields},
    generate::{Cache, Step},
    head::Head,
};

/// Every family, in the order in which they are listed to the user.
pub static FAMILIES: &[Family] = &[
    bert::FAMILY,
    roberta::FAMILY,
    deberta::FAMILY,
    bart::FAMILY,
    llama::LLAMA,
    llama::MISTRAL,
    llama::QWEN2,
];

/// A model family.
#[derive(Debug)]
pub struct Family {
    /// Its `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Module path of the pretrained model within the model with a head.
    pub base: &'static str,
    /// How many labels a head has where `config.json` does not say it.
    pub labels: usize,
    /// The fields of its `config.json`.
    pub table: Table,
    /// Reads and checks the family's fields of a `config.json`.
    pub read: Read,
}

/// Makes an architecture of the fields of a `config.json`.
pub type Read = fn(Fields<'_>) -> Result<Box<dyn Architecture>, FieldError>;

/// A model of a family with its sizes: what is built, and what it reads.
pub trait Architecture: Debug + Send + Sync {
    /// How many token ids it knows.
    fn vocab_size(&self) -> usize;

    /// How many segments it knows; nothing, if it reads none.
    fn segments(&self) -> Option<usize> {
        None
    }

    /// Its longest sequence, in tokens.
    fn max_len(&self) -> usize;

    /// Standard deviation of the weights that a new head starts from.
    fn initializer_range(&self) -> f64;

    /// How many layers the configuration asks for, with the fields that say it.
    fn layers(&self) -> Vec<(&'static str, usize)>;

    /// The model whose head has a table of words of its own, if this one shares one and there is
    /// such.
    fn untied(&self) -> Option<Arc<dyn Architecture>> {
        None
    }

    /// Other names under which files may have a parameter too, as `(name, parameter)`: weights that
    /// several modules share.
    fn tied(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Adds the parameters of the model with a head to a graph; nothing if the family has no such
    /// head.
    fn build(&self, cx: &Cx, head: Head) -> Option<Box<dyn Network>>;

    /// The values of the inputs that the [`Network`] with this head declares.
    fn inputs(&self, head: Head, batch: &Batch) -> Inputs;

    /// The token that an encoder-decoder's own text starts with; nothing for other models.
    fn start_token(&self) -> Option<i32> {
        None
    }

    /// The values of the inputs that [`Network::step`] declares, but for the cache.
    fn step_inputs(&self, _: &Step) -> Inputs {
        Inputs::default()
    }
}

/// A model with a head, whose parameters are in a graph.
pub trait Network: Module {
    /// What transformers calls it, such as `BertForSequenceClassification`.
    fn class(&self) -> &'static str;

    /// The last hidden states of a batch, whose inputs it adds to the graph.
    ///
    /// # Shapes
    /// `[rows, len, width]`; of an encoder-decoder with [`Head::Seq2SeqLm`], the decoder's:
    /// `[rows, target_len, width]`.
    fn hidden<'g>(&self, cx: &'g Cx, shape: Shape) -> Tensor<'g>;

    /// The logits that the head makes of hidden states. It may add inputs of its own.
    ///
    /// # Shapes
    /// `[rows, len, width]` gives `[rows, outputs]` for [`Head::Sequence`], `[rows, len, 2]` for
    /// [`Head::QuestionAnswering`], `[rows, len, vocabulary]` for language models.
    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g>;

    /// What every step of an encoder-decoder reads of the input texts: keys and values of the
    /// attention to them.
    ///
    /// # Shapes
    /// `[rows, len, width]` each
    fn memory<'g>(&self, _: &'g Cx, _: Shape) -> Vec<Tensor<'g>> {
        Vec::new()
    }

    /// The last hidden states of `len` tokens behind those whose keys and values the cache has;
    /// nothing, if the model does not generate.
    ///
    /// # Shapes
    /// `[rows, len, width]`
    fn step<'g>(&self, _: &'g Cx, _len: usize, _: &mut Cache<'g>) -> Option<Tensor<'g>> {
        None
    }
}
