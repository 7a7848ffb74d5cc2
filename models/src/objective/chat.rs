use std::sync::Arc;

use ailora_graph::ir::Draw;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::{BindError, Objective};
use crate::{
    batch::{Batch, BatchError, Encoded},
    chat::{self, ChatError, ChatTemplate, Compiled, Conversation, Date, Learn, Message},
    config::Config,
    data::{DataError, Example, Record, Text},
    head::Head,
    tokenizer::{Markup, Tokenizer, TokenizerError},
};

/// The answers of conversations, by the cross-entropy of their tokens, in the template in which the
/// model writes conversations.
///
/// A target is the conversation. A row that is longer than sequences may be is cut at its end. There is no
/// metric: the score is the mean loss over the tokens that are learned.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Options")]
pub struct Chat {
    options: Options,
    /// Set by [`Objective::bind`].
    bound: Option<Arc<Bound>>,
}

/// What a description says of it. Either `messages`, or `prompt` and `answer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The column of the messages.
    pub messages: Option<String>,
    /// What the user says: a template of columns, as a task's `text`; or `{COLUMN}`, if that column holds
    /// messages.
    pub prompt: Option<Text>,
    /// The column of what the assistant answers: a text, or messages.
    pub answer: Option<String>,
    /// The column of the tools that the model may call.
    pub tools: Option<String>,
    /// The column of a system message.
    pub system: Option<String>,
    /// What is learned.
    pub learn: Learn,
    /// A template in place of the model's own: the name of one that is built in, a file, or Jinja.
    pub template: Option<String>,
    /// The day that the template writes, if it asks for the current one: YYYY-MM-DD.
    pub date: Option<String>,
    /// What control tokens are that a message spells out.
    pub content_tokens: ContentTokens,
}

/// What control tokens are that a message spells out, such as `</s>` in a question about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentTokens {
    /// The control tokens, as in transformers.
    #[default]
    Control,
    /// Texts like any other.
    Text,
}

/// A template and a tokenizer that writes in it.
#[derive(Debug)]
pub struct Bound {
    template: ChatTemplate,
    date: Date,
    markup: Markup,
}

impl TryFrom<Options> for Chat {
    type Error = String;

    fn try_from(options: Options) -> Result<Self, String> {
        match (&options.messages, &options.prompt, &options.answer) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => {}
            _ => return Err("expected either `messages`, or `prompt` and `answer`".to_owned()),
        }
        if let Some(date) = &options.date {
            date.parse::<Date>()
                .map_err(|error| format!("`date`: {error}"))?;
        }
        let bound = None;
        Ok(Self { options, bound })
    }
}

/// Options, as a description has them, for a run that others are to repeat: with today's date, unless
/// they have another, and with the template of a file in its place.
///
/// # Errors
/// The file cannot be read.
pub fn settled(options: &Value) -> Result<Value, ChatError> {
    let mut settled = options.clone();
    if let Some(template) = settled.get_mut("template")
        && let Some(given) = template.as_str()
    {
        *template = ChatTemplate::inlined(given)?.into();
    }
    if let Value::Object(fields) = &mut settled
        && fields.get("date").is_none_or(Value::is_null)
    {
        fields.insert("date".to_owned(), Date::today().to_string().into());
    }
    Ok(settled)
}

impl Options {
    /// These options for a model with this tokenizer: its template, unless another one is given.
    ///
    /// # Errors
    /// There is no template, or it cannot be read, or it writes the current date and none is given.
    pub fn bind(&self, tokenizer: &Tokenizer) -> Result<Bound, TokenizerError> {
        let own = tokenizer.chat_template();
        let template = match &self.template {
            Some(given) => ChatTemplate::given(given)?.with_special_of(own),
            None => own.cloned().ok_or(ChatError::NoTemplate)?,
        };
        let date = match &self.date {
            Some(date) => date.parse()?,
            None if template.is_dated() => return Err(ChatError::NoDate.into()),
            None => Date::today(),
        };
        let bound = Bound {
            template,
            date,
            markup: Markup::new(tokenizer, self.content_tokens == ContentTokens::Text)?,
        };
        bound.compiled()?;
        Ok(bound)
    }

