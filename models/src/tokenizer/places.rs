//! Where in a text tokens are from.

use std::ops::Range;

use super::{Encoding, Tokenizer, TokenizerError, limits};

/// Of each token, the characters of a text that it is from, if it is from any.
pub type Places = Vec<Option<Range<usize>>>;

impl Tokenizer {
    /// Encodes a pair as [`Tokenizer::encode`] does, and says of each token which characters of the
    /// second text it is from: Unicode code points, as Python counts them. Tokens of the first text
    /// and special ones are from none.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_batch`].
    pub fn encode_with_places(
        &self,
        text: &str,
        pair: &str,
        max_len: usize,
    ) -> Result<(Encoding, Places), TokenizerError> {
        let tokens = [text, pair].map(|text| {
            let tokens = limits::bounded(|| self.inner.encode_char_offsets(text, false));
            tokens.map_err(TokenizerError::Encode)
        });
        let [text, pair] = tokens;
        let (whole, cut) = self.join(vec![text?, pair?], max_len)?;
        let sequences = whole.get_sequence_ids();
        let places = sequences.iter().zip(whole.get_offsets());
        let places = places
            .map(|(sequence, &(start, end))| (*sequence == Some(1)).then_some(start..end))
            .collect();
        Ok((self.encoding((whole, cut))?, places))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{dir, load};

    /// Characters are code points, also behind letters of several bytes.
    #[test]
    fn tokens_of_a_pair_know_their_characters() {
        let tokenizer = load(&dir()).unwrap();
        let (encoding, places) = tokenizer
            .encode_with_places("the", "\u{e9}\u{1f642} the cats", 16)
            .unwrap();
        assert_eq!(
            encoding,
            tokenizer
                .encode("the", Some("\u{e9}\u{1f642} the cats"), 16)
                .unwrap()
        );
        let last: Vec<_> = places.iter().rev().take(4).cloned().collect();
        assert_eq!(last, [None, Some(10..11), Some(7..10), Some(3..6)]);
        assert_eq!(places[..3], [None, None, None]);
    }
}
