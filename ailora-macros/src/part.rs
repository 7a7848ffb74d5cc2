//! The fields of a model and where they stand in its paths.

use quote::ToTokens;
use syn::{
    Attribute, Error, Field, Fields, LitStr, Member, Result, Type, ext::IdentExt,
    meta::ParseNestedMeta, spanned::Spanned,
};

use crate::suggest;

const OPTIONS: [&str; 3] = ["name", "flatten", "skip"];

/// A field.
pub struct Part {
    /// How it is accessed.
    pub member: Member,
    /// Its type.
    pub ty: Type,
    /// The conditions under which it exists.
    pub cfg: Vec<Attribute>,
    /// How it is shown.
    pub place: Place,
}

/// How a field is shown to the visitor.
pub enum Place {
    /// Under a name.
    Named(String),
    /// As if its fields were the model's own.
    Flattened,
    /// Not at all.
    Skipped,
}

impl Part {
    /// The fields in order; what is wrong with their attributes is added to `errors`.
    pub fn all(fields: &Fields, errors: &mut Vec<Error>) -> Vec<Self> {
        let part = |(field, member): (&Field, Member)| Self {
            place: place(field, &member).unwrap_or_else(|error| {
                errors.push(error);
                Place::Named(name(&member))
            }),
            cfg: field
                .attrs
                .iter()
                .filter(|attr| is_cfg(attr))
                .cloned()
                .collect(),
            ty: field.ty.clone(),
            member,
        };
        fields.iter().zip(fields.members()).map(part).collect()
    }

    /// The field's own name.
    pub fn name(&self) -> String {
        name(&self.member)
    }

    /// Whether the visitor sees it.
    pub fn is_shown(&self) -> bool {
        !matches!(self.place, Place::Skipped)
    }
}

/// Takes `#[module(...)]` off fields, for an item that is not derived.
pub fn strip_attributes(fields: &mut Fields) {
    for field in fields {
        field.attrs.retain(|attr| !is_module(attr));
    }
}

fn is_cfg(attr: &Attribute) -> bool {
    attr.path().is_ident("cfg")
}

fn is_module(attr: &Attribute) -> bool {
    attr.path().is_ident("module")
}

fn name(member: &Member) -> String {
    match member {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}

fn place(field: &Field, member: &Member) -> Result<Place> {
    let mut place = None;
    for attr in field.attrs.iter().filter(|attr| is_module(attr)) {
        attr.parse_nested_meta(|meta| match place.replace(option(&meta)?) {
            Some(_) => Err(meta.error("one of `name`, `flatten` and `skip` is enough")),
            None => Ok(()),
        })?;
        if place.is_none() {
            let message = format!("expected {}", suggest::either(&OPTIONS));
            return Err(Error::new(attr.meta.span(), message));
        }
    }
    Ok(place.unwrap_or_else(|| Place::Named(name(member))))
}

fn option(meta: &ParseNestedMeta) -> Result<Place> {
    let key = meta.path.to_token_stream().to_string();
    match key.as_str() {
        "skip" => Ok(Place::Skipped),
        "flatten" => Ok(Place::Flattened),
        "name" => {
            let name: LitStr = meta.value()?.parse()?;
            let path = name.value();
            if path.split('.').any(str::is_empty) {
                let message = "expected segments joined by dots, such as \"self.query\"";
                return Err(Error::new(name.span(), message));
            }
            Ok(Place::Named(path))
        }
        other => {
            let hint = suggest::hint(other, &OPTIONS);
            Err(meta.error(format!("unknown option `{other}`; {hint}")))
        }
    }
}
