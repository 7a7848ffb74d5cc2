//! BitFit.

use super::Method;
use crate::adapter::{AdapterSpec, Site, Trainable};

/// No adapter: the biases of the model, those of norms included, and the head.
#[derive(Debug)]
pub struct Bitfit;

impl Method for Bitfit {
    fn name(&self) -> &'static str {
        "bitfit"
    }

    fn summary(&self) -> &'static str {
        "no adapter: the biases of the model"
    }

    fn paper(&self) -> &'static str {
        "Ben Zaken et al., BitFit: simple parameter-efficient fine-tuning for transformer-based masked \
         language-models, 2021"
    }

    fn adapts(&self, _: &Site) -> bool {
        false
    }

    fn spec(&self, _: &Site) -> AdapterSpec {
        AdapterSpec::frozen()
    }

    fn trainable(&self) -> Trainable {
        Trainable::Parameters(vec!["*.bias".into()])
    }
}

pub mod constructors {}
