//! `tojson` as transformers defines it: Python's `json.dumps`, without escapes for HTML.

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};

use super::python;

/// How JSON is written.
struct Style {
    ensure_ascii: bool,
    sort_keys: bool,
    /// What a level is indented by, if every item has a line of its own.
    indent: Option<String>,
    between_items: String,
    behind_key: String,
}

/// The filter `tojson`.
///
/// # Errors
/// An argument that `json.dumps` is not given by transformers, or a value that is no JSON.
pub(super) fn tojson(value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let given = |name: &str| -> Result<Option<Value>, Error> {
        let value: Option<Value> = arguments.get(name)?;
        Ok(value.filter(|value| !value.is_none()))
    };
    let flag = |name: &str| Ok::<_, Error>(given(name)?.is_some_and(|value| value.is_true()));
    let indent = match given("indent")? {
        None => None,
        Some(value) => Some(match value.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(value)?.min(64)),
        }),
    };
    let separators = match given("separators")? {
        None => None,
        Some(value) => {
            let parts: Vec<Value> = value.try_iter()?.collect();
            match &parts[..] {
                [items, keys] => Some((python::display(items), python::display(keys))),
                _ => return Err(refused("`separators` of tojson are two texts")),
            }
        }
    };
    let usual = if indent.is_some() { "," } else { ", " };
    let usual = (usual.to_owned(), ": ".to_owned());
    let (between_items, behind_key) = separators.unwrap_or(usual);
    let style = Style {
        ensure_ascii: flag("ensure_ascii")?,
        sort_keys: flag("sort_keys")?,
        indent,
        between_items,
        behind_key,
    };
    arguments.assert_all_used()?;
    let mut text = String::new();
    style.write(value, 0, &mut text)?;
    Ok(text.into())
}

fn refused(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            _ if depth > python::DEPTH => return Err(refused("a value is too deep for JSON")),
            ValueKind::None => *out += "null",
            ValueKind::Bool => *out += if value.is_true() { "true" } else { "false" },
            ValueKind::Number => *out += &number(value),
            ValueKind::String => self.quote(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items(['[', ']'], items, depth, out, |item, out| {
                    self.write(&item, depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.items(['{', '}'], keys, depth, out, |key, out| {
                    self.quote(&name(&key)?, out);
                    *out += &self.behind_key;
                    self.write(&value.get_item(&key)?, depth + 1, out)
                })?;
            }
            kind => return Err(refused(format!("a value of type {kind} is no JSON"))),
        }
        Ok(())
    }

    fn items(
        &self,
        [open, close]: [char; 2],
        items: Vec<Value>,
        depth: usize,
        out: &mut String,
        write: impl Fn(Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                *out += &indent.repeat(depth);
            }
        };
        let is_empty = items.is_empty();
        out.push(open);
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                *out += &self.between_items;
            }
            new_line(depth + 1, out);
            write(item, out)?;
        }
        if !is_empty {
            new_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn quote(&self, text: &str, out: &mut String) {
        out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => *out += "\\\"",
                '\\' => *out += "\\\\",
                '\n' => *out += "\\n",
                '\r' => *out += "\\r",
                '\t' => *out += "\\t",
                '\x08' => *out += "\\b",
                '\x0c' => *out += "\\f",
                '\0'..='\x1f' => *out += &format!("\\u{:04x}", u32::from(letter)),
                _ if self.ensure_ascii && !matches!(letter, ' '..='~') => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        *out += &format!("\\u{unit:04x}");
                    }
                }
                _ => out.push(letter),
            }
        }
        out.push('"');
    }
}

fn number(value: &Value) -> String {
    match &*python::number(value) {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        number => number.to_owned(),
    }
}

/// The name that `json.dumps` makes of a key.
fn name(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => key.is_true().to_string(),
        ValueKind::Number => number(key),
        kind => return Err(refused(format!("a key of type {kind} is no JSON"))),
    })
}
