//! LoRA+.

use super::{Lora, Method};
use crate::adapter::{AdapterSpec, Site};

/// The rate of `B` as a multiple of `A`'s, with which the paper's runs were made.
const B_LR: f64 = 16.0;

/// LoRA whose `B` learns at a rate of its own.
#[derive(Debug)]
pub struct LoraPlus;

impl Method for LoraPlus {
    fn name(&self) -> &'static str {
        "lora+"
    }

    fn summary(&self) -> &'static str {
        "LoRA with B at 16 times the rate of A"
    }

    fn paper(&self) -> &'static str {
        "Hayou et al., LoRA+: efficient low rank adaptation of large models, 2024"
    }

    fn spec(&self, site: &Site) -> AdapterSpec {
        Lora.spec(site).with_b_lr(B_LR)
    }
}

pub mod constructors {}
