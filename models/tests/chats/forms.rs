//! Rows of every form.

use super::*;

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
