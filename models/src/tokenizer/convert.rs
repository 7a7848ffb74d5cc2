//! Tokenizers that have files of another format than `tokenizer.json`, as that file.
//!
//! What each family does to text besides splitting it is in no file; it is what transformers 5 does.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    TokenizerError,
    sentencepiece::{Algorithm, Kind, Model},
};

/// The files of a tokenizer, the one that tells its kind first, and how it is converted.
type Format = (
    &'static [&'static str],
    fn(&Source) -> Result<Value, TokenizerError>,
);

const FORMATS: [Format; 4] = [
    (&["spm.model"], deberta),
    (&["tokenizer.model"], llama),
    (&["vocab.txt"], bert),
    (&["vocab.json", "merges.txt"], roberta),
];

/// The files of these formats that a tokenizer is made of, if it has one of them.
pub(super) fn files(has: impl Fn(&str) -> bool) -> Option<&'static [&'static str]> {
    let mut formats = FORMATS.iter();
    let (files, _) = formats.find(|(files, _)| has(files[0]))?;
    Some(*files)
}

/// A tokenizer of a folder as the text of a `tokenizer.json`, with the file that it is made of.
///
/// # Errors
/// There is none, or a file is not what its name says.
pub(super) fn tokenizer_json(dir: &Path) -> Result<(PathBuf, Vec<u8>), TokenizerError> {
    let found = FORMATS
        .iter()
        .find(|(files, _)| dir.join(files[0]).is_file());
    let Some((files, convert)) = found else {
        let dir = dir.to_owned();
        return Err(TokenizerError::Missing { dir });
    };
    let source = Source {
        dir,
        files,
        settings: Settings::read(dir)?,
    };
    let json = convert(&source)?;
    Ok((dir.join(files[0]), json.to_string().into_bytes()))
}

/// The fields of `tokenizer_config.json` that say how text is split.
#[derive(Default, Deserialize)]
struct Settings {
    do_lower_case: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
    split_by_punct: Option<bool>,
    add_prefix_space: Option<bool>,
    legacy: Option<bool>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    #[serde(default)]
    added_tokens_decoder: IndexMap<String, Token>,
    /// Among others, what the special tokens are.
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

/// A token beside the vocabulary.
#[derive(Clone, Deserialize)]
struct Token {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl Token {
    fn new(content: &str, special: bool) -> Self {
        Self {
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: Some(false),
            special,
        }
    }
}

impl Settings {
    fn read(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join("tokenizer_config.json");
        if !path.is_file() {
            return Ok(Self::default());
        }
        let invalid = |cause: String| TokenizerError::Invalid {
            path: path.clone(),
            cause,
        };
        let bytes = std::fs::read(&path).map_err(|error| invalid(error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))
    }

    /// The special token of a role, such as `cls_token`: as the file has it, or the usual one.
    fn special(&self, role: &str, usual: &str) -> Token {
        let mut token = match self.others.get(role) {
            Some(Value::String(content)) => Token::new(content, true),
            Some(object) => Token::deserialize(object).unwrap_or(Token::new(usual, true)),
            None => Token::new(usual, true),
        };
        token.special = true;
        token
    }
}

/// What a tokenizer is made of.
struct Source<'a> {
    dir: &'a Path,
    files: &'a [&'static str],
    settings: Settings,
}

impl Source<'_> {
    fn path(&self, file: usize) -> PathBuf {
        self.dir.join(self.files[file])
    }

    fn read(&self, file: usize) -> Result<Vec<u8>, TokenizerError> {
        let path = self.path(file);
        std::fs::read(&path).map_err(|error| TokenizerError::Invalid {
            path,
            cause: error.to_string(),
        })
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

    fn sentencepiece(&self, algorithm: Algorithm) -> Result<Model, TokenizerError> {
        let bytes = self.read(0)?;
        match Model::read(&bytes) {
            Some(model) if model.algorithm == algorithm => Ok(model),
            _ => {
                let expected = format!("a SentencePiece model of type {algorithm}");
                Err(self.wrong_kind(0, &expected, &bytes))
            }
        }
    }

    /// The tokens beside a vocabulary, which have their ids in it or behind it: those that the
    /// vocabulary marks, those of `tokenizer_config.json`, the special ones.
    fn added(
        &self,
        vocab: &HashMap<&str, usize>,
        marked: Vec<Token>,
        special: &[Token],
    ) -> Result<Added, TokenizerError> {
        let mut configured: Vec<(usize, &Token)> = Vec::new();
        for (id, token) in &self.settings.added_tokens_decoder {
            let id = id.parse().map_err(|_| TokenizerError::Invalid {
                path: self.dir.join("tokenizer_config.json"),
                cause: format!("`added_tokens_decoder` has {id:?}; expected ids of tokens"),
            })?;
            configured.push((id, token));
        }
        configured.sort_by_key(|(id, _)| *id);
        let mut added = Added {
            ids: IndexMap::new(),
            tokens: Vec::new(),
            next: vocab.len(),
        };
        for token in marked {
            added.push(vocab, token);
        }
        for (id, token) in configured {
            let found = added.push(vocab, token.clone());
            if found != id {
                return Err(TokenizerError::Invalid {
                    path: self.dir.join("tokenizer_config.json"),
                    cause: format!(
                        "it gives token {:?} the id {id}, but with {} it has the id {found}; are \
                         both files of the same tokenizer?",
                        token.content, self.files[0]
                    ),
                });
            }
        }
        for token in special {
            added.push(vocab, token.clone());
        }
        Ok(added)
    }
}

