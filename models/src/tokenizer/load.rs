//! A folder's tokenizer, put together as transformers does.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokenizers::{
    AddedToken, Encoding as Tokens, ModelWrapper, PaddingDirection, PostProcessorWrapper, Token,
    Tokenizer as Inner, TruncationDirection,
};

use super::{
    JSON, Tokenizer, TokenizerError,
    class::Class,
    convert, files, gguf, limits,
    settings::{Named, ROLES, Settings},
    template,
};
use crate::{
    chat::{self, ChatTemplate},
    closed::{Note, json as object},
    gguf::Gguf,
};

/// The tokenizer of a folder.
///
/// # Errors
/// As [`Tokenizer::from_dir`].
pub(super) fn from_dir(dir: &Path) -> Result<Tokenizer, TokenizerError> {
    let settings = Settings::read(dir)?;
    let config = config(dir);
    let field = |name: &str| config.get(name).and_then(Value::as_str);
    let named = settings
        .text("tokenizer_class")?
        .or_else(|| field("tokenizer_class"));
    let class = Class::of(field("model_type"), named);
    let path = dir.join(JSON);
    if path.is_file() {
        // Who says that all of it is in the file means the file.
        let file = Class::of(None, named) == Some(Class::File);
        let explicit = named.is_some() && !file || settings.say_how_to_split();
        return Loader::of_json(dir, path, settings, class, explicit)?.finish();
    }
    let gguf = match files(|name| dir.join(name).is_file()) {
        Some(_) => None,
        None => crate::gguf::find(dir)?,
    };
    if let Some(path) = gguf {
        let file = Gguf::open(&path)?;
        let (json, pad) = gguf::tokenizer_json(&file)?;
        let inner = parse(&path, json.to_string().as_bytes())?;
        let loader = Loader::new(dir, path, settings, None, inner);
        let chat_template = gguf::chat_template(&file)?;
        return Loader {
            pad,
            chat_template,
            ..loader
        }
        .finish();
    }
    let class = match (class, named) {
        // A type of models without a class of its own: what its files are tells.
        (Some(Class::File), None | Some("LlamaTokenizer" | "LlamaTokenizerFast")) => None,
        _ => class,
    };
    let source = convert::source(dir, &settings, class)?;
    let inner = parse(&source.path, source.json.to_string().as_bytes())?;
    let mut loader = Loader::new(dir, source.path, settings, Some(source.class), inner);
    loader.marked = source.marked;
    loader.made = true;
    loader.told = class.is_some();
    loader.finish()
}

/// A folder's `config.json`, which is checked elsewhere.
fn config(dir: &Path) -> Map<String, Value> {
    object::object(&dir.join("config.json"), object::LIMIT).unwrap_or_default()
}

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Inner, TokenizerError> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        let cause = format!("expected JSON, found {}", convert::kind_of(bytes));
        let path = path.to_owned();
        return Err(TokenizerError::Invalid { path, cause });
    }
    limits::load(path, || {
        limits::check_costs(bytes)?;
        Inner::from_bytes(bytes)
    })
}

