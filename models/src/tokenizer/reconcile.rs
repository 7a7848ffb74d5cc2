//! A `tokenizer.json` beside a `tokenizer_config.json`: where this names a class, its settings go
//! before what the former says, as in transformers.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer as Inner,
    models::bpe::BPE,
};

use super::{
    JSON, TokenizerError,
    class::{self, Class, Pipeline},
    limits,
    load::{Loader, parse, to_json},
    settings::Settings,
    template,
};
use crate::closed::{Note, json, shortened};

/// The longest word that WordPiece may split, which takes time as the cube of it.
const LONGEST_WORD: usize = 1000;

/// Fields of `tokenizer_config.json`, and which of `tokenizer.json` say the same.
const SETTINGS: [(&str, &str, &str); 5] = [
    ("do_lower_case", "normalizer", "lowercase"),
    ("strip_accents", "normalizer", "strip_accents"),
    (
        "tokenize_chinese_chars",
        "normalizer",
        "handle_chinese_chars",
    ),
    ("add_prefix_space", "pre_tokenizer", "add_prefix_space"),
    ("legacy", "pre_tokenizer", "prepend_scheme"),
];

impl<'a> Loader<'a> {
    /// The tokenizer of a `tokenizer.json`. Where `tokenizer_config.json` or the model's type names
    /// a class, its settings go before what the file says, as in transformers. `explicit` is whether
    /// `tokenizer_config.json` says anything of it.
    pub(super) fn of_json(
        dir: &'a Path,
        path: PathBuf,
        settings: Settings,
        class: Option<Class>,
        explicit: bool,
    ) -> Result<Self, TokenizerError> {
        let bytes = json::bytes(&path, limits::FILE)?;
        let inner = parse(&path, &bytes)?;
        let mut loader = Self::new(dir, path, settings, class, inner);
        loader.check_model()?;
        if loader.class == Some(Class::Other) {
            let named = loader.settings.text("tokenizer_class")?.unwrap_or_default();
            loader.notes.push(Note {
                path: dir.join("tokenizer_config.json"),
                text: format!(
                    "`tokenizer_class` {named} is not known: {JSON} is used as it is, whatever \
                     else the class does"
                ),
            });
            loader.check_settings()?;
        }
        let Some(class) = loader.class else {
            return Ok(loader);
        };
        let Some(pipeline) = class.pipeline(&loader.settings)? else {
            return Ok(loader);
        };
        loader.explicit = explicit;
        if let Some((part, found)) = loader.oddity(class, &pipeline) {
            loader.keep(class, part, &found)?;
            return Ok(loader);
        }
        loader.check_unknown()?;
        loader.note_defaults(class, &pipeline)?;
        if loader.settings.all_added {
            loader.drop_added();
        }
        loader.apply(pipeline)?;
        Ok(loader)
    }

    /// Checks that `tokenizer_config.json` does not say something else than the file of what classes
    /// usually take from it.
    fn check_settings(&self) -> Result<(), TokenizerError> {
        for (field, part, name) in SETTINGS {
            let (Some(set), Some(found)) =
                (self.settings.flag(field)?, first(&self.part(part), name))
            else {
                continue;
            };
            if found.as_bool() == Some(!set) {
                let expected = format!("{found}, as {JSON} has it");
                return Err(self.settings.refused(field, &expected));
            }
        }
        Ok(())
    }

    /// Notes where the class has another default than the file says, and nothing sets the field.
    fn note_defaults(&mut self, class: Class, made: &Pipeline) -> Result<(), TokenizerError> {
        let prefix = self.settings.flag("add_prefix_space")?;
        for (field, part, name) in SETTINGS {
            let default = match part {
                "normalizer" => first(&made.normalizer, name),
                _ => first(&made.pre_tokenizer, name),
            };
            let (Some(default), Some(found)) = (default, first(&self.part(part), name)) else {
                continue;
            };
            let set = match field {
                "legacy" => class != Class::Llama || prefix.is_some(),
                _ => false,
            };
            let set = set || self.settings.flag(field)?.is_some();
            if !set && found != default && !found.is_null() {
                self.notes.push(Note {
                    path: self.path.clone(),
                    text: format!(
                        "its `{name}` is {found}, but `{field}` of tokenizer_config.json is not \
                         set, for which {} of transformers 5 takes {default}",
                        class.name()
                    ),
                });
            }
        }
        Ok(())
    }

