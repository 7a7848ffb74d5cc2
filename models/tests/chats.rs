//! Conversations in templates, byte for byte as transformers writes them.

mod support;

use std::{fs, path::Path};

use ailora_graph::ir::Draw;
use ailora_models::{
    batch::{Batch, Encoded, Plan, Targets},
    chat::{ChatTemplate, Controls, Conversation, Date, Learn},
    data::{Example, Place, Record},
    objective::{Chat, Objective, settled_chat},
    tokenizer::{Encoding, Tokenizer},
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
    assert!(expressions.len() > 200);
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

#[test]
fn values_and_blocks_are_written_as_jinja_writes_them() {
    let x = json!({"x": {"b": 1, "a": "é<'&>", "n": null, "f": 1.0}, "y": {"b": [1], "a": {}}});
    let ok = |jinja: &str, expected: &str| {
        assert_eq!(
            rendered(jinja, x.clone()).as_deref(),
            Ok(expected),
            "{jinja}"
        );
    };
    ok(
        "{{ x|tojson }}",
        r#"{"b": 1, "a": "é<'&>", "n": null, "f": 1.0}"#,
    );
    ok(
        "{{ y|tojson(indent=2) }}",
        "{\n  \"b\": [\n    1\n  ],\n  \"a\": {}\n}",
    );
    ok(
        "{{ x.n }} {{ true }} {{ x.f }} {{ [1, 'a'] }} {{ {'a': 1} }}",
        "None True 1.0 [1, 'a'] {'a': 1}",
    );
    ok("{{ missing }}", "");
    assert!(rendered("{{ missing.x }}", json!({})).is_err());
    ok("{% if true %}\nA\n  {% endif %}\nB\n", "A\nB");
    ok("{% generation %}\nA\n{% endgeneration %}\nB", "A\nB");
    ok(
        "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
        "13",
    );
    ok(
        "{% set v = 1 %}{% for i in [1] %}{% set v = 2 %}{% endfor %}{{ v }}",
        "1",
    );
    ok("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024");
    let error = rendered("{{ raise_exception('no such ' + x.a) }}", x.clone()).unwrap_err();
    assert!(error.contains("no such é<'&>"), "{error}");
    let error = rendered("{% if %}", json!({})).unwrap_err();
    assert!(
        error.contains("the chat template of x") && error.contains("line 1"),
        "{error}"
    );
}

#[test]
fn a_template_without_an_end_is_stopped() {
    let ever =
        "{% for i in range(9999) %}{% for j in range(9999) %}{{ i }}{% endfor %}{% endfor %}";
    assert!(rendered(ever, json!({})).unwrap_err().contains("fuel"));
    let deep = "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    assert!(
        rendered(&format!("{deep}{{{{ ns.x }}}}"), json!({}))
            .unwrap()
            .contains("[...]")
    );
    let error = rendered(&format!("{deep}{{{{ ns.x|tojson }}}}"), json!({})).unwrap_err();
    assert!(error.contains("too deep"), "{error}");
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

#[test]
fn the_tokens_that_are_learned_are_those_of_trl() {
    let Masks {
        conversations,
        kinds,
    } = read("masks.json");
    assert_eq!(kinds.len(), 3);
    for kind in kinds {
        let mut templates = vec![jinja(&kind.name)];
        if kind.name != "llama3" {
            templates.push(jinja(&format!("{}_marked", kind.name)));
        }
        for jinja in templates {
            let tokenizer = kind.tokenizer(&jinja);
            let chat = bound(messages(MESSAGES.into()), &tokenizer);
            for (conversation, row) in conversations.iter().zip(&kind.rows) {
                let found = encoded(&chat, &tokenizer, messages(conversation.clone()), 1000);
                assert_eq!(found.ids, row.ids, "{} {conversation}", kind.name);
                assert_eq!(found.type_ids, row.mask, "{} {conversation}", kind.name);
            }
        }
    }
}

fn said(turns: &[(&str, &str)]) -> Value {
    let message = |&(role, content): &(&str, &str)| json!({"role": role, "content": content});
    messages(turns.iter().map(message).collect())
}

#[test]
fn every_answer_with_its_end_is_learned_and_nothing_else() {
    let kind = Kind::named("chatml");
    let tokenizer = kind.tokenizer(&jinja("chatml"));
    let chat = bound(messages(MESSAGES.into()), &tokenizer);
    let turns = [
        ("user", "hi"),
        ("assistant", "yo"),
        ("user", "é?"),
        ("assistant", "ok"),
    ];
    let found = encoded(&chat, &tokenizer, said(&turns), 1000);
    assert_eq!(learned(&tokenizer, &found), "yo<|im_end|>ok<|im_end|>");
    let first = found
        .type_ids
        .iter()
        .position(|&segment| segment == 1)
        .unwrap();
    assert_eq!(tokenizer.token(found.ids[first]).unwrap(), "yo");

    let system = [&[("system", "S")], &turns[..]].concat();
    let found = encoded(&chat, &tokenizer, said(&system), 1000);
    assert_eq!(learned(&tokenizer, &found), "yo<|im_end|>ok<|im_end|>");
    let empty = [
        ("user", "hi"),
        ("assistant", ""),
        ("user", "é?"),
        ("assistant", "ok"),
    ];
    let found = encoded(&chat, &tokenizer, said(&empty), 1000);
    assert_eq!(learned(&tokenizer, &found), "<|im_end|>ok<|im_end|>");

    let all = bound(json!({"messages": "messages", "learn": "all"}), &tokenizer);
    let found = encoded(&all, &tokenizer, said(&turns), 1000);
    assert_eq!(found.type_ids, vec![1; found.ids.len()]);
}

/// An answer at the first place, and one that is cut.
#[test]
fn answers_end_where_they_end_also_at_the_first_place_and_where_a_row_is_cut() {
    let kind = Kind::named("chatml");
    let jinja = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
                 {% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let plain = "{% for m in messages %}{{ m.content }}{% endfor %}";
    for jinja in [jinja, plain] {
        let tokenizer = kind.tokenizer(jinja);
        let chat = bound(messages(MESSAGES.into()), &tokenizer);
        let first = said(&[("assistant", "A"), ("user", " x y")]);
        let found = encoded(&chat, &tokenizer, first, 1000);
        assert_eq!((found.ids.len() > 2, found.type_ids[0]), (true, 1));
        assert!(
            found.type_ids[1..].iter().all(|&segment| segment == 0),
            "{found:?}"
        );
        assert!(!found.cut);
        let six = "\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}";
        let found = encoded(&chat, &tokenizer, said(&[("assistant", six)]), 3);
        assert_eq!((found.type_ids, found.cut), (vec![1; 3], true));
        let cut_away = said(&[("user", six), ("assistant", "A")]);
        let found = encoded(&chat, &tokenizer, cut_away, 4);
        assert_eq!((&found.type_ids, found.cut), (&vec![0; 4], true));
        let row = Encoded {
            encoding: found,
            target: None,
        };
        assert!(!chat.has_targets(&row));
    }
}

#[test]
fn the_template_begins_the_text_once() {
    let kind = Kind::named("llama3");
    let jinja = "{{ bos_token }}{% for m in messages %}{{ m.content }} {% endfor %}";
    let tokenizer = kind.tokenizer(jinja);
    let bos = tokenizer.id("<|begin_of_text|>").unwrap();
    let raw = tokenizer.encode("hi", None, 9).unwrap().ids;
    assert_eq!(raw[0], bos);
    let count = |ids: &[u32]| ids.iter().filter(|&&id| id == bos).count();
    assert_eq!(count(&raw), 1);
    let chat = bound(messages(MESSAGES.into()), &tokenizer);
    let trained = encoded(&chat, &tokenizer, said(&[("user", "hi")]), 99).ids;
    assert_eq!(
        (trained[0], count(&trained), &trained[1..raw.len()]),
        (bos, 1, &raw[1..])
    );
    let bound = chat.options().bind(&tokenizer).unwrap();
    let asked = bound.prompts(&[Conversation::of_user("hi")]).unwrap();
    assert_eq!(
        asked[0].iter().map(|&id| id as u32).collect::<Vec<_>>(),
        trained
    );
}

#[test]
fn control_tokens_that_a_message_spells_out_are_what_the_options_say() {
    let kind = Kind::named("mistral_v1");
    let tokenizer = kind.tokenizer(&jinja("mistral_v1"));
    let (bos, eos) = (tokenizer.id("<s>").unwrap(), tokenizer.id("</s>").unwrap());
    let count = |encoding: &Encoding, id| encoding.ids.iter().filter(|&&other| other == id).count();
    let turns = said(&[
        ("user", "write </s> here"),
        ("assistant", "no<s>"),
        ("user", "é"),
        ("assistant", "ok"),
    ]);
    let control = bound(json!({"messages": "messages"}), &tokenizer);
    let found = encoded(&control, &tokenizer, turns.clone(), 999);
    assert_eq!((count(&found, bos), count(&found, eos)), (2, 3));
    let text = bound(
        json!({"messages": "messages", "content_tokens": "text"}),
        &tokenizer,
    );
    let found = encoded(&text, &tokenizer, turns, 999);
    assert_eq!((count(&found, bos), count(&found, eos)), (1, 2));
    assert_eq!(learned(&tokenizer, &found), " no<s></s> ok</s>");
    assert_eq!(found.ids[0], bos);
    // Where no message spells any out, it is all the same.
    let turns = said(&[("user", "hi  é 🙂"), ("assistant", "yo")]);
    let [a, b] = [&control, &text].map(|chat| encoded(chat, &tokenizer, turns.clone(), 999));
    assert_eq!(a, b);
}

/// Pieces of SentencePiece, of which the marker's depend on what is before it.
#[test]
fn answers_are_found_by_places_and_not_by_the_tokens_of_a_marker() {
    let kind = Kind::named("mistral_v1");
    for blank in ["", " "] {
        let jinja = format!(
            "{{% for m in messages %}}{{% if m.role == 'user' %}}{{{{ m.content }}}}{{% else %}}\
             \n### Assistant:{blank}{{{{ m.content + eos_token }}}}{{% endif %}}{{% endfor %}}\
             {{% if add_generation_prompt %}}\n### Assistant:{blank}{{% endif %}}"
        );
        let tokenizer = kind.tokenizer(&jinja);
        let chat = bound(messages(MESSAGES.into()), &tokenizer);
        let answer = if blank.is_empty() { " Right" } else { "Right" };
        let asked = "left ### Assistant: context.";
        let found = encoded(
            &chat,
            &tokenizer,
            said(&[("user", asked), ("assistant", answer)]),
            99,
        );
        let text = learned(&tokenizer, &found);
        assert_eq!(text.trim_start(), "Right</s>", "{blank:?}");
        let last = found.ids.last().copied();
        assert_eq!(last, tokenizer.id("</s>"));
        // What it is asked with is what it learned behind.
        let bound = chat.options().bind(&tokenizer).unwrap();
        let prompt = bound.prompt(&Conversation::of_user(asked)).unwrap();
        let mut whole = Conversation::of_user(asked);
        whole.push("assistant", answer);
        assert!(bound.text(&whole).unwrap().starts_with(&prompt));
    }
}

/// Alpaca's columns, prompt and completion, messages and ShareGPT.
#[test]
fn what_is_asked_is_how_the_learned_text_begins_in_every_form() {
    let forms = [
        (
            json!({"prompt": ["{instruction}\n{input}", "{instruction}"], "answer": "output"}),
            json!({"instruction": "Say it", "input": "hi", "output": "yo"}),
            "Say it\nhi",
        ),
        (
            json!({"prompt": ["{instruction}\n{input}", "{instruction}"], "answer": "output"}),
            json!({"instruction": "Say it", "input": "", "output": "yo"}),
            "Say it",
        ),
        (
            json!({"prompt": "{prompt}", "answer": "completion"}),
            json!({"prompt": "hi", "completion": "yo"}),
            "hi",
        ),
        (
            json!({"prompt": "{prompt}", "answer": "completion"}),
            json!({"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "yo"}]}),
            "hi",
        ),
        (
            json!({"messages": "messages"}),
            json!({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}),
            "hi",
        ),
        (
            json!({"messages": "conversations"}),
            json!({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}),
            "hi",
        ),
    ];
    for name in ["chatml", "llama3", "mistral_v1"] {
        let tokenizer = Kind::named(name).tokenizer(&jinja(name));
        for (options, fields, asked) in &forms {
            let chat = bound(options.clone(), &tokenizer);
            let trained = encoded(&chat, &tokenizer, fields.clone(), 999);
            let bound = chat.options().bind(&tokenizer).unwrap();
            let asked = Conversation::of_user(asked);
            let ids = bound
                .prompts(std::slice::from_ref(&asked))
                .unwrap()
                .remove(0);
            let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
            assert!(trained.ids.starts_with(&ids), "{name} {options}");
            let first = trained.type_ids.iter().position(|&segment| segment == 1);
            assert_eq!(first, Some(ids.len()), "{name} {options}");
            let whole: Conversation =
                serde_json::from_value(chat.target(&record(fields.clone())).unwrap()).unwrap();
            let prompt = bound.prompt(&asked).unwrap();
            assert!(
                bound.text(&whole).unwrap().starts_with(&prompt),
                "{name} {options}"
            );
            let last = trained
                .type_ids
                .iter()
                .rposition(|&segment| segment == 1)
                .unwrap();
            assert_eq!(bound.end(&tokenizer), Some(trained.ids[last]), "{name}");
        }
    }
}

/// Of an example with messages as its prompt, only the completion is learned.
#[test]
fn answers_within_a_prompt_are_not_learned() {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let fields = json!({
        "prompt": [turn("user", "hi"), turn("assistant", "yo"), turn("user", "é?")],
        "completion": [turn("assistant", "ok")], "system": "S",
    });
    for name in ["chatml", "chatml_marked"] {
        let tokenizer = Kind::named("chatml").tokenizer(&jinja(name));
        let options = json!({"prompt": "{prompt}", "answer": "completion", "system": "system"});
        let found = encoded(&bound(options, &tokenizer), &tokenizer, fields.clone(), 999);
        assert_eq!(learned(&tokenizer, &found), "ok<|im_end|>", "{name}");
    }
}

#[test]
fn system_messages_are_kept_and_the_templates_own_are_the_same_everywhere() {
    let tokenizer = Kind::named("chatml").tokenizer(&jinja("qwen2"));
    let own = bound(json!({"messages": "messages"}), &tokenizer);
    let template = own.options().bind(&tokenizer).unwrap();
    let (mut trained, asked) = (Conversation::of_user("U"), Conversation::of_user("U"));
    trained.push("assistant", "A");
    let (trained, asked) = (
        template.text(&trained).unwrap(),
        template.prompt(&asked).unwrap(),
    );
    assert!(asked.starts_with("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"));
    assert!(trained.starts_with(&asked));

    let with_column = bound(
        json!({"messages": "messages", "system": "system"}),
        &tokenizer,
    );
    let turns = json!([{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]);
    let fields = json!({"messages": turns, "system": "S"});
    let target = with_column.target(&record(fields)).unwrap();
    let conversation: Conversation = serde_json::from_value(target).unwrap();
    let expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n";
    assert_eq!(template.text(&conversation).unwrap(), expected);
    let both = json!({"messages": [{"role": "system", "content": "T"}, turns[0]], "system": "S"});
    let error = with_column.target(&record(both)).unwrap_err().to_string();
    assert!(
        error.contains("x.jsonl, line 7, column `system`"),
        "{error}"
    );

    let gemma = Kind::named("chatml").tokenizer(&jinja("gemma"));
    let gemma = bound(json!({"messages": "messages"}), &gemma);
    let target = gemma
        .target(&record(said(&[("system", "S"), ("user", "U")])))
        .unwrap();
    let example = Example {
        target: Some(target),
        ..Example::default()
    };
    let error = gemma
        .encode(&[example], &tokenizer, 99)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("x.jsonl, line 7") && error.contains("System role not supported"),
        "{error}"
    );
}

#[test]
fn rows_that_are_no_conversations_are_named() {
    let tokenizer = Kind::named("chatml").tokenizer(&jinja("chatml"));
    let chat = bound(
        json!({"messages": "messages", "tools": "tools"}),
        &tokenizer,
    );
    let turn = |role: &str, content: Value| json!([{"role": role, "content": content}]);
    for (fields, expected) in [
        (
            messages(turn("assistant", Value::Null)),
            "`tool_calls`, in message 1",
        ),
        (
            messages(turn("narrator", "x".into())),
            "not `narrator`, in message 1",
        ),
        (
            json!({"messages": turn("user", "x".into()), "tools": "f(x)"}),
            "a list of tools",
        ),
        (json!({}), "a list of messages"),
    ] {
        let error = chat.target(&record(fields)).unwrap_err().to_string();
        assert!(error.starts_with("x.jsonl, line 7, column `"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    for (options, expected) in [
        (json!({}), "either `messages`, or `prompt` and `answer`"),
        (json!({"messages": "m", "answer": "a"}), "either `messages`"),
        (json!({"messages": "m", "date": "yesterday"}), "YYYY-MM-DD"),
        (
            json!({"messages": "m", "learn": "some"}),
            "unknown variant `some`",
        ),
        (
            json!({"messages": "m", "mask": true}),
            "unknown field `mask`",
        ),
    ] {
        let error = serde_json::from_value::<Chat>(options)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
    let none = Kind::named("chatml").tokenizer("{% if %}");
    let chat = serde_json::from_value::<Chat>(json!({"messages": "m"})).unwrap();
    assert!(
        chat.bound(&none)
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
    let given =
        serde_json::from_value::<Chat>(json!({"messages": "m", "template": "none.jinja"})).unwrap();
    let error = given.bound(&none).unwrap_err().to_string();
    assert!(
        error.contains("none.jinja") && error.contains("chatml"),
        "{error}"
    );
}

#[test]
fn the_date_of_a_run_is_that_of_every_later_one() {
    let tokenizer = Kind::named("llama3").tokenizer(&jinja("llama3_2"));
    let undated = serde_json::from_value::<Chat>(json!({"messages": "messages"})).unwrap();
    let error = undated.bound(&tokenizer).unwrap_err().to_string();
    assert!(error.contains("`date`"), "{error}");
    let settled = settled_chat(&json!({"messages": "messages", "template": "chatml"})).unwrap();
    assert_eq!(settled["date"], Date::today().to_string());
    assert_eq!(settled["template"], "chatml");
    let options = json!({"messages": "messages", "date": "2024-07-26"});
    assert_eq!(settled_chat(&options).unwrap(), options);
    let chat = bound(options, &tokenizer);
    let text = chat
        .options()
        .bind(&tokenizer)
        .unwrap()
        .prompt(&Conversation::of_user("hi"))
        .unwrap();
    assert!(text.contains("Today Date: 26 Jul 2024"), "{text}");
}

/// Labels by the length of a row, not by its padding.
#[test]
fn an_end_that_also_pads_is_learned() {
    let tokenizer = Kind::named("chatml").tokenizer(&jinja("chatml"));
    let chat = bound(json!({"messages": "messages"}), &tokenizer);
    let rows = [vec![0, 3, 1], vec![0, 3, 4, 1]].map(|ids: Vec<u32>| {
        let type_ids = [vec![0], vec![1; ids.len() - 1]].concat();
        Encoded {
            encoding: Encoding {
                ids,
                type_ids,
                cut: false,
                ..Encoding::default()
            },
            target: None,
        }
    });
    let plan = Plan {
        len: 4,
        indices: vec![0, 1],
    };
    let mut batch = Batch::new(&plan, &rows, 1).unwrap();
    chat.prepare(&mut batch, &[&rows[0], &rows[1]], Draw::default())
        .unwrap();
    let expected = Targets::next_tokens(&[-100, 3, 1, -100, -100, 3, 4, 1], 4);
    assert_eq!(batch.targets, expected);
    assert_eq!(batch.targets.count, 5);
}

/// The prompt is cut from its start; an answer without room for any of its prompt is left out.
#[test]
fn a_long_prompt_loses_its_start_and_not_its_answer() {
    let tokenizer = Kind::named("chatml").tokenizer("");
    let [prompt, answer] = [30, 5].map(|count| -> String {
        (1..=count as u8)
            .filter(|&byte| byte != b'\n')
            .map(char::from)
            .chain(['#'; 9])
            .take(count)
            .collect()
    });
    let plain = |text: &str| tokenizer.encode(text, None, 999).unwrap().ids;
    let (ids, end) = (plain(&prompt), Some(2));
    assert_eq!((ids.len(), plain(&answer).len()), (30, 5));
    let found = tokenizer.encode_answer(&prompt, &answer, end, 32).unwrap();
    assert_eq!(found.ids, [&ids[4..], &plain(&answer), &[2]].concat());
    assert_eq!(found.type_ids, [vec![0; 26], vec![1; 6]].concat());
    assert!(found.cut);
    let whole = tokenizer.encode_answer(&prompt, &answer, end, 36).unwrap();
    assert_eq!((whole.ids.len(), whole.cut), (36, false));
    let long = "\u{1}".repeat(40);
    let left_out = tokenizer.encode_answer(&prompt, &long, end, 32).unwrap();
    assert_eq!((left_out.ids.len(), left_out.cut), (30, true));
    assert_eq!(left_out.type_ids, vec![0; 30]);

    let long = "\u{1}".repeat(32);
    let left_out = tokenizer.encode_answer(&long, &answer, end, 32).unwrap();
    assert_eq!((left_out.type_ids, left_out.cut), (vec![0; 32], true));

    // What begins every text stays.
    let begun = Kind::named("llama3").tokenizer("");
    let bos = begun.id("<|begin_of_text|>").unwrap();
    let found = begun.encode_answer(&prompt, &answer, end, 32).unwrap();
    assert_eq!((found.ids[0], found.ids.len()), (bos, 32));
    assert_eq!(found.type_ids, [vec![0; 26], vec![1; 6]].concat());
    let body = begun.encode(&prompt, None, 999).unwrap().ids;
    assert_eq!(found.ids[1..26], body[6..]);
}

/// The texts that are learned by templates without `{% generation %}`.
fn answers(name: &str, conversation: Value, controls: &[&str]) -> Result<Vec<String>, String> {
    let special = json!({"bos_token": "<s>", "eos_token": "<|endoftext|>"});
    let Value::Object(special) = special else {
        panic!("it is an object")
    };
    let template = ChatTemplate::new(&jinja(name), name).with_special(special);
    let compiled = template.compile(date()).unwrap();
    let tokens: Vec<String> = controls.iter().map(|&token| token.to_owned()).collect();
    let controls = Controls {
        tokens: &tokens,
        literal: false,
    };
    let conversation: Conversation = serde_json::from_value(conversation).unwrap();
    let written = compiled.write(&conversation, Learn::Answers, controls);
    let written = written.map_err(|error| error.to_string())?;
    let text = |span: std::ops::Range<usize>| written.text[span].to_owned();
    Ok(written.learned.into_iter().map(text).collect())
}

#[test]
fn templates_that_write_the_last_answer_otherwise_are_seen_through() {
    let turns = [
        ("user", "a"),
        ("assistant", "<think>\nr\n</think>\n\nb "),
        ("user", "c"),
        ("assistant", "d"),
    ];
    let chatml = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];
    assert_eq!(
        answers("qwen3", said(&turns), &chatml).unwrap(),
        ["b <|im_end|>", "<think>\n\n</think>\n\nd<|im_end|>"]
    );
    let phi = ["<|end|>", "<|user|>", "<|assistant|>", "<|endoftext|>"];
    let turns = [
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", ""),
    ];
    for name in ["phi3", "phi3_5"] {
        assert_eq!(
            answers(name, said(&turns), &phi).unwrap(),
            ["b<|end|>", "<|end|>"],
            "{name}"
        );
    }
    let call = json!({"type": "function", "function": {"name": "f", "arguments": {"x": 1}}});
    let calls = json!([
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1"}, {"role": "assistant", "content": "b", "tool_calls": [call]},
        {"role": "tool", "content": "2"}, {"role": "assistant", "content": "c"},
    ]);
    let written =
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call><|im_end|>";
    assert_eq!(
        answers("qwen2_5", messages(calls), &chatml).unwrap(),
        [
            written.to_owned(),
            format!("b\n{written}"),
            "c<|im_end|>".to_owned()
        ]
    );
}

#[test]
fn an_answer_whose_place_is_not_sure_is_refused() {
    // It asks with `<think>`, and leaves it out of what was said.
    let jinja = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}\
                 {% if add_generation_prompt %}[assistant]<think>{% endif %}";
    let shortens = "{% for m in messages %}[{{ m.role }}]{{ '...' if m.role == 'assistant' and not loop.last else m.content }}\
                  {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    let first = "{{ messages[0].content }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}\
                 {% if add_generation_prompt %}[assistant]{% endif %}";
    let turns = said(&[("user", "a"), ("assistant", "b"), ("user", "c")]);
    for (jinja, turns, expected) in [
        (
            jinja,
            turns.clone(),
            "message 2: the template begins an answer otherwise",
        ),
        (
            shortens,
            turns,
            "message 2: the template writes it otherwise where more messages follow",
        ),
        (
            first,
            said(&[("assistant", "b")]),
            "message 1: the template cannot write a header before",
        ),
    ] {
        let template = ChatTemplate::new(jinja, "x");
        let compiled = template.compile(date()).unwrap();
        let conversation: Conversation = serde_json::from_value(turns).unwrap();
        let error = compiled
            .write(&conversation, Learn::Answers, NO_CONTROLS)
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        compiled
            .write(&conversation, Learn::All, NO_CONTROLS)
            .unwrap();
    }
}

/// The files of a folder, by what comes first.
#[test]
fn a_folder_has_one_template_or_several_by_name() {
    let kind = Kind::named("chatml");
    let field =
        json!([{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("tokenizer.json", kind.tokenizer.to_string());
    let config = |template: &Value| {
        json!({"pad_token": "<|im_end|>", "chat_template": template}).to_string()
    };
    write("tokenizer_config.json", config(&field));
    let text = |tools: Option<Value>| {
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let mut conversation = Conversation::of_user("hi");
        conversation.tools = tools;
        let compiled = tokenizer.chat_template().unwrap().compile(date()).unwrap();
        compiled.prompt(&conversation, NO_CONTROLS).unwrap().text
    };
    assert_eq!(
        (text(None), text(Some(json!([{}])))),
        ("D".into(), "T".into())
    );
    write(
        "chat_template.json",
        json!({"chat_template": "J"}).to_string(),
    );
    assert_eq!(text(None), "J");
    write("chat_template.jinja", "F{{ pad_token }}".into());
    write("additional_chat_templates/tool_use.jinja", "A".into());
    assert_eq!(
        (text(None), text(Some(json!([{}])))),
        ("F<|im_end|>".into(), "A".into())
    );
    for name in [
        "chat_template.json",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
    ] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    write("tokenizer_config.json", config(&json!(3)));
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("`chat_template`"), "{error}");
    write("tokenizer_config.json", config(&Value::Null));
    let none = Tokenizer::from_dir(dir.path()).unwrap();
    assert!(none.chat_template().is_none());
    let chat = serde_json::from_value::<Chat>(json!({"messages": "messages"})).unwrap();
    let error = chat.bound(&none).unwrap_err().to_string();
    assert!(error.contains("--chat-template chatml"), "{error}");
}

/// Templates of trl mark what is learned of the same text; white space around it apart, which they
/// learn too.
#[test]
fn answers_are_where_marked_templates_have_them() {
    let Templates {
        conversations,
        templates,
    } = read("templates.json");
    let controls = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"].map(str::to_owned);
    let controls = Controls {
        tokens: &controls,
        literal: false,
    };
    let (mut same, mut failures) = (0, Vec::new());
    for Rendered { name, special, .. } in templates {
        let Some(plain) = name
            .strip_suffix("_training")
            .or(name.strip_suffix("_marked"))
        else {
            continue;
        };
        let both = [jinja(plain), jinja(&name)];
        for (n, conversation) in conversations.iter().enumerate() {
            let learned = both.each_ref().map(|jinja| {
                let template = ChatTemplate::new(jinja, "x").with_special(special.clone());
                let compiled = template.compile(date()).unwrap();
                let written = compiled.write(conversation, Learn::Answers, controls);
                let written = written.map_err(|error| error.to_string())?;
                let texts = written
                    .learned
                    .iter()
                    .map(|span| written.text[span.clone()].trim().to_owned());
                Ok::<_, String>(texts.collect::<Vec<_>>())
            });
            match learned {
                [Ok(found), Ok(marked)] if found == marked => same += 1,
                [Err(_), Err(_)] => {}
                // Not every one refuses what another does, and none begins with an answer.
                [Err(found), Ok(_)]
                    if found.contains(", message 1:") || found.contains("refuses") => {}
                [found, marked] => failures.push(format!("{name} {n}:\n{found:?}\n{marked:?}")),
            }
        }
    }
    assert!(failures.is_empty(), "{same} same; {}", failures.join("\n"));
    assert!(same >= 24, "{same}");
}
