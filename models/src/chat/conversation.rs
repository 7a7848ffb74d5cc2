//! Conversations in the forms that data files have.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::ChatError;

/// A message as templates read it: `role`, `content`, and whatever else it has.
pub type Message = Map<String, Value>;

/// Messages, and what a template is told beside them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// The messages.
    pub messages: Vec<Message>,
    /// The tools that the model may call, as JSON schemas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Value>,
    /// The first message of which anything is learned.
    #[serde(default)]
    pub learned_from: usize,
    /// Where it is from, for errors.
    #[serde(default)]
    pub place: String,
}

impl Conversation {
    /// A conversation of one message of the user.
    pub fn of_user(text: &str) -> Self {
        Self {
            messages: vec![message("user", text)],
            ..Self::default()
        }
    }

    /// Refuses a text in which the tools are not named that there are and that are called: a template that
    /// has no place for them leaves them out.
    ///
    /// # Errors
    /// [`ChatError::Lost`], by the name of one.
    pub fn check_written(&self, text: &str) -> Result<(), ChatError> {
        let name = |tool: &Value| {
            let function = tool.get("function").unwrap_or(tool);
            Some(function.get("name")?.as_str()?.to_owned())
        };
        let tools = self.tools.iter().filter_map(Value::as_array).flatten();
        let calls = self.messages.iter();
        let calls = calls.filter_map(|message| message.get("tool_calls")?.as_array());
        let tools = tools.map(|tool| ("tool", tool));
        let named = tools.chain(calls.flatten().map(|call| ("tool call", call)));
        for (what, tool) in named {
            if let Some(name) = name(tool).filter(|name| !text.contains(name.as_str())) {
                let place = self.place.clone();
                return Err(ChatError::Lost { place, what, name });
            }
        }
        Ok(())
    }

    /// Adds a message.
    pub fn push(&mut self, role: &str, content: &str) {
        self.messages.push(message(role, content));
    }
}

/// A message of nothing but a text.
pub(crate) fn message(role: &str, content: &str) -> Message {
    Message::from_iter([
        ("role".to_owned(), role.into()),
        ("content".to_owned(), content.into()),
    ])
}

/// Every role that data files have, with what templates call it.
const ROLES: &[(&str, &str)] = &[
    ("system", "system"),
    ("developer", "developer"),
    ("user", "user"),
    ("human", "user"),
    ("assistant", "assistant"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("model", "assistant"),
    ("function_call", "assistant"),
    ("tool", "tool"),
    ("observation", "tool"),
    ("function_response", "tool"),
    ("function", "tool"),
    ("ipython", "ipython"),
];

/// The messages of a value: a list of objects with `role` and `content`, or ShareGPT's `from` and
/// `value`; or such a list as JSON text.
///
/// # Errors
/// What was expected of which message.
pub fn messages(value: &Value) -> Result<Vec<Message>, String> {
    const EXPECTED: &str = "a list of messages, each an object with `role` and `content`";
    match value {
        Value::Array(list) if list.is_empty() => Err("at least one message".to_owned()),
        Value::Array(list) => {
            let numbered = list.iter().zip(1..);
            numbered
                .map(|(value, n)| {
                    one(value).map_err(|expected| format!("{expected} in message {n}"))
                })
                .collect()
        }
        Value::String(text) => match serde_json::from_str(text) {
            Ok(list @ Value::Array(_)) => messages(&list),
            _ => Err(EXPECTED.to_owned()),
        },
        _ => Err(EXPECTED.to_owned()),
    }
}

fn one(value: &Value) -> Result<Message, String> {
    let Value::Object(fields) = value else {
        return Err("an object with `role` and `content`".to_owned());
    };
    let names = match fields.contains_key("role") {
        true => ["role", "content"],
        false => ["from", "value"],
    };
    let written = fields.get(names[0]).and_then(Value::as_str);
    let written = written.ok_or("a text as `role` (or `from`)")?;
    let role = ROLES.iter().find(|(name, _)| *name == written);
    let (_, role) = role.ok_or_else(|| {
        let known: Vec<&str> = ROLES.iter().map(|(name, _)| *name).collect();
        format!("a role among {}, not `{written}`,", known.join(", "))
    })?;
    if written == "function_call" {
        return call(fields.get(names[1]));
    }
    let mut message = Message::new();
    for (name, value) in fields {
        match &**name {
            name if name == names[0] => message.insert("role".into(), (*role).into()),
            name if name == names[1] => message.insert("content".into(), Value::Null),
            "tool_calls" => message.insert(name.clone(), calls(value)?),
            // A table's records have every field that any of them has.
            _ if value.is_null() => continue,
            _ => message.insert(name.clone(), value.clone()),
        };
    }
    message.retain(|name, value| name != "tool_calls" || !value.is_null());
    let content = content(fields.get(names[1]))?;
    let has_calls = message.contains_key("tool_calls");
    match content {
        Some(content) => message.insert("content".into(), content.into()),
        None if has_calls => message.insert("content".into(), "".into()),
        None => return Err(format!("a text as `{}`, or `tool_calls`,", names[1])),
    };
    Ok(message)
}

/// The text of a content: one text, or a list of parts that are texts.
fn content(value: Option<&Value>) -> Result<Option<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(parts)) => {
            let part = |part: &Value| match part {
                Value::String(text) => Some(text.clone()),
                Value::Object(fields) => {
                    let is_text = fields.get("type").is_none_or(|kind| kind == "text");
                    let text = fields.get("text").filter(|_| is_text)?;
                    text.as_str().map(str::to_owned)
                }
                _ => None,
            };
            let parts: Option<String> = parts.iter().map(part).collect();
            parts
                .map(Some)
                .ok_or_else(|| "parts that are texts (`type` is `text`)".to_owned())
        }
        Some(_) => Err("a text, or a list of texts, as content".to_owned()),
    }
}