/// Tokens beside a vocabulary.
struct Added {
    ids: IndexMap<String, usize>,
    tokens: Vec<Value>,
    next: usize,
}

impl Added {
    /// Adds a token that is not there yet; its id.
    fn push(&mut self, vocab: &HashMap<&str, usize>, token: Token) -> usize {
        if let Some(&id) = self.ids.get(&token.content) {
            return id;
        }
        let id = vocab.get(&*token.content).copied().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        self.tokens.push(json!({
            "id": id,
            "content": token.content,
            "single_word": token.single_word,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "normalized": token.normalized.unwrap_or(!token.special),
            "special": token.special,
        }));
        self.ids.insert(token.content, id);
        id
    }

    fn id(&self, token: &Token) -> usize {
        self.ids.get(&token.content).copied().unwrap_or_default()
    }

    /// Special tokens around one text and around two; `before` and `after` each of them.
    fn template(&self, single: &[Part], pair: &[Part]) -> Value {
        let part = |part: &Part| match part {
            Part::Text(id, segment) => json!({"Sequence": {"id": id, "type_id": segment}}),
            Part::Token(token, segment) => {
                json!({"SpecialToken": {"id": token.content, "type_id": segment}})
            }
        };
        let tokens = pair.iter().filter_map(|part| match part {
            Part::Token(token, _) => Some(*token),
            Part::Text(..) => None,
        });
        let special: serde_json::Map<String, Value> = tokens
            .map(|token| {
                let content = &token.content;
                let ids = json!({"id": content, "ids": [self.id(token)], "tokens": [content]});
                (content.clone(), ids)
            })
            .collect();
        json!({
            "type": "TemplateProcessing",
            "single": single.iter().map(part).collect::<Value>(),
            "pair": pair.iter().map(part).collect::<Value>(),
            "special_tokens": special,
        })
    }

    /// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`.
    fn classifier_template(&self, cls: &Token, sep: &Token) -> Value {
        let single = [Part::Token(cls, 0), Part::Text("A", 0), Part::Token(sep, 0)];
        let pair = [&single[..], &[Part::Text("B", 1), Part::Token(sep, 1)]].concat();
        self.template(&single, &pair)
    }
}

/// A part of what is around texts, with its segment.
#[derive(Clone, Copy)]
enum Part<'a> {
    Text(&'static str, u32),
    Token(&'a Token, u32),
}

/// A `tokenizer.json`.
fn whole(
    added: Added,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    model: Value,
) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.tokens,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": null,
        "model": model,
    })
}

/// The tokens that a SentencePiece model marks.
fn marked(model: &Model) -> Vec<Token> {
    let pieces = model.pieces.iter();
    pieces
        .filter(|piece| piece.kind != Kind::Other)
        .map(|piece| Token::new(&piece.text, piece.kind == Kind::Control))
        .collect()
}

/// The ids of a SentencePiece model's pieces.
fn ids(model: &Model) -> HashMap<&str, usize> {
    let pieces = model.pieces.iter();
    pieces.map(|piece| &*piece.text).zip(0..).collect()
}

