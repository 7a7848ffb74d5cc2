//! Methods of fine-tuning, and the adapters that they place beside projections.
//!
//! An [`Adapter`] says what becomes of one projection, and a [`Method`] is a name in the literature
//! for what becomes of a whole model. A method is one file here and one line of the list in `list.rs`,
//! which flags, help, errors, files, tables and annotations go by.

mod ailora;
mod bitfit;
mod bottleneck;
mod dora;
mod full;
mod houlsby;
mod ia3;
mod list;
mod lora;
mod lora_fa;
mod lora_plus;
mod low_rank;
mod mica;
mod milora;
mod olora;
mod pfeiffer;
mod pissa;
mod reailora;
mod rslora;
mod vera;

pub use crate::adapter::{
    Adapter, AdapterOption, AdapterParameter, End, Field, Merged, Operands, Peft, Place, Projected,
    Published, Side, Start,
};
pub use list::*;
pub(crate) use low_rank::FACTORS;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::adapter::{AdapterSpec, Site, Trainable};

/// A name in the literature for how a whole model is fine-tuned: what it makes of what the model's
/// annotations say.
pub trait Method: fmt::Debug + Sync {
    /// The name in files and flags.
    fn name(&self) -> &'static str;

    /// What it does, in a line.
    fn summary(&self) -> &'static str;

    /// Where it was published.
    fn paper(&self) -> &'static str;

    /// The adapters that it adds to those of the methods before it in the list.
    fn adapters(&self) -> &'static [&'static dyn Adapter] {
        &[]
    }

    /// Whether it adapts a projection where the targets are not chosen: those that are annotated with an
    /// adapter. A projection that is annotated `full` never is.
    fn adapts(&self, site: &Site) -> bool {
        site.is_adapted()
    }

    /// What a projection that it adapts gets, annotated or not.
    fn spec(&self, site: &Site) -> AdapterSpec;

    /// What trains.
    fn trainable(&self) -> Trainable {
        Trainable::Adapters
    }
}

impl PartialEq for dyn Method {
    /// Methods are told apart by their names.
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Serialize for dyn Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
