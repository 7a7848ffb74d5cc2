//! Tokens of conversations, and which of them are learned.

use super::*;

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
            part: None,
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

/// Labels by the length of a row, not by its padding.
#[test]
fn an_end_that_also_pads_is_learned() {
    let tokenizer = Kind::named("chatml").tokenizer(&jinja("chatml"));
    let chat = bound(json!({"messages": "messages"}), &tokenizer);
    let rows = [vec![0, 3, 1], vec![0, 3, 4, 1]].map(|ids: Vec<u32>| {
        let mut encoding = encoded(&chat, &tokenizer, said(&[("user", "hi")]), 99);
        encoding.type_ids = [vec![0], vec![1; ids.len() - 1]].concat();
        encoding.ids = ids;
        Encoded {
            encoding,
            target: None,
            part: None,
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

/// The objective `causal`, whose prompts are texts.
#[test]
fn a_prompt_is_how_its_row_begins_and_the_answer_ends_once() {
    let config = Config::from_dir(&fixtures().join("parity/llama_gqa_tied-0")).unwrap();
    let end = u32::try_from(config.ends()[0]).unwrap();
    for name in ["chatml", "llama3", "mistral_v1"] {
        let tokenizer = Kind::named(name).tokenizer("");
        let causal = Causal::new("answer")
            .bind(&config, &tokenizer)
            .unwrap()
            .unwrap();
        let text = "### Instruction:\nSay it\n\n### Response:\n";
        let example = Example {
            target: Some("yo 漢".into()),
            ..Example::of(text)
        };
        let row = causal
            .encode(&[example], &tokenizer, 999)
            .unwrap()
            .remove(0)
            .encoding;
        let asked = tokenizer.encode(text, None, 999).unwrap().ids;
        assert!(row.ids.starts_with(&asked), "{name}");
        assert_eq!(
            row.type_ids.iter().position(|&segment| segment == 1),
            Some(asked.len())
        );
        let ends = row.ids[asked.len()..].iter().filter(|&&id| id == end);
        assert_eq!((ends.count(), row.ids.last()), (1, Some(&end)), "{name}");
    }
}

/// The tokenizer that leaves control tokens as letters knows all others as the model's own does, and their
/// places.
#[test]
fn guarded_tokens_are_the_models_own_where_nothing_is_guarded() {
    let Masks {
        conversations,
        kinds,
    } = read("masks.json");
    for kind in kinds {
        let tokenizer = kind.tokenizer(&jinja(&kind.name));
        let [plain, guarded] =
            [false, true].map(|literal| Markup::new(&tokenizer, literal).unwrap());
        let compiled = tokenizer.chat_template().unwrap().compile(date()).unwrap();
        for conversation in &conversations {
            let conversation = Conversation {
                messages: serde_json::from_value(conversation.clone()).unwrap(),
                ..Conversation::default()
            };
            let controls = guarded.controls();
            let mut written = compiled
                .write(&conversation, Learn::Answers, controls)
                .unwrap();
            let expected = plain.encode(&written).unwrap();
            assert!(expected.type_ids.contains(&1));
            // Nothing, but for what guards.
            written.literal = std::iter::once(0..0).collect();
            assert_eq!(guarded.encode(&written).unwrap(), expected, "{}", kind.name);
        }
    }
}
