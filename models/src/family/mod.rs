//! Model families: what a `model_type` of Hugging Face means.
//!
//! A family is one file, which reads its fields of `config.json`, defines its modules under the
//! parameter names of Hugging Face, and makes its inputs from a batch. Adding one takes that file
//! and a line in [`FAMILIES`]. What families share has a file of its own, such as the encoder of
//! BERT and RoBERTa.

mod bert;
mod deberta;
mod encoder;
mod roberta;

use std::fmt::Debug;

use ailora_graph::{
    Module,
    nn::{Cx, Tensor},
};
use ailora_runtime::cpu::Value;

use crate::{batch::Batch, config::FieldError};

/// Every family, in the order in which they are listed to the user.
pub static FAMILIES: [Family; 3] = [bert::FAMILY, roberta::FAMILY, deberta::FAMILY];

/// A model family.
#[derive(Debug)]
pub struct Family {
    /// Its `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Module path of the pretrained model within the model with a head.
    pub base: &'static str,
    /// What transformers calls the model with a classification head.
    pub classifier: &'static str,
    /// Reads and checks the family's fields of a `config.json`.
    pub read: Read,
}

/// Makes an architecture of the text of a `config.json`.
pub type Read = fn(&[u8]) -> Result<Box<dyn Architecture>, FieldError>;

/// A model of a family with its sizes: what is built, and what it reads.
pub trait Architecture: Debug + Send + Sync {
    /// How many token ids it knows.
    fn vocab_size(&self) -> usize;

    /// Its longest sequence, in tokens.
    fn max_len(&self) -> usize;

    /// Standard deviation of the weights that a new head starts from.
    fn initializer_range(&self) -> f64;

    /// Adds the parameters of the model with a head of `outputs` logits to a graph.
    fn build(&self, cx: &Cx, outputs: usize) -> Box<dyn Network>;

    /// The values of the inputs that [`Network::hidden`] declares.
    fn inputs(&self, batch: &Batch) -> Inputs;
}

/// A model with a classification head, whose parameters are in a graph.
pub trait Network: Module {
    /// The last hidden states of a batch, whose inputs it adds to the graph.
    ///
    /// # Shapes
    /// `[batch, len, width]` for inputs of `[batch, len]`.
    fn hidden<'g>(&self, cx: &'g Cx, batch: usize, len: usize) -> Tensor<'g>;

    /// The logits that the head makes of hidden states.
    ///
    /// # Shapes
    /// `[batch, len, width]` gives `[batch, outputs]`.
    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g>;
}

/// Values of a program's inputs by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs(Vec<(&'static str, Data)>);

#[derive(Clone, Debug, PartialEq)]
enum Data {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Inputs {
    /// These values and `data` for the input `name`.
    pub fn with_floats(mut self, name: &'static str, data: Vec<f32>) -> Self {
        self.0.push((name, Data::F32(data)));
        self
    }

    /// These values and `data` for the input `name`.
    pub fn with_ids(mut self, name: &'static str, data: Vec<i32>) -> Self {
        self.0.push((name, Data::I32(data)));
        self
    }

    /// The values as a backend takes them.
    pub fn values(&self) -> Vec<(&str, Value<'_>)> {
        self.0
            .iter()
            .map(|(name, data)| match data {
                Data::F32(data) => (*name, Value::F32(data)),
                Data::I32(data) => (*name, Value::I32(data)),
            })
            .collect()
    }
}
