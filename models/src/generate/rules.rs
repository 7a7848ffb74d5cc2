//! What may be written next, whatever the model says: penalties, forced tokens and banned ones.

use std::collections::HashSet;

/// Changes to the scores of the next token, in the order in which transformers makes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// What the scores of tokens that were there are divided by if positive, else multiplied with.
    pub repetition_penalty: f64,
    /// No sequence of so many tokens is written twice; 0 for no such rule.
    pub no_repeat_ngram_size: usize,
    /// Sequences of tokens that are never written.
    pub bad_words: Vec<Vec<i32>>,
    /// The shortest text, with what comes before it: until then it does not end.
    pub min_length: usize,
    /// The fewest new tokens.
    pub min_new_tokens: usize,
    /// The token behind the first.
    pub forced_bos: Option<i32>,
    /// The last token, or one of them, where the text is as long as it may be.
    pub forced_eos: Vec<i32>,
    /// Tokens that are never written.
    pub suppressed: Vec<i32>,
    /// Tokens that are not written first.
    pub suppressed_at_begin: Vec<i32>,
    /// Whether scores are normalised again, where their sizes are compared.
    pub renormalize: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            bad_words: Vec::new(),
            min_length: 0,
            min_new_tokens: 0,
            forced_bos: None,
            forced_eos: Vec::new(),
            suppressed: Vec::new(),
            suppressed_at_begin: Vec::new(),
            renormalize: false,
        }
    }
}

/// Scores of the tokens that may come next.
pub(super) trait Scores {
    /// That of a token, if it is among those that are looked at.
    fn of(&mut self, token: i32) -> Option<&mut f32>;

    /// Leaves these tokens alone, with a score of 0.
    fn only(&mut self, tokens: &[i32]);
}

impl Scores for [f32] {
    fn of(&mut self, token: i32) -> Option<&mut f32> {
        self.get_mut(usize::try_from(token).ok()?)
    }

    fn only(&mut self, tokens: &[i32]) {
        self.fill(f32::NEG_INFINITY);
        for &token in tokens {
            if let Some(score) = self.of(token) {
                *score = 0.0;
            }
        }
    }
}

/// What is there of a text when its next token is chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    /// What was given: the prompt, or the start token of an encoder-decoder.
    pub given: &'a [i32],
    /// What was written.
    pub written: &'a [i32],
    /// Tokens that end it.
    pub ends: &'a [i32],
    /// The most tokens that are written.
    pub most: usize,
}

impl Text<'_> {
    fn len(self) -> usize {
        self.given.len() + self.written.len()
    }

    fn tokens(self) -> Vec<i32> {
        [self.given, self.written].concat()
    }
}

impl Rules {
    /// What a repetition penalty should be: scores have 32 bits, and of others they become infinite or 0.
    pub const PENALTY: &str = "a number from 0.000001 to 1000000";

    /// Whether a number can be a repetition penalty.
    pub fn is_penalty(number: f64) -> bool {
        (1e-6..=1e6).contains(&number)
    }

    /// Whether no score becomes larger but for tokens that are forced.
    pub(super) fn only_lower(&self) -> bool {
        self.repetition_penalty >= 1.0
    }

    /// Changes the scores of a text's next token.
    pub(super) fn apply<S: Scores + ?Sized>(&self, scores: &mut S, text: Text<'_>) {
        let forbid = |scores: &mut S, tokens: &[i32]| {
            for &token in tokens {
                if let Some(score) = scores.of(token) {
                    *score = f32::NEG_INFINITY;
                }
            }
        };
        if self.repetition_penalty != 1.0 {
            self.penalise(scores, text);
        }
        if self.no_repeat_ngram_size > 0 {
            forbid(scores, &repeats(&text.tokens(), self.no_repeat_ngram_size));
        }
        if !self.bad_words.is_empty() {
            forbid(scores, &self.bad(text));
        }
        if text.len() < self.min_length || text.written.len() < self.min_new_tokens {
            forbid(scores, text.ends);
        }
        if let Some(token) = self.forced_bos.filter(|_| text.len() == 1) {
            scores.only(&[token]);
        }
        if !self.forced_eos.is_empty() && text.written.len() + 1 == text.most {
            scores.only(&self.forced_eos);
        }
        forbid(scores, &self.suppressed);
        // Behind a start token alone, the forced one does not count as the begin.
        let begin = usize::from(text.given.len() == 1 && self.forced_bos.is_some());
        if text.written.len() == begin {
            forbid(scores, &self.suppressed_at_begin);
        }
    }

