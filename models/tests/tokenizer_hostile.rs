//! `tokenizer.json` files that their library takes and then panics on, never ends with, or that give
//! ids of no token: errors, soon.

use std::{fs, path::Path, time::Instant};

use ailora_models::tokenizer::{Tokenizer, TokenizerError};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a WordPiece tokenizer, as `change` leaves it.
fn folder(change: impl FnOnce(&mut Value)) -> TempDir {
    let words = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "xx", "##x",
    ];
    let vocab: Value = words
        .iter()
        .zip(0..)
        .map(|(word, id)| ((*word).to_owned(), json!(id)))
        .collect();
    let token = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |text: &str, segment: u32| json!({"Sequence": {"id": text, "type_id": segment}});
    let special = |token: &str, id: u32| json!({"id": token, "ids": [id], "tokens": [token]});
    let mut json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [token("[CLS]"), text("A", 0)],
            "pair": [token("[CLS]"), text("A", 0), text("B", 1)],
            "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)}},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab}});
    change(&mut json);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    dir
}

/// What comes of loading it and reading a text of many equal letters.
fn used(dir: &Path) -> Result<Vec<u32>, TokenizerError> {
    let start = Instant::now();
    let result = Tokenizer::from_dir(dir).and_then(|tokenizer| {
        tokenizer.check_vocab(8)?;
        let text = format!("one {}! two", "x".repeat(50));
        let found = tokenizer.encode_batch(&[(&text, Some("two")), (&text, None)], 64)?;
        tokenizer.decode(&found[1].ids)?;
        Ok(found[1].ids.clone())
    });
    let took = start.elapsed();
    assert!(took.as_secs() < 10, "it took {took:?}");
    result
}

#[test]
fn the_library_s_panics_are_errors() {
    used(folder(|_| ()).path()).unwrap();
    let text = |segment: u32| json!({"Sequence": {"id": "A", "type_id": segment}});
    let cases = [
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        ("pre_tokenizer", split("(x")),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "////////"}),
        ),
        (
            "normalizer",
            json!({"type": "Sequence", "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": "AAAAwAAAAAAAAAAA"}]}),
        ),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": [text(0)],
            "pair": [text(0), {"SpecialToken": {"id": "[NONE]", "type_id": 0}}], "special_tokens": {}}),
        ),
        (
            "model",
            json!({"type": "Unigram", "unk_id": null, "vocab": [["one", -1.0]]}),
        ),
        (
            "model",
            json!({"type": "Unigram", "unk_id": 9, "vocab": [["one", -1.0]]}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]}),
        ),
        (
            "model",
            json!({"type": "BPE", "dropout": 0.5, "vocab": {"o": 0}, "merges": []}),
        ),
        (
            "model",
            json!({"type": "WordPiece", "unk_token": "one", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 1_000_000, "vocab": {"one": 0}}),
        ),
        (
            "decoder",
            json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"Regex": ".+"}, "content": "b"},
            {"type": "Strip", "content": "b", "start": 0, "stop": 3}]}),
        ),
    ];
    for (part, value) in cases {
        let used = used(folder(|json| json[part] = value.clone()).path());
        let error = match used {
            Err(error) => error.to_string(),
            Ok(ids) => panic!("{part} {value}: {ids:?}"),
        };
        assert!(error.contains("token"), "{part} {value}: {error}");
        assert!(!error.contains("missing field"), "{error}");
    }
}

#[test]
fn endless_patterns_are_errors_or_end() {
    let mut errors = 0;
    for pattern in ["(x|x)*$", "((x+)+)+[!y]z", "(x|xx)*(?=q)", "(.*)*!$"] {
        for (part, value) in [
            ("pre_tokenizer", split(pattern)),
            (
                "normalizer",
                json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": ""}),
            ),
        ] {
            if let Err(error) = used(folder(|json| json[part] = value).path()) {
                assert!(error.to_string().contains("takes too long"), "{error}");
                errors += 1;
            }
        }
    }
    assert!(errors > 1);
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

#[test]
fn ids_of_no_token_are_refused() {
    let put = |token: &str, id: u32| {
        let token = token.to_owned();
        move |json: &mut Value| {
            let around = &mut json["post_processor"];
            around["special_tokens"][&token] = json!({"id": token, "ids": [id], "tokens": [token]});
            let part = json!({"SpecialToken": {"id": token, "type_id": 0}});
            around["single"].as_array_mut().unwrap().push(part);
        }
    };
    for (dir, id) in [
        (folder(put("[BIG]", 8)), 8),
        (folder(put("[BIG]", 3_000_000_000)), 3_000_000_000),
        (
            folder(|json| json["model"]["vocab"]["three"] = json!(4_294_967_295_u32)),
            u32::MAX,
        ),
    ] {
        match used(dir.path()) {
            Err(TokenizerError::Vocabulary { max_id, .. }) => assert_eq!(max_id, id),
            other => panic!("{other:?}"),
        }
    }
    // What pads is checked too.
    let padding = |id: u32, token: &str| {
        json!({"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
               "pad_id": id, "pad_type_id": 0, "pad_token": token})
    };
    used(folder(|json| json["padding"] = padding(3, "[SEP]")).path()).unwrap();
    let error = used(folder(|json| json["padding"] = padding(77, "[SEP]")).path()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("`pad_id` 77") && error.contains("[SEP]"),
        "{error}"
    );
}
