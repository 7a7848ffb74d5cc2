//! Text to token ids with a model's own tokenizer.

mod convert;
pub mod gguf;
mod sentencepiece;
pub mod train;

use std::path::{Path, PathBuf};

use crate::{
    closed::{Note, Refused},
    gguf::{Gguf, GgufError},
};
use serde_json::Value;
use thiserror::Error;
use tokenizers::{
    Encoding as Tokens, PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy,
    truncate_encodings,
};

/// Texts tokenized at a time; the tokenizer's intermediate form is many times the size of the ids.
const CHUNK: usize = 4096;

/// The file that says everything of a tokenizer.
const JSON: &str = "tokenizer.json";

/// A model's tokenizer, as found in its folder.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    truncation: TruncationDirection,
    pad_id: u32,
    max_id: u32,
    notes: Vec<Note>,
}

/// Token ids of one text or pair, special tokens included, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token the segment it belongs to; as long as `ids`.
    pub type_ids: Vec<u32>,
    /// Whether tokens of the text were left out, so that it is not too long.
    pub cut: bool,
}

/// Why a tokenizer could not be loaded or used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The folder has no file of a tokenizer.
    #[error("{} has no tokenizer.json, nor spm.model, tokenizer.model, vocab.txt, or vocab.json with merges.txt; another tokenizer is converted by transformers' `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`", dir.display())]
    Missing {
        /// The model's folder.
        dir: PathBuf,
    },
    /// A file is there but cannot be read or understood.
    #[error("{} is not a usable tokenizer file: {cause}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// No file names a padding token.
    #[error("no padding token in {}; set `pad_token` in tokenizer_config.json", dir.display())]
    NoPadding {
        /// The model's folder.
        dir: PathBuf,
    },
    /// The tokenizer belongs to another model.
    #[error("the tokenizer has token ids up to {max_id}, the model has embeddings for {vocab_size} tokens (ids 0 to {}); use the tokenizer the model was trained with", vocab_size.saturating_sub(1))]
    Vocabulary {
        /// Largest id the tokenizer can produce.
        max_id: u32,
        /// The model's vocabulary.
        vocab_size: usize,
    },
    /// The length limit leaves no room for text.
    #[error("maximum length {max_len} is too short: the special tokens alone are {special}, so at least {} is needed", special + 1)]
    TooShort {
        /// The limit.
        max_len: usize,
        /// Number of special tokens.
        special: usize,
    },
    /// A GGUF file cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A field asks for something that is not done.
    #[error(transparent)]
    Field(#[from] Refused),
    /// Texts that make no tokenizer.
    #[error("cannot train a tokenizer: {0}")]
    Train(String),
    /// A tokenizer that can hide no tokens.
    #[error(
        "the tokenizer has no token `{}`, which masked language modelling needs",
        train::MASK
    )]
    NoMask,
    /// Too little text for a batch.
    #[error(
        "the texts fill {rows} rows of {len} tokens, less than a batch of {expected}; give more text, shorter rows or smaller batches"
    )]
    TooFewTexts {
        /// Rows that are filled.
        rows: usize,
        /// Tokens of a row.
        len: usize,
        /// Rows of a batch.
        expected: usize,
    },
    /// The tokenizer failed on ids.
    #[error("cannot make text of tokens: {0}")]
    Decode(String),
    /// The tokenizer failed on a text.
    #[error("cannot tokenize: {0}")]
    Encode(String),
}

/// The files that a tokenizer is made of, of those there are; nothing, if they make none.
pub fn files(has: impl Fn(&str) -> bool) -> Option<&'static [&'static str]> {
    match has(JSON) {
        true => Some(&[JSON]),
        false => convert::files(has),
    }
}

