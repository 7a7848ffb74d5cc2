//! Adapters in the format of PEFT: a folder that `PeftModel.from_pretrained` loads as plain LoRA.
//!
//! An adapter that starts from singular triplets trains against the residual `W - s B0 A0`. Beside
//! the published `W` it is the LoRA of twice the rank with `A' = [A; A0]` and `B' = [B, -B0]`, so
//! the base stays as it is and no decomposition is repeated when the adapter is loaded.
//!
//! An adapter of another kind, which declares PEFT's form of it, is saved and loaded by that.
//!
//! Of LoRA folders of others every field and every tensor is applied, known to change nothing, or
//! refused by name: fields by the table [`LORA`], tensors by [`Adapter::load`]. What is no plain
//! LoRA of a projection (factors of embeddings, magnitudes, biases, rows of single tokens) becomes
//! new values of the parameters that it changes.

mod combine;
mod config;
mod contents;
mod declared;
mod draws;
mod error;
mod fold;
mod form;
mod load;
mod merge;
mod names;
mod origin;
mod patterns;
pub mod proof;
mod reshape;
mod save;
mod start;
mod switch;
mod targets;
mod trained;

pub use combine::{Combination, Combine, CombineError, Majority, Source};
pub use config::LORA;
pub use draws::Draws;
pub use error::PeftError;
pub use load::Applied;
pub use merge::merge;
pub use origin::{ABOUT, Origin};
pub use switch::{Switch, SwitchError};

use std::collections::HashSet;

use ailora_graph::{AdapterSpec, adapter::Site};
use ailora_runtime::store::{Array, Params};
use indexmap::IndexMap;

use config::Biases;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT wrote before safetensors.
const PICKLE: &str = "adapter_model.bin";

/// An adapter: tensors beside projections, and parameters in place of the base's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapter {
    /// The adapted projections by module path.
    pub sites: IndexMap<String, Site>,
    /// The parameters of their adapters, such as `PATH.lora_A.weight` `[r, in]`, and those that take
    /// the place of the base's, under their own names.
    pub tensors: Params,
    /// Modules that PEFT keeps whole; set by [`close`](Self::close).
    pub modules: Vec<String>,
    /// What became of the folder that it was read from.
    pub report: Applied,
    /// Parameters held whole that training moved, as the folder's configuration says: those of
    /// `modules_to_save`, and biases.
    pub moved: Vec<String>,
    /// Parameters that hold what was trained beside them and is no adapter of a projection here, such as
    /// factors of a table of embeddings.
    pub folded: Vec<String>,
    /// Names of modules that share one of its parameters, with that: PEFT would part them.
    shared: Vec<(String, String)>,
    /// Which biases it holds, beside those of modules that it holds whole.
    biases: Biases,
    /// Parameters that the base has not got.
    added: Vec<String>,
    /// What is drawn from a seed.
    draws: Draws,
    has_tokens: bool,
}

impl Adapter {
    /// The projections of a model as this adapter computes them: adapted where it has tensors for
    /// them, all others frozen. Parameters that it holds whole are frozen too: they are among its
    /// [`tensors`](Self::tensors), which take the place of the base's.
    pub fn apply_to(&self, sites: Vec<Site>) -> Vec<Site> {
        let specify = |mut site: Site| {
            let own = self.sites.get(&site.path);
            site.spec = own.map_or(AdapterSpec::frozen(), |own| own.spec);
            site
        };
        sites.into_iter().map(specify).collect()
    }

    /// Puts the adapter into a base's parameters: its own in place of the base's, and the merged
    /// weight and bias of every adapted projection. In float32, which loses nothing that training in
    /// float32 had.
    ///
    /// # Errors
    /// A weight is missing, or an adapter comes to none.
    pub fn merge_into(&self, params: &mut Params) -> Result<(), PeftError> {
        let whole = self.trained_in_full();
        params.extend(whole.map(|(name, array)| (name.clone(), array.clone())));
        let sites = self.adapted();
        for site in &sites {
            merge::merge(site, &sites, &self.tensors, params)?;
        }
        Ok(())
    }

    /// The parameters that are no adapters'.
    pub fn trained_in_full(&self) -> impl Iterator<Item = (&String, &Array)> {
        let sites = self.adapted();
        let beside = sites.iter().flat_map(|site| site.parameters(&sites));
        let beside: HashSet<String> = beside.map(|parameter| parameter.name).collect();
        self.tensors
            .iter()
            .filter(move |(name, _)| !beside.contains(*name))
    }

    fn adapted(&self) -> Vec<Site> {
        self.sites.values().cloned().collect()
    }
}
