//! What an adapter is: what it does to one projection, what is said of it, and the projections.

mod counts;
mod error;
mod option;
mod parameter;
pub(crate) mod pattern;
mod peft;
mod projected;
mod role;
mod site;
mod spec;
mod trainable;

pub use counts::Counts;
pub use error::AdapterError;
pub use option::AdapterOption;
pub use parameter::{AdapterParameter, End, Side, Start};
pub use peft::{Field, Peft};
pub(crate) use projected::as_rows;
pub use projected::{Mode, Operands, Place, Projected};
pub use role::Role;
pub use site::{Layout, Site};
pub use spec::{AdapterSpec, Scaling, Strategy};
pub use trainable::Trainable;

use std::fmt;

use crate::ir::{Id, ProgramError};

/// What becomes of a projection `y = x W^T + b` whose weight and bias stay as they are.
///
/// An adapter is a value without state of a run: what differs between projections is in their
/// [`Site`]s, which carry rank, scale and rate. At the start of training the result computes what the
/// projection did, or nearly: a bottleneck starts from small random numbers.
pub trait Adapter: fmt::Debug + Sync {
    /// The name in files, such as `principal`; unique among all adapters.
    fn name(&self) -> &'static str;

    /// What can be said of it beside where it is and its rate; anything else is refused.
    fn options(&self) -> &'static [AdapterOption] {
        &[]
    }

    /// Whether it has a rank, which has to be given.
    fn has_rank(&self) -> bool {
        self.options().contains(&AdapterOption::Rank)
    }

    /// Checks what is said of a projection, beside what holds for all adapters.
    ///
    /// # Errors
    /// The adapter cannot be placed there.
    fn check(&self, _site: &Site) -> Result<(), AdapterError> {
        Ok(())
    }

    /// Its parameters at a projection, those nearest to the output last. `sites` are all projections
    /// of the model, for parameters that are shared: these have the same name, shape and start at
    /// each.
    fn parameters(&self, site: &Site, sites: &[Site]) -> Vec<AdapterParameter>;

    /// What the product `x W^T` becomes, `[..., out]`; the bias is added to that.
    ///
    /// # Errors
    /// An expression whose types do not fit.
    fn product(&self, p: &mut Projected<'_>, operands: Operands) -> Result<Id, ProgramError> {
        p.frozen_product(operands)
    }

    /// Where the output is changed.
    fn place(&self) -> Place {
        Place::Output
    }

    /// What the output becomes, `[..., out]`: the product with the bias, if there is one, and with what
    /// comes before the adapter's [`place`](Self::place).
    ///
    /// # Errors
    /// An expression whose types do not fit.
    fn output(
        &self,
        _p: &mut Projected<'_>,
        _operands: Operands,
        output: Id,
    ) -> Result<Id, ProgramError> {
        Ok(output)
    }

    /// What the optimiser takes for the gradient of one of its trained parameters. It is linear in the
    /// gradient, so that gradients may be summed before or after, and clipped after.
    ///
    /// # Errors
    /// An expression whose types do not fit.
    fn gradient(
        &self,
        _p: &mut Projected<'_>,
        _parameter: &AdapterParameter,
        gradient: Id,
    ) -> Result<Id, ProgramError> {
        Ok(gradient)
    }

    /// The weight and the bias of a projection without adapter that computes the same, or nothing if
    /// there is none. `weight` lies as the [site's layout](Site::layout) says.
    ///
    /// # Errors
    /// An expression whose types do not fit.
    fn merged(
        &self,
        _p: &mut Projected<'_>,
        _weight: Id,
        _bias: Option<Id>,
    ) -> Result<Option<Merged>, ProgramError> {
        Ok(None)
    }

    /// The adapter beside the published weight that computes the same, in the form that is saved: it
    /// itself, unless it trains beside a changed weight.
    ///
    /// # Errors
    /// An expression whose types do not fit.
    fn published(&self, p: &mut Projected<'_>) -> Result<Published, ProgramError> {
        let spec = AdapterSpec {
            lr: 1.0,
            dropout: 0.0,
            ..p.site.spec
        };
        let mut tensors = Vec::new();
        for parameter in self.parameters(p.site, p.sites) {
            let id = p.parameter(&parameter)?;
            tensors.push((parameter.name, id));
        }
        Ok(Published { spec, tensors })
    }

    /// How PEFT holds what [`published`](Self::published) gives, if it can.
    fn peft(&self) -> Option<&'static Peft> {
        None
    }
}

/// What a projection with an adapter comes to.
#[derive(Clone, Copy, Debug)]
pub struct Merged {
    /// Its weight.
    pub weight: Id,
    /// Its bias, if it has one.
    pub bias: Option<Id>,
}

/// An adapter as it is saved.
#[derive(Debug)]
pub struct Published {
    /// What is said of it.
    pub spec: AdapterSpec,
    /// Its tensors by name.
    pub tensors: Vec<(String, Id)>,
}

impl PartialEq for dyn Adapter {
    /// Adapters are told apart by their names.
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}
