//! LoRA.

use super::{Method, low_rank};
use crate::adapter::{Adapter, AdapterSpec, Site};

/// Random `A`, zero `B`, one rate.
#[derive(Debug)]
pub struct Lora;

impl Method for Lora {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn summary(&self) -> &'static str {
        "a random and a zero factor everywhere, one rate"
    }

    fn paper(&self) -> &'static str {
        "Hu et al., LoRA: low-rank adaptation of large language models, 2021"
    }

    fn adapters(&self) -> &'static [&'static dyn Adapter] {
        &[&low_rank::RANDOM]
    }

    fn spec(&self, site: &Site) -> AdapterSpec {
        low_rank::started(site, &low_rank::RANDOM).with_lr(1.0)
    }
}

pub mod constructors {
    use super::{AdapterSpec, low_rank};

    /// A product of rank `rank` of a random and a zero factor.
    pub const fn random(rank: usize) -> AdapterSpec {
        AdapterSpec::adapted(&low_rank::RANDOM).with_rank(rank)
    }
}