/// The calls of a message, whose arguments are objects; OpenAI writes these as JSON text.
fn calls(value: &Value) -> Result<Value, String> {
    const EXPECTED: &str = "`tool_calls` to be a list of objects with the `name` of a function";
    let list = match value {
        Value::Null => return Ok(Value::Null),
        Value::Array(list) if list.is_empty() => return Ok(Value::Null),
        Value::Array(list) => list,
        _ => return Err(EXPECTED.to_owned()),
    };
    let call = |call: &Value| {
        let mut call = call.clone();
        let function = match call.get("function") {
            Some(_) => call.get_mut("function"),
            None => Some(&mut call),
        };
        let function = function.and_then(Value::as_object_mut);
        let function =
            function.filter(|function| function.get("name").is_some_and(Value::is_string));
        let arguments = function.ok_or(EXPECTED)?.get_mut("arguments");
        if let Some(arguments) = arguments
            && let Some(Ok(object @ Value::Object(_))) =
                arguments.as_str().map(serde_json::from_str)
        {
            *arguments = object;
        }
        Ok::<_, String>(call)
    };
    list.iter().map(call).collect()
}

/// ShareGPT's `function_call`: a call as JSON text, or a list of them.
fn call(value: Option<&Value>) -> Result<Message, String> {
    const EXPECTED: &str = "a call of a function as JSON, with `name` and `arguments`,";
    let parsed = match value {
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|_| EXPECTED)?,
        Some(value) => value.clone(),
        None => return Err(EXPECTED.to_owned()),
    };
    let list = match parsed {
        Value::Array(list) => list,
        other => vec![other],
    };
    let wrapped = list.into_iter().map(|call| match call.get("function") {
        Some(_) => call,
        None => json!({"type": "function", "function": call}),
    });
    let wrapped = calls(&wrapped.collect()).map_err(|_| EXPECTED)?;
    let mut message = message("assistant", "");
    message.insert("tool_calls".into(), wrapped);
    Ok(message)
}

