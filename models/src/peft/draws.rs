//! Parameters that projections share, and those that a seed gives again.

use std::collections::HashSet;

use ailora_graph::method::{AdapterParameter, Start};
use ailora_runtime::{init::drawn_as_pytorch, store::Array};

use super::{Adapter, PeftError};

/// What is drawn as PyTorch draws: VeRA's `A` and `B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    /// The seed.
    pub seed: u64,
    /// Whether they are saved, and not left to be drawn again.
    pub saved: bool,
}

impl Default for Draws {
    fn default() -> Self {
        Self {
            seed: 0,
            saved: true,
        }
    }
}

impl Draws {
    /// The values of a parameter, if it is drawn so.
    pub fn again(self, parameter: &AdapterParameter) -> Option<Array> {
        let Start::AsPytorch { skip, bound, .. } = parameter.start else {
            return None;
        };
        let numbers = drawn_as_pytorch(self.seed, skip, bound, parameter.count());
        Some(Array::new(parameter.shape.clone(), numbers))
    }
}

impl Adapter {
    /// Leaves what is drawn from a seed out of the folder that is saved, which PEFT then draws again
    /// (`save_projection: false`): VeRA's `A` and `B`. PEFT warns that another version of PyTorch may
    /// draw other numbers.
    ///
    /// # Errors
    /// They are others than the seed gives.
    pub fn leave_out_draws(&mut self) -> Result<(), PeftError> {
        let sites = self.adapted();
        for parameter in sites.iter().flat_map(|site| site.parameters(&sites)) {
            let own = self.tensors.get(&parameter.name);
            if let (Some(own), Some(drawn)) = (own, self.draws.again(&parameter))
                && !own.same_values(&drawn)
            {
                return Err(PeftError::NotDrawn {
                    name: parameter.name,
                    seed: self.draws.seed,
                });
            }
        }
        self.draws.saved = false;
        Ok(())
    }

    /// The names of the parameters that are of no single projection, and of those that the folder leaves
    /// out.
    pub(super) fn shared_and_left_out(&self) -> [HashSet<String>; 2] {
        let sites = self.adapted();
        let mut names = [HashSet::new(), HashSet::new()];
        for site in &sites {
            let inside = format!("{}.", site.path);
            for parameter in site.parameters(&sites) {
                let drawn = matches!(parameter.start, Start::AsPytorch { .. });
                if drawn && !self.draws.saved {
                    names[1].insert(parameter.name.clone());
                }
                if !parameter.name.starts_with(&inside) {
                    names[0].insert(parameter.name);
                }
            }
        }
        names
    }
}