    /// The conversation of a record.
    ///
    /// # Errors
    /// A column holds something else.
    pub fn conversation(&self, record: &Record<'_>) -> Result<Conversation, DataError> {
        let mut conversation = Conversation {
            place: place(record),
            ..Conversation::default()
        };
        if let Some(column) = &self.messages {
            conversation.messages = messages(record, column)?;
        }
        if let (Some(prompt), Some(answer)) = (&self.prompt, &self.answer) {
            let (asked, answered) = (asked(prompt, record)?, answered(answer, record)?);
            conversation.learned_from = asked.len();
            conversation.messages = [asked, answered].concat();
        }
        if let Some(column) = &self.tools
            && let Some(tools) = record.get(column)
        {
            let tools = chat::tools(tools);
            conversation.tools = tools.map_err(|expected| record.wrong(column, &expected))?;
        }
        if let Some(column) = &self.system
            && !record.is_blank(column)
        {
            let text = record.text(column, "a text")?;
            let first = conversation.messages.first();
            match first
                .filter(|message| is_system(message))
                .map(|first| first.get("content"))
            {
                Some(own) if own.is_some_and(|own| own == text) => {}
                Some(_) => {
                    let expected = "nothing, since the messages begin with another system message";
                    return Err(record.wrong(column, expected));
                }
                None => {
                    conversation
                        .messages
                        .insert(0, chat::message("system", text));
                    conversation.learned_from += usize::from(conversation.learned_from > 0);
                }
            }
        }
        Ok(conversation)
    }
}

fn is_system(message: &Message) -> bool {
    message.get("role").is_some_and(|role| role == "system")
}

fn messages(record: &Record<'_>, column: &str) -> Result<Vec<Message>, DataError> {
    let found = chat::messages(record.get(column).unwrap_or(&Value::Null));
    found.map_err(|expected| record.wrong(column, &expected))
}

/// What the user says: messages, or a text.
fn asked(prompt: &Text, record: &Record<'_>) -> Result<Vec<Message>, DataError> {
    let mut columns = prompt.needed();
    if let (Some(column), None) = (columns.next(), columns.next())
        && record.get(column).is_some_and(Value::is_array)
    {
        return messages(record, column);
    }
    Ok(vec![chat::message(
        "user",
        &prompt.of(record, false, false)?,
    )])
}

fn answered(column: &str, record: &Record<'_>) -> Result<Vec<Message>, DataError> {
    match record.get(column) {
        Some(Value::Array(_)) => messages(record, column),
        _ => Ok(vec![chat::message(
            "assistant",
            record.text(column, "an answer")?,
        )]),
    }
}

/// Where a record is, as errors of its columns say it.
fn place(record: &Record<'_>) -> String {
    match record.wrong("", "") {
        DataError::Cell { path, place, .. } => format!("{}, {place}", path.display()),
        other => other.to_string(),
    }
}

impl Bound {
    fn compiled(&self) -> Result<Compiled<'_>, ChatError> {
        self.template.compile(self.date)
    }

    /// The tokens of conversations with the header of the answer that each asks for.
    ///
    /// # Errors
    /// The template refuses one.
    pub fn prompts(&self, conversations: &[Conversation]) -> Result<Vec<Vec<i32>>, TokenizerError> {
        let compiled = self.compiled()?;
        let prompt = |conversation: &Conversation| {
            let written = compiled.prompt(conversation, self.markup.controls())?;
            let ids = self.markup.encode(&written)?.ids;
            Ok(ids.into_iter().map(|id| id as i32).collect())
        };
        conversations.iter().map(prompt).collect()
    }

    /// The text of a conversation with the header of the answer that it asks for.
    ///
    /// # Errors
    /// The template refuses it.
    pub fn prompt(&self, conversation: &Conversation) -> Result<String, ChatError> {
        let written = self
            .compiled()?
            .prompt(conversation, self.markup.controls());
        Ok(written?.text)
    }

    /// The text of a whole conversation.
    ///
    /// # Errors
    /// The template refuses it.
    pub fn text(&self, conversation: &Conversation) -> Result<String, ChatError> {
        let written = self
            .compiled()?
            .write(conversation, Learn::All, self.markup.controls());
        Ok(written?.text)
    }

    /// The token by which the template ends an answer, if that is one control token.
    pub fn end(&self, tokenizer: &Tokenizer) -> Option<u32> {
        let ending = self.ending()?;
        let tokens = self.markup.controls().tokens.iter();
        let ends = tokens.filter(|token| ending.ends_with(token.as_str()));
        tokenizer.id(ends.max_by_key(|token| token.len())?)
    }

    /// The text by which the template ends an answer, if there is one and no control token does.
    pub fn stop(&self, tokenizer: &Tokenizer) -> Option<String> {
        let ending = self.ending().filter(|ending| !ending.is_empty())?;
        self.end(tokenizer).is_none().then_some(ending)
    }

    /// What the template writes behind an answer.
    fn ending(&self) -> Option<String> {
        const ANSWER: &str = "a";
        let mut conversation = Conversation::of_user(ANSWER);
        conversation.push("assistant", ANSWER);
        let compiled = self.compiled().ok()?;
        let controls = self.markup.controls();
        let written = compiled.write(&conversation, Learn::Answers, controls);
        let written = written.ok()?;
        let answer = written.text.get(written.learned.last()?.clone())?;
        let (_, ending) = answer.rsplit_once(ANSWER)?;
        Some(ending.to_owned())
    }
}

