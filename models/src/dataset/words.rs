//! What is understood, in words for people.

use indexmap::IndexMap;
use serde_json::Value;

use super::{Column, MOST_VALUES};

/// A template, or the last of several, for people.
pub fn shown(template: &Value) -> String {
    let last = template.as_array().and_then(|list| list.last());
    let text = last.unwrap_or(template).as_str().unwrap_or_default();
    let column = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'));
    match column.filter(|name| !name.contains(['{', '}'])) {
        Some(column) => format!("`{column}`"),
        None => format!("{text:?}"),
    }
}

/// Classes with their rows.
pub fn counted(classes: &IndexMap<String, usize>) -> String {
    /// More are not listed.
    const LISTED: usize = 12;
    let listed = classes.iter().take(LISTED);
    let listed: Vec<String> = listed
        .map(|(name, rows)| format!("{name} ({rows})"))
        .collect();
    match classes.len() {
        ..=LISTED => listed.join(", "),
        all => format!("{}, and {} more", listed.join(", "), all - LISTED),
    }
}

/// What a column holds, for an error.
pub fn describe(column: &Column) -> String {
    let kinds = &column.kinds;
    let counts = [
        (kinds.integers, "whole numbers"),
        (kinds.decimals, "other numbers"),
        (kinds.texts, "texts"),
        (kinds.lists, "lists"),
        (kinds.objects, "objects"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let mut parts: Vec<String> = counts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    match &column.values {
        Some(values) => parts.push(format!("{} different values", values.len())),
        None => parts.push(format!(
            "more than {MOST_VALUES} different values, or long ones"
        )),
    }
    parts.join(", ")
}
