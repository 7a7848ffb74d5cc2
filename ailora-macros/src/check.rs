//! What the entries of `#[adapt(...)]` say of each field, and what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Error, Ident, Result};

use crate::{
    adapter::{self, Adapter},
    entry::Entry,
    key::Key,
    number::{Number, Range},
    part::Part,
};

/// What is said of all fields.
#[derive(Default)]
pub struct Adapters {
    /// By field; `None` where the name or the strategy is mistaken.
    by_field: BTreeMap<String, Option<Adapter>>,
    /// Every option's number.
    pub numbers: Vec<Number>,
}

impl Adapters {
    /// Checks `entries` against the fields; mistakes are added to `errors`.
    pub fn check(entries: Vec<Entry>, parts: &[Part], errors: &mut Vec<Error>) -> Self {
        let mut adapters = Self::default();
        let mut seen = BTreeSet::new();
        let mut options = Vec::new();
        for entry in entries {
            let name = entry.name();
            if !seen.insert(name.clone()) {
                let message = format!("`{name}` is given twice: keep one");
                errors.push(Error::new(entry.key.span(), message));
                continue;
            }
            match Key::of(&entry.key, parts) {
                Ok(Key::Field(name)) => {
                    let adapter = Adapter::parse(&name, entry.value);
                    let adapter = adapter.map_err(|error| errors.push(error)).ok();
                    adapters.by_field.insert(name, adapter);
                }
                Ok(option) => options.push((option, entry)),
                Err(error) => {
                    errors.push(error);
                    adapters.by_field.insert(name, None);
                }
            }
        }
        for (option, entry) in options {
            if let Err(error) = adapters.set(option, entry) {
                errors.push(error);
            }
        }
        adapters
    }

    /// What is said of a field.
    pub fn of(&self, part: &Part) -> Option<&Adapter> {
        self.by_field.get(&part.name())?.as_ref()
    }

    fn set(&mut self, option: Key, Entry { key, value }: Entry) -> Result<()> {
        match option {
            Key::Field(_) => {}
            Key::Lr(field) => {
                let lr = self.number(&key, value, Range::Positive)?;
                let hint = format!("a strategy that trains it, such as `{field} = full`");
                self.set_one(&key, &field, &hint, Adapter::trains, |a| a.lr = Some(lr))?;
            }
            Key::OwnAlpha(field) => {
                let alpha = self.number(&key, value, Range::Positive)?;
                let hint = format!("a low-rank strategy, such as `{field} = principal(8)`");
                self.set_one(&key, &field, &hint, Adapter::is_low_rank, |a| {
                    a.alpha = Some(alpha)
                })?;
            }
            Key::Alpha => {
                let alpha = self.number(&key, value, Range::Positive)?;
                // A field's own `alpha` wins, wherever it stands.
                self.set_all(&key, |a| {
                    a.alpha = a.alpha.take().or_else(|| Some(alpha.clone()))
                })?;
            }
            Key::Dropout => {
                let dropout = self.number(&key, value, Range::Probability)?;
                self.set_all(&key, |a| a.dropout = Some(dropout.clone()))?;
            }
            Key::Scaling => {
                let scaling = adapter::scaling(&value)?;
                self.set_all(&key, |a| a.scaling = Some(scaling.clone()))?;
            }
        }
        Ok(())
    }

    fn number(&mut self, key: &Ident, value: syn::Expr, range: Range) -> Result<Number> {
        let number = Number::new(value, format!("`{key}`"), range)?;
        self.numbers.push(number.clone());
        Ok(number)
    }

    fn set_one(
        &mut self,
        key: &Ident,
        field: &str,
        hint: &str,
        applies: impl Fn(&Adapter) -> bool,
        set: impl FnOnce(&mut Adapter),
    ) -> Result<()> {
        match self.by_field.get_mut(field) {
            Some(None) => Ok(()),
            Some(Some(adapter)) if applies(adapter) => {
                set(adapter);
                Ok(())
            }
            found => {
                let is = match found {
                    Some(Some(adapter)) => format!("`{field}` is `{}`", adapter.strategy),
                    _ => format!("`{field}` is not adapted"),
                };
                let message = format!("{is}, so `{key}` means nothing: give `{field}` {hint}");
                Err(Error::new(key.span(), message))
            }
        }
    }

    fn set_all(&mut self, key: &Ident, mut set: impl FnMut(&mut Adapter)) -> Result<()> {
        let mut unused = self.by_field.values().all(Option::is_some);
        for adapter in self.by_field.values_mut().flatten() {
            if adapter.is_low_rank() {
                set(adapter);
                unused = false;
            }
        }
        if unused {
            let message = format!(
                "no field is low-rank, so `{key}` means nothing: give one a low-rank strategy, \
                 such as `principal(8)`"
            );
            return Err(Error::new(key.span(), message));
        }
        Ok(())
    }
}
