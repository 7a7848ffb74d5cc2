//! What the entries of `#[adapt(...)]` say of each field, and what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
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
    /// `alpha`, of fields without their own.
    alpha: Option<Number>,
    dropout: Option<Number>,
    /// `scaling`, as a variant of `Scaling`.
    scaling: Option<Ident>,
    dora: Option<bool>,
    /// Options with what they need of the fields that they are for, which the compiler checks.
    needs: Vec<Need>,
}

/// An option, and what it is for.
struct Need {
    span: Span,
    /// The field; any if it is none.
    field: Option<String>,
    /// The method of `AdapterSpec` that tells.
    method: &'static str,
    message: String,
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
                    let adapter = Adapter::parse(entry.value);
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

    /// What is said of a field's adapter, as an expression of type `AdapterSpec`.
    pub fn spec(&self, adapter: &Adapter, krate: &TokenStream) -> TokenStream {
        let call = adapter.call(krate);
        let lr = adapter.lr.iter();
        let own = adapter.alpha.iter();
        let shared = self.shared(krate);
        quote!(#call #(.with_lr(#lr))* #(.with_alpha(#own))* #shared)
    }

    /// The options for all fields, as a call.
    fn shared(&self, krate: &TokenStream) -> Option<TokenStream> {
        let Self {
            alpha,
            dropout,
            scaling,
            dora,
            ..
        } = self;
        if alpha.is_none() && dropout.is_none() && scaling.is_none() && dora.is_none() {
            return None;
        }
        let dora = dora.unwrap_or_default();
        let alpha = match alpha {
            Some(alpha) => quote!(::core::option::Option::Some(#alpha)),
            None => quote!(::core::option::Option::None),
        };
        let dropout = match dropout {
            Some(dropout) => quote!(#dropout),
            None => quote!(0.0),
        };
        let scaling = match scaling {
            Some(scaling) => quote!(#scaling),
            None => quote!(Classic),
        };
        Some(quote!(.with_shared(#alpha, #dropout, #krate::Scaling::#scaling, #dora)))
    }

    /// The conditions on what constructors return, whatever the fields' types are.
    pub fn checks(&self, krate: &TokenStream) -> Vec<TokenStream> {
        let adapters = self.by_field.iter();
        let adapters = adapters.filter_map(|(field, adapter)| Some((field, adapter.as_ref()?)));
        let ranks = adapters.map(|(field, adapter)| {
            let message = format!("the rank of `{field}` must be a positive integer, such as 8");
            let call = adapter.call(krate);
            quote_spanned! { adapter.span()=>
                ::core::assert!(
                    #krate::AdapterSpec::has_rank_within(&#call, 1, ::core::primitive::usize::MAX),
                    #message);
            }
        });
        let needs = self.needs.iter().map(|need| {
            let adapters = self.by_field.iter();
            let adapters =
                adapters.filter(|(field, _)| need.field.as_ref().is_none_or(|own| own == *field));
            let calls = adapters.filter_map(|(_, adapter)| Some(adapter.as_ref()?.call(krate)));
            let method = Ident::new(need.method, need.span);
            let message = &need.message;
            quote_spanned! { need.span=>
                ::core::assert!(#(#krate::AdapterSpec::#method(&#calls))||*, #message);
            }
        });
        ranks.chain(needs).collect()
    }

    fn set(&mut self, option: Key, Entry { key, value }: Entry) -> Result<()> {
        match option {
            Key::Field(_) => {}
            Key::Lr(field) => {
                let lr = self.number(&key, value, Range::Positive)?;
                let hint = format!("a strategy that trains it, such as `{field} = full`");
                if let Some(adapter) = self.one(&key, field, "trains", &hint)? {
                    adapter.lr = Some(lr);
                }
            }
            Key::OwnAlpha(field) => {
                let alpha = self.number(&key, value, Range::Positive)?;
                let hint = format!("a low-rank strategy, such as `{field} = principal(8)`");
                if let Some(adapter) = self.one(&key, field, "has_rank", &hint)? {
                    adapter.alpha = Some(alpha);
                }
            }
            Key::Alpha => {
                self.alpha = Some(self.number(&key, value, Range::Positive)?);
                self.any(&key)?;
            }
            Key::Dropout => {
                self.dropout = Some(self.number(&key, value, Range::Probability)?);
                self.any(&key)?;
            }
            Key::Scaling => {
                self.scaling = Some(adapter::scaling(&value)?);
                self.any(&key)?;
            }
            Key::Dora => {
                self.dora = Some(adapter::flag(&value)?);
                self.any(&key)?;
            }
        }
        Ok(())
    }

    fn number(&mut self, key: &Ident, value: syn::Expr, range: Range) -> Result<Number> {
        let number = Number::new(value, format!("`{key}`"), range)?;
        self.numbers.push(number.clone());
        Ok(number)
    }

    /// The adapter that an option of one field is for, unless that is mistaken.
    fn one(
        &mut self,
        key: &Ident,
        field: String,
        method: &'static str,
        hint: &str,
    ) -> Result<Option<&mut Adapter>> {
        let message = |is: String| format!("{is}, so `{key}` means nothing: give `{field}` {hint}");
        let Some(adapter) = self.by_field.get_mut(&field) else {
            let message = message(format!("`{field}` is not adapted"));
            return Err(Error::new(key.span(), message));
        };
        if let Some(adapter) = adapter {
            self.needs.push(Need {
                span: Span::mixed_site().located_at(key.span()),
                message: message(format!("`{field}` is `{}`", adapter.shown())),
                field: Some(field),
                method,
            });
        }
        Ok(adapter.as_mut())
    }

    /// Notes an option that is for all fields with a rank, of which there has to be one.
    fn any(&mut self, key: &Ident) -> Result<()> {
        let message = format!(
            "no field is low-rank, so `{key}` means nothing: give one a low-rank strategy, such as \
             `principal(8)`"
        );
        if self.by_field.is_empty() {
            return Err(Error::new(key.span(), message));
        }
        if self.by_field.values().all(Option::is_some) {
            self.needs.push(Need {
                span: Span::mixed_site().located_at(key.span()),
                field: None,
                method: "has_rank",
                message,
            });
        }
        Ok(())
    }
}
