//! The two entry points, on token streams that tests can make too.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::quote;
use syn::{
    Attribute, Data, DeriveInput, Error, Fields, Path, Result, Token, punctuated::Punctuated,
};

use crate::{
    check::Adapters,
    entry::Entry,
    expand::{self, Variant},
    part::{self, Part},
};

/// How deep tokens may be nested: what reads them needs a part of the stack for each level.
const DEEPEST: usize = 64;

/// `#[adapt(args)] item`
pub fn adapt(args: TokenStream, item: TokenStream) -> TokenStream {
    try_adapt(args, item.clone()).unwrap_or_else(|error| with_errors(item, &[error]))
}

fn try_adapt(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    check_depth(&args)?;
    check_depth(&item)?;
    let mut input: DeriveInput = syn::parse2(item)?;
    if let Some(derive) = input.attrs.iter().find_map(derived_module) {
        let message = "`#[adapt]` implements `Module` already: remove it from `derive`";
        return Err(Error::new_spanned(derive, message));
    }
    let fields = named_fields(&mut input)?;
    let mut errors = Vec::new();
    let parts = Part::all(fields, &mut errors);
    part::strip_attributes(fields);
    let adapters = match Entry::parse_all(args) {
        Ok(entries) => Adapters::check(entries, &parts, &mut errors),
        Err(error) => {
            errors.push(error);
            Adapters::default()
        }
    };
    let module = if errors.is_empty() {
        expand::structure(&input, &parts, &adapters)
    } else {
        expand::placeholder(&input, &adapters)
    };
    Ok(with_errors(quote!(#input #module), &errors))
}

/// `#[derive(Module)] item`
pub fn derive_module(item: TokenStream) -> TokenStream {
    try_derive(item).unwrap_or_else(Error::into_compile_error)
}

fn try_derive(item: TokenStream) -> Result<TokenStream> {
    check_depth(&item)?;
    let input: DeriveInput = syn::parse2(item)?;
    if let Some(adapt) = input
        .attrs
        .iter()
        .find(|attr| ends_with(attr.path(), "adapt"))
    {
        let message = "`#[adapt]` implements `Module` already: remove it from `derive`";
        return Err(Error::new_spanned(adapt.path(), message));
    }
    let mut errors = Vec::new();
    let module = match &input.data {
        Data::Struct(data) => {
            let parts = Part::all(&data.fields, &mut errors);
            expand::structure(&input, &parts, &Adapters::default())
        }
        Data::Enum(data) => {
            let variant = |variant| Variant::new(variant, &mut errors);
            expand::enumeration(
                &input,
                &data.variants.iter().map(variant).collect::<Vec<_>>(),
            )
        }
        Data::Union(data) => {
            let message =
                "a union does not tell which of its fields is live: implement `Module` by hand";
            return Err(Error::new(data.union_token.span, message));
        }
    };
    if errors.is_empty() {
        Ok(module)
    } else {
        let adapters = Adapters::default();
        Ok(with_errors(expand::placeholder(&input, &adapters), &errors))
    }
}

/// The fields of a struct that names them.
fn named_fields(input: &mut DeriveInput) -> Result<&mut Fields> {
    let message = "`#[adapt]` goes on a struct with named fields";
    match &mut input.data {
        Data::Struct(data) if matches!(data.fields, Fields::Named(_)) => Ok(&mut data.fields),
        Data::Struct(_) => Err(Error::new(input.ident.span(), message)),
        Data::Enum(data) => Err(Error::new(data.enum_token.span, message)),
        Data::Union(data) => Err(Error::new(data.union_token.span, message)),
    }
}

/// The `Module` in `#[derive(..., Module)]`.
fn derived_module(attr: &Attribute) -> Option<Path> {
    if !attr.path().is_ident("derive") {
        return None;
    }
    let derives = attr
        .parse_args_with(Punctuated::<Path, Token![,]>::parse_terminated)
        .ok()?;
    derives.into_iter().find(|path| ends_with(path, "Module"))
}

fn ends_with(path: &Path, name: &str) -> bool {
    path.segments.last().is_some_and(|last| last.ident == name)
}

/// Refuses tokens that are nested so deep that reading them would overflow the stack.
fn check_depth(tokens: &TokenStream) -> Result<()> {
    match too_deep(tokens.clone(), 0) {
        Some(span) => Err(Error::new(
            span,
            format!("nested more than {DEEPEST} deep: give a part of it a name of its own"),
        )),
        None => Ok(()),
    }
}

/// The first token below [`DEEPEST`], where groups, angle brackets and signs in a row are levels.
fn too_deep(tokens: TokenStream, depth: usize) -> Option<Span> {
    let (mut angles, mut signs) = (0, 0);
    for token in tokens {
        let span = token.span();
        match token {
            TokenTree::Punct(punct) => {
                signs += 1;
                match punct.as_char() {
                    '<' => angles += 1,
                    '>' => angles = usize::saturating_sub(angles, 1),
                    _ => {}
                }
            }
            TokenTree::Group(group) => {
                signs = 0;
                let inner = depth + angles + 1;
                if inner <= DEEPEST
                    && let Some(span) = too_deep(group.stream(), inner)
                {
                    return Some(span);
                }
                if inner > DEEPEST {
                    return Some(span);
                }
            }
            _ => signs = 0,
        }
        if depth + angles + signs > DEEPEST {
            return Some(span);
        }
    }
    None
}

fn with_errors(item: TokenStream, errors: &[Error]) -> TokenStream {
    let errors = errors.iter().map(Error::to_compile_error);
    quote!(#item #(#errors)*)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_same(found: &TokenStream, expected: &TokenStream) {
        assert_eq!(found.to_string(), expected.to_string());
    }

    #[test]
    fn what_is_nested_too_deep_is_refused() {
        use std::str::FromStr;
        let nested = |n: usize| {
            let [open, close, refs] = ["Box<[", "]>", "&"].map(|part| part.repeat(n));
            let text = format!("struct A<'a> {{ a: {open}B{close}, b: {refs}B }}");
            derive_module(TokenStream::from_str(&text).unwrap()).to_string()
        };
        let shallow = nested(20);
        assert!(!shallow.contains("compile_error"), "{shallow}");
        for n in [40, 5000] {
            assert!(nested(n).contains("nested more than 64 deep"));
        }
        let args = format!("q = {}1{}", "(".repeat(5000), ")".repeat(5000));
        let args = TokenStream::from_str(&args).unwrap();
        let refused = adapt(
            args,
            quote!(
                struct A {
                    q: B,
                }
            ),
        )
        .to_string();
        assert!(refused.contains("nested more than 64 deep"));
    }

    #[test]
    fn a_struct_expands_to_a_line_a_field() {
        let item = quote! {
            /// Documented.
            #[derive(Clone)]
            pub struct Attention {
                /// Documented too.
                #[serde(rename = "query")]
                #[module(name = "self.query")]
                pub q: Linear<16, 16>,
                pub k: Linear<16, 16>,
                v: Linear<16, 16>,
                #[module(skip)]
                heads: usize,
            }
        };
        let expected = quote! {
            /// Documented.
            #[derive(Clone)]
            pub struct Attention {
                /// Documented too.
                #[serde(rename = "query")]
                pub q: Linear<16, 16>,
                pub k: Linear<16, 16>,
                v: Linear<16, 16>,
                heads: usize,
            }
            #[automatically_derived]
            impl ::ailora_graph::Module for Attention {
                fn visit(&self, visitor: &mut ::ailora_graph::Visitor) {
                    visitor.adapted::<Linear<16, 16> >("self.query", &self.q,
                        ::ailora_graph::method::constructors::principal(8));
                    visitor.child::<Linear<16, 16> >("k", &self.k);
                    visitor.adapted::<Linear<16, 16> >("v", &self.v,
                        ::ailora_graph::method::constructors::minor(4).with_lr(2.0));
                }
            }
            const _: () = {
                ::core::assert!(::ailora_graph::AdapterSpec::has_rank_within(&::ailora_graph::method::constructors::principal(8), 1, ::core::primitive::usize::MAX),
                    "the rank of `q` must be a positive integer, such as 8");
            };
            const _: () = {
                ::core::assert!(::ailora_graph::AdapterSpec::has_rank_within(&::ailora_graph::method::constructors::minor(4), 1, ::core::primitive::usize::MAX),
                    "the rank of `v` must be a positive integer, such as 8");
            };
            const _: () = {
                ::core::assert!(::ailora_graph::AdapterSpec::trains(&::ailora_graph::method::constructors::minor(4)),
                    "`v` is `minor(4)`, so `v_lr` means nothing: give `v` a strategy that trains it, such as `v = full`");
            };
            const _: () = {
                ::core::assert!(::ailora_graph::AdapterSpec::has_rank_within(&::ailora_graph::method::constructors::principal(8), 0, <Linear<16, 16> as ::ailora_graph::Projection>::MAX_RANK),
                    "the rank of `q` is above min(in, out) of its weight: choose a smaller rank");
            };
            const _: () = {
                ::core::assert!(::ailora_graph::AdapterSpec::has_rank_within(&::ailora_graph::method::constructors::minor(4), 0, <Linear<16, 16> as ::ailora_graph::Projection>::MAX_RANK),
                    "the rank of `v` is above min(in, out) of its weight: choose a smaller rank");
            };
        };
        let found = adapt(quote!(q = principal(8), v = minor(4), v_lr = 2), item);
        assert_same(&found, &expected);
    }

    #[test]
    fn generic_structs_are_checked_where_they_are_used() {
        let item = quote! {
            struct Block<P, N: Clone, const R: usize = 8> where P: Copy {
                q: P,
                norm: Option<N>,
                #[module(flatten)]
                inner: [Block<P, N, R>; 2],
            }
        };
        let expected = quote! {
            struct Block<P, N: Clone, const R: usize = 8> where P: Copy {
                q: P,
                norm: Option<N>,
                inner: [Block<P, N, R>; 2],
            }
            #[automatically_derived]
            impl<P, N: Clone, const R: usize> ::ailora_graph::Module for Block<P, N, R>
            where P: Copy, P: ::ailora_graph::Projection, Option<N>: ::ailora_graph::Module
            {
                fn visit(&self, visitor: &mut ::ailora_graph::Visitor) {
                    const {
                ::core::assert!(::ailora_graph::AdapterSpec::has_rank_within(&::ailora_graph::method::constructors::random(R), 1, ::core::primitive::usize::MAX),
                    "the rank of `q` must be a positive integer, such as 8");
            }
                    const {
                ::core::assert!(::ailora_graph::AdapterSpec::has_rank_within(&::ailora_graph::method::constructors::random(R), 0, <P as ::ailora_graph::Projection>::MAX_RANK),
                    "the rank of `q` is above min(in, out) of its weight: choose a smaller rank");
            }
                    visitor.adapted::<P>("q", &self.q, ::ailora_graph::method::constructors::random(R));
                    visitor.child::<Option<N> >("norm", &self.norm);
                    <[Block<P, N, R>; 2] as ::ailora_graph::Module>::visit(&self.inner, visitor);
                }
            }
        };
        assert_same(&adapt(quote!(q = random(R)), item), &expected);
    }
}
