//! What `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` say.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::{
    TokenizerError,
    fields::{CONFIG, SPECIAL_TOKENS_MAP},
};
use crate::closed::{
    Note, Refused,
    json::{self, JsonError},
    shortened,
};

/// The roles of special tokens, in the order in which they are added.
pub(super) const ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

const EXTRA: &str = "extra_special_tokens";
const OLD_EXTRA: &str = "additional_special_tokens";
const SPECIFIC: &str = "model_specific_special_tokens";

/// A special token: its text, and where the file says more, how it is found in texts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Named {
    pub content: String,
    pub token: Option<AddedToken>,
}

impl Named {
    pub fn new(content: &str) -> Self {
        let content = content.to_owned();
        Self {
            content,
            token: None,
        }
    }

    /// The token as it is added to a vocabulary.
    pub fn added(&self) -> AddedToken {
        let token = self.token.clone();
        let token = token.unwrap_or_else(|| AddedToken::from(self.content.clone(), true));
        token.special(true)
    }
}

/// The settings of a folder's tokenizer beside its vocabulary.
#[derive(Debug, Default)]
pub(super) struct Settings {
    path: PathBuf,
    config: Map<String, Value>,
    /// Special tokens by role; `None` where the files say that there is none.
    named: IndexMap<String, Option<Named>>,
    /// Special tokens without a role.
    pub extra: Vec<Named>,
    /// Tokens beside the vocabulary by the id that a file gives them.
    pub added: BTreeMap<u32, AddedToken>,
    /// The file that gives ids.
    pub added_path: PathBuf,
    /// Whether `added` are all there are, and none of `tokenizer.json` beside them.
    pub all_added: bool,
    pub notes: Vec<Note>,
}

impl Settings {
    /// Reads the files of a folder, as far as it has them.
    ///
    /// # Errors
    /// A file is not a JSON object, or a field is refused or of another kind than it should be.
    pub fn read(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join("tokenizer_config.json");
        let mut settings = Self {
            config: object(&path)?.unwrap_or_default(),
            added_path: path.clone(),
            path,
            ..Self::default()
        };
        let specific = settings.take_specific()?;
        settings
            .notes
            .extend(CONFIG.check(&settings.path, &settings.config)?);
        let path = settings.path.clone();
        let config = settings.config.clone();
        settings.read_special(&path, &config, false)?;
        let decoder = config.get("added_tokens_decoder");
        let decoder = decoder.filter(|tokens| !tokens.is_null());
        settings.all_added = decoder.is_some();
        match decoder {
            Some(tokens) => settings.read_decoder(tokens)?,
            None => settings.read_old_files(dir)?,
        }
        settings.named.extend(specific);
        // A token that is added with more is meant so wherever it is named.
        let tokens = &settings.added;
        for named in settings.named.values_mut().flatten() {
            let same = tokens.values().find(|token| token.content == named.content);
            if let Some(token) = same {
                named.token = Some(token.clone());
            }
        }
        Ok(settings)
    }

    /// Tokens of roles that are not transformers' own, such as `image_token`.
    fn take_specific(&mut self) -> Result<IndexMap<String, Option<Named>>, TokenizerError> {
        let names: Vec<String> = self
            .config
            .iter()
            .filter(|(name, value)| {
                name.ends_with("_token") && !ROLES.contains(&&***name) && is_token(value)
            })
            .map(|(name, _)| name.clone())
            .filter(|name| CONFIG.get(name).is_none())
            .collect();
        let mut specific = IndexMap::new();
        for name in names {
            if let Some(value) = self.config.shift_remove(&name) {
                let token = named(&self.path, &name, &value, false)?;
                specific.insert(name, token);
            }
        }
        match self.config.get(SPECIFIC) {
            None | Some(Value::Null) => {}
            Some(Value::Object(tokens)) => {
                for (name, value) in tokens {
                    specific.insert(name.clone(), named(&self.path, name, value, false)?);
                }
            }
            Some(other) => {
                let expected = "an object of names and tokens";
                return Err(wrong(&self.path, SPECIFIC, other, expected));
            }
        }
        Ok(specific)
    }

