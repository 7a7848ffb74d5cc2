//! MiCA.

use super::{Method, low_rank};
use crate::adapter::{Adapter, AdapterSpec, Site};

/// Frozen minor left singular vectors, and a zero factor that trains.
#[derive(Debug)]
pub struct Mica;

impl Method for Mica {
    fn name(&self) -> &'static str {
        "mica"
    }

    fn summary(&self) -> &'static str {
        "a zero factor beside frozen minor singular vectors, one rate"
    }

    fn paper(&self) -> &'static str {
        "Minor component adaptation, arXiv 2604.01694, 2026"
    }

    fn adapters(&self) -> &'static [&'static dyn Adapter] {
        &[&low_rank::MICA]
    }

    fn spec(&self, site: &Site) -> AdapterSpec {
        low_rank::started(site, &low_rank::MICA).with_lr(1.0)
    }
}

pub mod constructors {
    use super::{AdapterSpec, low_rank};

    /// A product of rank `rank` of a zero factor and frozen left singular vectors of the smallest values.
    pub const fn mica(rank: usize) -> AdapterSpec {
        AdapterSpec::adapted(&low_rank::MICA).with_rank(rank)
    }
}
