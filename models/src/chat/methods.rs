//! Methods of Python's texts, where minijinja's own are missing or differ.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Rest, ValueKind, from_args},
};
use minijinja_contrib::pycompat;

use super::python::{display, is_space};

/// What a method that minijinja does not know returns.
///
/// # Errors
/// Python's texts, lists and dictionaries do not have it, or it is not given what it needs.
pub(super) fn call(
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let known = match value.as_str() {
        Some(text) if value.kind() == ValueKind::String => of_text(text, method, arguments)?,
        _ => None,
    };
    match known {
        Some(found) => Ok(found),
        None => pycompat::unknown_method_callback(state, value, method, arguments),
    }
}

/// A method of a text; nothing, if minijinja's is the same.
fn of_text(text: &str, method: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let one = || -> Result<&str, Error> { Ok(from_args::<(&str,)>(arguments)?.0) };
    Ok(Some(match method {
        "strip" => strip(text, &set(arguments)?, true, true).into(),
        "lstrip" => strip(text, &set(arguments)?, true, false).into(),
        "rstrip" => strip(text, &set(arguments)?, false, true).into(),
        "removeprefix" => text.strip_prefix(one()?).unwrap_or(text).into(),
        "removesuffix" => text.strip_suffix(one()?).unwrap_or(text).into(),
        "split" => split(text, arguments, false)?,
        "rsplit" => split(text, arguments, true)?,
        "splitlines" => lines(text, arguments)?,
        "partition" => {
            let by = one()?;
            let (before, behind) = text.split_once(by).unwrap_or((text, ""));
            let by = if text.contains(by) { by } else { "" };
            list([before, by, behind])
        }
        "rpartition" => {
            let by = one()?;
            let (before, behind) = text.rsplit_once(by).unwrap_or(("", text));
            let by = if text.contains(by) { by } else { "" };
            list([before, by, behind])
        }
        "find" => place(text, text.find(one()?)).unwrap_or(-1).into(),
        "rfind" => place(text, text.rfind(one()?)).unwrap_or(-1).into(),
        "index" => match place(text, text.find(one()?)) {
            Some(place) => place.into(),
            None => return Err(refused("substring not found")),
        },
        "count" => text.matches(one()?).count().into(),
        "isspace" => all(is_space).into(),
        "isalpha" => all(char::is_alphabetic).into(),
        "isalnum" => all(char::is_alphanumeric).into(),
        "isdigit" | "isnumeric" | "isdecimal" => all(char::is_numeric).into(),
        "islower" => has_case(text, char::is_lowercase, char::is_uppercase).into(),
        "isupper" => has_case(text, char::is_uppercase, char::is_lowercase).into(),
        "zfill" => {
            let (width,): (usize,) = from_args(arguments)?;
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => (&text[..1], digits),
                None => ("", text),
            };
            let zeros = width.min(LONGEST).saturating_sub(text.chars().count());
            format!("{sign}{}{digits}", "0".repeat(zeros)).into()
        }
        "ljust" => format!("{text}{}", fill(text, arguments)?).into(),
        "rjust" => format!("{}{text}", fill(text, arguments)?).into(),
        "join" => {
            let (items,): (&Value,) = from_args(arguments)?;
            let items: Vec<String> = items.try_iter()?.map(|item| display(&item)).collect();
            items.join(text).into()
        }
        _ => return Ok(None),
    }))
}

/// The widest text that is filled up.
const LONGEST: usize = 1 << 16;

fn refused(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// The filter `trim`.
pub(super) fn trim(value: &Value, letters: Rest<Value>) -> Result<Value, Error> {
    Ok(strip(&display(value), &set(&letters)?, true, true).into())
}

/// The characters that are stripped; nothing for white space.
fn set(arguments: &[Value]) -> Result<Option<Vec<char>>, Error> {
    let (letters,): (Option<&str>,) = from_args(arguments)?;
    Ok(letters.map(|letters| letters.chars().collect()))
}

fn strip<'a>(text: &'a str, letters: &Option<Vec<char>>, start: bool, end: bool) -> &'a str {
    let is_out = |letter: char| match letters {
        Some(letters) => letters.contains(&letter),
        None => is_space(letter),
    };
    let text = if start {
        text.trim_start_matches(is_out)
    } else {
        text
    };
    if end {
        text.trim_end_matches(is_out)
    } else {
        text
    }
}

/// `split` and, from the right, `rsplit`.
fn split(text: &str, arguments: &[Value], right: bool) -> Result<Value, Error> {
    // Either may be named: `split(sep, maxsplit=1)`.
    let named = arguments.last().filter(|last| last.is_kwargs());
    let plain = &arguments[..arguments.len() - usize::from(named.is_some())];
    let (mut by, mut most): (Option<Value>, Option<i64>) = from_args(plain)?;
    if let Some(named) = named {
        for key in named.try_iter()? {
            let value = named.get_item(&key)?;
            match key.as_str() {
                Some("sep") => by = Some(value),
                Some("maxsplit") => most = Some(value.try_into()?),
                _ => return Err(refused(format!("split has no argument `{key}`"))),
            }
        }
    }
    let most = most.and_then(|most| usize::try_from(most).ok());
    let by = by.filter(|by| !by.is_none());
    let parts: Vec<&str> = match by.as_ref().map(|by| by.as_str()) {
        Some(None) => return Err(refused("split expects a text to split at")),
        Some(Some("")) => return Err(refused("empty separator")),
        Some(Some(by)) => match (most, right) {
            (None, _) => text.split(by).collect(),
            (Some(most), false) => text.splitn(most.saturating_add(1), by).collect(),
            (Some(most), true) => {
                let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), by).collect();
                parts.reverse();
                parts
            }
        },
        None => words(text, most.unwrap_or(usize::MAX), right),
    };
    Ok(list(parts))
}

/// The words of a text; of which, after `most` splits, the rest is one.
fn words(text: &str, most: usize, right: bool) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_matches(is_space));
    while !rest.is_empty() && parts.len() < most {
        let (part, behind) = match right {
            false => rest.split_once(is_space).unwrap_or((rest, "")),
            true => match rest.rsplit_once(is_space) {
                Some((before, part)) => (part, before),
                None => (rest, ""),
            },
        };
        parts.push(part);
        rest = behind.trim_matches(is_space);
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    if right {
        parts.reverse();
    }
    parts
}

fn lines(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (keep,): (Option<bool>,) = from_args(arguments)?;
    let is_end = |letter: char| {
        matches!(
            letter,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(is_end) {
        let end = match rest[at..].starts_with("\r\n") {
            true => at + 2,
            false => at + rest[at..].chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep == Some(true) { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    Ok(list(lines))
}

fn list<'a>(parts: impl IntoIterator<Item = &'a str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

/// A place in bytes as one in characters.
fn place(text: &str, at: Option<usize>) -> Option<i64> {
    at.map(|at| text[..at].chars().count() as i64)
}

fn has_case(text: &str, has: fn(char) -> bool, lacks: fn(char) -> bool) -> bool {
    text.chars().any(has) && !text.chars().any(lacks)
}

/// What makes a text as wide as `ljust` and `rjust` are told.
fn fill(text: &str, arguments: &[Value]) -> Result<String, Error> {
    let (width, with): (usize, Option<&str>) = from_args(arguments)?;
    let missing = width.min(LONGEST).saturating_sub(text.chars().count());
    Ok(with.unwrap_or(" ").repeat(missing))
}
