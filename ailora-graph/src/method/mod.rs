//! Methods of fine-tuning, and the adapters that they place beside projections.
//!
//! An [`Adapter`] says what becomes of one projection, and a [`Method`] is a name in the literature
//! for what becomes of a whole model. A method is one file here and one line of the list below, which
//! flags, help, errors, files, tables and annotations go by.

mod adapter;
mod ailora;
mod full;
mod lora;
mod low_rank;
mod milora;
mod parameter;
mod peft;
mod pissa;
mod projected;
mod reailora;
mod rslora;

pub use adapter::{Adapter, Merged, Published};
pub(crate) use low_rank::FACTORS;
pub use parameter::{AdapterParameter, End, Side, Start};
pub use peft::{Field, Peft};
pub(crate) use projected::as_rows;
pub use projected::{Operands, Projected};

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::adapter::{AdapterSpec, Strategy, Trainable, closest};

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

    /// What a projection that is annotated with an adapter gets.
    fn spec(&self, annotated: AdapterSpec) -> AdapterSpec;

    /// What trains.
    fn trainable(&self) -> Trainable {
        Trainable::Adapters
    }
}

/// The list of methods, from the files above: each with its constructors of adapters.
macro_rules! methods {
    ($($file:ident::$name:ident,)*) => {
        $(pub use $file::$name;)*

        /// Every method, in the order in which they are listed to the user.
        pub static METHODS: &[&dyn Method] = &[$(&$name),*];

        /// What `#[adapt(...)]` can say of a field: functions that return what happens to a
        /// projection. A function of your own goes by its path.
        pub mod constructors {
            pub use super::own::*;
            $(
                #[allow(unused_imports, reason = "not every method has constructors of its own")]
                pub use super::$file::constructors::*;
            )*
        }
    };
}

methods! {
    ailora::Ailora,
    lora::Lora,
    pissa::Pissa,
    milora::Milora,
    reailora::Reailora,
    rslora::Rslora,
    full::Full,
}

/// What can be said of a projection without any adapter.
mod own {
    use crate::adapter::AdapterSpec;

    /// Nothing trains.
    pub const fn frozen() -> AdapterSpec {
        AdapterSpec::frozen()
    }

    /// The projection's own weight and bias train.
    pub const fn full() -> AdapterSpec {
        AdapterSpec::full()
    }
}

/// Every adapter that a method of the list brings, in the list's order.
pub fn adapters() -> impl Iterator<Item = &'static dyn Adapter> {
    METHODS.iter().flat_map(|method| method.adapters()).copied()
}

/// A name that is none of a list.
#[derive(Debug, Error, PartialEq)]
#[error("unknown {what} `{found}`; {hint}")]
pub struct Unknown {
    /// What was to be named.
    what: &'static str,
    /// What was given.
    found: String,
    /// What to write instead.
    hint: String,
}

impl Unknown {
    fn new(what: &'static str, found: &str, names: &[&str]) -> Self {
        Self {
            what,
            found: found.to_owned(),
            hint: match closest(found, names) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("expected one of {}", names.join(", ")),
            },
        }
    }
}

/// The method of the list with a name, in upper or lower case.
///
/// # Errors
/// There is none; says which there are.
pub fn find(name: &str) -> Result<&'static dyn Method, Unknown> {
    let wanted = name.to_lowercase();
    let found = METHODS.iter().find(|method| method.name() == wanted);
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = METHODS.iter().map(|method| method.name()).collect();
        Unknown::new("method", name, &names)
    })
}

/// What happens to a projection, by name: that of an adapter of the list, `frozen` or `full`.
///
/// # Errors
/// There is none; says which there are.
pub fn strategy(name: &str) -> Result<Strategy, Unknown> {
    let found = strategies().find(|strategy| strategy.name() == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = strategies().map(|strategy| strategy.name()).collect();
        Unknown::new("start", name, &names)
    })
}

/// All that can happen to a projection by name.
pub fn strategies() -> impl Iterator<Item = Strategy> {
    let adapters = adapters().map(Strategy::Adapted);
    adapters.chain([Strategy::Frozen, Strategy::Full])
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

impl<'de> Deserialize<'de> for &'static dyn Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        find(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_find_what_they_name() {
        let names: HashSet<&str> = METHODS.iter().map(|method| method.name()).collect();
        assert_eq!(names.len(), METHODS.len());
        for method in METHODS {
            assert_eq!(find(&method.name().to_uppercase()), Ok(*method));
            assert!(!method.summary().is_empty() && !method.paper().is_empty());
        }
        let names: HashSet<&str> = adapters().map(|adapter| adapter.name()).collect();
        assert_eq!(names.len(), adapters().count());
        assert!(!names.contains("frozen") && !names.contains("full"));
        for adapter in adapters() {
            assert_eq!(strategy(adapter.name()), Ok(Strategy::Adapted(adapter)));
        }
        let text = |error: Unknown| error.to_string();
        assert_eq!(
            text(find("lroa").unwrap_err()),
            "unknown method `lroa`; did you mean `lora`?"
        );
        assert_eq!(
            text(strategy("zzz").unwrap_err()),
            "unknown start `zzz`; expected one of principal, minor, random, frozen, full"
        );
    }
}
