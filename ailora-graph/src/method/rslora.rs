//! rsLoRA.

use super::{Lora, Method};
use crate::adapter::{AdapterSpec, Scaling, Site};

/// LoRA with the rank-stabilised scale.
#[derive(Debug)]
pub struct Rslora;

impl Method for Rslora {
    fn name(&self) -> &'static str {
        "rslora"
    }

    fn summary(&self) -> &'static str {
        "LoRA with the scale alpha / sqrt(r)"
    }

    fn paper(&self) -> &'static str {
        "Kalajdzievski, A rank stabilization scaling factor for fine-tuning with LoRA, 2023"
    }

    fn spec(&self, site: &Site) -> AdapterSpec {
        Lora.spec(site).with_scaling(Scaling::RankStabilized)
    }
}

pub mod constructors {}
