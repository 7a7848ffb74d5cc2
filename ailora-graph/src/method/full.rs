//! Full fine-tuning.

use super::Method;
use crate::adapter::{AdapterSpec, Site, Trainable};

/// No adapter: every parameter of the model trains.
#[derive(Debug)]
pub struct Full;

impl Method for Full {
    fn name(&self) -> &'static str {
        "full"
    }

    fn summary(&self) -> &'static str {
        "no adapter: every parameter of the model"
    }

    fn paper(&self) -> &'static str {
        "full fine-tuning"
    }

    fn spec(&self, _: &Site) -> AdapterSpec {
        AdapterSpec::full()
    }

    fn trainable(&self) -> Trainable {
        Trainable::All
    }
}

pub mod constructors {}
