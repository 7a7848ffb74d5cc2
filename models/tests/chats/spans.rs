//! Where answers are in templates that do not say it.

use super::*;

/// The texts that are learned by templates without `{% generation %}`.
fn answers(jinja: &str, conversation: Value, controls: &[&str]) -> Result<Vec<String>, String> {
    let special = json!({"bos_token": "<s>", "eos_token": "<|endoftext|>"});
    let Value::Object(special) = special else {
        panic!("it is an object")
    };
    let template = ChatTemplate::new(jinja, "x").with_special(special);
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
        answers(&jinja("qwen3"), said(&turns), &chatml).unwrap(),
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
            answers(&jinja(name), said(&turns), &phi).unwrap(),
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
    for (name, thoughts) in [("qwen2_5", ""), ("qwen3", "<think>\n\n</think>\n\n")] {
        let expected = [
            written.to_owned(),
            format!("b\n{written}"),
            format!("{thoughts}c<|im_end|>"),
        ];
        let found = answers(&jinja(name), messages(calls.clone()), &chatml);
        assert_eq!(found.unwrap(), expected, "{name}");
    }
}

/// A template whose last answer ends by another token than those before.
#[test]
fn an_answer_is_never_learned_without_its_end() {
    let jinja = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' and \
                 loop.last and not add_generation_prompt %}<|return|>{% else %}<|end|>{% endif %}\
                 {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    let controls = ["<|return|>", "<|end|>"];
    let turns = [("user", "a"), ("assistant", "b"), ("user", "c")];
    assert_eq!(
        answers(jinja, said(&turns[..2]), &controls).unwrap(),
        ["b<|return|>"]
    );
    let error = answers(jinja, said(&turns), &controls).unwrap_err();
    assert!(error.contains("message 2"), "{error}");
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

/// Templates by whose `{% generation %}` the same is learned, but for white space around it.
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
        let Some(plain) = name.strip_suffix("_marked") else {
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
