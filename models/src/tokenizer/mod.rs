//! Text to token ids with a model's own tokenizer.

mod class;
mod convert;
mod error;
pub mod fields;
pub mod gguf;
mod join;
mod limits;
mod load;
mod markup;
mod places;
mod reconcile;
mod sentencepiece;
mod settings;
mod template;
pub mod train;

use std::{path::Path, sync::Arc};

use rayon::prelude::*;
use tokenizers::{Encoding as Tokens, TruncationDirection};

pub use error::TokenizerError;
pub use markup::Markup;
pub use places::Places;

use crate::{chat::ChatTemplate, closed::Note};

/// Texts tokenized at a time; the tokenizer's intermediate form is many times the size of the ids.
const CHUNK: usize = 4096;

/// The file that says everything of a tokenizer.
const JSON: &str = "tokenizer.json";

/// A model's tokenizer, as found in its folder.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    truncation: TruncationDirection,
    /// Whether spaces before punctuation are left out of what is decoded.
    cleanup: bool,
    /// Whether the model is told the segments.
    segments: bool,
    /// How many segments the model knows, where it reads them.
    segment_limit: Option<usize>,
    pad_id: u32,
    /// The largest id that texts can get.
    largest: u32,
    chat_template: Option<Arc<ChatTemplate>>,
    notes: Vec<Note>,
}

