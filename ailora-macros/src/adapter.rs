//! What is said of one field's adapter.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::{
    Error, Expr, ExprLit, ExprPath, Ident, Lit, Result, punctuated::Punctuated, spanned::Spanned,
    token,
};

use crate::{number::Number, suggest};

/// A call of a constructor of `AdapterSpec`, and the field's own options. The compiler resolves it: a
/// single name is one of `ailora_graph::method::constructors`, a path is the user's.
pub struct Adapter {
    constructor: ExprPath,
    args: Vec<Expr>,
    /// `NAME_lr`
    pub lr: Option<Number>,
    /// `NAME_alpha`
    pub alpha: Option<Number>,
}

impl Adapter {
    /// Reads what stands for a field, such as `principal(8)`, `frozen` or `mine::scaled()`.
    pub fn parse(value: Expr) -> Result<Self> {
        let (constructor, args) = match value {
            Expr::Call(call) => (*call.func, call.args),
            value => (value, Punctuated::<_, token::Comma>::new()),
        };
        let Expr::Path(constructor) = constructor else {
            let message = "expected a strategy, such as `principal(8)`, `full`, or a path to a \
                           function of your own, such as `mine::scaled()`";
            return Err(Error::new_spanned(constructor, message));
        };
        Ok(Self {
            constructor,
            args: args.into_iter().collect(),
            lr: None,
            alpha: None,
        })
    }

    /// As the user wrote it.
    pub fn shown(&self) -> String {
        let Self {
            constructor, args, ..
        } = self;
        let tokens = match args.is_empty() {
            true => constructor.to_token_stream(),
            false => quote!(#constructor(#(#args),*)),
        };
        tokens.to_string().replace(' ', "")
    }

    /// Where errors about its rank belong: at the first argument, or at the constructor.
    pub fn span(&self) -> Span {
        let span = self.args.first().map(Spanned::span);
        let span = span.unwrap_or_else(|| self.constructor.span());
        Span::mixed_site().located_at(span)
    }

    /// The call, of type `AdapterSpec`.
    pub fn call(&self, krate: &TokenStream) -> TokenStream {
        let Self {
            constructor, args, ..
        } = self;
        let ExprPath { qself, path, .. } = constructor;
        let own = qself.is_some() || path.leading_colon.is_some() || path.segments.len() > 1;
        let span = constructor.span();
        // The whole path lies at the user's name, which is what errors show.
        let module = (!own).then(|| {
            let module = quote!(#krate::method::constructors::);
            let span = Span::mixed_site().located_at(span);
            let at = |mut token: TokenTree| {
                token.set_span(span);
                token
            };
            module.into_iter().map(at).collect::<TokenStream>()
        });
        let args = quote_spanned!(span=> (#(#args),*));
        quote!(#module #constructor #args)
    }
}

/// Reads `classic` or `rank_stabilized`.
pub fn scaling(value: &Expr) -> Result<Ident> {
    const NAMES: [&str; 2] = ["classic", "rank_stabilized"];
    let Some(name) = ident(value) else {
        let message = format!("expected {}", suggest::either(&NAMES));
        return Err(Error::new_spanned(value, message));
    };
    let variant = match name.to_string().as_str() {
        "classic" => "Classic",
        "rank_stabilized" => "RankStabilized",
        other => {
            let message = format!(
                "unknown scaling `{other}`; {}",
                suggest::hint(other, &NAMES)
            );
            return Err(Error::new(name.span(), message));
        }
    };
    Ok(Ident::new(variant, name.span()))
}

/// Reads `true` or `false`.
pub fn flag(value: &Expr) -> Result<bool> {
    match value {
        Expr::Lit(ExprLit {
            lit: Lit::Bool(flag),
            ..
        }) => Ok(flag.value),
        _ => Err(Error::new_spanned(value, "expected `true` or `false`")),
    }
}

fn ident(expr: &Expr) -> Option<&Ident> {
    match expr {
        Expr::Path(ExprPath { path, .. }) => path.get_ident(),
        _ => None,
    }
}
