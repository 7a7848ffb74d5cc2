//! Windows over a text that is too long for a row beside a question.

use std::ops::Range;

use tokenizers::{TruncationDirection, TruncationParams, TruncationStrategy};

use super::{Encoding, Tokenizer, TokenizerError, limits};
use crate::closed::brief;

/// A row of a question and as much of a text as fits beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The row.
    pub encoding: Encoding,
    /// Where in the row the text's tokens begin.
    pub first: usize,
    /// Which of the whole text's tokens they are.
    pub tokens: Range<usize>,
    /// The characters of the text that each of them is from: Unicode code points, as Python counts them.
    /// Some tokenizers leave characters out, or give several tokens the same ones.
    pub places: Vec<Range<usize>>,
}

impl Tokenizer {
    /// A question with a text behind it, in as many rows of at most `max_len` tokens as the text takes; each
    /// has the whole question, and `overlap` tokens of the text that the row before has too. Where the folder
    /// says `padding_side: left` the text is before the question.
    ///
    /// These are the rows of transformers' `truncation="only_second"` with `stride=overlap` and
    /// `return_overflowing_tokens=True`, in their order.
    ///
    /// # Errors
    /// [`TokenizerError::NoRoom`] if the text does not fit, and as much as overlaps does not either; texts
    /// the tokenizer cannot represent.
    pub fn encode_windows(
        &self,
        question: &str,
        text: &str,
        max_len: usize,
        overlap: usize,
    ) -> Result<Vec<Window>, TokenizerError> {
        let tokens = |text: &str| {
            let tokens = limits::bounded(|| self.inner.encode_char_offsets(text, false));
            tokens.map_err(TokenizerError::Encode)
        };
        let (asked, tokens) = (tokens(question)?, tokens(text)?);
        let (own, length) = (asked.len() + self.special_tokens(true), tokens.len());
        let room = max_len.saturating_sub(own);
        if own + length > max_len && overlap >= room {
            return Err(TokenizerError::NoRoom {
                question: brief(question),
                tokens: asked.len(),
                room,
                overlap,
                max_len,
            });
        }
        let asked_for = asked.len();
        let places = tokens.get_offsets().iter();
        let places: Vec<Range<usize>> = places.map(|&(start, end)| start..end).collect();
        let (strategy, pair) = match self.pads_left {
            true => (TruncationStrategy::OnlyFirst, vec![tokens, asked]),
            false => (TruncationStrategy::OnlySecond, vec![asked, tokens]),
        };
        let params = TruncationParams {
            max_length: max_len,
            strategy,
            direction: self.truncation,
            stride: overlap,
        };
        let (mut whole, _) = self.join(pair, params)?;
        let rest = whole.take_overflowing();
        let window = |(i, row): (usize, tokenizers::Encoding)| {
            // The tokens that are not put around the texts are those of the question and of the text.
            let special = row.get_special_tokens_mask().iter().enumerate();
            let mut given = special
                .filter(|(_, special)| **special == 0)
                .map(|(at, _)| at);
            let before = if self.pads_left { 0 } else { asked_for };
            let first = given.nth(before).unwrap_or(row.len());
            let step = i * room.saturating_sub(overlap);
            let tokens = match self.truncation {
                TruncationDirection::Right => step..step.saturating_add(room).min(length),
                TruncationDirection::Left => {
                    let end = length.saturating_sub(step);
                    end.saturating_sub(room)..end
                }
            };
            Ok(Window {
                // The rows have the whole text together.
                encoding: self.encoding((row, false))?,
                first,
                // Not the row's own: white space is left out of offsets every time that tokens are joined.
                places: places.get(tokens.clone()).unwrap_or_default().to_vec(),
                tokens,
            })
        };
        std::iter::once(whole)
            .chain(rest)
            .enumerate()
            .map(window)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{dir, load, loaded_with};
    use super::*;

    fn ids(windows: &[Window]) -> Vec<&[u32]> {
        windows.iter().map(|window| &*window.encoding.ids).collect()
    }

    /// Characters are code points, also behind letters of several bytes.
    #[test]
    fn tokens_of_a_text_know_their_characters() {
        let tokenizer = load(&dir()).unwrap();
        let text = "\u{e9}\u{1f642} the cats";
        let windows = tokenizer.encode_windows("the", text, 16, 4).unwrap();
        let [window] = &windows[..] else {
            panic!("{windows:?}");
        };
        assert_eq!(
            window.encoding,
            tokenizer.encode("the", Some(text), 16).unwrap()
        );
        assert_eq!(
            window.places[window.places.len() - 3..],
            [3..6, 7..10, 10..11]
        );
        assert_eq!(
            (window.first, window.tokens.clone()),
            (3, 0..window.places.len())
        );
    }

    /// [CLS] sat [SEP] and [SEP] leave room for 3 of 7 tokens; each window begins 2 behind the last.
    #[test]
    fn a_long_text_takes_several_rows_that_overlap() {
        let tokenizer = load(&dir()).unwrap();
        let text = "the cat sat on the mat the";
        let windows = tokenizer.encode_windows("sat", text, 7, 1).unwrap();
        assert_eq!(
            ids(&windows),
            [
                [2, 6, 3, 4, 5, 6, 3],
                [2, 6, 3, 6, 8, 4, 3],
                [2, 6, 3, 4, 9, 4, 3]
            ]
        );
        let tokens: Vec<_> = windows.iter().map(|window| window.tokens.clone()).collect();
        assert_eq!(tokens, [0..3, 2..5, 4..7]);
        assert_eq!(windows[2].places, [15..18, 19..22, 23..26]);
        assert!(
            windows
                .iter()
                .all(|window| window.first == 3 && !window.encoding.cut)
        );
    }

    #[test]
    fn texts_that_are_cut_from_their_start_have_windows_from_their_end() {
        let tokenizer = loaded_with(json!({"truncation_side": "left"}));
        let windows = tokenizer
            .encode_windows("sat", "the cat sat on the mat", 7, 1)
            .unwrap();
        let tokens: Vec<_> = windows.iter().map(|window| window.tokens.clone()).collect();
        assert_eq!(tokens, [3..6, 1..4, 0..2]);
        assert_eq!(ids(&windows)[2], [2, 6, 3, 4, 5, 3]);
    }

    #[test]
    fn a_tokenizer_that_pads_on_the_left_has_the_text_first() {
        let tokenizer = loaded_with(json!({"padding_side": "left"}));
        let windows = tokenizer
            .encode_windows("sat", "the cat on the mat", 7, 1)
            .unwrap();
        assert_eq!(
            ids(&windows),
            [[2, 4, 5, 8, 3, 6, 3], [2, 8, 4, 9, 3, 6, 3]]
        );
        assert_eq!(windows[1].places, [8..10, 11..14, 15..18]);
        assert_eq!((windows[1].first, windows[1].tokens.clone()), (1, 2..5));
    }

    /// Row 62 of the pitfalls: at most 16 tokens, of which the question has 20, or leaves no more than overlap.
    #[test]
    fn a_question_that_leaves_no_room_is_an_error_with_the_numbers() {
        let tokenizer = load(&dir()).unwrap();
        let start = std::time::Instant::now();
        let question = "cat ".repeat(20);
        let error = |question: &str, overlap| {
            let found = tokenizer.encode_windows(question, &"mat ".repeat(30), 16, overlap);
            found.unwrap_err().to_string()
        };
        let message = error(&question, 4);
        assert!(
            message.contains("20 tokens") && message.contains("room for 0"),
            "{message}"
        );
        let message = error("cat cat cat", 10);
        assert!(
            message.contains("room for 10") && message.contains("overlap by 10"),
            "{message}"
        );
        assert!(start.elapsed().as_secs() < 1);
        // What fits needs no overlap.
        assert_eq!(
            tokenizer
                .encode_windows("cat cat", "mat", 6, 10)
                .unwrap()
                .len(),
            1
        );
        assert_eq!(
            tokenizer
                .encode_windows("cat cat cat", &"mat ".repeat(30), 16, 9)
                .unwrap()
                .len(),
            21
        );
    }

    #[test]
    fn a_text_without_tokens_is_a_row_without_places() {
        let tokenizer = load(&dir()).unwrap();
        let windows = tokenizer.encode_windows("cat", " ", 16, 4).unwrap();
        assert_eq!(ids(&windows), [[2, 5, 3, 3]]);
        assert_eq!(
            (windows[0].places.len(), windows[0].tokens.clone()),
            (0, 0..0)
        );
    }
}
