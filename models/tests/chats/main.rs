//! Conversations in templates, byte for byte as transformers writes them.

#[path = "../support/mod.rs"]
mod support;

mod forms;
mod learning;
mod rendering;
mod spans;

use std::{fs, path::Path};

use ailora_graph::ir::Draw;
use ailora_models::{
    batch::{Batch, Encoded, Plan, Targets},
    chat::{ChatTemplate, Controls, Conversation, Date, Learn},
    config::Config,
    data::{Example, Place, Record},
    objective::{Causal, Chat, Objective, settled_chat},
    tokenizer::{Encoding, Markup, Tokenizer},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use support::fixtures;

#[derive(Deserialize)]
struct Templates {
    conversations: Vec<Conversation>,
    templates: Vec<Rendered>,
}

#[derive(Deserialize)]
struct Rendered {
    name: String,
    special: Map<String, Value>,
    /// Without and with a request for an answer.
    texts: Vec<[Outcome; 2]>,
}

#[derive(Deserialize)]
struct Outcome {
    text: Option<String>,
    error: Option<String>,
    #[serde(default)]
    raised: bool,
}

const NO_CONTROLS: Controls<'_> = Controls {
    tokens: &[],
    literal: false,
};

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = fixtures().join("chats").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn date() -> Date {
    "2024-07-26".parse().unwrap()
}

/// A template of the fixtures.
fn jinja(name: &str) -> String {
    let path = fixtures()
        .join("chats/templates")
        .join(format!("{name}.jinja"));
    fs::read_to_string(path).unwrap()
}

fn rendered(jinja: &str, values: Value) -> Result<String, String> {
    let Value::Object(values) = values else {
        panic!("{values} is no object")
    };
    let template = ChatTemplate::new(jinja, "x").with_special(values);
    let found = template
        .compile(date())
        .and_then(|compiled| compiled.write(&Conversation::default(), Learn::All, NO_CONTROLS));
    found
        .map(|written| written.text)
        .map_err(|error| error.to_string())
}

#[derive(Deserialize)]
struct Masks {
    conversations: Vec<Value>,
    kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    name: String,
    special: Map<String, Value>,
    tokenizer: Value,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    ids: Vec<u32>,
    mask: Vec<u32>,
}

impl Kind {
    fn named(name: &str) -> Self {
        let Masks { kinds, .. } = read("masks.json");
        kinds.into_iter().find(|kind| kind.name == name).unwrap()
    }

    /// A model's tokenizer with a template.
    fn tokenizer(&self, jinja: &str) -> Tokenizer {
        let dir = tempfile::tempdir().unwrap();
        let mut config = self.special.clone();
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        config.insert("chat_template".into(), jinja.into());
        let write = |name: &str, value: String| fs::write(dir.path().join(name), value).unwrap();
        write("tokenizer.json", self.tokenizer.to_string());
        write("tokenizer_config.json", Value::from(config).to_string());
        Tokenizer::from_dir(dir.path()).unwrap()
    }
}

/// The objective with these options, for a model with this tokenizer.
fn bound(options: Value, tokenizer: &Tokenizer) -> Chat {
    let options = serde_json::from_value::<Chat>(options).unwrap();
    options.bound(tokenizer).unwrap()
}

fn record(fields: Value) -> Record<'static> {
    let Value::Object(fields) = fields else {
        panic!("{fields} is no object")
    };
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value));
    Record::new(Path::new("x.jsonl"), Place::Line(7), fields.collect())
}

fn encoded(chat: &Chat, tokenizer: &Tokenizer, fields: Value, max_len: usize) -> Encoding {
    let example = Example {
        target: Some(chat.target(&record(fields)).unwrap()),
        ..Example::default()
    };
    let mut rows = chat.encode(&[example], tokenizer, max_len).unwrap();
    rows.remove(0).encoding
}

fn messages(messages: Value) -> Value {
    json!({"messages": messages})
}

/// The text of the tokens that are learned, with control tokens.
fn learned(tokenizer: &Tokenizer, encoding: &Encoding) -> String {
    let tokens = encoding.ids.iter().zip(&encoding.type_ids);
    let learned = tokens.filter(|(_, segment)| **segment == 1);
    let tokens = learned.map(|(&id, _)| tokenizer.token(id).unwrap());
    let text: String = tokens.collect();
    let text = (b' '..=b'~').fold(text, |text, byte| {
        text.replace(&format!("<0x{byte:02X}>"), &char::from(byte).to_string())
    });
    text.replace('Ġ', " ")
        .replace('Ċ', "\n")
        .replace("Ã©", "é")
        .replace('▁', " ")
}

const MESSAGES: &str = "messages";

fn said(turns: &[(&str, &str)]) -> Value {
    let message = |&(role, content): &(&str, &str)| json!({"role": role, "content": content});
    messages(turns.iter().map(message).collect())
}
