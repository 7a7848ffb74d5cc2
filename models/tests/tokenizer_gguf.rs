//! Tokenizers of GGUF files, against the same as `tokenizer.json`, whose ids are transformers'.

mod support;

use std::{fs, path::Path};

use ailora_models::{
    chat::{Controls, Conversation},
    tokenizer::Tokenizer,
};
use serde_json::{Value, json};
use support::fixtures;
use tempfile::TempDir;

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A value with its type before it.
fn value(value: &Value) -> Vec<u8> {
    let (kind, bytes): (u32, Vec<u8>) = match value {
        Value::Bool(set) => (7, vec![u8::from(*set)]),
        Value::Number(number) => (5, (number.as_i64().unwrap() as i32).to_le_bytes().into()),
        Value::String(string) => (8, text(string)),
        Value::Array(items) => {
            let encoded: Vec<Vec<u8>> = items.iter().map(self::value).collect();
            let mut bytes = encoded[0][..4].to_vec();
            bytes.extend((items.len() as u64).to_le_bytes());
            bytes.extend(encoded.iter().flat_map(|item| &item[4..]));
            (9, bytes)
        }
        other => panic!("{other}"),
    };
    [&kind.to_le_bytes()[..], &bytes].concat()
}

/// A file without tensors.
fn write(dir: &Path, metadata: &Value) {
    let metadata = metadata.as_object().unwrap();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, found) in metadata {
        bytes.extend(text(key));
        bytes.extend(value(found));
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    fs::write(dir.join("model.gguf"), bytes).unwrap();
}

/// Qwen2's `tokenizer.json` with a token of a user, and the same as a GGUF file's metadata.
fn same() -> (Value, Value) {
    let path = fixtures().join("tokenizers/json/qwen2.json");
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![json!("[PAD]"); vocab.len()];
    for (token, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = json!(token);
    }
    let mut kinds = vec![1; tokens.len()];
    for added in json["added_tokens"].as_array().unwrap() {
        assert_eq!(added["id"], tokens.len());
        tokens.push(added["content"].clone());
        kinds.push(3);
    }
    let id = tokens.len();
    json["added_tokens"].as_array_mut().unwrap().push(json!({"id": id, "content": "<turn>",
        "special": false, "normalized": false, "lstrip": false, "rstrip": false, "single_word": false}));
    tokens.push(json!("<turn>"));
    kinds.push(4);
    tokens.push(json!("[PAD802]"));
    kinds.push(5);
    let pairs = json["model"]["merges"].as_array().unwrap().iter();
    let merges: Vec<String> = pairs
        .map(|pair| match pair {
            Value::String(pair) => pair.clone(),
            pair => format!(
                "{} {}",
                pair[0].as_str().unwrap(),
                pair[1].as_str().unwrap()
            ),
        })
        .collect();
    let metadata = json!({
        "general.architecture": "qwen2", "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": 800, "tokenizer.ggml.padding_token_id": 800,
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.add_bos_token": false,
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
        "tokenizer.chat_template.tool_use": "{{ tools|length }}",
    });
    (json, metadata)
}

fn open(metadata: &Value) -> Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), metadata);
    Tokenizer::from_dir(dir.path()).map_err(|error| error.to_string())
}

const TEXTS: [&str; 5] = [
    "The sailors rode 1234 breezes, it's clear.",
    "<turn>rode<turn> clear",
    "the<turn>rocks",
    "end<|endoftext|> [PAD802]\n\n  e\u{301} 北京",
    "",
];

