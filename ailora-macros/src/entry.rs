//! The entries `key = value` between the parentheses of `#[adapt(...)]`.

use proc_macro2::TokenStream;
use syn::{
    Error, Expr, Ident, Result, Token,
    ext::IdentExt,
    parse::{Parse, ParseStream, Parser},
    punctuated::Punctuated,
};

/// One entry.
pub struct Entry {
    /// A field or an option.
    pub key: Ident,
    /// A strategy or a number.
    pub value: Expr,
}

impl Entry {
    /// Reads all entries; there is at least one.
    pub fn parse_all(args: TokenStream) -> Result<Vec<Self>> {
        let entries = Punctuated::<Self, Token![,]>::parse_terminated.parse2(args)?;
        if entries.is_empty() {
            return Err(Error::new(
                proc_macro2::Span::call_site(),
                "`#[adapt]` adapts nothing: name a field and its strategy, such as \
                 `#[adapt(q = principal(8))]`, or use `#[derive(Module)]`",
            ));
        }
        Ok(entries.into_iter().collect())
    }

    /// The key as written without `r#`.
    pub fn name(&self) -> String {
        self.key.unraw().to_string()
    }
}

impl Parse for Entry {
    fn parse(input: ParseStream) -> Result<Self> {
        let key = Ident::parse_any(input).map_err(|error| {
            Error::new(error.span(), "expected the name of a field or an option")
        })?;
        if !input.peek(Token![=]) {
            let message = format!("expected `{key} = ...`, such as `{key} = principal(8)`");
            return Err(Error::new(key.span(), message));
        }
        input.parse::<Token![=]>()?;
        let value = input.parse()?;
        Ok(Self { key, value })
    }
}
