//! DoRA.

use super::{Method, low_rank};
use crate::adapter::{AdapterSpec, Site};

/// LoRA with trained magnitudes, one rate.
#[derive(Debug)]
pub struct Dora;

impl Method for Dora {
    fn name(&self) -> &'static str {
        "dora"
    }

    fn summary(&self) -> &'static str {
        "LoRA for the directions of the weight's rows, trained magnitudes beside it"
    }

    fn paper(&self) -> &'static str {
        "Liu et al., DoRA: weight-decomposed low-rank adaptation, 2024"
    }

    fn spec(&self, site: &Site) -> AdapterSpec {
        let spec = low_rank::started(site, &low_rank::RANDOM).with_lr(1.0);
        spec.with_dora(spec.has_rank())
    }
}

pub mod constructors {}
