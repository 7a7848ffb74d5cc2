//! OLoRA.

use super::{Method, low_rank};
use crate::adapter::{Adapter, AdapterSpec, Site};

/// Factors of the QR decomposition of each weight.
#[derive(Debug)]
pub struct Olora;

impl Method for Olora {
    fn name(&self) -> &'static str {
        "olora"
    }

    fn summary(&self) -> &'static str {
        "factors of a QR decomposition everywhere, one rate"
    }

    fn paper(&self) -> &'static str {
        "Büyükakyüz, OLoRA: orthonormal low-rank adaptation of large language models, 2024"
    }

    fn adapters(&self) -> &'static [&'static dyn Adapter] {
        &[&low_rank::OLORA]
    }

    fn spec(&self, site: &Site) -> AdapterSpec {
        low_rank::started(site, &low_rank::OLORA).with_lr(1.0)
    }
}

pub mod constructors {
    use super::{AdapterSpec, low_rank};

    /// A product of rank `rank` that starts from the QR decomposition of the weight.
    pub const fn olora(rank: usize) -> AdapterSpec {
        AdapterSpec::adapted(&low_rank::OLORA).with_rank(rank)
    }
}
