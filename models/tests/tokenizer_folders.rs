//! Folders whose files say different things of one tokenizer: what transformers makes of them, or an
//! error that names the field.

mod support;

use std::{fs, path::Path};

use ailora_models::{closed::Note, tokenizer::Tokenizer};
use serde_json::{Map, Value, json};
use support::fixtures;
use tempfile::TempDir;

/// A folder with the vocabulary `base`, and a `tokenizer.json` of it if `with_json`.
fn folder(base: &str, with_json: bool, files: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tokenizers = fixtures().join("tokenizers");
    let vocabulary = if base == "qwen2" { "roberta" } else { base };
    for file in fs::read_dir(tokenizers.join(vocabulary)).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    if with_json {
        let json = tokenizers.join("json").join(format!("{base}.json"));
        fs::copy(json, dir.path().join("tokenizer.json")).unwrap();
    }
    for (name, content) in files.as_object().unwrap() {
        fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    dir
}

fn message(dir: &Path) -> String {
    Tokenizer::from_dir(dir).unwrap_err().to_string()
}

#[test]
fn every_file_has_its_say_as_in_transformers() {
    const CUT: usize = 9;
    let golden = fs::read(fixtures().join("tokenizers/folders.json")).unwrap();
    let golden: Vec<Value> = serde_json::from_slice(&golden).unwrap();
    assert!(golden.len() > 60);
    let mut wrong = Vec::new();
    for row in golden {
        let mut files = row["files"].clone();
        files["config.json"] = json!({"model_type": row["type"]});
        let base = row["base"].as_str().unwrap();
        let dir = folder(base, row["json"] == true, &files);
        let about = format!("{base} json {} {files}", row["json"]);
        let tokenizer = match Tokenizer::from_dir(dir.path()) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                wrong.push(format!("{about}: {error}"));
                continue;
            }
        };
        if let Some(pad) = row["pad"].as_u64() {
            assert_eq!(u64::from(tokenizer.pad_id()), pad, "{about}");
        }
        for text in row["texts"].as_array().unwrap() {
            let (first, second) = (text[0].as_str().unwrap(), text[1].as_str());
            let whole = tokenizer.encode(first, second, 512).unwrap();
            let cut = tokenizer.encode(first, second, CUT).unwrap();
            let decoded = tokenizer.decode(&whole.ids).unwrap();
            let found = json!([whole.ids, whole.type_ids, cut.ids, decoded]);
            let expected = json!([text[2], text[3], text[4], text[5]]);
            assert!(!whole.cut && cut.cut == (whole.ids.len() > CUT));
            if found != expected {
                wrong.push(format!("{about} {first:?}:\n{found}\n{expected}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    for (field, value) in [
        ("truncation_side", json!("middle")),
        ("do_lower_case", json!("yes")),
        ("split_special_tokens", json!(1)),
        ("pad_token", json!(7)),
        ("pad_token", json!({"content": null})),
        ("cls_token", json!(["[CLS]"])),
        ("extra_special_tokens", json!("the")),
        ("model_specific_special_tokens", json!(["the"])),
        ("extra_special_tokens", json!([3])),
        ("added_tokens_decoder", json!([1])),
        ("added_tokens_decoder", json!({"9": "the"})),
        (
            "added_tokens_decoder",
            json!({"106": {"content": "the", "lstrip": "no"}}),
        ),
        (
            "added_tokens_decoder",
            json!({"106": {"content": "the", "colour": true}}),
        ),
        ("model_input_names", json!("input_ids")),
        ("auto_map", json!({"AutoTokenizer": ["a.B", null]})),
        ("sp_model_kwargs", json!({"enable_sampling": true})),
        ("fast_tokenizer_files", json!(["tokenizer.4.json"])),
        ("backend", json!("sentencepiece")),
        ("tokenizer_object", json!({"a": 1})),
        ("unk_token", json!("the")),
        ("tokenizer_class", json!(4)),
    ] {
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), "BertTokenizer".into());
        config.insert(field.into(), value.clone());
        let files = json!({"tokenizer_config.json": config});
        let message = message(folder("bert", true, &files).path());
        for part in ["tokenizer_config.json", field, "expected"] {
            assert!(message.contains(part), "{field} {value}: {message}");
        }
    }
    let files = json!({"added_tokens.json": {"the": "106"}});
    let text = message(folder("bert", true, &files).path());
    assert!(text.contains("added_tokens.json: `the`"), "{text}");
    let files = json!({"added_tokens.json": {"the": 107}});
    let text = message(folder("bert", true, &files).path());
    assert!(
        text.contains("added_tokens.json") && text.contains("id 107"),
        "{text}"
    );
}

#[test]
fn files_that_are_no_objects_are_named() {
    let deep = format!("{{\"a\": {}", "[".repeat(50_000));
    for name in [
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ] {
        for text in ["[]", "3", "{\"a\": 1, \"a\": 2}", &deep] {
            let dir = folder("bert", true, &json!({}));
            fs::write(dir.path().join(name), text).unwrap();
            let message = message(dir.path());
            assert!(message.contains(name), "{message}");
        }
    }
}

#[test]
fn unknown_fields_and_classes_are_noted() {
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "colour": "red",
                        "chat_template": "{{ x }}", "blue_token": "the"});
    let dir = folder("bert", true, &json!({"tokenizer_config.json": config}));
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let notes = tokenizer.notes();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].text.ends_with(": `colour`"), "{}", notes[0]);

    let config = json!({"tokenizer_class": "SomeTokenizer", "pad_token": "[PAD]"});
    let files = json!({"tokenizer_config.json": config});
    let tokenizer = Tokenizer::from_dir(folder("bert", true, &files).path()).unwrap();
    assert!(tokenizer.notes()[0].text.contains("SomeTokenizer"));
    // What it takes from tokenizer_config.json is unlikely to be another thing than others do.
    let config = json!({"tokenizer_class": "SomeTokenizer", "do_lower_case": false});
    let text = message(folder("bert", true, &json!({"tokenizer_config.json": config})).path());
    assert!(text.contains("`do_lower_case` is false"), "{text}");
    // Without a tokenizer.json, nothing says what it does.
    let text = message(folder("bert", false, &files).path());
    for part in ["vocab.txt", "SomeTokenizer", "tokenizer.json"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn defaults_that_contradict_a_tokenizer_json_are_noted() {
    let notes = |config: Value, lowercase: bool| {
        let dir = folder("bert", true, &json!({"tokenizer_config.json": config}));
        let path = dir.path().join("tokenizer.json");
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json["normalizer"]["lowercase"] = json!(lowercase);
        fs::write(&path, json.to_string()).unwrap();
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let ids = |text: &str| tokenizer.encode(text, None, 9).unwrap();
        let cased = ids("The") != ids("the");
        (tokenizer.notes().to_vec(), cased)
    };
    let class = "BertTokenizer";
    let (found, cased) = notes(json!({"tokenizer_class": class}), false);
    assert!(
        found.len() == 1 && found[0].text.contains("`do_lower_case`"),
        "{found:?}"
    );
    assert!(!cased);
    for (lowercase, config) in [
        (
            false,
            json!({"tokenizer_class": class, "do_lower_case": true}),
        ),
        (true, json!({"tokenizer_class": class})),
    ] {
        assert_eq!(notes(config, lowercase), (Vec::new(), false));
    }
    let config = json!({"tokenizer_class": class, "do_lower_case": false});
    assert_eq!(notes(config, true), (Vec::new(), true));
}

/// transformers takes what the class makes for what tokenizer.json says.
#[test]
fn a_tokenizer_json_that_is_not_of_its_class_is_refused() {
    let parts = [
        ("bert", "normalizer", json!({"type": "NFKD"})),
        ("bert", "pre_tokenizer", json!({"type": "Whitespace"})),
        (
            "bert",
            "post_processor",
            json!({"type": "ByteLevel", "add_prefix_space": true,
            "trim_offsets": true, "use_regex": true}),
        ),
        ("roberta", "normalizer", json!({"type": "Lowercase"})),
        ("roberta", "decoder", json!({"type": "Fuse"})),
        (
            "llama",
            "pre_tokenizer",
            json!({"type": "BertPreTokenizer"}),
        ),
    ];
    for (base, part, value) in parts {
        let class = match base {
            "bert" => "BertTokenizer",
            "roberta" => "RobertaTokenizerFast",
            _ => "LlamaTokenizer",
        };
        let named = |class: &str| {
            let config = json!({"tokenizer_class": class, "pad_token": "<s>"});
            let dir = folder(base, true, &json!({"tokenizer_config.json": config}));
            let path = dir.path().join("tokenizer.json");
            let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            json[part] = value.clone();
            fs::write(&path, json.to_string()).unwrap();
            dir
        };
        let text = message(named(class).path());
        for part in [
            "tokenizer.json",
            &format!("`{part}`"),
            class.trim_end_matches("Fast"),
        ] {
            assert!(text.contains(part), "{text}");
        }
        Tokenizer::from_dir(named("PreTrainedTokenizerFast").path()).unwrap();
    }
    // Where only the model's type asks for a class, the file is used as it is, and that is said.
    let odd = |config: Value| {
        let files = json!({"config.json": {"model_type": "bert"}, "tokenizer_config.json": config});
        let dir = folder("bert", true, &files);
        let path = dir.path().join("tokenizer.json");
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json["normalizer"] =
            json!({"type": "Replace", "pattern": {"String": "x"}, "content": "the"});
        fs::write(&path, json.to_string()).unwrap();
        dir
    };
    let tokenizer = Tokenizer::from_dir(odd(json!({})).path()).unwrap();
    let ids = |text: &str| tokenizer.encode(text, Some("of"), 9).unwrap();
    assert_eq!(ids("x"), ids("the"));
    assert!(ids("x").type_ids.contains(&1));
    let note = &tokenizer.notes()[0];
    assert!(
        note.text.contains("`normalizer`") && note.text.contains("BertTokenizer"),
        "{note}"
    );
    // So it is where the folder says that all is in the file, of a type whose class is taken anyway.
    let class = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
    let files = json!({"config.json": {"model_type": "qwen2"}, "tokenizer_config.json": class});
    let tokenizer = Tokenizer::from_dir(folder("roberta", true, &files).path()).unwrap();
    let said = |note: &Note| note.text.contains("is not that of Qwen2Tokenizer");
    assert!(
        tokenizer.notes().iter().any(said),
        "{:?}",
        tokenizer.notes()
    );
    let text = message(odd(json!({"do_lower_case": false})).path());
    assert!(text.contains("`normalizer`"), "{text}");

    let config = json!({"tokenizer_class": "RobertaTokenizer"});
    let text = message(folder("bert", true, &json!({"tokenizer_config.json": config})).path());
    assert!(text.contains("`model` is WordPiece"), "{text}");
}
