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
        let params = TruncationParams {
            max_length: max_len,
            strategy: TruncationStrategy::LongestFirst,
            direction: self.truncation,
            stride: 0,
        };
        self.encoding(self.join(tokens, params)?)
    }

    /// How many special tokens are put around one text or two.
    pub(super) fn special_tokens(&self, pair: bool) -> usize {
        let processor = self.inner.get_post_processor();
        processor.map_or(0, |processor| processor.added_tokens(pair))
    }

    /// The tokens of one or two texts, truncated with the special tokens around them; and whether any
    /// were cut.
    pub(super) fn join(
        &self,
        mut tokens: Vec<Tokens>,
        mut params: TruncationParams,
    ) -> Result<(Tokens, bool), TokenizerError> {
        let max_len = params.max_length;
        for (segment, tokens) in tokens.iter_mut().enumerate() {
            tokens.set_type_ids(vec![segment as u32; tokens.len()]);
        }
        let mut tokens = tokens.into_iter();
        let text = tokens.next().unwrap_or_default();
        let pair = tokens.next();

        let special = self.special_tokens(pair.is_some());
        if max_len <= special {
            return Err(TokenizerError::TooShort { max_len, special });
        }
        let length = text.len() + pair.as_ref().map_or(0, Tokens::len);
        params.max_length = max_len - special;
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
