//! What the tokenizers library may do with files that others wrote: its panics become errors, and
//! its regular expressions give up.

use std::{path::Path, sync::Once};

use serde::Deserialize;
use serde_json::Value;

use super::TokenizerError;
use crate::closed::wall;

/// Bytes of a `tokenizer.json` that are read at most.
pub(super) const FILE: u64 = 1 << 28;

/// How often a regular expression may try another way at one place of a text: far more often than
/// what splits words does, and no more than takes some milliseconds.
const RETRIES: u32 = 1 << 20;

/// How often it may until it has found the next match.
const RETRIES_OF_A_SEARCH: u32 = 1 << 23;

/// Makes regular expressions give up, by a panic, where backtracking would take for ever.
fn bound_backtracking() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: each sets a number that searches begun later read.
        unsafe {
            onig_sys::onig_set_retry_limit_in_match(RETRIES.into());
            onig_sys::onig_set_retry_limit_in_search(RETRIES_OF_A_SEARCH.into());
        }
    });
}

/// What the library makes of the file at `path`.
///
/// # Errors
/// What it refuses, and what it panics on.
pub(super) fn load<T>(
    path: &Path,
    read: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, TokenizerError> {
    bounded(read).map_err(|cause| TokenizerError::Invalid {
        path: path.to_owned(),
        cause,
    })
}

/// Checks the tables of characters in a `tokenizer.json`, whose readers reserve the memory that they
/// name.
///
/// # Errors
/// As text: a table that names more than it has.
pub(super) fn check_tables(json: &[u8]) -> Result<(), String> {
    /// The part that has such tables.
    #[derive(Deserialize)]
    struct Parts {
        #[serde(default)]
        normalizer: Value,
    }
    fn check(part: &Value) -> Result<(), String> {
        match part {
            Value::Array(parts) => parts.iter().try_for_each(check),
            Value::Object(fields) => fields.iter().try_for_each(|(name, value)| match value {
                Value::String(table) if name == "precompiled_charsmap" => {
                    match first_number(table) {
                        Some(size) if size as usize > table.len() => Err(format!(
                            "its `{name}` says that it has a table of {size} bytes, and is shorter"
                        )),
                        _ => Ok(()),
                    }
                }
                other => check(other),
            }),
            _ => Ok(()),
        }
    }
    match serde_json::from_slice::<Parts>(json) {
        Ok(parts) => check(&parts.normalizer),
        Err(error) => Err(error.to_string()),
    }
}

/// The number that the first four bytes make of which this is the base64, the lowest first.
fn first_number(base64: &str) -> Option<u32> {
    let digits = base64.bytes().take(6).map(|digit| match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    });
    let digits: Vec<u8> = digits.collect::<Option<_>>()?;
    if digits.len() < 6 {
        return None;
    }
    let bits = digits
        .iter()
        .fold(0_u64, |bits, &digit| bits << 6 | u64::from(digit));
    Some(((bits >> 4) as u32).swap_bytes())
}

/// What the library makes of a text or of ids.
///
/// # Errors
/// As text: what it refuses, and what it panics on.
pub(super) fn bounded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    bound_backtracking();
    match wall::behind(work) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(error.to_string().replace("missing field", "it lacks")),
        Err(panic) if panic.contains("retry-limit") => {
            Err("a regular expression of tokenizer.json takes too long".into())
        }
        Err(panic) => Err(format!("the tokenizers library fails on it: {panic}")),
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{
        NormalizedString, Normalizer,
        normalizers::replace::{Replace, ReplacePattern},
    };

    use super::*;

    #[test]
    fn tables_that_name_more_than_they_have_are_refused() {
        assert_eq!(first_number("AQAAgA=="), Some(0x8000_0001));
        assert_eq!(first_number("/wAAAAEC"), Some(255));
        assert_eq!([first_number("AQAA"), first_number("!!!!!!")], [None; 2]);
        let json = |table: &str| {
            let table = serde_json::json!({"precompiled_charsmap": table});
            let parts = serde_json::json!({"normalizer": {"normalizers": [{}, table]}, "model": 3});
            parts.to_string()
        };
        check_tables(json("BAAAAAECAwQ=").as_bytes()).unwrap();
        check_tables(b"{\"normalizer\": null}").unwrap();
        let message = check_tables(json("AAAAQAECAwQ=").as_bytes()).unwrap_err();
        assert!(message.contains("1073741824 bytes"), "{message}");
    }

    #[test]
    fn panics_and_endless_searches_are_errors() {
        assert_eq!(bounded(|| Ok(3)), Ok(3));
        assert_eq!(bounded::<()>(|| Err("no".into())), Err("no".into()));
        let message = bounded::<()>(|| panic!("row {}", 7)).unwrap_err();
        assert!(message.contains("row 7"), "{message}");
        for pattern in ["(x|x)*$", "((x+)+)+y", "(x?){30}x{30}"] {
            let pattern = ReplacePattern::Regex(pattern.into());
            let replace = Replace::new(pattern, "").unwrap();
            let text = format!("{}z", "x".repeat(60));
            let start = std::time::Instant::now();
            let found = bounded(|| replace.normalize(&mut NormalizedString::from(text.as_str())));
            assert!(start.elapsed().as_secs() < 10);
            if let Err(message) = found {
                assert!(message.contains("too long"), "{message}");
            }
        }
    }
}