    fn read_special(
        &mut self,
        path: &Path,
        object: &Map<String, Value>,
        special: bool,
    ) -> Result<(), TokenizerError> {
        for role in ROLES {
            if let Some(value) = object.get(role) {
                self.named
                    .insert(role.into(), named(path, role, value, special)?);
            }
        }
        let field = [EXTRA, OLD_EXTRA]
            .into_iter()
            .find(|f| object.contains_key(*f));
        match field.and_then(|field| Some((field, object.get(field)?))) {
            None | Some((_, Value::Null)) => {}
            Some((_, Value::Object(tokens))) => {
                for (name, value) in tokens {
                    let token = named(path, name, value, special)?;
                    self.named.insert(name.clone(), token);
                }
            }
            Some((field, Value::Array(tokens))) => {
                for value in tokens {
                    let token = named(path, field, value, special)?.ok_or_else(|| {
                        wrong(
                            path,
                            field,
                            value,
                            "a list of tokens, each a text or an object",
                        )
                    })?;
                    if !self.extra.contains(&token) {
                        self.extra.push(token);
                    }
                }
            }
            Some((field, value)) => {
                return Err(wrong(path, field, value, "a list of tokens"));
            }
        }
        Ok(())
    }

    fn read_decoder(&mut self, tokens: &Value) -> Result<(), TokenizerError> {
        const FIELD: &str = "added_tokens_decoder";
        let expected = "an object of ids and tokens";
        let refused = |found| wrong(&self.path, FIELD, found, expected);
        let Value::Object(tokens) = tokens else {
            return Err(refused(tokens));
        };
        for (id, token) in tokens {
            let token = match token {
                Value::Object(fields) => added_token(&self.path, FIELD, fields, false)?,
                other => return Err(refused(other)),
            };
            let id = id.parse().map_err(|_| TokenizerError::Invalid {
                path: self.path.clone(),
                cause: format!("`{FIELD}` has {id:?}; expected ids of tokens"),
            })?;
            self.added.insert(id, token);
        }
        Ok(())
    }

    /// The files that transformers wrote before `added_tokens_decoder`.
    fn read_old_files(&mut self, dir: &Path) -> Result<(), TokenizerError> {
        let path = dir.join("special_tokens_map.json");
        if let Some(map) = object(&path)? {
            self.notes.extend(SPECIAL_TOKENS_MAP.check(&path, &map)?);
            self.read_special(&path, &map, true)?;
        }
        let path = dir.join("added_tokens.json");
        let Some(tokens) = object(&path)? else {
            return Ok(());
        };
        for (content, id) in tokens {
            let id = id
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| wrong(&path, &content, &id, "the id of this token"))?;
            let named = self.named.values().flatten().chain(&self.extra);
            let special = named.into_iter().any(|named| named.content == content);
            let token = AddedToken::from(content, special);
            self.added.insert(id, token);
        }
        self.added_path = path;
        Ok(())
    }

    /// Whether `tokenizer_config.json` says anything of how text is split.
    pub fn say_how_to_split(&self) -> bool {
        const FIELDS: [&str; 6] = [
            "do_lower_case",
            "strip_accents",
            "tokenize_chinese_chars",
            "split_by_punct",
            "add_prefix_space",
            "legacy",
        ];
        let set = |field: &&str| {
            self.config
                .get(*field)
                .is_some_and(|value| !value.is_null())
        };
        FIELDS.iter().any(set)
    }

    /// What `tokenizer_config.json` says.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The value of a field that is true or false.
    pub fn flag(&self, field: &str) -> Result<Option<bool>, TokenizerError> {
        match self.config.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(set)) => Ok(Some(*set)),
            Some(other) => Err(wrong(&self.path, field, other, "true or false")),
        }
    }

    /// The value of a field that is a text.
    pub fn text(&self, field: &str) -> Result<Option<&str>, TokenizerError> {
        match self.config.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.path, field, other, "a text")),
        }
    }

    /// The value of a field that is a whole number.
    pub fn number(&self, field: &str) -> Result<Option<usize>, TokenizerError> {
        match self.config.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(&self.path, field, value, "a whole number from 0")),
            },
        }
    }

    /// What the model is given, where the file says it.
    pub fn input_names(&self) -> Result<Option<Vec<&str>>, TokenizerError> {
        const FIELD: &str = "model_input_names";
        let value = match self.config.get(FIELD) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        let names = value.as_array().and_then(|names| {
            let names = names.iter().map(Value::as_str);
            names.collect::<Option<Vec<_>>>()
        });
        names
            .map(Some)
            .ok_or_else(|| wrong(&self.path, FIELD, value, "a list of names"))
    }

    /// The error that a field of `tokenizer_config.json` cannot be as it is.
    pub fn refused(&self, field: &str, expected: &str) -> TokenizerError {
        let found = self.config.get(field).unwrap_or(&Value::Null);
        wrong(&self.path, field, found, expected)
    }

    /// The special token of a role: the files', or else the usual one.
    pub fn special(&self, role: &str, usual: Option<&str>) -> Option<Named> {
        match self.named.get(role) {
            Some(named) => named.clone(),
            None => usual.map(Named::new),
        }
    }

    /// The roles that files name, transformers' own first.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        let specific = self.named.keys().map(String::as_str);
        let specific = specific.filter(|role| !ROLES.contains(role));
        ROLES.into_iter().chain(specific)
    }
}