    fn part(&self, name: &str) -> Value {
        match name {
            "normalizer" => to_json(self.inner.get_normalizer()),
            _ => to_json(self.inner.get_pre_tokenizer()),
        }
    }

    /// Checks that words are split always alike, and in a time that fits their length.
    fn check_model(&self) -> Result<(), TokenizerError> {
        match self.inner.get_model() {
            ModelWrapper::BPE(BPE { dropout, .. }) if dropout.is_some_and(|rate| rate != 0.0) => {
                Err(self.invalid(
                    "its `model` splits words at random (`dropout`); expected null".into(),
                ))
            }
            ModelWrapper::WordPiece(model) if model.max_input_chars_per_word > LONGEST_WORD => {
                Err(self.invalid(format!(
                    "its `max_input_chars_per_word` is {}; expected at most {LONGEST_WORD}",
                    model.max_input_chars_per_word
                )))
            }
            _ => Ok(()),
        }
    }

    /// The first part of the file that is not what the class makes of any settings.
    fn oddity(&self, class: Class, made: &Pipeline) -> Option<(&'static str, String)> {
        if let Some(odd) = odd_model(class, self.inner.get_model()) {
            return Some(("model", odd.to_owned()));
        }
        let inner = &self.inner;
        let parts = [
            (
                "normalizer",
                to_json(inner.get_normalizer()),
                &made.normalizer,
            ),
            (
                "pre_tokenizer",
                to_json(inner.get_pre_tokenizer()),
                &made.pre_tokenizer,
            ),
            ("decoder", to_json(inner.get_decoder()), &made.decoder),
        ];
        let odd = parts.into_iter().find(|(part, found, made)| {
            let same_bytes = *part == "decoder" && is_bytes(found) && is_bytes(made);
            !same_bytes && !class::alike(class, found, made)
        });
        if let Some((part, found, _)) = odd {
            return Some((part, shortened(&found)));
        }
        let found = to_json(inner.get_post_processor());
        let alike = match self.post_processor(class) {
            Ok(None) => true,
            Ok(Some(made)) => {
                let made = to_json(Some(&made));
                class::alike(class, &found, &made) || template::is_bert(&found, &made)
            }
            Err(_) => false,
        };
        (!alike).then(|| ("post_processor", shortened(&found)))
    }

    /// Keeps the file as it is, of which a part is not what the class makes.
    ///
    /// # Errors
    /// `tokenizer_config.json` asks for the class, or for what it does.
    fn keep(&mut self, class: Class, part: &str, found: &str) -> Result<(), TokenizerError> {
        let name = class.name();
        if self.explicit {
            return Err(self.invalid(format!(
                "its `{part}` is {found}, which is not what {name} makes and transformers 5 would \
                 replace; if the file is right, set `tokenizer_class` in tokenizer_config.json to \
                 {}, and else save it again by transformers' `save_pretrained`",
                class::FILE
            )));
        }
        self.as_is = true;
        self.notes.push(Note {
            path: self.path.clone(),
            text: format!(
                "used as it is, though its `{part}` is not that of {name}, which transformers 5 \
                 takes for models of this type: set `tokenizer_class` in tokenizer_config.json"
            ),
        });
        Ok(())
    }

    /// Checks that the token for unknown words is that of the files beside.
    fn check_unknown(&self) -> Result<(), TokenizerError> {
        let named = self.settings.special("unk_token", None);
        match (named, self.inner.get_model()) {
            (Some(named), ModelWrapper::WordPiece(model)) if named.content != model.unk_token => {
                let expected = format!("{:?}, which {JSON} has for unknown words", model.unk_token);
                Err(self.settings.refused("unk_token", &expected))
            }
            _ => Ok(()),
        }
    }

