//! MiLoRA.

use super::{Method, low_rank};
use crate::adapter::{AdapterSpec, Site};

/// Minor everywhere, one rate.
#[derive(Debug)]
pub struct Milora;

impl Method for Milora {
    fn name(&self) -> &'static str {
        "milora"
    }

    fn summary(&self) -> &'static str {
        "the smallest singular triplets everywhere, one rate"
    }

    fn paper(&self) -> &'static str {
        "Wang et al., MiLoRA: harnessing minor singular components, 2024"
    }

    fn spec(&self, site: &Site) -> AdapterSpec {
        low_rank::started(site, &low_rank::MINOR).with_lr(1.0)
    }
}

pub mod constructors {}
