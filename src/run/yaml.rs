//! Settings as people write them: YAML, of which JSON is a part.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::{Record, SettingsError};

/// Reads a YAML file.
///
/// # Errors
/// The file cannot be read, or has fields that are unknown or of the wrong type.
pub fn read_yaml<T: DeserializeOwned>(path: &Path) -> Result<T, SettingsError> {
    parse(path, &read(path)?)
}

/// Reads settings from a YAML file, or from the record that a run left.
///
/// # Errors
/// As [`read_yaml`].
pub fn read_settings<S: DeserializeOwned>(path: &Path) -> Result<S, SettingsError> {
    let text = read(path)?;
    let json = serde_json::from_str(&text).ok();
    match json.and_then(|json| Record::from_json(path, json)) {
        Some(record) => record.settings(),
        None => parse(path, &text),
    }
}

/// The value that YAML says.
///
/// # Errors
/// What is wrong with it: the field, what was found there, and what was expected.
pub fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| {
        // The value alone says which field it is; what is no YAML has a place instead.
        let value = serde_saphyr::from_str::<serde_json::Value>(text).ok();
        let named = value.and_then(|value| json::<T>(value).err());
        named.unwrap_or_else(|| {
            let said = error.to_string();
            said.strip_prefix("error: ").unwrap_or(&said).to_owned()
        })
    })
}

/// The value that a JSON value says.
///
/// # Errors
/// As [`yaml`].
pub(crate) fn json<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = plain(&error.inner().to_string());
        match &*path {
            "." => reason,
            _ => format!("`{path}`: {reason}"),
        }
    })
}

/// What serde says, without the names of Rust's types.
fn plain(reason: &str) -> String {
    let mut reason = reason.to_owned();
    for (rust, said) in [
        ("usize", "a whole number"),
        ("u64", "a whole number"),
        ("f64", "a number"),
        ("a boolean", "true or false"),
    ] {
        if let Some(start) = reason.strip_suffix(rust) {
            reason = format!("{start}{said}");
        }
    }
    // In YAML `{rank:4}` has a field of that name.
    let field = reason.strip_prefix("unknown field `");
    let field = field.and_then(|rest| rest.split('`').next());
    if field.is_some_and(|field| field.contains(':')) {
        reason += "; put a blank behind the colon";
    }
    match reason.split_once("expected struct ") {
        Some((start, _)) => format!("{start}expected fields, each with a value"),
        None => reason,
    }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path).map_err(|error| SettingsError::File {
        path: path.to_owned(),
        reason: format!("cannot read it: {error}"),
    })
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, SettingsError> {
    yaml(text).map_err(|reason| SettingsError::File {
        path: path.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::Settings;

    #[test]
    fn errors_name_the_field_and_what_was_expected() {
        let error = |text| yaml::<Settings>(text).unwrap_err();
        assert_eq!(
            error("optimizer: {beta2: high}"),
            "`optimizer.beta2`: invalid type: string \"high\", expected a number"
        );
        assert_eq!(
            error("adapters: {sites: {key: 3}}"),
            "`adapters.sites.key`: invalid type: integer `3`, expected fields, each with a value"
        );
        assert_eq!(
            error("rows: -2"),
            "`rows`: invalid value: integer `-2`, expected a whole number"
        );
        assert!(error("schedule: square").starts_with("`schedule`: unknown variant `square`"));
        assert!(error("lr: [1").contains("line 1"), "{}", error("lr: [1"));
        let nan: Settings = yaml("lr: .nan").unwrap();
        assert!(nan.check().is_err());
    }
}