/// DeBERTa, versions 2 and 3: Unigram pieces.
fn deberta(source: &Source) -> Result<Value, TokenizerError> {
    let model = source.sentencepiece(Algorithm::Unigram)?;
    let settings = &source.settings;
    let (cls, sep) = (
        settings.special("cls_token", "[CLS]"),
        settings.special("sep_token", "[SEP]"),
    );
    let special = [
        settings.special("bos_token", "[CLS]"),
        settings.special("eos_token", "[SEP]"),
        settings.special("unk_token", "[UNK]"),
        sep.clone(),
        settings.special("pad_token", "[PAD]"),
        cls.clone(),
        settings.special("mask_token", "[MASK]"),
    ];
    let vocab = ids(&model);
    let added = source.added(&vocab, marked(&model), &special)?;
    let template = added.classifier_template(&cls, &sep);

    let mut normalizers = vec![
        json!({"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "}),
        json!({"type": "NFC"}),
        json!({"type": "Strip", "strip_left": false, "strip_right": true}),
    ];
    if settings.do_lower_case == Some(true) {
        normalizers.insert(0, json!({"type": "Lowercase"}));
    }
    let scheme = match settings.add_prefix_space {
        Some(false) => "first",
        _ => "always",
    };
    let mut pre_tokenizers = vec![metaspace(scheme, true)];
    if settings.split_by_punct == Some(true) {
        pre_tokenizers.insert(0, json!({"type": "Punctuation", "behavior": "Isolated"}));
    }
    let pieces = model.pieces.iter();
    let pieces: Vec<Value> = pieces
        .map(|piece| json!([piece.text, piece.score]))
        .collect();
    Ok(whole(
        added,
        json!({"type": "Sequence", "normalizers": normalizers}),
        json!({"type": "Sequence", "pretokenizers": pre_tokenizers}),
        template,
        json!({"type": "Unigram", "unk_id": model.unknown, "vocab": pieces, "byte_fallback": false}),
    ))
}

fn metaspace(prepend_scheme: &str, split: bool) -> Value {
    json!({
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": prepend_scheme,
        "split": split,
    })
}

/// LLaMA, versions 1 and 2: byte pair encoding of characters, with bytes for those that are not in
/// the vocabulary.
fn llama(source: &Source) -> Result<Value, TokenizerError> {
    let model = source.sentencepiece(Algorithm::Bpe)?;
    let settings = &source.settings;
    let (bos, eos) = (
        settings.special("bos_token", "<s>"),
        settings.special("eos_token", "</s>"),
    );
    let mut special = vec![
        bos.clone(),
        eos.clone(),
        settings.special("unk_token", "<unk>"),
    ];
    // There is none for padding, and what pads is masked.
    let pad = match settings.others.get("pad_token") {
        None | Some(Value::Null) => eos.clone(),
        Some(_) => settings.special("pad_token", "</s>"),
    };
    special.push(pad.clone());
    let vocab = ids(&model);
    let added = source.added(&vocab, marked(&model), &special)?;

    let starts = settings.add_bos_token.unwrap_or(true);
    let ends = settings.add_eos_token.unwrap_or(false);
    let text = |name, segment| {
        let start = starts.then_some(Part::Token(&bos, segment));
        let end = ends.then_some(Part::Token(&eos, segment));
        start
            .into_iter()
            .chain([Part::Text(name, segment)])
            .chain(end)
    };
    let single: Vec<Part> = text("A", 0).collect();
    let pair: Vec<Part> = text("A", 0).chain(text("B", 1)).collect();
    let template = added.template(&single, &pair);
    let scheme = match (settings.add_prefix_space, settings.legacy) {
        (Some(false), _) => "never",
        (_, Some(true)) => "always",
        _ => "first",
    };
    let padding = json!({
        "strategy": "BatchLongest",
        "direction": "Left",
        "pad_to_multiple_of": null,
        "pad_id": added.id(&pad),
        "pad_type_id": 0,
        "pad_token": pad.content,
    });
    let bpe = json!({
        "type": "BPE",
        "fuse_unk": true,
        "byte_fallback": true,
        "vocab": vocab,
        "merges": merges(&model, &vocab),
    });
    let mut json = whole(added, Value::Null, metaspace(scheme, false), template, bpe);
    json["padding"] = padding;
    Ok(json)
}

/// The pairs of pieces that make a piece, in the order of what they make: a model has its pieces in
/// the order in which they were merged.
fn merges<'a>(model: &'a Model, vocab: &HashMap<&str, usize>) -> Vec<(&'a str, &'a str)> {
    let pairs = |piece: &'a str| {
        let cuts = piece.char_indices().skip(1);
        cuts.map(|(at, _)| piece.split_at(at))
            .filter(|(left, right)| vocab.contains_key(left) && vocab.contains_key(right))
    };
    let pieces = model.pieces.iter();
    pieces.flat_map(|piece| pairs(&piece.text)).collect()
}

