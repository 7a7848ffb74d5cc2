//! Conversations in templates, byte for byte as transformers writes them.

mod support;

use std::fs;

use ailora_models::chat::{ChatTemplate, Controls, Conversation, Date, Learn};
use serde::Deserialize;
use serde_json::{Map, Value};
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

#[test]
fn templates_of_models_write_what_transformers_writes() {
    let Templates {
        conversations,
        templates,
    } = read("templates.json");
    let folder = fixtures().join("chats/templates");
    let (mut same, mut failures) = (0, Vec::new());
    for Rendered {
        name,
        special,
        texts,
    } in templates
    {
        let jinja = fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&jinja, &*name).with_special(special);
        let compiled = template.compile(date()).unwrap();
        for (n, (conversation, expected)) in conversations.iter().zip(texts).enumerate() {
            let found = [
                compiled.write(conversation, Learn::All, NO_CONTROLS),
                compiled.prompt(conversation, NO_CONTROLS),
            ];
            for (found, expected) in found.into_iter().zip(expected) {
                let found = found
                    .map(|written| written.text)
                    .map_err(|error| error.to_string());
                let is_same = match (&found, expected.text, expected.error) {
                    (Ok(found), Some(text), _) if *found == text => true,
                    (Ok(found), Some(text), _) => {
                        failures.push(format!("{name} {n}:\n{found:?}\n{text:?}"));
                        false
                    }
                    // A template's own words are shown, others are minijinja's.
                    (Err(found), _, Some(error)) => !expected.raised || found.contains(&error),
                    _ => false,
                };
                same += usize::from(is_same);
                if !is_same {
                    failures.push(format!("{name} {n}: {found:?}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{same} same; {}", failures.join("\n"));
    assert!(same >= 400, "{same}");
}

#[derive(Deserialize)]
struct Expressions {
    values: Map<String, Value>,
    expressions: Vec<Expression>,
}

#[derive(Deserialize)]
struct Expression {
    source: String,
    text: Option<String>,
}

/// As transformers' own environment of Jinja prints them; what fails there fails here.
#[test]
fn expressions_print_what_python_prints() {
    let Expressions {
        values,
        expressions,
    } = read("expressions.json");
    let mut failures = Vec::new();
    for Expression { source, text } in &expressions {
        let template = ChatTemplate::new(source, "x").with_special(values.clone());
        let conversation = Conversation::default();
        let found = template.compile(date()).and_then(|compiled| {
            let written = compiled.write(&conversation, Learn::All, NO_CONTROLS)?;
            Ok(written.text)
        });
        let is_same = match (&found, text) {
            (Ok(found), Some(text)) => found == text,
            (Err(_), None) => true,
            _ => false,
        };
        if !is_same {
            failures.push(format!("{source:?}: expected {text:?}, found {found:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(expressions.len() > 250);
}
