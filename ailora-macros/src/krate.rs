//! Under which name the trait's crate is known where the macro is used.

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;

/// `::ailora_graph`, or `::ailora`, which exports the same names, or what they are renamed to.
pub fn path() -> TokenStream {
    let find = |package: &str| match crate_name(package) {
        Ok(FoundCrate::Itself) => Some(package.replace('-', "_")),
        Ok(FoundCrate::Name(name)) => Some(name),
        Err(_) => None,
    };
    let name = find("ailora-graph").or_else(|| find("ailora"));
    let name = Ident::new(name.as_deref().unwrap_or("ailora"), Span::call_site());
    quote!(::#name)
}
