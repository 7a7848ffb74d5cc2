//! Templates and expressions, as Jinja writes them.

use super::*;

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
    assert!(
        error.contains("`template` of the objective `chat`"),
        "{error}"
    );
}
