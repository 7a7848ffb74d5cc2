//! Conversations that a model goes on with.

use std::{fs, path::Path};

use ailora::models::{
    chat::{Conversation, Date, messages, tools},
    generate::Writer,
    objective::{Bound, ChatOptions},
};
use serde_json::{Map, Value};

use crate::cli::{
    Error,
    sources::{Given, SourceArgs},
};

/// How conversations are written.
#[derive(Debug, clap::Args)]
pub struct ChatArgs {
    /// Write conversations in this template, a Jinja file or `chatml` [default: that of the
    /// adapter's training, or else the model's own].
    #[arg(long, value_name = "FILE_OR_NAME")]
    chat_template: Option<String>,
    /// The day that the template writes, if it asks for the current one [default: that of the adapter's
    /// training, or else today].
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: Option<Date>,
    /// Begin conversations with this system message.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

impl ChatArgs {
    /// Whether any of it is given.
    pub fn is_given(&self) -> bool {
        self.chat_template.is_some() || self.date.is_some() || self.system.is_some()
    }

    /// The template, as the training of the adapter had it, or of the first of several, unless flags say
    /// otherwise. The writer ends answers as it does.
    ///
    /// # Errors
    /// There is none, or the flags say no adapter.
    pub fn bind(&self, source: &SourceArgs, writer: &mut Writer) -> Result<Bound, Error> {
        let given = source.given()?;
        let mut folders = given.iter().flat_map(Given::folders);
        let mut options = folders.find_map(recorded).unwrap_or_default();
        if self.chat_template.is_some() {
            options.template.clone_from(&self.chat_template);
        }
        let date = self.date.map(|date| date.to_string());
        let today = || Some(Date::today().to_string());
        options.date = date.or(options.date).or_else(today);
        let bound = options.bind(writer.tokenizer())?;
        writer.end_at(bound.end(writer.tokenizer()));
        if let Some(stop) = bound.stop(writer.tokenizer()) {
            writer.stop_before(&stop);
        }
        Ok(bound)
    }

    /// A conversation that nobody has said anything in.
    pub fn start(&self) -> Conversation {
        let mut conversation = Conversation::default();
        if let Some(system) = &self.system {
            conversation.push("system", system);
        }
        conversation
    }

    /// Puts the system message before a conversation.
    ///
    /// # Errors
    /// It has one.
    fn begin(&self, conversation: &mut Conversation) -> Result<(), String> {
        let first = conversation.messages.first();
        let has_one = first
            .and_then(|first| first.get("role"))
            .is_some_and(|role| role == "system");
        if self.system.is_some() && has_one {
            return Err("it has a system message; leave out --system".to_owned());
        }
        let start = self.start().messages;
        conversation.messages.splice(0..0, start);
        Ok(())
    }

    /// The conversations of a file: JSON or JSON lines, each a list of messages, or an object with one as
    /// `messages` or `conversations`, and maybe `tools`.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn read(&self, path: &Path) -> Result<Vec<Conversation>, Error> {
        let said = |what: String| format!("{}: {what}", path.display());
        let text = fs::read_to_string(path).map_err(|error| said(error.to_string()))?;
        let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let mut values = values
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| said(error.to_string()))?;
        // One list is of conversations, unless it is of messages.
        if let [Value::Array(list)] = &mut values[..]
            && !list.iter().any(is_message)
        {
            values = std::mem::take(list);
        }
        if values.is_empty() {
            return Err(said("expected a conversation, found none".to_owned()).into());
        }
        let conversation = |(value, number): (&Value, usize)| {
            let place = said(format!("conversation {number}"));
            let mut found = conversation(value).map_err(|what| format!("{place}: {what}"))?;
            self.begin(&mut found)
                .map_err(|what| format!("{place}: {what}"))?;
            found.place = place;
            Ok(found)
        };
        values.iter().zip(1..).map(conversation).collect()
    }
}

fn is_message(value: &Value) -> bool {
    value
        .get("role")
        .or(value.get("from"))
        .is_some_and(Value::is_string)
}

fn conversation(value: &Value) -> Result<Conversation, String> {
    let none = Map::new();
    let fields = value.as_object().unwrap_or(&none);
    let list = match value {
        Value::Array(_) => Some(value),
        _ => fields.get("messages").or(fields.get("conversations")),
    };
    let list = list.ok_or("expected `messages` or `conversations`")?;
    let found = messages(list).map_err(|expected| format!("expected {expected}"))?;
    let last = found.last().and_then(|last| last.get("role"));
    if last.is_some_and(|role| role == "assistant") {
        return Err(
            "expected a last message that is not the assistant's, which is to be written".into(),
        );
    }
    let tools = tools(fields.get("tools").unwrap_or(&Value::Null));
    Ok(Conversation {
        messages: found,
        tools: tools.map_err(|expected| format!("`tools`: expected {expected}"))?,
        ..Conversation::default()
    })
}

/// The options of the objective `chat` that an adapter was trained with: `objective` of the task's
/// description, which training leaves in its folder.
fn recorded(adapter: &Path) -> Option<ChatOptions> {
    let text = fs::read(adapter.join("ailora.json")).ok()?;
    let about: Value = serde_json::from_slice(&text).ok()?;
    let options = about.get("description")?.get("objective")?.get("chat")?;
    serde_json::from_value(options.clone()).ok()
}
