//! Vocabularies that have files of another format than `tokenizer.json`, as that file.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::{
    TokenizerError,
    class::{self, Class},
    limits,
    sentencepiece::{Algorithm, Kind, SentencePiece},
    settings::Settings,
};
use crate::closed::json as files_json;

/// A format of vocabularies: its files, the one that tells it first, and the class that transformers
/// has for models with them.
struct Format {
    files: &'static [&'static str],
    class: Class,
}

const FORMATS: [Format; 4] = [
    Format {
        files: &["spm.model"],
        class: Class::DebertaV2,
    },
    Format {
        files: &["tokenizer.model"],
        class: Class::Llama,
    },
    Format {
        files: &["vocab.txt"],
        class: Class::Bert,
    },
    Format {
        files: &["vocab.json", "merges.txt"],
        class: Class::Roberta,
    },
];

/// The files of these formats that a tokenizer is made of, if it has one of them.
pub(super) fn files(has: impl Fn(&str) -> bool) -> Option<&'static [&'static str]> {
    let format = FORMATS.iter().find(|format| has(format.files[0]))?;
    Some(format.files)
}

/// A tokenizer that is made of other files than `tokenizer.json`.
pub(super) struct Source {
    /// The file with the vocabulary.
    pub path: PathBuf,
    pub class: Class,
    /// What would be in `tokenizer.json`, but for tokens beside the vocabulary and what is put around
    /// texts.
    pub json: Value,
    /// Tokens of the vocabulary that are found in texts before it splits them.
    pub marked: Vec<AddedToken>,
}

/// The tokenizer of a folder, as its class makes it; where none is given, as its files' usual class.
///
/// # Errors
/// There is none, or a file is not what its name says, or the class is not known.
pub(super) fn source(
    dir: &Path,
    settings: &Settings,
    class: Option<Class>,
) -> Result<Source, TokenizerError> {
    let found = FORMATS
        .iter()
        .find(|format| dir.join(format.files[0]).is_file());
    let Some(format) = found else {
        let dir = dir.to_owned();
        return Err(TokenizerError::Missing { dir });
    };
    let class = class.unwrap_or(format.class);
    let fits = class == format.class || (class, format.class) == (Class::Qwen2, Class::Roberta);
    if !fits {
        let cause = format!(
            "{} does not say how {} splits text; save its tokenizer.json by transformers' \
             `AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIR)`",
            format.files[0],
            match class {
                Class::Other => settings.text("tokenizer_class")?.unwrap_or_default(),
                _ => class.name(),
            }
        );
        let path = dir.join(format.files[0]);
        return Err(TokenizerError::Invalid { path, cause });
    }
    let vocabulary = Vocabulary {
        dir,
        files: format.files,
        settings,
    };
    let (model, marked) = match class {
        Class::DebertaV2 => vocabulary.unigram()?,
        Class::Llama => vocabulary.pieces()?,
        Class::Bert => (vocabulary.words()?, Vec::new()),
        _ => (vocabulary.byte_pairs()?, Vec::new()),
    };
    let mut json = json!({"version": "1.0", "truncation": null, "padding": null,
                          "added_tokens": [], "post_processor": null, "model": model});
    if let Some(class::Pipeline {
        normalizer,
        pre_tokenizer,
        decoder,
    }) = class.pipeline(settings)?
    {
        json["normalizer"] = normalizer;
        json["pre_tokenizer"] = pre_tokenizer;
        json["decoder"] = decoder;
    }
    Ok(Source {
        path: vocabulary.path(0),
        class,
        json,
        marked,
    })
}

/// The files of a vocabulary.
struct Vocabulary<'a> {
    dir: &'a Path,
    files: &'a [&'static str],
    settings: &'a Settings,
}

