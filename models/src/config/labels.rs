//! `id2label`: what a head's outputs are called.

use serde_json::{Map, Value};

use crate::{
    closed::shortened,
    fields::{FieldError, Fields},
};

/// The most labels of a head.
const MOST_LABELS: usize = 1 << 20;

/// Checks `id2label`, which numbers the labels from 0 on, and `num_labels`.
pub(super) fn check(fields: Fields<'_>) -> Result<(), FieldError> {
    fields.whole("num_labels", 0..=MOST_LABELS)?;
    let Some(value) = fields.value("id2label") else {
        return Ok(());
    };
    let fits = value
        .as_object()
        .is_some_and(|labels| ordered(labels).is_some());
    FieldError::unless(fits, "id2label", shortened(value), || {
        "an object that gives each id, from \"0\" on without a gap, a name".into()
    })
}

/// The names by id.
fn ordered(labels: &Map<String, Value>) -> Option<Vec<&str>> {
    let mut names = vec![None; labels.len()];
    for (id, name) in labels {
        let id: usize = id.parse().ok()?;
        *names.get_mut(id)? = Some(name.as_str()?);
    }
    names.into_iter().collect()
}

/// The names by id, unless they are the numbers themselves, as in `LABEL_0`.
pub(super) fn named(fields: Fields<'_>) -> Option<Vec<&str>> {
    let names = ordered(fields.value("id2label")?.as_object()?)?;
    let number = |(id, name): (usize, &&str)| {
        let name = name.to_ascii_lowercase();
        name.strip_prefix("label_").unwrap_or(&name) == id.to_string()
    };
    (!names.iter().enumerate().all(number)).then_some(names)
}