impl Tokenizer {
    /// Loads a model folder's `tokenizer.json`, or else `spm.model` (DeBERTa), `tokenizer.model`
    /// (LLaMA), `vocab.txt` (BERT), `vocab.json` with `merges.txt` (RoBERTa and BART) or what a GGUF
    /// file has in their place; and the padding token from `tokenizer_config.json`,
    /// `special_tokens_map.json` or the tokenizer itself, in that order. Padding and truncation
    /// lengths set in the files are ignored.
    ///
    /// # Errors
    /// Files that are missing or not what they should be, and a tokenizer without padding token.
    pub fn from_dir(dir: &Path) -> Result<Tokenizer, TokenizerError> {
        let path = dir.join(JSON);
        let gguf = match files(|name| dir.join(name).is_file()) {
            Some(_) => None,
            None => crate::gguf::find(dir)?,
        };
        if let Some(path) = gguf {
            let (json, pad_id) = gguf::tokenizer_json(&Gguf::open(&path)?)?;
            let pad_id = pad_id.ok_or_else(|| TokenizerError::NoPadding {
                dir: dir.to_owned(),
            })?;
            return Self::new(&path, json.to_string().as_bytes(), |_| Ok(pad_id));
        }
        if !path.is_file() {
            let (path, json) = convert::tokenizer_json(dir)?;
            return Self::new(&path, &json, |inner| pad_id(dir, inner));
        }
        let bytes = std::fs::read(&path).map_err(|e| TokenizerError::Invalid {
            path: path.clone(),
            cause: e.to_string(),
        })?;
        Self::new(&path, &bytes, |inner| pad_id(dir, inner))
    }

    fn new(
        path: &Path,
        bytes: &[u8],
        pad_id: impl Fn(&tokenizers::Tokenizer) -> Result<u32, TokenizerError>,
    ) -> Result<Tokenizer, TokenizerError> {
        let invalid = |cause: String| TokenizerError::Invalid {
            path: path.to_owned(),
            cause,
        };
        if !bytes.trim_ascii_start().starts_with(b"{") {
            let found = convert::kind_of(bytes);
            return Err(invalid(format!("expected JSON, found {found}")));
        }
        let mut inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| invalid(e.to_string()))?;