impl Vocabulary<'_> {
    fn path(&self, file: usize) -> PathBuf {
        self.dir.join(self.files[file])
    }

    fn read(&self, file: usize) -> Result<Vec<u8>, TokenizerError> {
        Ok(files_json::bytes(&self.path(file), limits::FILE)?)
    }

    fn invalid(&self, file: usize, cause: String) -> TokenizerError {
        let path = self.path(file);
        TokenizerError::Invalid { path, cause }
    }

    /// The error that a file is not what its name says.
    fn wrong_kind(&self, file: usize, expected: &str, bytes: &[u8]) -> TokenizerError {
        let found = kind_of(bytes);
        let cause = format!(
            "expected {expected}, found {found}; download the model's own file again, or save its \
             tokenizer.json by transformers' \
             `AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIR)`"
        );
        self.invalid(file, cause)
    }

    fn text(&self, file: usize, expected: &str) -> Result<String, TokenizerError> {
        let bytes = self.read(file)?;
        let is_text = !bytes.is_empty() && !is_pointer(&bytes);
        match str::from_utf8(&bytes) {
            Ok(text) if is_text => Ok(text.to_owned()),
            _ => Err(self.wrong_kind(file, expected, &bytes)),
        }
    }

    fn sentencepiece(&self, algorithm: Algorithm) -> Result<SentencePiece, TokenizerError> {
        let bytes = self.read(0)?;
        match SentencePiece::read(&bytes) {
            Some(model) if model.algorithm == algorithm => Ok(model),
            _ => {
                let expected = format!("a SentencePiece model of type {algorithm}");
                Err(self.wrong_kind(0, &expected, &bytes))
            }
        }
    }

    /// DeBERTa, versions 2 and 3: Unigram pieces.
    fn unigram(&self) -> Result<(Value, Vec<AddedToken>), TokenizerError> {
        let model = self.sentencepiece(Algorithm::Unigram)?;
        let unknown = self
            .settings
            .special("unk_token", Class::DebertaV2.special("unk_token"));
        let known = model.pieces.iter().position(|piece| {
            piece.score == 0.0 && unknown.as_ref().is_some_and(|u| u.content == piece.text)
        });
        let unknown = match known {
            Some(id) => id,
            None => self.settings.number("unk_id")?.unwrap_or(model.unknown),
        };
        if unknown >= model.pieces.len() {
            let expected = format!("the id of one of {} pieces", model.pieces.len());
            return Err(self.settings.refused("unk_id", &expected));
        }
        let pieces = model.pieces.iter();
        let pieces: Vec<Value> = pieces
            .map(|piece| json!([piece.text, piece.score]))
            .collect();
        let json = json!({"type": "Unigram", "unk_id": unknown, "vocab": pieces,
                          "byte_fallback": false});
        Ok((json, marked(&model)))
    }

    /// LLaMA, versions 1 and 2: byte pair encoding of characters, with bytes for those that are not
    /// in the vocabulary.
    fn pieces(&self) -> Result<(Value, Vec<AddedToken>), TokenizerError> {
        let model = self.sentencepiece(Algorithm::Bpe)?;
        let vocab: HashMap<&str, usize> = model
            .pieces
            .iter()
            .map(|piece| &*piece.text)
            .zip(0..)
            .collect();
        let json = json!({
            "type": "BPE",
            "fuse_unk": true,
            "byte_fallback": true,
            "vocab": vocab,
            "merges": merges(&model, &vocab),
        });
        Ok((json, marked(&model)))
    }

    /// BERT: words of pieces.
    fn words(&self) -> Result<Value, TokenizerError> {
        const EXPECTED: &str = "a WordPiece vocabulary, one token a line";
        let text = self.text(0, EXPECTED)?;
        let needed = |role| match self.settings.special(role, Class::Bert.special(role)) {
            Some(named) => Ok(named.content),
            None => Err(self.settings.refused(role, "a token, which BERT needs")),
        };
        let [unk, sep, cls] = [
            needed("unk_token")?,
            needed("sep_token")?,
            needed("cls_token")?,
        ];
        // Of a token that occurs twice, the last id counts.
        let vocab: HashMap<&str, usize> = text.lines().zip(0..).collect();
        let known = |token: &&String| vocab.contains_key(token.as_str());
        if ![&unk, &sep, &cls].iter().all(known) {
            let expected = format!("{EXPECTED}, with {unk}, {sep} and {cls}");
            return Err(self.wrong_kind(0, &expected, text.as_bytes()));
        }
        Ok(json!({
            "type": "WordPiece",
            "unk_token": unk,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        }))
    }

    /// RoBERTa, BART and Qwen2: byte pair encoding of bytes, as in GPT-2.
    fn byte_pairs(&self) -> Result<Value, TokenizerError> {
        const VOCAB: &str = "a JSON object of tokens and ids";
        const MERGES: &str = "pairs of tokens, one a line";
        let text = self.text(0, VOCAB)?;
        let vocab: HashMap<String, usize> =
            serde_json::from_str(&text).map_err(|_| self.wrong_kind(0, VOCAB, text.as_bytes()))?;
        let vocab: HashMap<&str, usize> = vocab.iter().map(|(token, id)| (&**token, *id)).collect();
        if !self.path(1).is_file() {
            let cause = format!(
                "{} needs it beside itself, and it is not there",
                self.files[0]
            );
            return Err(self.invalid(1, cause));
        }
        let text = self.text(1, MERGES)?;
        let lines = text.lines().filter(|line| !line.starts_with("#version"));
        let pairs: Option<Vec<(&str, &str)>> = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                line.split_once(' ')
                    .filter(|(_, right)| !right.contains(' '))
            })
            .collect();
        let merges = pairs.ok_or_else(|| self.wrong_kind(1, MERGES, text.as_bytes()))?;
        let strange = merges.iter().find(|(left, right)| {
            let known = |token: &str| vocab.contains_key(token);
            !known(left) || !known(right) || !known(&format!("{left}{right}"))
        });
        if let Some((left, right)) = strange {
            let cause = format!(
                "the merge of {left:?} and {right:?} has tokens that are not in {}; are both files of \
                 the same tokenizer?",
                self.files[0]
            );
            return Err(self.invalid(1, cause));
        }
        Ok(json!({
            "type": "BPE",
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "byte_fallback": false,
            "vocab": vocab,
            "merges": merges,
        }))
    }
}

