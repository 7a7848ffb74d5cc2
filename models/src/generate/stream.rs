//! A text that grows by tokens.

use serde::Serialize;

use crate::tokenizer::Tokenizer;

/// Texts that end what is written. Nothing of them is part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stops(Vec<String>);

impl Stops {
    /// Stops before this text too; an empty one would be everywhere, and is passed over.
    pub fn add(&mut self, text: &str) {
        if !text.is_empty() && !self.0.iter().any(|known| known == text) {
            self.0.push(text.to_owned());
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a text has one of them.
    pub fn are_in(&self, text: &str) -> bool {
        self.0.iter().any(|stop| text.contains(stop))
    }

    /// Where the first of them begins in a text, or its end.
    pub fn end(&self, text: &str) -> usize {
        let begins = self.0.iter().filter_map(|stop| text.find(stop));
        begins.min().unwrap_or(text.len())
    }

    /// Bytes of the longest, but at least 1.
    fn longest(&self) -> usize {
        self.0.iter().map(String::len).max().unwrap_or(1)
    }
}

/// The text of tokens.
pub fn text(tokenizer: &Tokenizer, tokens: &[i32]) -> String {
    let ids: Vec<u32> = tokens.iter().map(|&id| id as u32).collect();
    tokenizer.decode(&ids).unwrap_or_default()
}

/// A text that grows by tokens, of which each part is handed on once and stays as it is: all parts
/// together are the text of all tokens, up to the first stop.
#[derive(Debug, Default)]
pub struct TextStream {
    tokens: Vec<i32>,
    /// Bytes that were handed on.
    given: usize,
}

impl TextStream {
    /// What a token adds, but for what may become a stop or is a part of a character.
    pub fn push(&mut self, tokenizer: &Tokenizer, stops: &Stops, token: i32) -> String {
        self.tokens.push(token);
        let text = text(tokenizer, &self.tokens);
        let certain = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        let certain = certain.saturating_sub(stops.longest() - 1);
        self.up_to(&text, certain.min(stops.end(&text)))
    }

    /// What was held back, now that no token comes any more.
    pub fn finish(&mut self, tokenizer: &Tokenizer, stops: &Stops) -> String {
        let text = text(tokenizer, &self.tokens);
        let end = stops.end(&text);
        self.up_to(&text, end)
    }

    fn up_to(&mut self, text: &str, end: usize) -> String {
        let end = text.floor_char_boundary(end);
        let Some(new) = text.get(self.given..end) else {
            return String::new();
        };
        self.given = end;
        new.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A tokenizer of these words, which are written without anything between them.
    fn tokenizer(words: [&str; 4]) -> Tokenizer {
        let vocabulary: serde_json::Map<_, _> = words
            .iter()
            .zip(0..)
            .map(|(word, id)| ((*word).to_owned(), json!(id)))
            .collect();
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "unk_token": "x", "vocab": vocabulary},
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
        let settings = json!({"pad_token": "x"}).to_string();
        std::fs::write(dir.path().join("tokenizer_config.json"), settings).unwrap();
        Tokenizer::from_dir(dir.path()).unwrap()
    }

    #[test]
    fn a_stop_is_a_text_and_not_its_letters() {
        let mut stops = Stops::default();
        stops.add("###");
        stops.add("");
        assert_eq!(stops.end("# 4 ## 5 ### 6"), 9);
        assert!(!stops.are_in("# 4 ## 5"));
        assert_eq!(Stops::default().end("# 4"), 3);
    }

    /// What may become a stop is held back, and is there in the end.
    #[test]
    fn what_was_held_back_is_not_lost() {
        let tokenizer = tokenizer(["ple", "as", "sistant", "x"]);
        let mut stops = Stops::default();
        stops.add("assistant");
        let mut stream = TextStream::default();
        let mut shown: String = [0, 1]
            .map(|token| stream.push(&tokenizer, &stops, token))
            .concat();
        assert!("pleas".starts_with(&shown), "{shown}");
        shown += &stream.finish(&tokenizer, &stops);
        assert_eq!(shown, "pleas");

        let mut stream = TextStream::default();
        let mut shown: String = [0, 1, 2, 3]
            .map(|token| stream.push(&tokenizer, &stops, token))
            .concat();
        shown += &stream.finish(&tokenizer, &stops);
        assert_eq!(shown, "ple");
    }
}