        let pad_id = pad_id(&inner)?;
        let truncation = inner.get_truncation().map(|t| t.direction);
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| invalid(e.to_string()))?;

        let special = inner
            .encode_fast(("", ""), true)
            .map_err(|e| invalid(e.to_string()))?;
        let vocabulary = inner.get_vocab(true).into_values();
        let max_id = vocabulary
            .chain(special.get_ids().iter().copied())
            .max()
            .ok_or_else(|| invalid("its vocabulary is empty".to_owned()))?;
        Ok(Tokenizer {
            inner,
            truncation: truncation.unwrap_or_default(),
            pad_id,
            max_id,
            notes: Vec::new(),
        })
    }

    /// What of the folder's files is not used.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// The tokenizer has no text for them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text = self.inner.decode(ids, true);
        text.map_err(|e| TokenizerError::Decode(e.to_string()))
    }

    /// Id of a token, if there is such.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, if there is such.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The tokenizer as a `tokenizer.json` says it.
    ///
    /// # Errors
    /// It has parts that cannot be written.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        let text = self.inner.to_string(true);
        text.map_err(|e| TokenizerError::Encode(e.to_string()))
    }

    /// Id of the padding token.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Checks that every id the tokenizer can produce is one the model knows.
    ///
    /// # Errors
    /// [`TokenizerError::Vocabulary`] otherwise.
    pub fn check_vocab(&self, model_vocab_size: usize) -> Result<(), TokenizerError> {
        if self.max_id as usize >= model_vocab_size {
            return Err(TokenizerError::Vocabulary {
                max_id: self.max_id,
                vocab_size: model_vocab_size,
            });
        }
        Ok(())
    }

    /// Encodes one text or pair; see [`Tokenizer::encode_batch`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode_batch`].
    pub fn encode(
        &self,
        text: &str,
        pair: Option<&str>,
        max_len: usize,
    ) -> Result<Encoding, TokenizerError> {
        let texts = [Some(text), pair].into_iter().flatten().collect();
        self.combine(self.tokenize(texts)?, max_len)
    }

    /// Encodes texts and pairs in parallel; the result keeps their order.
    ///
    /// Special tokens are added. What is then longer than `max_len` loses tokens of its longer
    /// text first, as `truncation="longest_first"` does in transformers.
    ///
    /// # Errors
    /// A `max_len` without room for text, and texts the tokenizer cannot represent.
    pub fn encode_batch(
        &self,
        inputs: &[(&str, Option<&str>)],
        max_len: usize,
    ) -> Result<Vec<Encoding>, TokenizerError> {
        let mut encodings = Vec::with_capacity(inputs.len());
        for chunk in inputs.chunks(CHUNK) {
            let texts = chunk.iter().flat_map(|(text, pair)| [Some(*text), *pair]);
            let mut tokens = self.tokenize(texts.flatten().collect())?.into_iter();
            for (_, pair) in chunk {
                let own = tokens.by_ref().take(1 + usize::from(pair.is_some()));
                encodings.push(self.combine(own.collect(), max_len)?);
            }
        }
        Ok(encodings)
    }

    /// A prompt, and in segment 1 what is written behind it, ended by the token `end`.
    ///
    /// # Errors
    /// Texts the tokenizer cannot represent.
    pub fn encode_answer(
        &self,
        prompt: &str,
        answer: &str,
        end: Option<u32>,
    ) -> Result<Encoding, TokenizerError> {
        let encode = |text: &str, special| {
            let tokens = self.inner.encode_fast(text, special);
            tokens.map_err(|e| TokenizerError::Encode(e.to_string()))
        };
        let (prompt, answer) = (encode(prompt, true)?, encode(answer, false)?);
        let mut ids = prompt.get_ids().to_vec();
        let mut type_ids = vec![0; ids.len()];
        ids.extend(answer.get_ids());
        ids.extend(end);
        type_ids.resize(ids.len(), 1);
        Ok(Encoding {
            ids,
            type_ids,
            cut: false,
        })
    }

    fn tokenize(&self, texts: Vec<&str>) -> Result<Vec<Tokens>, TokenizerError> {
        self.inner
            .encode_batch_fast(texts, false)
            .map_err(|e| TokenizerError::Encode(e.to_string()))
    }

    /// Truncates the tokens of one or two texts and puts the special tokens around them.
    fn combine(&self, mut tokens: Vec<Tokens>, max_len: usize) -> Result<Encoding, TokenizerError> {
        let failed = |e: tokenizers::Error| TokenizerError::Encode(e.to_string());
        for (segment, tokens) in tokens.iter_mut().enumerate() {
            tokens.set_type_ids(vec![segment as u32; tokens.len()]);
        }
        let mut tokens = tokens.into_iter();
        let text = tokens.next().unwrap_or_default();
        let pair = tokens.next();

        let processor = self.inner.get_post_processor();
        let special = processor.map_or(0, |p| p.added_tokens(pair.is_some()));
        if max_len <= special {
            return Err(TokenizerError::TooShort { max_len, special });
        }
        let length = text.len() + pair.as_ref().map_or(0, Tokens::len);
        let params = TruncationParams {
            max_length: max_len - special,
            strategy: TruncationStrategy::LongestFirst,
            direction: self.truncation,
            stride: 0,
        };
        let (text, pair) = truncate_encodings(text, pair, &params).map_err(failed)?;
        let whole = self.inner.post_process(text, pair, true).map_err(failed)?;
        Ok(Encoding {
            ids: whole.get_ids().to_vec(),
            type_ids: whole.get_type_ids().to_vec(),
            cut: length > max_len - special,
        })
    }
}

fn pad_id(dir: &Path, inner: &tokenizers::Tokenizer) -> Result<u32, TokenizerError> {
    if let Some(id) = named(dir, inner, "pad_token")? {
        return Ok(id);
    }
    let configured = inner.get_padding().map(|padding| padding.pad_id);
    let usual = || ["[PAD]", "<pad>"].iter().find_map(|t| inner.token_to_id(t));
    if let Some(id) = configured.or_else(usual) {
        return Ok(id);
    }
    // Decoders are often published without: what is masked may as well be ends.
    let end = named(dir, inner, "eos_token")?;
    end.ok_or_else(|| TokenizerError::NoPadding {
        dir: dir.to_owned(),
    })
}

