//! Pfeiffer's adapters.

use super::{Method, bottleneck};
use crate::adapter::{Adapter, AdapterSpec, Role, Site};

/// A bottleneck behind the feed-forward block of each layer.
#[derive(Debug)]
pub struct Pfeiffer;

impl Method for Pfeiffer {
    fn name(&self) -> &'static str {
        "pfeiffer"
    }

    fn summary(&self) -> &'static str {
        "bottlenecks behind the feed-forward block"
    }

    fn paper(&self) -> &'static str {
        "Pfeiffer et al., AdapterFusion: non-destructive task composition for transfer learning, 2020"
    }

    fn adapters(&self) -> &'static [&'static dyn Adapter] {
        &[&bottleneck::PFEIFFER]
    }

    fn adapts(&self, site: &Site) -> bool {
        site.role() == Some(Role::Down)
    }

    fn spec(&self, _: &Site) -> AdapterSpec {
        constructors::pfeiffer(bottleneck::WIDTH)
    }
}

pub mod constructors {
    use super::{AdapterSpec, bottleneck};

    /// A bottleneck of `width` that reads what a block would give without it, of which this is the last
    /// projection.
    pub const fn pfeiffer(width: usize) -> AdapterSpec {
        AdapterSpec::adapted(&bottleneck::PFEIFFER).with_rank(width)
    }
}
