//! Chats, as a user would have them.

mod support;

use std::{io::Write, process::Stdio};

use serde_json::{Value, json};
use support::Scene;

const MARKERS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

/// A word for every id, and the control tokens of ChatML.
fn tokenizer() -> Value {
    let mut tokenizer = support::word_level();
    tokenizer["post_processor"] = Value::Null;
    let Some(vocabulary) = tokenizer["model"]["vocab"].as_object_mut() else {
        panic!("a tokenizer has a vocabulary")
    };
    let mut added = Vec::new();
    for marker in MARKERS {
        let id = vocabulary.len();
        vocabulary.insert(marker.into(), id.into());
        added.push(json!({
            "id": id, "content": marker, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false,
        }));
    }
    for id in vocabulary.len()..99 {
        vocabulary.insert(format!("w{id}"), id.into());
    }
    tokenizer["added_tokens"] = added.into();
    tokenizer
}

fn scene() -> Scene {
    let scene = Scene::new();
    scene.model("llama", "llama_gqa_tied-0", &tokenizer());
    scene
}

/// What the command says to lines of standard input.
fn says(scene: &Scene, args: &str, lines: &str) -> Vec<String> {
    let mut command = scene.command(args);
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args}\n{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Without words that were there before, of which a model that is drawn at random would say one only.
const PLAIN: &str = "--model llama --max-new-tokens 6 --no-repeat-ngram-size 1";
const CHATML: &str =
    "--model llama --max-new-tokens 6 --no-repeat-ngram-size 1 --chat-template chatml";

#[test]
fn every_line_is_answered_with_all_that_was_said_before() {
    let scene = scene();
    let chat = format!("chat {CHATML}");
    let answers = says(
        &scene,
        &chat,
        "the cat\n\nthe dog sat\n/reset\nthe cat\n/exit\nthe\n",
    );
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert_eq!(answers[0], answers[2]);

    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let history = [
        turn("user", "the cat"),
        turn("assistant", &answers[0]),
        turn("user", "the dog sat"),
    ];
    let rows = [json!({"messages": history[..1]}), json!(history)];
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    scene.write("chats.jsonl", lines);
    scene.write("chats.json", json!(rows).to_string());
    let written = scene.ok(&format!("generate {CHATML} --messages chats.jsonl"));
    assert_eq!(
        written,
        scene.ok(&format!("generate {CHATML} --messages chats.json"))
    );
    let found: Vec<Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(found.len(), 2);
    for (found, answer) in found.iter().zip(&answers) {
        assert_eq!(found["answer"], **answer);
    }
    assert_eq!(found[1]["messages"], json!(history));

    // One of messages alone is one conversation, and ShareGPT's are the same.
    let sharegpt = json!({"conversations": [{"from": "human", "value": "the cat"}]});
    for one in [json!(history[..1]), sharegpt] {
        scene.write("one.json", one.to_string());
        let line = scene.ok(&format!("generate {CHATML} --messages one.json"));
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["answer"], *answers[0]);
    }
}