/// What takes the place of what in decoded text, as in transformers' `clean_up_tokenization`.
const CLEANED: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// Token ids of one text or pair, special tokens included, without padding; or of several documents that
/// share a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token the segment it belongs to; as long as `ids`.
    pub type_ids: Vec<u32>,
    /// Whether tokens of the text were left out, so that it is not too long.
    pub cut: bool,
    /// Where in `ids` the documents begin that share the row, ascending; empty if it is one document's.
    pub parts: Vec<usize>,
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
    /// (LLaMA), `vocab.txt` (BERT), `vocab.json` with `merges.txt` (RoBERTa, BART and Qwen2) or what a
    /// GGUF file has in their place. What `tokenizer_config.json`, `special_tokens_map.json` and
    /// `added_tokens.json` say is done as transformers 5 does it. Padding and truncation lengths set
    /// in the files are ignored.
    ///
    /// # Errors
    /// Files that are missing or not what they should be, that contradict each other, or ask for
    /// something that is not done; and a tokenizer without padding token.
    pub fn from_dir(dir: &Path) -> Result<Tokenizer, TokenizerError> {
        load::from_dir(dir)
    }

    /// A tokenizer for a model that knows so many segments; nothing, if it reads none.
    pub(crate) fn for_segments(mut self, known: Option<usize>) -> Self {
        self.segment_limit = known;
        self
    }

    /// What of the folder's files is not used.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// How the model writes conversations, where its files say it.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_deref()
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// The tokenizer has no text for them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text = limits::bounded(|| self.inner.decode(ids, true));
        let text = text.map_err(TokenizerError::Decode)?;
        Ok(match self.cleanup {
            true => CLEANED
                .iter()
                .fold(text, |text, (from, to)| text.replace(from, to)),
            false => text,
        })
    }

    /// The text of token ids, with special tokens by their names.
    ///
    /// # Errors
    /// The tokenizer has no text for them.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text = limits::bounded(|| self.inner.decode(ids, false));
        text.map_err(TokenizerError::Decode)
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
        let max_id = self.largest.max(self.pad_id);
        if max_id as usize >= model_vocab_size {
            return Err(TokenizerError::Vocabulary {
                max_id,
                token: self.inner.id_to_token(max_id),
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

    /// Texts behind which something is to be written, whole and as [`encode_answer`] has them.
    ///
    /// [`encode_answer`]: Self::encode_answer
    ///
    /// # Errors
    /// Texts the tokenizer cannot represent.
    pub fn prompts<'a>(
        &self,
        texts: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        let prompt = |text: &str| {
            let answer = self.encode_answer(text, "", None, usize::MAX)?;
            Ok(answer.ids)
        };
        texts.map(prompt).collect()
    }

    /// A prompt, and in segment 1 what is written behind it, ended by the token `end`. Where that is
    /// longer than `max_len`, the prompt loses tokens from its start, behind the special tokens there. Where
    /// the prompt alone is that long, or none of it would be left, the answer is left out.
    ///
    /// # Errors
    /// Texts the tokenizer cannot represent.
    pub fn encode_answer(
        &self,
        prompt: &str,
        answer: &str,
        end: Option<u32>,
        max_len: usize,
    ) -> Result<Encoding, TokenizerError> {
        let encode = |text: &str, special| {
            let tokens = limits::bounded(|| self.inner.encode_fast(text, special));
            tokens.map_err(TokenizerError::Encode)
        };
        // As one text, if the prompt's tokens are the same in it: what is generated follows these.
        let whole = encode(&format!("{prompt}{answer}"), true)?;
        let prompt = encode(prompt, true)?;
        let special = prompt.get_special_tokens_mask();
        let first = special.iter().take_while(|&&special| special == 1).count();
        let mut ids = prompt.get_ids().to_vec();
        let mut answer = match whole.get_ids().strip_prefix(&*ids) {
            Some(answer) => answer.to_vec(),
            None => encode(answer, false)?.get_ids().to_vec(),
        };
        answer.extend(end);
        let excess = (ids.len() + answer.len()).saturating_sub(max_len);
        let is_left_out = ids.len() >= max_len || excess >= ids.len() - first;
        if excess > 0 && is_left_out {
            answer.clear();
            ids.truncate(max_len);
        } else {
            ids.drain(first..first + excess);
        }
        let mut type_ids = vec![0; ids.len()];
        ids.extend(answer);
        type_ids.resize(ids.len(), 1);
        Ok(Encoding {
            ids,
            type_ids,
            cut: excess > 0,
            ..Encoding::default()
        })
    }

    fn tokenize(&self, texts: Vec<&str>) -> Result<Vec<Tokens>, TokenizerError> {
        // Each behind a wall of its own, on the thread that it runs on.
        let tokens = texts
            .into_par_iter()
            .map(|text| limits::bounded(|| self.inner.encode_fast(text, false)));
        let tokens: Result<Vec<Tokens>, String> = tokens.collect();
        tokens.map_err(TokenizerError::Encode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const WORDS: [&str; 10] = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s", "on", "mat",
    ];

    /// A folder with a WordPiece tokenizer that pads and truncates to 7 if left to itself.
    pub(super) fn dir() -> tempfile::TempDir {
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

    pub(super) fn load(dir: &tempfile::TempDir) -> Result<Tokenizer, TokenizerError> {
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
        assert_eq!(load(&dir).unwrap().pad_id(), 5);
        // Where this is, transformers reads no other file.
        let config = json!({"pad_token": "mat", "added_tokens_decoder": {}});
        write(&dir, "tokenizer_config.json", config);
        assert_eq!(load(&dir).unwrap().pad_id(), 9);
        // A token that is not there is added behind the vocabulary, for which the model has no row.
        let config = json!({"pad_token": "<none>", "added_tokens_decoder": {}});
        write(&dir, "tokenizer_config.json", config);
        let tokenizer = load(&dir).unwrap();
        assert_eq!(tokenizer.pad_id(), 10);
        let message = tokenizer.check_vocab(10).unwrap_err().to_string();
        assert!(message.contains("<none>"), "{message}");
    }

    #[test]
    fn a_decoder_without_padding_is_padded_by_its_end() {
        let folder = dir();
        let path = folder.path().join("tokenizer.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut json: Value = serde_json::from_str(&text).unwrap();
        json["padding"] = Value::Null;
        let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
        vocabulary.remove("[PAD]");
        vocabulary.insert("</s>".to_owned(), json!(0));
        write(&folder, "tokenizer.json", json);
        assert_eq!(load(&folder).unwrap().pad_id(), 0);
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
