//! Which part of a written conversation is the model's.

use std::{ops::Range, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ChatError, Compiled, Conversation, Message, Written,
    marks::{Marked, control_at, has_marks, number},
};

pub(super) use super::marks::{BEGIN, END, PROBE};

/// What is learned of a conversation, or of a prompt and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learn {
    /// Answers: of a chat the contents and calls of the assistant's messages, and the token that ends each.
    #[default]
    Answers,
    /// Every token.
    All,
}

impl FromStr for Learn {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "answers" => Ok(Self::Answers),
            "all" => Ok(Self::All),
            _ => Err("expected answers or all"),
        }
    }
}

const ASSISTANT: &str = "assistant";

/// Control tokens as templates write them; and whether those that contents spell out are texts.
#[derive(Clone, Copy, Debug)]
pub struct Controls<'a> {
    /// The tokens.
    pub tokens: &'a [String],
    /// Whether they are only texts where a message spells them out.
    pub literal: bool,
}

impl Compiled<'_> {
    /// A conversation as the template writes it, with what is learned of it.
    ///
    /// Where a template says by `{% generation %}` what the model writes, that is learned. Otherwise an
    /// answer begins where the template's own request for an answer ends, and ends where the messages up
    /// to it do, without white space behind it. Both are compared with the whole text.
    ///
    /// # Errors
    /// The template refuses the conversation, or it cannot be said where an answer is.
    pub fn write(
        &self,
        conversation: &Conversation,
        learn: Learn,
        controls: Controls<'_>,
    ) -> Result<Written, ChatError> {
        let view = View::new(self, conversation, controls)?;
        let whole = view.render(&view.messages, false)?;
        let learned = match learn {
            Learn::All => std::iter::once(0..whole.text.len()).collect(),
            Learn::Answers if self.marks(view.tools.is_some())? => view.marked(&whole)?,
            Learn::Answers => view.answers(&whole)?,
        };
        Ok(Written {
            text: whole.text,
            learned,
            literal: whole.literal,
        })
    }

    /// A conversation with the header of the answer that is asked for.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn prompt(
        &self,
        conversation: &Conversation,
        controls: Controls<'_>,
    ) -> Result<Written, ChatError> {
        let view = View::new(self, conversation, controls)?;
        let whole = view.render(&view.messages, true)?;
        Ok(Written {
            text: whole.text,
            learned: Vec::new(),
            literal: whole.literal,
        })
    }
}

/// A conversation and what renders it.
struct View<'a> {
    compiled: &'a Compiled<'a>,
    conversation: &'a Conversation,
    messages: Vec<Message>,
    tools: Option<Value>,
    controls: &'a [String],
}

impl<'a> View<'a> {
    fn new(
        compiled: &'a Compiled<'a>,
        conversation: &'a Conversation,
        controls: Controls<'a>,
    ) -> Result<Self, ChatError> {
        let mut messages = conversation.messages.clone();
        let mut tools = conversation.tools.clone();
        let mut contents = messages.iter().flat_map(Message::values).chain(&tools);
        if contents.any(has_marks) {
            return Err(ChatError::Render {
                place: conversation.place.clone(),
                message: "its text has one of U+FDD0 to U+FDD4, which are no characters".to_owned(),
            });
        }
        if controls.literal {
            let contents = messages
                .iter_mut()
                .flatten()
                .filter(|(name, _)| *name != "role");
            for value in contents.map(|(_, value)| value).chain(&mut tools) {
                number(value, controls.tokens);
            }
        }
        Ok(Self {
            compiled,
            conversation,
            messages,
            tools,
            controls: controls.tokens,
        })
    }

    fn render(&self, messages: &[Message], prompt: bool) -> Result<Marked, ChatError> {
        let place = &self.conversation.place;
        let raw = self
            .compiled
            .render(messages, self.tools.as_ref(), prompt, place)?;
        Ok(Marked::read(&raw, self.controls))
    }

    fn unknown(&self, index: usize, why: &'static str) -> ChatError {
        ChatError::Answer {
            place: self.conversation.place.clone(),
            message: index + 1,
            why,
        }
    }

    /// What the template marks, of the messages that are learned.
    fn marked(&self, whole: &Marked) -> Result<Vec<Range<usize>>, ChatError> {
        let from = match self.conversation.learned_from.min(self.messages.len()) {
            0 => 0,
            from => self.header(whole, from)?,
        };
        let learned = whole
            .generated
            .iter()
            .filter(|span| span.start >= from && !span.is_empty());
        Ok(learned.cloned().collect())
    }

    fn answers(&self, whole: &Marked) -> Result<Vec<Range<usize>>, ChatError> {
        let mut spans = Vec::new();
        for (index, message) in self.messages.iter().enumerate() {
            let is_learned = index >= self.conversation.learned_from;
            if !is_learned || message.get("role").is_none_or(|role| role != ASSISTANT) {
                continue;
            }
            let start = self.header(whole, index)?;
            let end = self.end(whole, index, start)?;
            let end = start + whole.text[start..end].trim_end().len();
            if start < end {
                spans.push(start..end);
            }
        }
        Ok(spans)
    }

