//! The tokenizer of a GGUF file, as a `tokenizer.json`.

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::{TokenizerError, template};
use crate::{
    chat::ChatTemplate,
    closed::{Field, Table, Unknown, applied, inert, unset},
    gguf::{Gguf, GgufError},
};

const KIND: &str = "tokenizer.ggml.model";
const SPLIT: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";

/// The keys of a GGUF file's metadata that describe its tokenizer.
pub const TABLE: Table = Table {
    file: "GGUF metadata of the tokenizer",
    fields: &[FIELDS],
    unknown: Unknown::Refused,
};

const IDS: &str = "no text is made with this token here";
const FAMILY: &str = "it is of another kind of tokenizer than gpt2";
const FIELDS: &[Field] = &[
    applied(KIND, "gpt2; others are refused"),
    applied(SPLIT, "how text is split into words"),
    applied(TOKENS, "the vocabulary"),
    applied(
        TYPES,
        "normal, unknown, control, user-defined and unused tokens",
    ),
    applied("tokenizer.ggml.merges", "pairs that are merged"),
    inert("tokenizer.ggml.scores", "gpt2 merges pairs in their order"),
    applied("tokenizer.ggml.bos_token_id", "what texts begin with"),
    applied("tokenizer.ggml.eos_token_id", "what texts end with"),
    applied("tokenizer.ggml.padding_token_id", "what pads"),
    applied(
        "tokenizer.ggml.add_bos_token",
        "whether texts begin with it",
    ),
    applied("tokenizer.ggml.add_eos_token", "whether texts end with it"),
    inert("tokenizer.ggml.unknown_token_id", "`token_type` says it"),
    inert("tokenizer.ggml.eot_token_id", "an end for generation"),
    inert("tokenizer.ggml.eom_token_id", "an end for generation"),
    inert("tokenizer.ggml.seperator_token_id", IDS),
    inert("tokenizer.ggml.cls_token_id", IDS),
    inert("tokenizer.ggml.mask_token_id", IDS),
    inert("tokenizer.ggml.prefix_token_id", IDS),
    inert("tokenizer.ggml.suffix_token_id", IDS),
    inert("tokenizer.ggml.middle_token_id", IDS),
    inert("tokenizer.ggml.fim_pre_token_id", IDS),
    inert("tokenizer.ggml.fim_suf_token_id", IDS),
    inert("tokenizer.ggml.fim_mid_token_id", IDS),
    inert("tokenizer.ggml.fim_pad_token_id", IDS),
    inert("tokenizer.ggml.fim_rep_token_id", IDS),
    inert("tokenizer.ggml.fim_sep_token_id", IDS),
    inert(
        "tokenizer.ggml.token_type_count",
        "decoders have no segments",
    ),
    inert("tokenizer.ggml.add_space_prefix", FAMILY),
    inert("tokenizer.ggml.remove_extra_whitespaces", FAMILY),
    inert("tokenizer.ggml.escape_whitespaces", FAMILY),
    unset(
        "tokenizer.ggml.add_sep_token",
        "separators are not added; put the model's tokenizer.json beside the file",
    ),
    unset("tokenizer.ggml.precompiled_charsmap", FAMILY),
    unset(
        "tokenizer.ggml.normalizer.lowercase",
        "put the model's tokenizer.json beside the file",
    ),
    inert(
        "tokenizer.huggingface.json",
        "the other keys say the same of it",
    ),
    unset("tokenizer.rwkv.world", FAMILY),
    applied(TEMPLATE, "how conversations are written"),
    applied("tokenizer.chat_template.{name}", "the same, by name"),
    inert(
        "tokenizer.chat_templates",
        "the keys of the templates are their names",
    ),
];

const TEMPLATE: &str = "tokenizer.chat_template";

/// How words are split off in a `gpt2` vocabulary.
struct Split {
    normalizer: Value,
    pre_tokenizer: Value,
    /// Whether words of the vocabulary are tokens whatever the merges say.
    whole_words: bool,
    /// Whether texts begin with the first token where the file does not say.
    begins: bool,
}