    fn penalise<S: Scores + ?Sized>(&self, scores: &mut S, text: Text<'_>) {
        let penalty = self.repetition_penalty as f32;
        let there: HashSet<i32> = text.tokens().into_iter().collect();
        for token in there {
            if let Some(score) = scores.of(token) {
                *score = if *score < 0.0 {
                    *score * penalty
                } else {
                    *score / penalty
                };
            }
        }
    }

    /// The tokens that would end a sequence that is never written.
    fn bad(&self, text: Text<'_>) -> Vec<i32> {
        let tokens = text.tokens();
        let would_end = |word: &Vec<i32>| {
            let (last, before) = word.split_last()?;
            let is_end = before.is_empty() && text.ends.contains(last);
            let fits = word.len() <= tokens.len() && tokens.ends_with(before);
            (fits && !is_end).then_some(*last)
        };
        self.bad_words.iter().filter_map(would_end).collect()
    }
}

/// The tokens that would repeat a sequence of `size`.
fn repeats(tokens: &[i32], size: usize) -> Vec<i32> {
    let Some(start) = (tokens.len() + 1).checked_sub(size) else {
        return Vec::new();
    };
    let last = &tokens[start..];
    let windows = tokens.windows(size);
    let same = windows.filter(|window| &window[..size - 1] == last);
    same.map(|window| window[size - 1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f32 = f32::NEG_INFINITY;

    fn scores(rules: Rules, given: &[i32], written: &[i32], scores: &[f32]) -> Vec<f32> {
        let mut scores = scores.to_vec();
        let text = Text {
            given,
            written,
            ends: &[1, 2],
            most: 4,
        };
        rules.apply(&mut scores[..], text);
        scores
    }

    #[test]
    fn a_penalty_makes_what_was_there_less_likely_once() {
        let rules = Rules {
            repetition_penalty: 2.0,
            ..Rules::default()
        };
        let found = scores(rules, &[0, 1, 1], &[1, 77, -5], &[1.0, -2.0, 1.0, 0.0]);
        assert_eq!(found, [0.5, -4.0, 1.0, 0.0]);
    }

    #[test]
    fn texts_do_not_end_before_their_shortest() {
        let new = |count| Rules {
            min_new_tokens: count,
            ..Rules::default()
        };
        let free = [0.0; 4];
        let held = [0.0, NONE, NONE, 0.0];
        for (written, expected) in [(&[][..], held), (&[3], held), (&[3, 3], free)] {
            assert_eq!(scores(new(2), &[5, 5, 5], written, &free), expected);
        }
        // The shortest length counts what is given.
        let all = |length| Rules {
            min_length: length,
            ..Rules::default()
        };
        assert_eq!(scores(all(5), &[5, 5, 5], &[3], &free), held);
        assert_eq!(scores(all(5), &[5, 5, 5], &[3, 3], &free), free);
    }

    #[test]
    fn sequences_that_would_be_repeated_are_banned() {
        assert_eq!(repeats(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(repeats(&[1, 2, 3, 1], 2), [2]);
        assert_eq!(repeats(&[4, 5], 1), [4, 5]);
        assert_eq!(repeats(&[4, 5], 3), Vec::<i32>::new());
        assert_eq!(repeats(&[4, 5], usize::MAX), Vec::<i32>::new());
        assert_eq!(repeats(&[], 1), Vec::<i32>::new());
    }

    #[test]
    fn tokens_are_forced_and_banned_where_they_should_be() {
        let rules = Rules {
            forced_bos: Some(3),
            forced_eos: vec![2],
            suppressed: vec![0],
            suppressed_at_begin: vec![1],
            bad_words: vec![vec![3], vec![0, 2], vec![9, 9, 9, 9, 9, 3]],
            ..Rules::default()
        };
        let even = [0.0; 4];
        let found = |given: &[i32], written: &[i32]| scores(rules.clone(), given, written, &even);
        assert_eq!(found(&[2], &[]), [NONE, NONE, NONE, 0.0]);
        assert_eq!(found(&[2], &[3]), [NONE, NONE, 0.0, NONE]);
        assert_eq!(found(&[2], &[3, 0]), [NONE, 0.0, NONE, NONE]);
        assert_eq!(found(&[2], &[3, 1, 1]), [NONE, NONE, 0.0, NONE]);
        // A prompt is no start token.
        assert_eq!(found(&[7, 7], &[]), [NONE, NONE, 0.0, NONE]);
        assert_eq!(found(&[7, 7], &[3]), [NONE, 0.0, 0.0, NONE]);
    }
}