/// The token that the folder's files give a role.
fn named(
    dir: &Path,
    inner: &tokenizers::Tokenizer,
    role: &str,
) -> Result<Option<u32>, TokenizerError> {
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let path = dir.join(name);
        if !path.is_file() {
            continue;
        }
        let invalid = |cause: String| TokenizerError::Invalid {
            path: path.clone(),
            cause,
        };
        let bytes = std::fs::read(&path).map_err(|e| invalid(e.to_string()))?;
        let config: Value = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
        // A token is written as its text or as an object with the text in `content`.
        let token = &config[role];
        if let Some(token) = token.as_str().or(token["content"].as_str()) {
            let id = inner.token_to_id(token);
            let cause = || format!("its {role} {token:?} is not in the vocabulary");
            return id.map(Some).ok_or_else(|| invalid(cause()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const WORDS: [&str; 10] = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s", "on", "mat",
    ];

    /// A folder with a WordPiece tokenizer that pads and truncates to 7 if left to itself.
    fn dir() -> tempfile::TempDir {
        let vocab: Value = (WORDS.iter().zip(0..))
            .map(|(w, i)| (*w, json!(i)))
            .collect();
        let token = |id: &str, type_id| json!({"SpecialToken": {"id": id, "type_id": type_id}});
        let text = |id: &str, type_id| json!({"Sequence": {"id": id, "type_id": type_id}});
        let special = |id: &str, n| json!({"id": id, "ids": [n], "tokens": [id]});
        let single = json!([token("[CLS]", 0), text("A", 0), token("[SEP]", 0)]);
        let pair = json!([
            token("[CLS]", 0),
            text("A", 0),
            token("[SEP]", 0),
            text("B", 1),
            token("[SEP]", 1)
        ]);
        let tokenizer = json!({
            "version": "1.0",
            "truncation": {"max_length": 7, "strategy": "OnlyFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 7}, "direction": "Right", "pad_to_multiple_of": null,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
            "added_tokens": [],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair,
                               "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)}},
            "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": vocab}
        });
        let dir = tempfile::tempdir().unwrap();
        write(&dir, "tokenizer.json", tokenizer);
        dir
    }

    fn write(dir: &tempfile::TempDir, name: &str, value: Value) {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    }

    fn load(dir: &tempfile::TempDir) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_dir(dir.path())
    }

    #[test]
    fn encodes_without_padding_and_beyond_the_files_own_limit() {
        let tokenizer = load(&dir()).unwrap();
        let single = tokenizer.encode("The cats", None, 16).unwrap();
        assert_eq!(single.ids, [2, 4, 5, 7, 3]);
        assert_eq!(single.type_ids, [0; 5]);
        let pair = tokenizer.encode("the cat sat on the mat", Some("dog sat"), 64);
        let pair = pair.unwrap();
        assert_eq!(pair.ids, [2, 4, 5, 6, 8, 4, 9, 3, 1, 6, 3]);
        assert_eq!(pair.type_ids, [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(tokenizer.vocab_size(), 10);
    }

    #[test]
    fn the_longer_text_is_cut_first() {
        let tokenizer = load(&dir()).unwrap();
        let cut = tokenizer
            .encode("the cat sat on the mat", Some("cat sat"), 8)
            .unwrap();
        assert_eq!(cut.ids, [2, 4, 5, 6, 3, 5, 6, 3]);
        assert!(cut.cut);
        let cut = tokenizer.encode("the cat sat on", None, 4).unwrap();
        assert_eq!(cut.ids, [2, 4, 5, 3]);
        assert!(cut.cut);
        let whole = tokenizer.encode("the cat sat on", None, 6).unwrap();
        assert!(!whole.cut);
        let error = tokenizer.encode("the cat", Some("sat"), 3).unwrap_err();
        assert!(matches!(
            error,
            TokenizerError::TooShort {
                max_len: 3,
                special: 3
            }
        ));
    }

    #[test]
    fn a_tokenizer_of_another_model_is_noticed() {
        let tokenizer = load(&dir()).unwrap();
        tokenizer.check_vocab(10).unwrap();
        let message = tokenizer.check_vocab(9).unwrap_err().to_string();
        assert!(message.contains("ids up to 9") && message.contains("9 tokens (ids 0 to 8)"));
    }

    #[test]
    fn padding_token_by_precedence() {
        let dir = dir();
        assert_eq!(load(&dir).unwrap().pad_id(), 0);
        write(
            &dir,
            "special_tokens_map.json",
            json!({"pad_token": {"content": "cat"}}),
        );
        assert_eq!(load(&dir).unwrap().pad_id(), 5);
        write(&dir, "tokenizer_config.json", json!({"pad_token": "mat"}));
        assert_eq!(load(&dir).unwrap().pad_id(), 9);
        write(
            &dir,
            "tokenizer_config.json",
            json!({"pad_token": "<none>"}),
        );
        let message = load(&dir).unwrap_err().to_string();
        assert!(message.contains("tokenizer_config.json") && message.contains("<none>"));
    }

    #[test]
    fn missing_and_broken_files_are_named() {
        let dir = dir();
        let path = dir.path().join("tokenizer.json");
        let whole = std::fs::read(&path).unwrap();
        for bytes in [
            &whole[..whole.len() / 2],
            b"",
            b"{}",
            b"[1, 2]",
            b"\xff\xfe",
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = load(&dir).unwrap_err();
            assert!(matches!(&error, TokenizerError::Invalid { path: p, .. } if *p == path));
        }
        std::fs::remove_file(&path).unwrap();
        let message = load(&dir).unwrap_err().to_string();
        assert!(message.contains("has no tokenizer.json"), "{message}");
    }

    /// The kept lengths are what transformers 5.17 keeps of texts of these lengths.
    #[test]
    fn pairs_are_cut_as_transformers_does() {
        let tokenizer = load(&dir()).unwrap();
        for (lengths, max_len, kept) in [
            ([8, 6], 6, [2, 1]),
            ([8, 6], 8, [3, 2]),
            ([4, 9], 8, [2, 3]),
            ([4, 3], 8, [3, 2]),
        ] {
            let [a, b] = [("the ", lengths[0]), ("cat ", lengths[1])].map(|(w, n)| w.repeat(n));
            let found = tokenizer.encode(&a, Some(&b), max_len).unwrap().ids;
            let [a, b] = [(4, kept[0]), (5, kept[1])].map(|(id, n)| vec![id; n]);
            assert_eq!(found, [vec![2], a, vec![3], b, vec![3]].concat());
        }
    }

    fn words() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec!["the", "cats", "sat", "on", "mat", "dog"]);
        prop::collection::vec(word, 1..12).prop_map(|words| words.join(" "))
    }

    proptest! {
        /// The oracle cuts what the tokenizers crate makes of each whole text.
        #[test]
        fn batches_keep_order_and_length(
            texts in prop::collection::vec((words(), prop::option::of(words())), 1..20),
            max_len in 4..20usize,
        ) {
            let tokenizer = load(&dir()).unwrap();
            let ids = |text: &str| tokenizer.inner.encode(text, false).unwrap().get_ids().to_vec();
            let inputs: Vec<_> = texts.iter().map(|(a, b)| (a.as_str(), b.as_deref())).collect();
            let batch = tokenizer.encode_batch(&inputs, max_len).unwrap();
            prop_assert_eq!(batch.len(), inputs.len());
            for ((text, pair), found) in inputs.into_iter().zip(batch) {
                let (mut a, mut b) = (ids(text), pair.map(ids));
                match &mut b {
                    None => a.truncate(max_len - 2),
                    Some(b) => {
                        let room = max_len - 3;
                        let (short, long) = if a.len() > b.len() { (b, &mut a) } else { (&mut a, b) };
                        if short.len() + long.len() > room {
                            short.truncate(room / 2);
                            long.truncate(room - short.len());
                        }
                    }
                }
                let first = [vec![2], a, vec![3]].concat();
                let second = b.map_or(vec![], |b| [b, vec![3]].concat());
                let types = [vec![0; first.len()], vec![1; second.len()]].concat();
                prop_assert_eq!(&found.ids, &[first, second].concat());
                prop_assert_eq!(&found.type_ids, &types);
                prop_assert_eq!(&found, &tokenizer.encode(text, pair, max_len).unwrap());
            }
        }
    }
}