/// A tokenizer that is being put together.
pub(super) struct Loader<'a> {
    pub(super) dir: &'a Path,
    /// The file that has the vocabulary.
    pub(super) path: PathBuf,
    pub(super) settings: Settings,
    pub(super) class: Option<Class>,
    pub(super) inner: Inner,
    /// Tokens that the vocabulary itself marks.
    marked: Vec<AddedToken>,
    /// Whether it was made by its class, and not read from `tokenizer.json`.
    made: bool,
    /// Whether files say of which class it is.
    told: bool,
    /// Whether `tokenizer_config.json` says of which class it is, or what that does.
    pub(super) explicit: bool,
    /// Whether `tokenizer.json` is used as it is, whatever its class.
    pub(super) as_is: bool,
    /// What pads, where the file with the vocabulary says it.
    pad: Option<u32>,
    /// How conversations are written, where that file says it.
    chat_template: Option<ChatTemplate>,
    pub(super) notes: Vec<Note>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        dir: &'a Path,
        path: PathBuf,
        settings: Settings,
        class: Option<Class>,
        inner: Inner,
    ) -> Self {
        Self {
            dir,
            path,
            class,
            inner,
            marked: Vec::new(),
            made: false,
            told: true,
            explicit: false,
            as_is: false,
            pad: None,
            chat_template: None,
            notes: settings.notes.clone(),
            settings,
        }
    }

    pub(super) fn invalid(&self, cause: String) -> TokenizerError {
        let path = self.path.clone();
        TokenizerError::Invalid { path, cause }
    }

    pub(super) fn component<T: DeserializeOwned>(&self, value: Value) -> Result<T, TokenizerError> {
        serde_json::from_value(value).map_err(|error| self.invalid(error.to_string()))
    }

    /// Adds tokens, and what is put around texts; then checks what comes out.
    fn finish(mut self) -> Result<Tokenizer, TokenizerError> {
        self.add_tokens()?;
        self.set_post_processor()?;
        let split = self.settings.flag("split_special_tokens")?.unwrap_or(false);
        self.inner.set_encode_special_tokens(split);
        let pad_id = self.pad_id()?;
        let truncation = self.truncation()?;
        let pads_left = self.pads_left()?;
        let cleanup = self.cleanup()?;
        let chat_template = self.chat_template()?;
        let segments = match (self.settings.input_names()?, self.class) {
            (Some(names), _) => names.contains(&"token_type_ids"),
            (None, Some(class)) if self.told => class.gives_segments() || class == Class::Other,
            (None, _) => true,
        };
        let path = self.path.clone();
        self.inner.with_padding(None);
        limits::load(&path, || self.inner.with_truncation(None).map(|_| ()))?;
        let largest = self.largest_id()?;
        Ok(Tokenizer {
            inner: self.inner,
            truncation,
            pads_left,
            cleanup,
            segments,
            segment_limit: None,
            pad_id,
            largest,
            chat_template: chat_template.map(Arc::new),
            notes: self.notes,
        })
    }

    /// Adds the tokens that files give ids, then the special ones.
    fn add_tokens(&mut self) -> Result<(), TokenizerError> {
        let path = self.path.clone();
        let mut tokens: Vec<AddedToken> = self.settings.added.values().cloned().collect();
        let known = self.inner.get_added_tokens_decoder().into_values();
        let mut known: HashSet<String> = known
            .chain(tokens.iter().cloned())
            .map(|token| token.content)
            .collect();
        let class = self.class;
        let mut special: Vec<Named> = Vec::new();
        for role in self.settings.roles() {
            let usual = class.and_then(|class| class.special(role));
            // These are in no file of a vocabulary; what others lack, their models lack too.
            let outside = match class {
                Some(Class::DebertaV2) => true,
                Some(Class::Qwen2) => self.made,
                _ => false,
            };
            let usual = usual.filter(|token| outside || self.inner.token_to_id(token).is_some());
            special.extend(self.settings.special(role, usual));
        }
        special.extend(self.settings.extra.iter().cloned());
        for named in &special {
            if known.insert(named.content.clone()) {
                tokens.push(named.added());
            }
        }
        let marked = std::mem::take(&mut self.marked);
        tokens.extend(
            marked
                .into_iter()
                .filter(|token| known.insert(token.content.clone())),
        );
        if !tokens.is_empty() {
            limits::load(&path, || self.inner.add_tokens(tokens))?;
        }
        if class == Some(Class::Qwen2) {
            let plain = special.iter();
            let plain = plain.map(|named| AddedToken::from(named.content.clone(), true));
            limits::load(&path, || self.inner.add_tokens(plain.collect::<Vec<_>>()))?;
        }
        for (&id, token) in &self.settings.added {
            let found = self.inner.token_to_id(&token.content);
            if found != Some(id) {
                let file = self.path.file_name().unwrap_or_default().to_string_lossy();
                let found = found.map_or("none".into(), |found| found.to_string());
                return Err(TokenizerError::Invalid {
                    path: self.settings.added_path.clone(),
                    cause: format!(
                        "it gives token {:?} the id {id}, but with {file} it has the id {found}; \
                         are both files of the same tokenizer?",
                        token.content
                    ),
                });
            }
        }
        Ok(())
    }

    /// The special token of a role, as it is in the vocabulary.
    fn role(&self, role: &str) -> Option<(String, u32)> {
        let usual = self.class.and_then(|class| class.special(role));
        let content = self.settings.special(role, usual)?.content;
        let id = self.inner.token_to_id(&content)?;
        Some((content, id))
    }

    fn set_post_processor(&mut self) -> Result<(), TokenizerError> {
        let class = self.class.filter(|_| !self.as_is);
        if let Some(class) = class
            && let Some(made) = self.post_processor(class)?
        {
            self.inner.with_post_processor(Some(made));
        }
        Ok(())
    }

    /// What a class puts around texts; nothing where `tokenizer.json` says it.
    pub(super) fn post_processor(
        &self,
        class: Class,
    ) -> Result<Option<PostProcessorWrapper>, TokenizerError> {
        let made = match class {
            Class::Bert | Class::DebertaV2 | Class::Roberta => {
                let needed = |role: &str| {
                    self.role(role).ok_or_else(|| {
                        self.invalid(format!(
                            "{} puts its `{role}` around texts, and the vocabulary has none; name \
                             it in tokenizer_config.json",
                            class.name()
                        ))
                    })
                };
                let (cls, sep) = (needed("cls_token")?, needed("sep_token")?);
                match class {
                    Class::Roberta => {
                        let prefix = self.settings.flag("add_prefix_space")?.unwrap_or(false);
                        json!({"type": "RobertaProcessing", "sep": sep, "cls": cls,
                               "trim_offsets": true, "add_prefix_space": prefix})
                    }
                    _ => template::classifier(&cls, &sep),
                }
            }
            Class::Llama | Class::Qwen2 if self.made => {
                let token = |flag: &str, role: &str| {
                    let adds = self.settings.flag(flag)?.unwrap_or(false);
                    Ok::<_, TokenizerError>(adds.then(|| self.role(role)).flatten())
                };
                let begin = token("add_bos_token", "bos_token")?;
                let end = token("add_eos_token", "eos_token")?;
                template::around(begin.as_ref(), end.as_ref())
            }
            Class::Llama | Class::Qwen2 | Class::File | Class::Other => return Ok(None),
        };
        self.component(made).map(Some)
    }

    fn truncation(&self) -> Result<TruncationDirection, TokenizerError> {
        const FIELD: &str = "truncation_side";
        match self.settings.text(FIELD)? {
            Some("right") => Ok(TruncationDirection::Right),
            Some("left") => Ok(TruncationDirection::Left),
            Some(_) => Err(self.settings.refused(FIELD, "left or right")),
            None => {
                let truncation = self.inner.get_truncation();
                Ok(truncation.map(|t| t.direction).unwrap_or_default())
            }
        }
    }

    fn pads_left(&self) -> Result<bool, TokenizerError> {
        const FIELD: &str = "padding_side";
        match self.settings.text(FIELD)? {
            Some("right") => Ok(false),
            Some("left") => Ok(true),
            Some(_) => Err(self.settings.refused(FIELD, "left or right")),
            None => {
                let padding = self.inner.get_padding();
                Ok(padding
                    .is_some_and(|padding| matches!(padding.direction, PaddingDirection::Left)))
            }
        }
    }

    /// Whether spaces before punctuation are left out of generated text.
    fn cleanup(&self) -> Result<bool, TokenizerError> {
        const FORCED: &str =
            "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";
        let pairs = matches!(self.inner.get_model(), ModelWrapper::BPE(_));
        let cleans = self
            .settings
            .flag("clean_up_tokenization_spaces")?
            .unwrap_or(false);
        let forced = self.settings.flag(FORCED)?.unwrap_or(false);
        Ok(cleans && (!pairs || forced))
    }

    /// The folder's templates for conversations, with the special tokens that they are given.
    fn chat_template(&self) -> Result<Option<ChatTemplate>, TokenizerError> {
        let Some(template) = chat::files::from_dir(self.dir, self.settings.config())? else {
            return Ok(self.chat_template.clone());
        };
        let special = ROLES.iter().filter_map(|&role| {
            let usual = self.class.and_then(|class| class.special(role));
            let usual = usual.filter(|token| self.inner.token_to_id(token).is_some());
            let token = self.settings.special(role, usual)?.content;
            Some((role.to_owned(), Value::from(token)))
        });
        Ok(Some(template.with_special(special.collect())))
    }

    fn pad_id(&self) -> Result<u32, TokenizerError> {
        let padding = self.inner.get_padding();
        if let Some(padding) = padding
            && self.inner.token_to_id(&padding.pad_token) != Some(padding.pad_id)
        {
            return Err(self.invalid(format!(
                "`padding` has the `pad_id` {}, which is not that of its `pad_token` {:?}",
                padding.pad_id, padding.pad_token
            )));
        }
        if let Some((_, id)) = self.role("pad_token") {
            return Ok(id);
        }
        let usual = || {
            ["[PAD]", "<pad>"]
                .iter()
                .find_map(|t| self.inner.token_to_id(t))
        };
        // Decoders are often published without: what is masked may as well be ends.
        let end = || {
            let named = self.role("eos_token").map(|(_, id)| id);
            let ends = ["</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>"];
            named.or_else(|| ends.iter().find_map(|t| self.inner.token_to_id(t)))
        };
        let found = padding.map(|padding| padding.pad_id).or(self.pad);
        let dir = self.dir.to_owned();
        found
            .or_else(usual)
            .or_else(end)
            .ok_or(TokenizerError::NoPadding { dir })
    }

    /// The largest id that texts can get.
    fn largest_id(&self) -> Result<u32, TokenizerError> {
        let around = |texts: &[u32]| {
            let text = |&segment: &u32| {
                let token = Token::new(0, String::new(), (0, 0));
                Tokens::from_tokens(vec![token], segment)
            };
            let mut texts = texts.iter().map(text);
            let (first, second) = (texts.next().unwrap_or_default(), texts.next());
            limits::load(&self.path, || self.inner.post_process(first, second, true))
        };
        let (single, pair) = (around(&[0])?, around(&[0, 1])?);
        let special = single.get_ids().iter().chain(pair.get_ids()).copied();
        let vocabulary = self.inner.get_vocab(true);
        if vocabulary.is_empty() {
            return Err(self.invalid("its vocabulary is empty".to_owned()));
        }
        let largest = vocabulary.into_values().chain(special).max();
        Ok(largest.unwrap_or_default())
    }
}

pub(super) fn to_json<T: Serialize>(part: Option<&T>) -> Value {
    part.and_then(|part| serde_json::to_value(part).ok())
        .unwrap_or(Value::Null)
}
