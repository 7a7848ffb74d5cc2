//! Names within token streams.

use proc_macro2::{Group, Ident, TokenStream, TokenTree};
use quote::ToTokens;

/// Whether `name` occurs in `tokens`.
pub fn contain(tokens: &impl ToTokens, name: &Ident) -> bool {
    tokens
        .to_token_stream()
        .into_iter()
        .any(|token| match token {
            TokenTree::Group(group) => contain(&group.stream(), name),
            TokenTree::Ident(ident) => ident == *name,
            _ => false,
        })
}

/// `tokens` with `Self` named, for where there is no `Self`.
pub fn name_self(tokens: TokenStream, name: &Ident) -> TokenStream {
    let replace = |token| match token {
        TokenTree::Group(group) => {
            let mut named = Group::new(group.delimiter(), name_self(group.stream(), name));
            named.set_span(group.span());
            TokenTree::Group(named)
        }
        TokenTree::Ident(ident) if ident == "Self" => {
            TokenTree::Ident(Ident::new(&name.to_string(), ident.span()))
        }
        token => token,
    };
    tokens.into_iter().map(replace).collect()
}