impl Split {
    fn named(name: Option<&str>) -> Option<Self> {
        let bytes = |use_regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                   "use_regex": use_regex})
        };
        let words = |digits: &str| {
            let pattern = format!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            );
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
                bytes(false)]})
        };
        let split = |pre_tokenizer| Self {
            normalizer: Value::Null,
            pre_tokenizer,
            whole_words: false,
            begins: false,
        };
        Some(match name {
            None | Some("gpt-2") => split(bytes(true)),
            Some("smollm") => split(json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true}, bytes(true)]})),
            Some("qwen2" | "deepseek-r1-qwen") => Self {
                normalizer: json!({"type": "NFC"}),
                ..split(words(""))
            },
            Some("llama-bpe" | "llama3" | "llama-v3") => Self {
                whole_words: true,
                begins: true,
                ..split(words("{1,3}"))
            },
            Some(_) => return None,
        })
    }
}

/// What a token is for, as llama.cpp numbers it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
}

/// What would be in `tokenizer.json`, and the id of the padding token, or else of the end.
///
/// # Errors
/// The tokenizer is of a kind that is not supported, or its keys do not fit together.
pub(super) fn tokenizer_json(file: &Gguf) -> Result<(Value, Option<u32>), TokenizerError> {
    check(file)?;
    let text = |key| file.get(key).and_then(Value::as_str);
    if text(KIND) != Some("gpt2") {
        let expected = "gpt2; for others put the model's tokenizer.json beside the file";
        return Err(file.wrong(KIND, expected).into());
    }
    let known = "gpt-2, smollm, llama-bpe or qwen2; for others put the model's tokenizer.json \
                 beside the file";
    let split = Split::named(text(SPLIT)).ok_or_else(|| file.wrong(SPLIT, known))?;
    let owned = tokens(file)?;
    let tokens = owned.iter().map(|(token, kind)| (&**token, *kind));
    let tokens: Vec<(&str, Kind)> = tokens.collect();
    let vocab = vocabulary(file, &tokens)?;
    let unknown = tokens.iter().find(|(_, kind)| *kind == Kind::Unknown);
    let unknown = unknown.map(|&(token, _)| token);

    let tokens = Tokens { file, tokens };
    let begin = tokens.added_role("add_bos_token", "bos_token_id", split.begins)?;
    let end = tokens.added_role("add_eos_token", "eos_token_id", false)?;
    let special = |found: Option<(usize, &str)>| {
        let (id, token) = found?;
        Some((token.to_owned(), u32::try_from(id).ok()?))
    };
    let around = match (special(begin), special(end)) {
        (None, None) => Value::Null,
        (begin, end) => template::around(begin.as_ref(), end.as_ref()),
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": tokens.added(), "normalizer": split.normalizer,
        "pre_tokenizer": split.pre_tokenizer, "post_processor": around,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                    "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false,
                  "ignore_merges": split.whole_words, "vocab": vocab,
                  "merges": file.list("tokenizer.ggml.merges")?},
    });
    tokens.role("bos_token_id")?;
    let pad = tokens.role("padding_token_id")?;
    let pad = pad.or(tokens.role("eos_token_id")?);
    Ok((tokenizer, pad.and_then(|(id, _)| u32::try_from(id).ok())))
}

/// The id of each token that is used.
fn vocabulary<'a>(
    file: &Gguf,
    tokens: &[(&'a str, Kind)],
) -> Result<IndexMap<&'a str, usize>, TokenizerError> {
    let mut vocab = IndexMap::with_capacity(tokens.len());
    for (id, &(token, kind)) in tokens.iter().enumerate() {
        if kind == Kind::Unused {
            continue;
        }
        if let Some(first) = vocab.insert(token, id) {
            let cause = format!("tokens {first} and {id} of `{TOKENS}` are both {token:?}");
            return Err(file.damaged(cause).into());
        }
    }
    Ok(vocab)
}

/// A file's tokens by their ids.
struct Tokens<'a> {
    file: &'a Gguf,
    tokens: Vec<(&'a str, Kind)>,
}

