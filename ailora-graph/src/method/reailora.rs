//! AILoRA with the ends of the spectrum exchanged.

use super::{Method, low_rank};
use crate::adapter::AdapterSpec;

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

    fn spec(&self, annotated: AdapterSpec) -> AdapterSpec {
        low_rank::exchanged(annotated)
    }
}

pub mod constructors {}
