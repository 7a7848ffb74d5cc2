//! The `Module` implementation.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{DeriveInput, Error, WherePredicate, parse_quote};

use crate::{
    check::Adapters,
    krate,
    number::Number,
    part::{Part, Place},
    tokens,
};

/// A variant of an enum and its fields.
pub struct Variant<'a> {
    ident: &'a Ident,
    parts: Vec<Part>,
}

impl<'a> Variant<'a> {
    /// Reads a variant; what is wrong with its attributes is added to `errors`.
    pub fn new(variant: &'a syn::Variant, errors: &mut Vec<Error>) -> Self {
        Self {
            ident: &variant.ident,
            parts: Part::all(&variant.fields, errors),
        }
    }
}

/// Visits a struct's fields in order.
pub fn structure(input: &DeriveInput, parts: &[Part], adapters: &Adapters) -> TokenStream {
    let krate = krate::path();
    let assertions = assertions(&krate, parts, adapters);
    let visits = parts.iter().map(|part| {
        let member = &part.member;
        let spec = adapters
            .of(part)
            .map(|adapter| adapters.spec(adapter, &krate));
        visit(&krate, part, &quote!(&self.#member), spec)
    });
    let bounds = parts
        .iter()
        .filter_map(|part| bound(&krate, input, part, adapters.of(part).is_some()))
        .collect();
    // Only what depends on no parameter can be evaluated at the definition.
    if input.generics.params.is_empty() {
        let module = implement(&krate, input, bounds, &quote!(#(#visits)*));
        let assertions = assertions
            .into_iter()
            .map(|assertion| tokens::name_self(assertion, &input.ident));
        quote!(#module #(const _: () = { #assertions };)*)
    } else {
        let body = quote!(#(const { #assertions })* #(#visits)*);
        implement(&krate, input, bounds, &body)
    }
}

/// Visits the fields of an enum's variant in order.
pub fn enumeration(input: &DeriveInput, variants: &[Variant]) -> TokenStream {
    let krate = krate::path();
    let arms = variants.iter().map(|Variant { ident, parts }| {
        let (patterns, visits): (Vec<_>, Vec<_>) = parts
            .iter()
            .filter(|part| part.is_shown())
            .map(|part| {
                let (member, field) = (&part.member, format_ident!("field_{}", part.name()));
                let visit = visit(&krate, part, &quote!(#field), None);
                (quote!(#member: #field), visit)
            })
            .unzip();
        quote!(Self::#ident { #(#patterns,)* .. } => { #(#visits)* })
    });
    let parts = || variants.iter().flat_map(|variant| &variant.parts);
    let body = if parts().any(Part::is_shown) {
        quote!(match self { #(#arms)* })
    } else {
        TokenStream::new()
    };
    let bounds = parts()
        .filter_map(|part| bound(&krate, input, part, false))
        .collect();
    implement(&krate, input, bounds, &body)
}

/// Visits nothing: stands beside errors, so that they are not followed by others. What else is said of
/// the fields is checked all the same, where that can be done at the definition.
pub fn placeholder(input: &DeriveInput, adapters: &Adapters) -> TokenStream {
    let krate = krate::path();
    let module = implement(&krate, input, Vec::new(), &TokenStream::new());
    let checks = match input.generics.params.is_empty() {
        true => adapters.checks(&krate),
        false => Vec::new(),
    };
    let checks = checks
        .into_iter()
        .map(|check| tokens::name_self(check, &input.ident));
    quote!(#module #(const _: () = { #checks };)*)
}

fn implement(
    krate: &TokenStream,
    input: &DeriveInput,
    bounds: Vec<WherePredicate>,
    body: &TokenStream,
) -> TokenStream {
    let ident = &input.ident;
    let mut generics = input.generics.clone();
    if !bounds.is_empty() {
        generics.make_where_clause().predicates.extend(bounds);
    }
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let visitor = match body.is_empty() {
        true => quote!(_),
        false => quote!(visitor),
    };
    quote! {
        #[automatically_derived]
        impl #impl_generics #krate::Module for #ident #ty_generics #where_clause {
            fn visit(&self, #visitor: &mut #krate::Visitor) { #body }
        }
    }
}

/// The statement that shows one field. Types are spelt out for the compiler's errors to point at.
fn visit(
    krate: &TokenStream,
    Part { ty, cfg, place, .. }: &Part,
    field: &TokenStream,
    spec: Option<TokenStream>,
) -> TokenStream {
    match (place, spec) {
        (Place::Named(name), Some(spec)) => {
            quote!(#(#cfg)* visitor.adapted::<#ty>(#name, #field, #spec);)
        }
        (Place::Named(name), None) => quote!(#(#cfg)* visitor.child::<#ty>(#name, #field);),
        (Place::Flattened, _) => {
            quote!(#(#cfg)* <#ty as #krate::Module>::visit(#field, visitor);)
        }
        (Place::Skipped, _) => TokenStream::new(),
    }
}

/// The conditions on constants that only the compiler can evaluate.
fn assertions(krate: &TokenStream, parts: &[Part], adapters: &Adapters) -> Vec<TokenStream> {
    let ranks = parts.iter().filter_map(|part| {
        let adapter = adapters.of(part)?;
        let Part { ty, cfg, .. } = part;
        let name = part.name();
        let large = format!(
            "the rank of `{name}` is above min(in, out) of its weight: choose a smaller rank"
        );
        let call = adapter.call(krate);
        Some(quote_spanned! { adapter.span()=>
            #(#cfg)*
            ::core::assert!(
                #krate::AdapterSpec::has_rank_within(
                    &#call, 0, <#ty as #krate::Projection>::MAX_RANK),
                #large);
        })
    });
    let numbers = adapters.numbers.iter().filter_map(Number::assertion);
    let checks = adapters.checks(krate).into_iter();
    checks.chain(ranks).chain(numbers).collect()
}

/// What a field's type must be, if that depends on a type parameter.
///
/// A type that contains the model itself gets no bound, as it would depend on itself. An adapted
/// field gets one if it is simply of the parameter's type: of `Vec<P>`, which is no projection for
/// any `P`, the compiler shall say so at the definition.
fn bound(
    krate: &TokenStream,
    input: &DeriveInput,
    part: &Part,
    adapted: bool,
) -> Option<WherePredicate> {
    let ty = &part.ty;
    let mut parameters = input.generics.type_params().map(|param| &param.ident);
    if adapted {
        let is_parameter = parameters.any(|param| *ty == parse_quote!(#param));
        return is_parameter.then(|| parse_quote!(#ty: #krate::Projection));
    }
    let contains_model =
        tokens::contain(ty, &input.ident) || tokens::contain(ty, &format_ident!("Self"));
    let depends = parameters.any(|param| tokens::contain(ty, param));
    (part.is_shown() && depends && !contains_model).then(|| parse_quote!(#ty: #krate::Module))
}