#[test]
fn ids_and_texts_are_those_of_the_folder() {
    let (json, metadata) = same();
    let dir: TempDir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let folder = Tokenizer::from_dir(dir.path()).unwrap();
    let gguf = open(&metadata).unwrap();
    assert_eq!(gguf.pad_id(), 800);
    let template = gguf.chat_template().unwrap();
    assert_eq!(template.to_json()[1]["name"], "tool_use");
    let compiled = template.compile("2024-07-26".parse().unwrap()).unwrap();
    let mut conversation = Conversation::of_user("hi");
    let controls = Controls {
        tokens: &[],
        literal: false,
    };
    let text = |conversation: &Conversation| compiled.prompt(conversation, controls).unwrap().text;
    let [bos, eos] = [0, 800].map(|id| gguf.token(id).unwrap());
    assert_eq!(text(&conversation), format!("{bos}hi{eos}"));
    conversation.tools = Some(json!([{}, {}]));
    assert_eq!(text(&conversation), "2");
    for text in TEXTS {
        let expected = folder.encode(text, None, 99).unwrap().ids;
        let found = gguf.encode(text, None, 99).unwrap().ids;
        assert_eq!(found, expected, "{text:?}");
        assert_eq!(
            gguf.decode(&found).unwrap(),
            folder.decode(&expected).unwrap()
        );
    }
    assert!(
        folder
            .encode("a<turn>", None, 9)
            .unwrap()
            .ids
            .contains(&801)
    );

    // What other files say of beginnings and ends.
    let mut around = metadata.clone();
    around["tokenizer.ggml.add_bos_token"] = json!(true);
    around["tokenizer.ggml.add_eos_token"] = json!(true);
    let around = open(&around).unwrap().encode("rode", None, 9).unwrap().ids;
    let plain = gguf.encode("rode", None, 9).unwrap().ids;
    assert_eq!(around, [vec![0], plain, vec![800]].concat());
}

#[test]
fn digits_are_split_as_the_file_says() {
    let (_, metadata) = same();
    let count = |pre: &str| {
        let mut other = metadata.clone();
        other["tokenizer.ggml.pre"] = json!(pre);
        // Words that are tokens, whatever is merged.
        let tokens = other["tokenizer.ggml.tokens"].as_array_mut().unwrap();
        tokens.extend([json!("77"), json!("777"), json!("7777")]);
        let kinds = other["tokenizer.ggml.token_type"].as_array_mut().unwrap();
        kinds.extend([json!(1), json!(1), json!(1)]);
        let merges = other["tokenizer.ggml.merges"].as_array_mut().unwrap();
        merges.extend([json!("7 7"), json!("77 77")]);
        open(&other)
            .unwrap()
            .encode("7777", None, 9)
            .unwrap()
            .ids
            .len()
    };
    assert_eq!([count("qwen2"), count("smollm")], [4, 4]);
    assert_eq!(count("gpt-2"), 1);
    // Three digits at most, and a word that is a token is one.
    assert_eq!(count("llama-bpe"), 2);
    // It begins texts with its first token where the file does not say it.
    let mut other = metadata.clone();
    other["tokenizer.ggml.pre"] = json!("llama-bpe");
    other
        .as_object_mut()
        .unwrap()
        .shift_remove("tokenizer.ggml.add_bos_token");
    assert_eq!(
        open(&other).unwrap().encode("7", None, 9).unwrap().ids[0],
        0
    );
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let (_, metadata) = same();
    for (key, value, expected) in [
        ("tokenizer.ggml.pre", json!("tekken"), "qwen2"),
        ("tokenizer.ggml.model", json!("llama"), "tokenizer.json"),
        ("tokenizer.ggml.colour", json!(3), "not known"),
        ("tokenizer.ggml.add_sep_token", json!(true), "separators"),
        (
            "tokenizer.ggml.normalizer.lowercase",
            json!(true),
            "expected",
        ),
        ("tokenizer.ggml.add_eos_token", json!(1), "true or false"),
        ("tokenizer.ggml.padding_token_id", json!(803), "803 tokens"),
        ("tokenizer.ggml.eos_token_id", json!(-1), "803 tokens"),
        ("tokenizer.ggml.token_type", json!([1, 1]), "803"),
        ("tokenizer.ggml.tokens", json!([3, 4]), "token_type"),
    ] {
        let mut other = metadata.clone();
        other[key] = value;
        let message = open(&other).unwrap_err();
        assert!(
            message.contains(key) && message.contains(expected),
            "{message}"
        );
    }
    let mut other = metadata.clone();
    other["tokenizer.ggml.token_type"][3] = json!(6);
    let message = open(&other).unwrap_err();
    assert!(message.contains("token 3 is 6"), "{message}");
    let mut other = metadata.clone();
    other["tokenizer.ggml.tokens"][3] = other["tokenizer.ggml.tokens"][7].clone();
    let message = open(&other).unwrap_err();
    assert!(message.contains("tokens 3 and 7"), "{message}");
    let mut other = metadata;
    other
        .as_object_mut()
        .unwrap()
        .shift_remove("tokenizer.ggml.bos_token_id");
    other["tokenizer.ggml.add_bos_token"] = json!(true);
    let message = open(&other).unwrap_err();
    assert!(message.contains("bos_token_id` is missing"), "{message}");
}
