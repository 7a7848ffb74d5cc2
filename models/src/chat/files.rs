//! The templates of a model's folder.

use std::{fs, path::Path};

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::{ChatError, ChatTemplate, template::DEFAULT};
use crate::closed::json;

const FIELD: &str = "chat_template";
const JINJA: &str = "chat_template.jinja";
const JSON: &str = "chat_template.json";
/// A folder of further templates, each a file.
const FOLDER: &str = "additional_chat_templates";
/// Bytes of a template that are read at most.
const LIMIT: u64 = 1 << 20;

/// The templates of a folder, whose `tokenizer_config.json` is `config`; nothing, if it has none.
/// Files of their own come before the field, as in transformers.
///
/// # Errors
/// A file cannot be read, or the field holds something else.
pub(crate) fn from_dir(
    dir: &Path,
    config: &Map<String, Value>,
) -> Result<Option<ChatTemplate>, ChatError> {
    let mut found = IndexMap::new();
    let path = dir.join(JINJA);
    if path.is_file() {
        found.insert(DEFAULT.to_owned(), text(&path)?);
    }
    let folder = dir.join(FOLDER);
    if let Ok(entries) = fs::read_dir(&folder) {
        let mut names: Vec<_> = entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .collect();
        names.sort();
        for path in names {
            let name = path.file_stem().and_then(|name| name.to_str());
            if let (Some(name), Some("jinja")) = (name, path.extension().and_then(|e| e.to_str())) {
                found.insert(name.to_owned(), text(&path)?);
            }
        }
    }
    if !found.is_empty() {
        let origin = dir.join(if path.is_file() { JINJA } else { FOLDER });
        return Ok(Some(ChatTemplate::named(
            found,
            origin.display().to_string(),
        )));
    }
    let path = dir.join(JSON);
    if path.is_file()
        && let Some(template) = field(&path, &json::object(&path, LIMIT)?)?
    {
        return Ok(Some(template));
    }
    field(&dir.join("tokenizer_config.json"), config)
}

/// The templates of a field: a text, or a list of names and texts.
fn field(path: &Path, object: &Map<String, Value>) -> Result<Option<ChatTemplate>, ChatError> {
    let origin = path.display().to_string();
    let wrong = || ChatError::File {
        path: path.to_owned(),
        expected: format!(
            "`{FIELD}` to be a text, or a list of objects with `name` and `template`"
        ),
    };
    let entry = |entry: &Value| {
        let text = |name: &str| Some(entry.get(name)?.as_str()?.to_owned());
        text("name").zip(text("template")).ok_or_else(wrong)
    };
    match object.get(FIELD) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(jinja)) => Ok(Some(ChatTemplate::new(jinja, origin))),
        Some(Value::Array(entries)) if !entries.is_empty() => {
            let entries = entries.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
            Ok(Some(ChatTemplate::named(entries, origin)))
        }
        Some(_) => Err(wrong()),
    }
}

/// The template in a file.
///
/// # Errors
/// It cannot be read, or is too long.
pub(super) fn text(path: &Path) -> Result<String, ChatError> {
    let wrong = |expected: &str| ChatError::File {
        path: path.to_owned(),
        expected: expected.to_owned(),
    };
    let is_short = fs::metadata(path).is_ok_and(|about| about.len() <= LIMIT);
    match is_short {
        true => fs::read_to_string(path).map_err(|_| wrong("a Jinja template in UTF-8")),
        false => Err(wrong("a Jinja template of at most 1 MiB")),
    }
}
