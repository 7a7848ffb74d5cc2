//! A text on the terminal that grows by tokens.

use ailora::models::tokenizer::Tokenizer;

use crate::cli::print;

/// The text of tokens.
pub fn text(tokenizer: &Tokenizer, tokens: &[i32]) -> String {
    let ids: Vec<u32> = tokens.iter().map(|&id| id as u32).collect();
    tokenizer.decode(&ids).unwrap_or_default()
}

/// Where the first of the stop texts begins, or the end.
pub fn end(text: &str, stops: &[String]) -> usize {
    let begins = stops.iter().filter_map(|stop| text.find(stop));
    begins.min().unwrap_or(text.len())
}

/// A text on the terminal that grows by tokens.
#[derive(Default)]
pub struct Stream {
    tokens: Vec<i32>,
    /// Bytes that were written.
    written: usize,
}

impl Stream {
    /// Writes what a token adds, but for what may become a stop text or is half of a character.
    pub fn push(&mut self, tokenizer: &Tokenizer, stops: &[String], token: i32) {
        self.tokens.push(token);
        let text = text(tokenizer, &self.tokens);
        let longest = stops.iter().map(String::len).max().unwrap_or(1);
        let certain = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        let certain = certain.saturating_sub(longest - 1);
        self.write(&text, certain.min(end(&text, stops)));
    }

    /// Writes what is left.
    pub fn finish(&mut self, tokenizer: &Tokenizer, stops: &[String]) {
        let text = text(tokenizer, &self.tokens);
        self.write(&text, end(&text, stops));
    }

    fn write(&mut self, text: &str, to: usize) {
        let to = text.floor_char_boundary(to);
        if let Some(new) = text.get(self.written..to) {
            if print::stdout(format_args!("{new}")).is_err() {
                // Whoever read it is gone: what would come is for nobody.
                std::process::exit(0);
            }
            self.written = to;
        }
    }
}
