//! Tokens of texts in which a chat template has written the control tokens.

use std::{collections::HashMap, ops::Range};

use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer as Inner};

use super::{Encoding, Tokenizer, TokenizerError, limits};
use crate::chat::{Controls, Written, control_at};

/// A tokenizer for texts that have their control tokens already: it puts none around them, and leaves
/// those that are only texts as texts.
#[derive(Clone, Debug)]
pub struct Markup {
    inner: Inner,
    /// For texts in which some control tokens are only texts.
    guarded: Option<Guarded>,
    controls: Vec<String>,
}

/// A tokenizer that knows the control tokens by other names, which no text has.
#[derive(Clone, Debug)]
struct Guarded {
    inner: Inner,
    /// The id of each name as the id of its token.
    ids: HashMap<u32, u32>,
}

/// The name of a control token in a guarded text: noncharacters around its number.
fn alias(number: usize) -> String {
    format!("\u{fdd5}{number}\u{fdd6}")
}

impl Markup {
    /// The tokenizer of a model, for templates' texts; `literal` says whether control tokens that
    /// messages spell out are only texts.
    ///
    /// # Errors
    /// The tokenizers library fails.
    pub fn new(tokenizer: &Tokenizer, literal: bool) -> Result<Self, TokenizerError> {
        let mut inner = tokenizer.inner.clone();
        // It would change the places of tokens.
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let special = inner.get_added_tokens_decoder();
        let mut special: Vec<(u32, AddedToken)> = special
            .into_iter()
            .filter(|(_, token)| token.special)
            .collect();
        special.sort_by_key(|(id, _)| *id);
        let guarded = match literal {
            true => Some(Guarded::new(&inner, &special)?),
            false => None,
        };
        Ok(Self {
            inner,
            guarded,
            controls: special
                .into_iter()
                .map(|(_, token)| token.content)
                .collect(),
        })
    }

    /// The control tokens, for what writes the texts.
    pub fn controls(&self) -> Controls<'_> {
        Controls {
            tokens: &self.controls,
            literal: self.guarded.is_some(),
        }
    }

    /// The tokens of a text, those in segment 1 of which any part is learned.
    ///
    /// # Errors
    /// The tokenizer fails on the text.
    pub fn encode(&self, written: &Written) -> Result<Encoding, TokenizerError> {
        let Written {
            text,
            learned,
            literal,
        } = written;
        let (ids, places) = match (&self.guarded, &literal[..]) {
            (Some(guarded), [_, ..]) => guarded.tokens(text, literal, &self.controls)?,
            _ => tokens(&self.inner, text)?,
        };
        let mut spans = learned.iter().peekable();
        let segment = |place: &Range<usize>| {
            while spans.next_if(|span| span.end <= place.start).is_some() {}
            let is_learned = spans.peek().is_some_and(|span| match place.is_empty() {
                true => span.contains(&place.start),
                false => span.start < place.end,
            });
            u32::from(is_learned)
        };
        Ok(Encoding {
            type_ids: places.iter().map(segment).collect(),
            ids,
            cut: false,
        })
    }
}

/// Ids, and the bytes of the text that each is for.
type Placed = (Vec<u32>, Vec<Range<usize>>);

fn tokens(inner: &Inner, text: &str) -> Result<Placed, TokenizerError> {
    let tokens = limits::bounded(|| inner.encode(text, false));
    let tokens = tokens.map_err(TokenizerError::Encode)?;
    let places = tokens.get_offsets().iter().map(|&(start, end)| start..end);
    Ok((tokens.get_ids().to_vec(), places.collect()))
}

impl Guarded {
    fn new(inner: &Inner, special: &[(u32, AddedToken)]) -> Result<Self, TokenizerError> {
        let mut inner = inner.clone();
        inner.set_encode_special_tokens(true);
        let aliases = special
            .iter()
            .enumerate()
            .map(|(number, (_, token))| AddedToken {
                content: alias(number),
                special: false,
                normalized: false,
                ..token.clone()
            });
        let aliases: Vec<AddedToken> = aliases.collect();
        let added = limits::bounded(|| inner.add_tokens(aliases));
        added.map_err(TokenizerError::Encode)?;
        let ids = special.iter().enumerate();
        let ids =
            ids.filter_map(|(number, (id, _))| Some((inner.token_to_id(&alias(number))?, *id)));
        Ok(Self {
            ids: ids.collect(),
            inner,
        })
    }

    /// The tokens of a text in which the control tokens within `literal` are only texts.
    fn tokens(
        &self,
        text: &str,
        literal: &[Range<usize>],
        controls: &[String],
    ) -> Result<Placed, TokenizerError> {
        let mut aliased = Aliased::default();
        let mut literal = literal.iter().peekable();
        let (mut at, mut copied) = (0, 0);
        while at < text.len() {
            if let Some(span) = literal.next_if(|span| span.start <= at) {
                at = at.max(span.end);
                continue;
            }
            match control_at(&text[at..], controls) {
                Some(number) => {
                    aliased.push(&text[copied..at], copied..at);
                    let end = at + controls[number].len();
                    aliased.push(&alias(number), at..end);
                    (at, copied) = (end, end);
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        aliased.push(&text[copied..], copied..text.len());
        let (ids, places) = tokens(&self.inner, &aliased.text)?;
        let ids = ids
            .into_iter()
            .map(|id| self.ids.get(&id).copied().unwrap_or(id));
        let places = places.into_iter();
        let places = places.map(|place| aliased.original(place.start)..aliased.original(place.end));
        Ok((ids.collect(), places.collect()))
    }
}

/// A text of which parts stand for parts of another.
#[derive(Default)]
struct Aliased {
    text: String,
    /// Where each part begins here, and what it stands for.
    parts: Vec<(usize, Range<usize>)>,
}

impl Aliased {
    fn push(&mut self, part: &str, original: Range<usize>) {
        self.parts.push((self.text.len(), original));
        self.text += part;
    }

    /// The place in the other text; the end of an alias is the end of what it stands for.
    fn original(&self, at: usize) -> usize {
        let next = self.parts.partition_point(|(start, _)| *start <= at);
        let part = next.checked_sub(1).and_then(|part| self.parts.get(part));
        let (start, original) = part.map_or((0, 0..0), Clone::clone);
        (original.start + (at - start)).min(original.end)
    }
}