/// The object of a file, if it is there.
fn object(path: &Path) -> Result<Option<Map<String, Value>>, JsonError> {
    match path.is_file() {
        true => json::object(path, json::LIMIT).map(Some),
        false => Ok(None),
    }
}

fn wrong(path: &Path, field: &str, found: &Value, expected: &str) -> TokenizerError {
    TokenizerError::Field(Refused {
        path: path.to_owned(),
        field: field.to_owned(),
        found: shortened(found),
        expected: format!("expected {expected}"),
    })
}

fn is_token(value: &Value) -> bool {
    matches!(value, Value::String(_)) || value.get("content").is_some_and(Value::is_string)
}

/// A token that is written as its text, or as an object with the text in `content`; `special` where
/// the object does not say it.
fn named(
    path: &Path,
    field: &str,
    value: &Value,
    special: bool,
) -> Result<Option<Named>, TokenizerError> {
    match value {
        Value::Null => Ok(None),
        Value::String(content) if !content.is_empty() => Ok(Some(Named::new(content))),
        Value::Object(fields) => {
            let token = added_token(path, field, fields, special)?;
            Ok(Some(Named {
                content: token.content.clone(),
                token: Some(token),
            }))
        }
        other => Err(wrong(
            path,
            field,
            other,
            "a token: a text, or an object with its `content`",
        )),
    }
}

fn added_token(
    path: &Path,
    field: &str,
    fields: &Map<String, Value>,
    special: bool,
) -> Result<AddedToken, TokenizerError> {
    let whole = || Value::Object(fields.clone());
    let content = match fields.get("content") {
        Some(Value::String(content)) if !content.is_empty() => content.clone(),
        _ => {
            return Err(wrong(
                path,
                field,
                &whole(),
                "a token with a text as its `content`",
            ));
        }
    };
    let mut token = AddedToken::from(content, special);
    let mut normalized = None;
    for (name, value) in fields {
        let expected = || format!("that `{name}` of {:?} is true or false", token.content);
        let set = match (&**name, value) {
            ("content" | "__type" | "id", _) => continue,
            (_, Value::Bool(set)) => *set,
            ("normalized", Value::Null) => continue,
            _ => return Err(wrong(path, field, value, &expected())),
        };
        match &**name {
            "single_word" => token.single_word = set,
            "lstrip" => token.lstrip = set,
            "rstrip" => token.rstrip = set,
            "normalized" => normalized = Some(set),
            // In `special_tokens_map.json` all are.
            "special" => token.special = special || set,
            _ => {
                let expected = format!("a token without `{name}`, which is not known");
                return Err(wrong(path, field, &whole(), &expected));
            }
        }
    }
    token.normalized = normalized.unwrap_or(!token.special);
    Ok(token)
}