impl<'a> Tokens<'a> {
    /// Those that are found in a text before it is split.
    fn added(&self) -> Vec<Value> {
        let added = self.tokens.iter().enumerate();
        let added = added.filter_map(|(id, &(token, kind))| {
            let special = match kind {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Unused => return None,
            };
            Some(
                json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                       "rstrip": false, "normalized": false, "special": special}),
            )
        });
        added.collect()
    }

    /// The token that a key names by its id, if the key is there.
    fn role(&self, key: &str) -> Result<Option<(usize, &'a str)>, GgufError> {
        let key = format!("tokenizer.ggml.{key}");
        let Some(value) = self.file.get(&key) else {
            return Ok(None);
        };
        let id = value.as_u64().and_then(|id| usize::try_from(id).ok());
        let token = id.and_then(|id| Some((id, self.tokens.get(id)?.0)));
        let expected = || format!("the id of one of the {} tokens", self.tokens.len());
        token
            .map(Some)
            .ok_or_else(|| self.file.wrong(&key, &expected()))
    }

    /// The token that is put around every text, if `key` says so, or `default` where it is not there.
    fn added_role(
        &self,
        key: &str,
        id_key: &str,
        default: bool,
    ) -> Result<Option<(usize, &'a str)>, GgufError> {
        let full = format!("tokenizer.ggml.{key}");
        let given = self.file.get(&full);
        let adds = match given {
            None => default,
            Some(Value::Bool(adds)) => *adds,
            Some(_) => return Err(self.file.wrong(&full, "true or false")),
        };
        if !adds {
            return Ok(None);
        }
        match self.role(id_key)? {
            Some(token) => Ok(Some(token)),
            None if given.is_none() => Ok(None),
            None => Err(self.file.wrong(
                &format!("tokenizer.ggml.{id_key}"),
                &format!("the token that `{full}` adds"),
            )),
        }
    }
}

/// How the file says that conversations are written.
///
/// # Errors
/// A template is no text.
pub(super) fn chat_template(file: &Gguf) -> Result<Option<ChatTemplate>, TokenizerError> {
    let named = file.values("tokenizer.").filter_map(|(key, value)| {
        let name = key.strip_prefix(TEMPLATE)?;
        let name = if name.is_empty() {
            "default"
        } else {
            name.strip_prefix('.')?
        };
        let jinja = value.as_str().map(str::to_owned);
        Some(
            jinja
                .map(|jinja| (name.to_owned(), jinja))
                .ok_or_else(|| file.wrong(key, "a text")),
        )
    });
    let named = named.collect::<Result<Vec<_>, _>>()?;
    if named.is_empty() {
        return Ok(None);
    }
    let owned = tokens(file)?;
    let tokens = owned
        .iter()
        .map(|(token, kind)| (&**token, *kind))
        .collect();
    let tokens = Tokens { file, tokens };
    let mut special = serde_json::Map::new();
    for (role, key) in [
        ("bos_token", "bos_token_id"),
        ("eos_token", "eos_token_id"),
        ("pad_token", "padding_token_id"),
    ] {
        if let Some((_, token)) = tokens.role(key)? {
            special.insert(role.to_owned(), token.into());
        }
    }
    let origin = file.path().display().to_string();
    Ok(Some(
        ChatTemplate::named(named, origin).with_special(special),
    ))
}

/// Checks the keys that describe the tokenizer.
fn check(file: &Gguf) -> Result<(), TokenizerError> {
    let own = file.values("tokenizer.");
    let own = own.filter(|(key, _)| !key.starts_with("tokenizer.chat_template."));
    let own = own.map(|(key, value)| (key.to_owned(), value)).collect();
    TABLE.check(file.path(), &own)?;
    Ok(())
}

/// The tokens by id, with their kinds.
fn tokens(file: &Gguf) -> Result<Vec<(String, Kind)>, GgufError> {
    let (tokens, kinds) = (file.list(TOKENS)?, file.list(TYPES)?);
    if tokens.len() != kinds.len() {
        let (tokens, kinds) = (tokens.len(), kinds.len());
        let cause = format!("`{TOKENS}` has {tokens} tokens, but `{TYPES}` {kinds}");
        return Err(file.damaged(cause));
    }
    let kind = |id: usize, kind: &Value| match kind.as_i64() {
        Some(1) => Ok(Kind::Normal),
        Some(2) => Ok(Kind::Unknown),
        Some(3) => Ok(Kind::Control),
        Some(4) => Ok(Kind::UserDefined),
        Some(5) => Ok(Kind::Unused),
        _ => Err(file.damaged(format!(
            "`{TYPES}` of token {id} is {kind}; a gpt2 vocabulary has normal (1), unknown (2), \
             control (3), user-defined (4) and unused (5) tokens"
        ))),
    };
    let tokens = tokens.into_iter().zip(&kinds).enumerate();
    tokens
        .map(|(id, (token, number))| match token {
            Value::String(token) => Ok((token, kind(id, number)?)),
            _ => Err(file.damaged(format!("token {id} of `{TOKENS}` is no text"))),
        })
        .collect()
}
