//! PiSSA.

use super::{Method, low_rank};
use crate::adapter::{AdapterSpec, Site};

/// Principal everywhere, one rate.
#[derive(Debug)]
pub struct Pissa;

impl Method for Pissa {
    fn name(&self) -> &'static str {
        "pissa"
    }

    fn summary(&self) -> &'static str {
        "the largest singular triplets everywhere, one rate"
    }

    fn paper(&self) -> &'static str {
        "Meng et al., PiSSA: principal singular values and singular vectors adaptation, 2024"
    }

    fn spec(&self, site: &Site) -> AdapterSpec {
        low_rank::started(site, &low_rank::PRINCIPAL).with_lr(1.0)
    }
}

pub mod constructors {}
