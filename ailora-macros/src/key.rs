//! What the keys of `#[adapt(...)]` stand for.

use syn::{Error, Ident, Result, ext::IdentExt};

use crate::{
    part::{Part, Place},
    suggest,
};

/// What a key stands for.
pub enum Key {
    /// The strategy of a field.
    Field(String),
    /// The rate of a field.
    Lr(String),
    /// `alpha` of a field.
    OwnAlpha(String),
    /// `alpha` of all low-rank fields.
    Alpha,
    /// Dropout of all low-rank fields.
    Dropout,
    /// Scaling of all low-rank fields.
    Scaling,
    /// Trained magnitudes of all low-rank fields.
    Dora,
}

impl Key {
    /// Reads a key. What is a field's name stands for the field.
    pub fn of(key: &Ident, parts: &[Part]) -> Result<Self> {
        let error = |message: String| Err(Error::new(key.span(), message));
        let name = key.unraw().to_string();
        if let Some(part) = parts.iter().find(|part| part.name() == name) {
            return match part.place {
                Place::Named(_) => Ok(Self::Field(name)),
                Place::Flattened | Place::Skipped => {
                    error("an adapted field needs a name: remove its `skip` or `flatten`".into())
                }
            };
        }
        let fields: Vec<_> = parts.iter().map(Part::name).collect();
        let fields: Vec<_> = fields.iter().map(String::as_str).collect();
        let (field, option) = name.rsplit_once('_').unwrap_or(("", &name));
        match option {
            "alpha" if field.is_empty() => Ok(Self::Alpha),
            "dropout" if field.is_empty() => Ok(Self::Dropout),
            "scaling" if field.is_empty() => Ok(Self::Scaling),
            "dora" if field.is_empty() => Ok(Self::Dora),
            "lr" if field.is_empty() => {
                let field = fields.first().unwrap_or(&"q");
                error(format!(
                    "whose rate? write `NAME_lr`, such as `{field}_lr = 2.0`"
                ))
            }
            "lr" if fields.contains(&field) => Ok(Self::Lr(field.to_owned())),
            "alpha" if fields.contains(&field) => Ok(Self::OwnAlpha(field.to_owned())),
            "dropout" | "scaling" | "dora" if fields.contains(&field) => error(format!(
                "`{option}` is for all low-rank fields: write `{option} = ...`"
            )),
            "lr" | "alpha" => {
                let hint = match suggest::closest(field, fields.iter().copied()) {
                    Some(close) => format!("did you mean `{close}_{option}`?"),
                    None => format!("expected {}", suggest::either(&fields)),
                };
                error(format!("no field `{field}`; {hint}"))
            }
            _ => error(format!("no field `{name}`; {}", hint(&name, &fields))),
        }
    }
}

/// What should stand instead of `name`, which is neither a field nor an option.
fn hint(name: &str, fields: &[&str]) -> String {
    let shared = ["alpha", "dropout", "scaling", "dora"];
    let own: Vec<_> = fields
        .iter()
        .flat_map(|field| [format!("{field}_lr"), format!("{field}_alpha")])
        .collect();
    let keys = fields
        .iter()
        .copied()
        .chain(shared)
        .chain(own.iter().map(String::as_str));
    match suggest::closest(name, keys) {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!(
            "expected {}, or an option: `NAME_lr`, `NAME_alpha`, {}",
            suggest::either(fields),
            suggest::either(&shared)
        ),
    }
}
