//! Adapters in the format of PEFT: a folder that `PeftModel.from_pretrained` loads as plain LoRA.
//!
//! An adapter that starts from singular triplets trains against the residual `W - s B0 A0`. Beside
//! the published `W` it is the LoRA of twice the rank with `A' = [A; A0]` and `B' = [B, -B0]`, so
//! the base stays as it is and no decomposition is repeated when the adapter is loaded.
//!
//! Of the folders of others every field and every tensor is applied, known to change nothing, or
//! refused by name: fields by the table [`LORA`], tensors by [`Adapter::load`]. What is no plain
//! LoRA of a projection (factors of embeddings, magnitudes, biases, rows of single tokens) becomes
//! new values of the parameters that it changes.

mod config;
mod contents;
mod error;
mod fold;
mod load;
mod names;
mod origin;
mod patterns;
pub mod proof;
mod reshape;
mod save;
mod start;
mod targets;
mod trained;

pub use config::LORA;
pub use error::PeftError;
pub use load::Applied;
pub use origin::{ABOUT, Origin};

use ailora_graph::{AdapterSpec, adapter::Site};
use ailora_runtime::store::{Array, Params};
use indexmap::IndexMap;

use config::Biases;
use fold::Weight;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT wrote before safetensors.
const PICKLE: &str = "adapter_model.bin";

/// An adapter: factors beside projections, and parameters in place of the base's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapter {
    /// Rank and scale of each adapted projection by module path.
    pub sites: IndexMap<String, (usize, f64)>,
    /// `PATH.lora_A.weight` `[r, in]` and `PATH.lora_B.weight` `[out, r]` of those, and the
    /// parameters that take the place of the base's, under their own names.
    pub tensors: Params,
    /// Modules that PEFT keeps whole; set by [`close`](Self::close).
    pub modules: Vec<String>,
    /// What became of the folder that it was read from.
    pub report: Applied,
    /// Names of modules that share one of its parameters, with that: PEFT would part them.
    shared: Vec<(String, String)>,
    /// Which biases it holds, beside those of modules that it holds whole.
    biases: Biases,
    /// Parameters that the base has not got.
    added: Vec<String>,
    has_tokens: bool,
}

impl Adapter {
    /// The projections of a model as this adapter computes them: low-rank where it has factors, all
    /// others frozen. Parameters that it holds whole are frozen too: they are among its
    /// [`tensors`](Self::tensors), which take the place of the base's.
    pub fn apply_to(&self, sites: Vec<Site>) -> Vec<Site> {
        let specify = |mut site: Site| {
            site.spec = match self.sites.get(&site.path) {
                Some(&(rank, scale)) => AdapterSpec::random(rank).with_alpha(scale * rank as f64),
                None => AdapterSpec::frozen(),
            };
            site
        };
        sites.into_iter().map(specify).collect()
    }

    /// Puts the adapter into a base's parameters: its own in place of the base's, and `W + s B A`
    /// for every projection with factors. In float32, which loses nothing that training in float32
    /// had.
    ///
    /// # Errors
    /// A weight is missing.
    pub fn merge_into(&self, sites: &[Site], params: &mut Params) -> Result<(), PeftError> {
        let whole = self.trained_in_full();
        params.extend(whole.map(|(name, array)| (name.clone(), array.clone())));
        for (path, &(_, scale)) in &self.sites {
            let site = sites.iter().find(|site| site.path == *path);
            let site = site.ok_or_else(|| PeftError::Missing(path.clone()))?;
            let factor = |name: String| {
                let array = self.tensors.get(&name);
                array.ok_or(PeftError::Missing(name))
            };
            let (a, b) = (factor(site.lora_a())?, factor(site.lora_b())?);
            let array = params.get_mut(&site.weight);
            let array = array.ok_or_else(|| PeftError::Missing(site.weight.clone()))?;
            let layout = site.layout;
            Weight { array, layout }.add(scale, a, b);
        }
        Ok(())
    }

    /// The parameters that are no factors.
    pub fn trained_in_full(&self) -> impl Iterator<Item = (&String, &Array)> {
        let factor = |name: &str| {
            let tails = [".lora_A.weight", ".lora_B.weight"];
            let mut paths = tails.iter().filter_map(|tail| name.strip_suffix(tail));
            paths.any(|path| self.sites.contains_key(path))
        };
        self.tensors.iter().filter(move |(name, _)| !factor(name))
    }
}