#[test]
fn a_prompt_is_a_message_where_that_is_asked_for() {
    let scene = scene();
    let run = |flags: &str| {
        let mut command = scene.command(&format!("generate {flags}"));
        let output = command.args(["--prompt", "the cat"]).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let asked = run(&format!("{CHATML} --chat"));
    let answers = says(&scene, &format!("chat {CHATML}"), "the cat\n");
    assert_eq!(asked.trim_end_matches('\n'), answers[0]);
    assert_ne!(asked, run(PLAIN));
    let system = run(&format!("{CHATML} --chat --system mat"));
    assert_ne!(asked, system);
    let answers = says(&scene, &format!("chat {CHATML} --system mat"), "the cat\n");
    assert_eq!(system.trim_end_matches('\n'), answers[0]);

    // The model's own template, and a file.
    let own = "{% for m in messages %}{{ m.content }} {% endfor %}";
    let config = json!({"chat_template": own, "pad_token": "<pad>"});
    scene.write("llama/tokenizer_config.json", config.to_string());
    let by_itself = run(&format!("{PLAIN} --chat"));
    assert_eq!(by_itself, run(PLAIN));
    scene.write("own.jinja", own);
    assert_eq!(
        run(&format!("{PLAIN} --chat --chat-template own.jinja")),
        by_itself
    );
    assert_eq!(run(&format!("{CHATML} --chat")), asked);
}

/// The answer ends where the template ends answers, though the model's files name another end.
#[test]
fn an_answer_ends_where_the_template_ends_one() {
    let scene = scene();
    let long = "--model llama --max-new-tokens 24 --no-repeat-ngram-size 1 --chat --prompt the";
    let plain = scene.ok(&format!("generate {long} --chat-template chatml"));
    let words: Vec<&str> = plain.split_whitespace().collect();
    let stop = words[3];
    let first = words.iter().position(|word| *word == stop).unwrap();
    // A template whose answers end by a word that the model writes.
    let jinja = format!(
        "{{% for m in messages %}}{{{{ '<|im_start|>' + m.role + '\n' + m.content + \
         ('<|im_end|>' if m.role == 'user' else ' {stop}') + '\n' }}}}{{% endfor %}}\
         {{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
    );
    scene.write("stops.jinja", jinja);
    let stopped = || {
        let text = scene.ok(&format!("generate {long} --chat-template stops.jinja"));
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(stopped(), words[..first]);
    // And as a control token, of which no text is written.
    let mut tokenizer = tokenizer();
    let id = tokenizer["model"]["vocab"][stop].clone();
    let token = json!({
        "id": id, "content": stop, "special": true, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false,
    });
    tokenizer["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(token);
    scene.write("llama/tokenizer.json", tokenizer.to_string());
    assert_eq!(stopped(), words[..first]);
}

/// What training recorded of the template is what is answered in.
#[test]
fn an_adapter_says_in_which_template_it_was_trained() {
    let scene = scene();
    let rows: Vec<Value> = (0..8)
        .map(|i| json!({"instruction": format!("the cat w{}", 30 + i), "output": "w40 w41"}))
        .collect();
    scene.write("math/train.json", Value::from(rows).to_string());
    scene.ok(
        "finetune --model llama --task math --data math --batch-size 4 --rank 4 --epochs 1 \
         --max-length 60 --output out",
    );
    let dated = "{{ strftime_now('w%d') }} {% for m in messages %}{{ m.content }} {% endfor %}";
    let mut about = scene.json("out/ailora.json");
    let options = json!({"messages": "m", "template": dated, "date": "2024-07-26"});
    about["description"] = json!({"objective": {"chat": options}});
    scene.write("out/ailora.json", about.to_string());
    let generate = format!("generate {PLAIN} --adapter out");
    let recorded = scene.ok(&format!("{generate} --chat --prompt the"));
    let mut plain = scene.command(&generate);
    let plain = plain.args(["--prompt", "w26 the"]).output().unwrap();
    assert_eq!(recorded.as_bytes(), plain.stdout);
    let other = scene.ok(&format!("{generate} --chat --prompt the --date 2024-07-27"));
    assert_ne!(other, recorded);
}

#[test]
fn what_is_no_conversation_is_refused() {
    let scene = scene();
    scene.refused(
        "chat --model llama",
        &["no chat template", "`--chat-template`", "chatml"],
    );
    scene.refused(
        "generate --model llama --prompt the --system S",
        &["add --chat or --messages"],
    );
    scene.refused(
        "generate --model llama --prompt the --chat --chat-template none.jinja",
        &["none.jinja", "no such file", "chatml"],
    );
    scene.fails(2, "generate --model llama", &["--prompt"]);
    scene.fails(2, "chat --model llama --date today", &["YYYY-MM-DD"]);
    let say = |role: &str| json!({"messages": [{"role": role, "content": "the"}]}).to_string();
    for (file, expected) in [
        (say("narrator"), "not `narrator`"),
        (say("assistant"), "not the assistant's"),
        ("{}".to_owned(), "`messages` or `conversations`"),
        (format!("{}\n{{", say("user")), "line 2"),
        (String::new(), "found none"),
    ] {
        scene.write("bad.jsonl", &file);
        scene.refused(
            &format!("generate {CHATML} --messages bad.jsonl"),
            &["bad.jsonl", expected],
        );
    }
    scene.write("system.json", say("system"));
    scene.refused(
        &format!("generate {CHATML} --messages system.json --system S"),
        &["conversation 1", "--system"],
    );
    scene.write(
        "raises.jinja",
        "{{ raise_exception('nothing ' + messages[0].content) }}",
    );
    scene.refused(
        "generate --model llama --prompt the --chat --chat-template raises.jinja",
        &["refuses the conversation: nothing the"],
    );
}