impl Chat {
    /// What a description says of it.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// This objective for models with this tokenizer.
    ///
    /// # Errors
    /// As [`Options::bind`].
    pub fn bound(&self, tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let bound = self.options.bind(tokenizer)?;
        Ok(Self {
            options: self.options.clone(),
            bound: Some(Arc::new(bound)),
        })
    }
}

impl Objective for Chat {
    fn head(&self) -> Head {
        Head::CausalLm
    }

    fn columns(&self) -> Vec<&str> {
        let Options {
            messages,
            prompt,
            answer,
            tools,
            system,
            ..
        } = &self.options;
        let named = [messages, answer, tools, system]
            .into_iter()
            .flatten()
            .map(String::as_str);
        named.chain(prompt.iter().flat_map(Text::columns)).collect()
    }

    fn target(&self, record: &Record<'_>) -> Result<Value, DataError> {
        let conversation = self.options.conversation(record)?;
        Ok(serde_json::to_value(conversation).unwrap_or_default())
    }

    fn bind(
        &self,
        _: &Config,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Arc<dyn Objective>>, BindError> {
        let bound = self.bound(tokenizer).map_err(BindError::Tokenizer)?;
        Ok(Some(Arc::new(bound)))
    }

    /// Conversations in the template, with what is learned in segment 1. What is longer than
    /// `max_len` is cut at its end. An example without a target is a message of the user, with the
    /// header of an answer.
    fn encode(
        &self,
        examples: &[Example],
        _: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        let bound = self.bound.as_deref().ok_or(TokenizerError::Unbound)?;
        let compiled = bound.compiled()?;
        let controls = bound.markup.controls();
        let encode = |example: &Example| {
            let written = match &example.target {
                Some(target) => {
                    let conversation = Conversation::deserialize(target).unwrap_or_default();
                    let written = compiled.write(&conversation, self.options.learn, controls)?;
                    conversation.check_written(&written.text)?;
                    written
                }
                None => compiled.prompt(&Conversation::of_user(&example.text), controls)?,
            };
            let mut encoding = bound.markup.encode(&written)?;
            encoding.cut = encoding.ids.len() > max_len;
            encoding.ids.truncate(max_len);
            encoding.type_ids.truncate(max_len);
            let target = example.target.clone();
            Ok(Encoded {
                encoding,
                target,
                part: None,
            })
        };
        examples.par_iter().map(encode).collect()
    }

    /// Conversations without the answer that they end with, if they do, with the header of an answer.
    fn prompts(
        &self,
        examples: &[Example],
        _: &Tokenizer,
        _: usize,
    ) -> Result<Option<Vec<Vec<u32>>>, TokenizerError> {
        let bound = self.bound.as_deref().ok_or(TokenizerError::Unbound)?;
        let asked = |example: &Example| {
            let target = example.target.as_ref();
            let target = target.and_then(|target| Conversation::deserialize(target).ok());
            let mut conversation = target.unwrap_or_else(|| Conversation::of_user(&example.text));
            let answers = |message: &Message| message.get("role").is_some_and(|r| r == "assistant");
            while conversation.messages.pop_if(|last| answers(last)).is_some() {}
            conversation
        };
        let asked: Vec<Conversation> = examples.iter().map(asked).collect();
        let prompts = bound.prompts(&asked)?.into_iter();
        let ids = prompts.map(|ids| ids.into_iter().map(|id| id as u32).collect());
        Ok(Some(ids.collect()))
    }

    fn end(&self, tokenizer: &Tokenizer) -> Option<u32> {
        self.bound.as_deref()?.end(tokenizer)
    }

    /// A row may be too long for its answer.
    fn has_row_each(&self) -> bool {
        false
    }

    /// The first token is predicted from nothing.
    fn has_targets(&self, row: &Encoded) -> bool {
        row.encoding
            .type_ids
            .iter()
            .skip(1)
            .any(|&segment| segment == 1)
    }

    fn prepare(&self, batch: &mut Batch, _: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        batch.targets = batch.next_tokens();
        Ok(())
    }
}
