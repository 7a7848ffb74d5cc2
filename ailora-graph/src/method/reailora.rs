//! AILoRA with the ends of the spectrum exchanged.

use super::{Method, low_rank};
use crate::adapter::{AdapterSpec, Site};

/// AILoRA with principal and minor exchanged.
#[derive(Debug)]
pub struct Reailora;

impl Method for Reailora {
    fn name(&self) -> &'static str {
        "reailora"
    }

    fn summary(&self) -> &'static str {
        "as annotated with principal and minor exchanged"
    }

    fn paper(&self) -> &'static str {
        "the ablation of AILoRA, 2025"
    }

    fn spec(&self, site: &Site) -> AdapterSpec {
        low_rank::exchanged(low_rank::annotated(site))
    }
}

pub mod constructors {}
