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
mod reconcile;
mod sentencepiece;
mod settings;
mod template;
pub mod train;
mod windows;

use std::{path::Path, sync::Arc};

use rayon::prelude::*;
use tokenizers::{Encoding as Tokens, TruncationDirection};

pub use error::TokenizerError;
pub use markup::Markup;
pub use windows::Window;

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
    /// Whether the files say that rows are padded on the left.
    pads_left: bool,
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
    /// The tokens of the text to write about it, special ones included, of an encoder-decoder; else none.
    pub target: Vec<u32>,
    /// Whether tokens of that were left out.
    pub target_cut: bool,
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
mod tests;
