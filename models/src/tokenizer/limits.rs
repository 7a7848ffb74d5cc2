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

/// How many times longer replacements may make a text, one after the other, at most.
const GROWTH: f64 = 256.0;

/// Checks what in a `tokenizer.json` would cost more memory than the file warrants: tables of
/// characters, whose readers reserve what they name, and replacements that each make a text longer.
///
/// # Errors
/// As text: a table that names more than it has, or replacements that grow too much.
pub(super) fn check_costs(json: &[u8]) -> Result<(), String> {
    /// The parts that can cost so much.
    #[derive(Deserialize)]
    struct Parts {
        #[serde(default)]
        normalizer: Value,
        #[serde(default)]
        pre_tokenizer: Value,
        #[serde(default)]
        decoder: Value,
        #[serde(default)]
        post_processor: Value,
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
        Ok(parts) => {
            for (name, part) in [
                ("normalizer", &parts.normalizer),
                ("pre_tokenizer", &parts.pre_tokenizer),
                ("decoder", &parts.decoder),
            ] {
                let found = growth(part);
                if found > GROWTH {
                    return Err(format!(
                        "the replacements of its `{name}` make a text up to {found:.0} times longer; \
                         expected at most {GROWTH:.0} times"
                    ));
                }
            }
            if let Some(text) = repeated(&parts.post_processor) {
                return Err(format!(
                    "its `post_processor` puts text {text} several times; expected once"
                ));
            }
            check(&parts.normalizer)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// How many times longer the replacements within a part may make a text: each may put its `content`
/// in the place of one byte.
fn growth(part: &Value) -> f64 {
    match part {
        Value::Array(parts) => parts.iter().map(growth).product(),
        Value::Object(fields) => {
            let content = fields.get("content").and_then(Value::as_str);
            let own = match fields.get("type").and_then(Value::as_str) {
                // A byte that is no printable ASCII becomes a character of two.
                Some("ByteLevel") => 2,
                _ => content.map_or(1, |content| content.len().max(1)),
            } as f64;
            let inner = fields
                .values()
                .filter(|value| value.is_array() || value.is_object());
            own * inner.map(growth).product::<f64>()
        }
        _ => 1.0,
    }
}

/// A text that a template puts several times, if there is one.
fn repeated(part: &Value) -> Option<&str> {
    match part {
        Value::Array(parts) => {
            let mut texts: Vec<&str> = parts
                .iter()
                .filter_map(|part| part.get("Sequence")?.get("id")?.as_str())
                .collect();
            texts.sort_unstable();
            let twice = texts.windows(2).find(|pair| pair[0] == pair[1]);
            let twice = twice.map(|pair| pair[0]);
            twice.or_else(|| parts.iter().find_map(repeated))
        }
        Value::Object(fields) => fields.values().find_map(repeated),
        _ => None,
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
        check_costs(json("BAAAAAECAwQ=").as_bytes()).unwrap();
        check_costs(b"{\"normalizer\": null}").unwrap();
        let message = check_costs(json("AAAAQAECAwQ=").as_bytes()).unwrap_err();
        assert!(message.contains("1073741824 bytes"), "{message}");
    }

    #[test]
    fn replacements_that_multiply_a_text_are_refused() {
        let replace = |len: usize| {
            let pattern = serde_json::json!({"Regex": "."});
            serde_json::json!({"type": "Replace", "pattern": pattern, "content": "b".repeat(len)})
        };
        for part in ["normalizer", "decoder"] {
            let json = |lens: &[usize]| {
                let parts: Vec<Value> = lens.iter().map(|&len| replace(len)).collect();
                serde_json::json!({part: {"type": "Sequence", "parts": parts}}).to_string()
            };
            check_costs(json(&[3, 0, 1, 3, 16]).as_bytes()).unwrap();
            let message = check_costs(json(&[17, 17]).as_bytes()).unwrap_err();
            assert!(
                message.contains(part) && message.contains("289 times"),
                "{message}"
            );
            assert!(check_costs(json(&[40_000; 90]).as_bytes()).is_err());
        }
        let bytes = |count: usize| {
            let parts = vec![serde_json::json!({"type": "ByteLevel", "use_regex": false}); count];
            serde_json::json!({"pre_tokenizer": {"pretokenizers": parts}}).to_string()
        };
        check_costs(bytes(2).as_bytes()).unwrap();
        let message = check_costs(bytes(9).as_bytes()).unwrap_err();
        assert!(
            message.contains("`pre_tokenizer`") && message.contains("512 times"),
            "{message}"
        );
    }

    #[test]
    fn templates_that_repeat_a_text_are_refused() {
        let text = |id: &str| serde_json::json!({"Sequence": {"id": id, "type_id": 0}});
        let json = |pair: &[Value]| {
            let template = serde_json::json!({"type": "TemplateProcessing", "pair": pair});
            serde_json::json!({"post_processor": {"processors": [template]}}).to_string()
        };
        check_costs(json(&[text("A"), text("B")]).as_bytes()).unwrap();
        let message = check_costs(json(&[text("A"), text("B"), text("A")]).as_bytes());
        assert!(message.unwrap_err().contains("puts text A several times"));
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