    /// Where the header of a message's answer ends.
    fn header(&self, whole: &Marked, index: usize) -> Result<usize, ChatError> {
        let asked = match self.render(&self.messages[..index], true) {
            Err(_) if index == 0 => {
                return Err(self.unknown(
                    index,
                    "the template cannot write a header before any message",
                ));
            }
            asked => asked?,
        };
        match whole.text.starts_with(&asked.text) {
            true => Ok(asked.text.len()),
            false => Err(self.unknown(
                index,
                "the template begins an answer otherwise where it asks for one than where it is there",
            )),
        }
    }

    /// Where the answer of a message that begins at `start` ends, with white space behind it.
    fn end(&self, whole: &Marked, index: usize, start: usize) -> Result<usize, ChatError> {
        let turn = self.render(&self.messages[..=index], false)?;
        let own_end = self.own_end(&turn, index, start);
        let header = &whole.text[..start];
        let turn_text = &turn.text[..own_end];
        if turn_text.starts_with(header) && whole.text.starts_with(turn_text) {
            return Ok(own_end);
        }
        self.probed_end(whole, &turn, own_end, index, start)
            .ok_or_else(|| {
                self.unknown(
                    index,
                    "the template writes it otherwise where more messages follow",
                )
            })
    }

    /// Where the last message of `turn` ends: before what the template writes behind a conversation
    /// unless it asks for an answer, such as a token that ends the text.
    fn own_end(&self, turn: &Marked, index: usize, start: usize) -> usize {
        let text = &turn.text;
        let Ok(asked) = self.render(&self.messages[..=index], true) else {
            return text.len();
        };
        let common = self.common(text, &asked.text);
        match common >= start && self.is_closed_at(text, common) {
            true => common,
            false => text.len(),
        }
    }

    /// Where an answer ends that is written otherwise as the last message: found by a mark in it,
    /// behind which both have the same.
    fn probed_end(
        &self,
        whole: &Marked,
        turn: &Marked,
        own_end: usize,
        index: usize,
        start: usize,
    ) -> Option<usize> {
        let probe = |messages: &[Message], expected: &Marked| {
            let probed = self.render(messages, false).ok()?;
            match probed.probes[..] {
                [at] if probed.text == expected.text => Some(at),
                _ => None,
            }
        };
        let places: [fn(&mut Message) -> Option<&mut Value>; 2] = [content, last_call];
        places.into_iter().find_map(|place| {
            let mut messages = self.messages.clone();
            mark(place(messages.get_mut(index)?)?)?;
            let in_whole = probe(&messages, whole).filter(|&at| at >= start)?;
            let in_turn = probe(&messages[..=index], turn).filter(|&at| at <= own_end)?;
            let behind = &turn.text[in_turn..own_end];
            let common = self.common(behind, &whole.text[in_whole..]);
            self.is_closed_at(behind, common)
                .then_some(in_whole + common)
        })
    }

    /// Bytes that two texts begin with both, up to a control token that only one has whole.
    fn common(&self, a: &str, b: &str) -> usize {
        let letters = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
        let len: usize = letters.map(|(letter, _)| letter.len_utf8()).sum();
        let cut = |text: &str| {
            let longest = self.controls.iter().map(String::len).max().unwrap_or(0);
            let starts = (len.saturating_sub(longest)..len).filter(|&at| text.is_char_boundary(at));
            let mut cuts = starts.filter(|&at| {
                let control = control_at(&text[at..], self.controls);
                control.is_some_and(|control| at + self.controls[control].len() > len)
            });
            cuts.next().unwrap_or(len)
        };
        cut(a).min(cut(b))
    }

    /// Whether a text may end at this place, since a control token ends it there and nothing but such
    /// follow.
    fn is_closed_at(&self, text: &str, at: usize) -> bool {
        let (own, rest) = text.split_at(at);
        let own = own.trim_end();
        let mut ends = self.controls.iter().filter(|control| !control.is_empty());
        let is_closed = ends.any(|control| own.ends_with(control.as_str()));
        let mut rest = rest.trim_start();
        while let Some(control) = control_at(rest, self.controls) {
            rest = rest[self.controls[control].len()..].trim_start();
        }
        rest.is_empty() && (is_closed || at == text.len())
    }
}

fn content(message: &mut Message) -> Option<&mut Value> {
    message.get_mut("content")
}

/// The name in the last call of a message.
fn last_call(message: &mut Message) -> Option<&mut Value> {
    let call = message.get_mut("tool_calls")?.as_array_mut()?.last_mut()?;
    match call.get("function") {
        Some(_) => call.get_mut("function")?.get_mut("name"),
        None => call.get_mut("name"),
    }
}

/// Marks the end of a text, before white space that templates may leave out.
fn mark(value: &mut Value) -> Option<()> {
    let text = value.as_str()?;
    let (text, space) = text.split_at(text.trim_end().len());
    *value = format!("{text}{PROBE}{space}").into();
    Some(())
}