/// The tokens that a SentencePiece model marks.
fn marked(model: &SentencePiece) -> Vec<AddedToken> {
    let pieces = model.pieces.iter();
    pieces
        .filter(|piece| piece.kind != Kind::Other)
        .map(|piece| AddedToken::from(piece.text.clone(), piece.kind == Kind::Control))
        .map(|token| token.normalized(false))
        .collect()
}

/// The pairs of pieces that make a piece, in the order of what they make: a model has its pieces in
/// the order in which they were merged.
fn merges<'a>(model: &'a SentencePiece, vocab: &HashMap<&str, usize>) -> Vec<(&'a str, &'a str)> {
    let pairs = |piece: &'a str| {
        let cuts = piece.char_indices().skip(1);
        cuts.map(|(at, _)| piece.split_at(at))
            .filter(|(left, right)| vocab.contains_key(left) && vocab.contains_key(right))
    };
    let pieces = model.pieces.iter();
    pieces.flat_map(|piece| pairs(&piece.text)).collect()
}

/// Whether a file stands for one that is kept elsewhere.
fn is_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs")
}

/// What a file is by its content, in words.
pub(super) fn kind_of(bytes: &[u8]) -> String {
    if let Some(model) = SentencePiece::read(bytes) {
        return format!("a SentencePiece model of type {}", model.algorithm);
    }
    let start = bytes.trim_ascii_start();
    let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let is_text = text.len() == bytes.len() && !text.contains('\0');
    let tiktoken = |line: &str| {
        let (token, id) = line.split_once(' ')?;
        let base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
        let fits = token.len().is_multiple_of(4) && token.bytes().all(base64);
        (fits && id.parse::<u32>().is_ok()).then_some(())
    };
    match start.first() {
        None => "an empty file",
        Some(_) if is_pointer(bytes) => "a Git LFS pointer, for which `git lfs pull` gets the file",
        Some(b'{' | b'[') if is_text => "JSON",
        Some(b'<') if start.to_ascii_lowercase().starts_with(b"<!doctype") => "a web page",
        Some(_) if bytes.starts_with(b"PK\x03\x04") => "a zip archive",
        Some(_) if is_text => match text.lines().next().and_then(tiktoken) {
            Some(()) => "a tiktoken vocabulary, as LLaMA 3 has beside its tokenizer.json",
            None => "text",
        },
        Some(_) => "binary data",
    }
    .into()
}