/// BERT: words of pieces.
fn bert(source: &Source) -> Result<Value, TokenizerError> {
    const EXPECTED: &str = "a WordPiece vocabulary, one token a line";
    let text = source.text(0, EXPECTED)?;
    let settings = &source.settings;
    let [unk, sep, pad, cls, mask] = [
        ("unk_token", "[UNK]"),
        ("sep_token", "[SEP]"),
        ("pad_token", "[PAD]"),
        ("cls_token", "[CLS]"),
        ("mask_token", "[MASK]"),
    ]
    .map(|(role, usual)| settings.special(role, usual));
    // Of a token that occurs twice, the last id counts.
    let vocab: HashMap<&str, usize> = text.lines().zip(0..).collect();
    if [&unk, &sep, &cls]
        .iter()
        .any(|token| !vocab.contains_key(&*token.content))
    {
        let expected = format!(
            "{EXPECTED}, with {}, {} and {}",
            unk.content, sep.content, cls.content
        );
        return Err(source.wrong_kind(0, &expected, text.as_bytes()));
    }
    let special = [unk.clone(), sep.clone(), pad, cls.clone(), mask];
    let added = source.added(&vocab, Vec::new(), &special)?;
    let template = added.classifier_template(&cls, &sep);
    Ok(whole(
        added,
        json!({
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": settings.tokenize_chinese_chars.unwrap_or(true),
            "strip_accents": settings.strip_accents,
            "lowercase": settings.do_lower_case.unwrap_or(true),
        }),
        json!({"type": "BertPreTokenizer"}),
        template,
        json!({
            "type": "WordPiece",
            "unk_token": unk.content,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        }),
    ))
}

/// RoBERTa and BART: byte pair encoding of bytes, as in GPT-2.
fn roberta(source: &Source) -> Result<Value, TokenizerError> {
    const VOCAB: &str = "a JSON object of tokens and ids";
    const MERGES: &str = "pairs of tokens, one a line";
    let text = source.text(0, VOCAB)?;
    let vocab: HashMap<String, usize> =
        serde_json::from_str(&text).map_err(|_| source.wrong_kind(0, VOCAB, text.as_bytes()))?;
    let vocab: HashMap<&str, usize> = vocab.iter().map(|(token, id)| (&**token, *id)).collect();
    if !source.path(1).is_file() {
        let cause = format!(
            "{} needs it beside itself, and it is not there",
            source.files[0]
        );
        return Err(source.invalid(1, cause));
    }
    let text = source.text(1, MERGES)?;
    let lines = text.lines().filter(|line| !line.starts_with("#version"));
    let pairs: Option<Vec<(&str, &str)>> = lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            line.split_once(' ')
                .filter(|(_, right)| !right.contains(' '))
        })
        .collect();
    let merges = pairs.ok_or_else(|| source.wrong_kind(1, MERGES, text.as_bytes()))?;
    let strange = merges.iter().find(|(left, right)| {
        let known = |token: &str| vocab.contains_key(token);
        !known(left) || !known(right) || !known(&format!("{left}{right}"))
    });
    if let Some((left, right)) = strange {
        let cause = format!(
            "the merge of {left:?} and {right:?} has tokens that are not in {}; are both files of \
             the same tokenizer?",
            source.files[0]
        );
        return Err(source.invalid(1, cause));
    }
    let settings = &source.settings;
    let [bos, eos, unk, sep, pad, cls, mask] = [
        ("bos_token", "<s>"),
        ("eos_token", "</s>"),
        ("unk_token", "<unk>"),
        ("sep_token", "</s>"),
        ("pad_token", "<pad>"),
        ("cls_token", "<s>"),
        ("mask_token", "<mask>"),
    ]
    .map(|(role, usual)| settings.special(role, usual));
    let special = [bos, eos, unk, sep.clone(), pad, cls.clone(), mask];
    let added = source.added(&vocab, Vec::new(), &special)?;
    let prefix = settings.add_prefix_space.unwrap_or(false);
    let around = json!({
        "type": "RobertaProcessing",
        "sep": [sep.content, added.id(&sep)],
        "cls": [cls.content, added.id(&cls)],
        "trim_offsets": true,
        "add_prefix_space": prefix,
    });
    Ok(whole(
        added,
        Value::Null,
        json!({
            "type": "ByteLevel",
            "add_prefix_space": prefix,
            "trim_offsets": true,
            "use_regex": true,
        }),
        around,
        json!({
            "type": "BPE",
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "byte_fallback": false,
            "vocab": vocab,
            "merges": merges,
        }),
    ))
}

/// Whether a file stands for one that is kept elsewhere.
fn is_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs")
}

/// What a file is by its content, in words.
pub(super) fn kind_of(bytes: &[u8]) -> String {
    if let Some(model) = Model::read(bytes) {
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
