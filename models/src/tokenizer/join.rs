//! The tokens of texts as a row of the model.

use tokenizers::{
    Encoding as Tokens, PostProcessor, TruncationParams, TruncationStrategy, truncate_encodings,
};

use super::{Encoding, Tokenizer, TokenizerError, limits};

impl Tokenizer {
    /// Truncates the tokens of one or two texts and puts the special tokens around them.
    pub(super) fn combine(
        &self,
        tokens: Vec<Tokens>,
        max_len: usize,
    ) -> Result<Encoding, TokenizerError> {
        self.encoding(self.join(tokens, max_len)?)
    }

    /// The tokens of one or two texts, truncated and with the special tokens around them; and whether
    /// any were cut.
    pub(super) fn join(
        &self,
        mut tokens: Vec<Tokens>,
        max_len: usize,
    ) -> Result<(Tokens, bool), TokenizerError> {
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
        let whole = limits::bounded(|| {
            let (text, pair) = truncate_encodings(text, pair, &params)?;
            self.inner.post_process(text, pair, true)
        });
        let whole = whole.map_err(TokenizerError::Encode)?;
        Ok((whole, length > max_len - special))
    }

    /// What the model reads of tokens.
    pub(super) fn encoding(
        &self,
        (whole, cut): (Tokens, bool),
    ) -> Result<Encoding, TokenizerError> {
        let mut type_ids = whole.get_type_ids().to_vec();
        if !self.segments {
            type_ids.fill(0);
        }
        if let Some(limit) = self.segment_limit
            && let Some(&segment) = type_ids.iter().find(|&&segment| segment as usize >= limit)
        {
            return Err(TokenizerError::Segment { segment, limit });
        }
        Ok(Encoding {
            ids: whole.get_ids().to_vec(),
            type_ids,
            cut,
            ..Encoding::default()
        })
    }
}
