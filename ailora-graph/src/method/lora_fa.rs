//! LoRA-FA.

use super::{Method, low_rank};
use crate::adapter::{Adapter, AdapterSpec, Site};

/// A random, frozen `A` and a zero `B` that trains by projected gradients.
#[derive(Debug)]
pub struct LoraFa;

impl Method for LoraFa {
    fn name(&self) -> &'static str {
        "lora-fa"
    }

    fn summary(&self) -> &'static str {
        "LoRA with A frozen, and B stepping as the whole weight would"
    }

    fn paper(&self) -> &'static str {
        "Zhang et al., LoRA-FA: memory-efficient low-rank adaptation for large language models fine-tuning, 2023"
    }

    fn adapters(&self) -> &'static [&'static dyn Adapter] {
        &[&low_rank::RANDOM_FROZEN]
    }

    fn spec(&self, site: &Site) -> AdapterSpec {
        low_rank::started(site, &low_rank::RANDOM_FROZEN).with_lr(1.0)
    }
}

pub mod constructors {
    use super::{AdapterSpec, low_rank};

    /// A product of rank `rank` of a random, frozen factor and a zero one (LoRA-FA).
    pub const fn random_frozen(rank: usize) -> AdapterSpec {
        AdapterSpec::adapted(&low_rank::RANDOM_FROZEN).with_rank(rank)
    }
}