/// The tools of a value: a list of JSON schemas, or such a list as JSON text; nothing, if there are
/// none. One that names a function by itself is put into OpenAI's `{"type": "function",
/// "function": ...}`, which templates read.
///
/// # Errors
/// What was expected.
pub fn tools(value: &Value) -> Result<Option<Value>, String> {
    const EXPECTED: &str = "a list of tools, each an object with the `name` of a function, or such a \
                            list as JSON text";
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(Value::String(_)) | Err(_) => Err(EXPECTED.to_owned()),
            Ok(value) => tools(&value),
        },
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(list) => {
            let tool = |tool: &Value| match tool.as_object()? {
                tool if tool.contains_key("function") => Some(Value::from(tool.clone())),
                tool if tool.get("name").is_some_and(Value::is_string) => {
                    Some(json!({"type": "function", "function": tool}))
                }
                _ => None,
            };
            let tools: Option<Vec<Value>> = list.iter().map(tool).collect();
            tools
                .map(|tools| Some(tools.into()))
                .ok_or_else(|| EXPECTED.to_owned())
        }
        _ => Err(EXPECTED.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: Value) -> Value {
        messages(&value)
            .unwrap()
            .into_iter()
            .map(Value::Object)
            .collect()
    }

    #[test]
    fn sharegpt_is_the_same_messages() {
        let plain = json!([
            {"role": "system", "content": "S"}, {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "yo"}
        ]);
        assert_eq!(of(plain.clone()), plain);
        let sharegpt = json!([
            {"from": "system", "value": "S"}, {"from": "human", "value": "hi"},
            {"from": "gpt", "value": "yo"}
        ]);
        assert_eq!(of(sharegpt), plain);
        let mixed = json!([
            {"role": "system", "content": "S"}, {"role": "human", "content": "hi"},
            {"role": "gpt", "content": "yo"}
        ]);
        assert_eq!(of(mixed), plain);
        assert_eq!(of(plain.to_string().into()), plain);
    }

    #[test]
    fn null_and_list_contents_are_texts_and_other_keys_are_kept() {
        let call =
            json!({"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}});
        let found = of(json!([
            {"role": "assistant", "content": null, "tool_calls": [call], "name": null},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"reasoning_content": "r", "role": "assistant", "content": "", "tool_calls": null},
        ]));
        assert_eq!(
            found,
            json!([
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "user", "content": "ab"},
                {"reasoning_content": "r", "role": "assistant", "content": ""},
            ])
        );
        // OpenAI's arguments are JSON text.
        let text = json!({"type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}});
        let openai = of(json!([{"role": "assistant", "tool_calls": [text]}]));
        assert_eq!(openai[0]["tool_calls"][0].to_string(), call.to_string());
    }

    #[test]
    fn calls_and_their_results_are_of_their_roles() {
        let found = of(json!([
            {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
            {"from": "observation", "value": "{\"y\": 2}"},
        ]));
        assert_eq!(
            found,
            json!([
                {"role": "assistant", "content": "", "tool_calls":
                    [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
                {"role": "tool", "content": "{\"y\": 2}"},
            ])
        );
        let tool = json!({"name": "f", "parameters": {"z": 1, "a": 2}});
        let wrapped = json!([{"type": "function", "function": tool}]);
        assert_eq!(
            tools(&json!([tool]).to_string().into()),
            Ok(Some(wrapped.clone()))
        );
        assert_eq!(tools(&wrapped), Ok(Some(wrapped)));
        assert_eq!(tools(&"[]".into()), Ok(None));
        assert!(tools(&json!([{"f": 1}])).is_err());
    }

    #[test]
    fn what_is_no_message_is_named() {
        for (value, expected) in [
            (json!([]), "at least one message"),
            (json!("hi"), "a list of messages"),
            (
                json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": null}]),
                "`tool_calls`, in message 2",
            ),
            (
                json!([{"role": "assistant", "content": null, "tool_calls": []}]),
                "or `tool_calls`",
            ),
            (
                json!([{"role": "narrator", "content": "x"}]),
                "not `narrator`, in message 1",
            ),
            (json!([{"from": "human", "content": "x"}]), "as `value`"),
            (
                json!([{"role": "user", "content": 3}]),
                "as content in message 1",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image"}]}]),
                "parts that are texts",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"id": 1}]}]),
                "the `name` of a function",
            ),
            (
                json!([{"from": "function_call", "value": "f(x)"}]),
                "as JSON",
            ),
            (json!([3]), "an object"),
        ] {
            let error = messages(&value).unwrap_err();
            assert!(error.contains(expected), "{value}: {error}");
        }
    }
}
