//! The list of methods, and what goes by the names in it.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

use super::Method;
use crate::adapter::{Adapter, Strategy, pattern::closest};

/// The list of methods, from the files beside this one: each with its constructors of adapters.
macro_rules! methods {
    ($(super::$file:ident::$name:ident,)*) => {
        $(pub use super::$file::$name;)*

        /// Every method, in the order in which they are listed to the user.
        pub static METHODS: &[&dyn Method] = &[$(&$name),*];

        /// What `#[adapt(...)]` can say of a field: functions that return what happens to a
        /// projection. A function of your own goes by its path.
        pub mod constructors {
            pub use super::own::*;
            $(
                #[allow(unused_imports, reason = "not every method has constructors of its own")]
                pub use crate::method::$file::constructors::*;
            )*
        }
    };
}

methods! {
    super::ailora::Ailora,
    super::lora::Lora,
    super::pissa::Pissa,
    super::milora::Milora,
    super::reailora::Reailora,
    super::rslora::Rslora,
    super::olora::Olora,
    super::mica::Mica,
    super::lora_fa::LoraFa,
    super::lora_plus::LoraPlus,
    super::vera::Vera,
    super::ia3::Ia3,
    super::dora::Dora,
    super::houlsby::Houlsby,
    super::pfeiffer::Pfeiffer,
    super::bitfit::Bitfit,
    super::full::Full,
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

impl<'de> Deserialize<'de> for Strategy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Named)
    }
}

/// Reads the name of what happens to a projection.
struct Named;

impl de::Visitor<'_> for Named {
    type Value = Strategy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = strategies().map(|strategy| strategy.name()).collect();
        write!(f, "one of {}; `rank` stands beside it", names.join(", "))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Strategy, E> {
        strategy(name).map_err(E::custom)
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
            "unknown start `zzz`; expected one of principal, minor, random, olora, mica, random_frozen, \
             vera, ia3, ia3_input, houlsby, pfeiffer, frozen, full"
        );
    }
}
