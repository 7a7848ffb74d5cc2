//! AILoRA.

use super::{Method, low_rank};
use crate::adapter::{Adapter, AdapterSpec, Site};

/// Asymmetric initialisation: principal queries, minor values, values at twice the rate, as the model
/// is annotated.
#[derive(Debug)]
pub struct Ailora;

impl Method for Ailora {
    fn name(&self) -> &'static str {
        "ailora"
    }

    fn summary(&self) -> &'static str {
        "as annotated: principal queries, minor values at twice the rate"
    }

    fn paper(&self) -> &'static str {
        "AILoRA: function-aware asymmetric initialization for low-rank adaptation, 2025"
    }

    fn adapters(&self) -> &'static [&'static dyn Adapter] {
        &[&low_rank::PRINCIPAL, &low_rank::MINOR]
    }

    /// What is not annotated starts at random: the method says nothing of other roles than queries and
    /// values.
    fn spec(&self, site: &Site) -> AdapterSpec {
        low_rank::annotated(site)
    }
}

pub mod constructors {
    use super::{AdapterSpec, low_rank};

    /// A product of rank `rank` that starts from the largest singular triplets of the weight.
    pub const fn principal(rank: usize) -> AdapterSpec {
        AdapterSpec::adapted(&low_rank::PRINCIPAL).with_rank(rank)
    }

    /// A product of rank `rank` that starts from the smallest ones.
    pub const fn minor(rank: usize) -> AdapterSpec {
        AdapterSpec::adapted(&low_rank::MINOR).with_rank(rank)
    }
}
