//! Houlsby's adapters.

use super::{Method, bottleneck};
use crate::adapter::{Adapter, AdapterSpec, Role, Site};

/// A bottleneck behind the attention and one behind the feed-forward block of each layer.
#[derive(Debug)]
pub struct Houlsby;

/// How the path of the output of an attention to another text ends. AdapterHub has no adapter there unless
/// it is told so.
const CROSS_ATTENTION: &str = "encoder_attn.out_proj";

impl Method for Houlsby {
    fn name(&self) -> &'static str {
        "houlsby"
    }

    fn summary(&self) -> &'static str {
        "bottlenecks behind attention and feed-forward block"
    }

    fn paper(&self) -> &'static str {
        "Houlsby et al., Parameter-efficient transfer learning for NLP, 2019"
    }

    fn adapters(&self) -> &'static [&'static dyn Adapter] {
        &[&bottleneck::HOULSBY]
    }

    fn adapts(&self, site: &Site) -> bool {
        let ends_block = matches!(site.role(), Some(Role::O | Role::Down));
        ends_block && !site.path.ends_with(CROSS_ATTENTION)
    }

    fn spec(&self, _: &Site) -> AdapterSpec {
        constructors::houlsby(bottleneck::WIDTH)
    }
}

pub mod constructors {
    use super::{AdapterSpec, bottleneck};

    /// A bottleneck of `width` that reads a block's output, of which this is the last projection.
    pub const fn houlsby(width: usize) -> AdapterSpec {
        AdapterSpec::adapted(&bottleneck::HOULSBY).with_rank(width)
    }
}