    /// Leaves out tokens that only the file adds, where `added_tokens_decoder` has them all.
    fn drop_added(&mut self) {
        let kept: HashSet<&str> = self
            .settings
            .added
            .values()
            .map(|token| token.content.as_str())
            .collect();
        let mut added = self.inner.get_added_tokens_decoder().into_values();
        if added.all(|token| kept.contains(token.content.as_str())) {
            return;
        }
        let old = &self.inner;
        let mut inner = Inner::new(old.get_model().clone());
        // A tokenizer without tokens to add has none to normalise.
        let _ = inner.with_normalizer(old.get_normalizer().cloned());
        inner.with_pre_tokenizer(old.get_pre_tokenizer().cloned());
        inner.with_post_processor(old.get_post_processor().cloned());
        inner.with_decoder(old.get_decoder().cloned());
        inner.with_padding(old.get_padding().cloned());
        let _ = inner.with_truncation(old.get_truncation().cloned());
        self.inner = inner;
    }

    /// Takes what the class makes of the settings for what the file has.
    fn apply(&mut self, made: Pipeline) -> Result<(), TokenizerError> {
        if to_json(self.inner.get_normalizer()) != made.normalizer {
            let part: Option<NormalizerWrapper> = self.component(made.normalizer)?;
            let path = self.path.clone();
            limits::load(&path, || self.inner.with_normalizer(part).map(|_| ()))?;
        }
        let part: PreTokenizerWrapper = self.component(made.pre_tokenizer)?;
        self.inner.with_pre_tokenizer(Some(part));
        let part: DecoderWrapper = self.component(made.decoder)?;
        self.inner.with_decoder(Some(part));
        Ok(())
    }
}

/// The first value of a name within a part.
fn first(part: &Value, name: &str) -> Option<Value> {
    match part {
        Value::Array(parts) => parts.iter().find_map(|part| first(part, name)),
        Value::Object(fields) => match fields.get(name) {
            Some(found) => Some(found.clone()),
            None => fields.values().find_map(|part| first(part, name)),
        },
        _ => None,
    }
}

fn is_bytes(part: &Value) -> bool {
    part.get("type").is_some_and(|kind| kind == "ByteLevel")
}

/// What of a vocabulary is not used as the class uses it.
fn odd_model(class: Class, model: &ModelWrapper) -> Option<&'static str> {
    let empty = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    let found = match model {
        ModelWrapper::BPE(_) => "BPE",
        ModelWrapper::Unigram(_) => "Unigram",
        ModelWrapper::WordLevel(_) => "WordLevel",
        ModelWrapper::WordPiece(_) => "WordPiece",
    };
    if class
        .algorithm()
        .is_some_and(|algorithm| algorithm != found)
    {
        return Some(found);
    }
    match model {
        ModelWrapper::BPE(model) if model.ignore_merges => Some("BPE with `ignore_merges`"),
        ModelWrapper::BPE(model) if model.byte_fallback != (class == Class::Llama) => {
            Some("BPE with another `byte_fallback`")
        }
        ModelWrapper::BPE(model) if !empty(&model.continuing_subword_prefix) => {
            Some("BPE with a `continuing_subword_prefix`")
        }
        ModelWrapper::BPE(model) if !empty(&model.end_of_word_suffix) => {
            Some("BPE with an `end_of_word_suffix`")
        }
        ModelWrapper::WordPiece(model) if model.continuing_subword_prefix != "##" => {
            Some("WordPiece with another `continuing_subword_prefix`")
        }
        ModelWrapper::WordPiece(model) if model.max_input_chars_per_word != 100 => {
            Some("WordPiece with another `max_input_chars_per_word`")
        }
        _ => None,
    }
}
