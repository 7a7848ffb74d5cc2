//! Tokenizers from every kind of file, against transformers' token ids.

mod support;

use std::{fs, path::Path};

use ailora_models::tokenizer::{Tokenizer, TokenizerError};
use serde_json::{Value, json};
use support::fixtures;
use tempfile::TempDir;

/// A copy of a tokenizer's folder, with a `tokenizer_config.json`.
fn folder(name: &str, config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixtures().join("tokenizers").join(name)).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = config.to_string();
    fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    dir
}

fn message(dir: &TempDir) -> String {
    Tokenizer::from_dir(dir.path()).unwrap_err().to_string()
}

#[test]
fn ids_are_those_of_transformers() {
    type Row = (String, Value, String, Option<String>, Vec<u32>, Vec<u32>);
    let golden = fs::read_to_string(fixtures().join("tokenizers/golden.json")).unwrap();
    let golden: Vec<Row> = serde_json::from_str(&golden).unwrap();
    assert!(golden.len() > 300);
    let mut opened: Option<(String, Value, Tokenizer)> = None;
    for (name, config, text, pair, ids, type_ids) in golden {
        let known = |(other, others, _): &mut (String, Value, Tokenizer)| {
            *other == name && *others == config
        };
        let (_, _, tokenizer) = match opened.take_if(known) {
            Some(opened) => opened,
            None => {
                let tokenizer = Tokenizer::from_dir(folder(&name, &config).path());
                (name.clone(), config.clone(), tokenizer.unwrap())
            }
        };
        let found = tokenizer.encode(&text, pair.as_deref(), 512).unwrap();
        assert_eq!(found.ids, ids, "{name} {config} {text:?} {pair:?}");
        assert_eq!(
            found.type_ids, type_ids,
            "{name} {config} {text:?} {pair:?}"
        );
        opened = Some((name, config, tokenizer));
    }
}

#[test]
fn padding_is_the_usual_token_or_the_end_of_a_sequence() {
    for (name, config, expected) in [
        ("deberta", json!({}), 0),
        ("bert", json!({}), 0),
        ("roberta", json!({}), 1),
        ("llama", json!({}), 2),
        ("llama", json!({"pad_token": "<unk>"}), 0),
        ("llama", json!({"pad_token": {"content": "<pad>"}}), 800),
    ] {
        let dir = folder(name, &config);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(tokenizer.pad_id(), expected, "{name} {config}");
        let size = 800 + usize::from(expected == 800 || name == "deberta");
        let outside = tokenizer.check_vocab(size - 1).unwrap_err();
        assert!(matches!(outside, TokenizerError::Vocabulary { .. }));
        tokenizer.check_vocab(size).unwrap();
    }
}

#[test]
fn a_tokenizer_json_goes_before_other_files() {
    let dir = folder("bert", &json!({}));
    let json = json!({"version": "1.0", "added_tokens": [], "model":
        {"type": "WordLevel", "vocab": {"<pad>": 0, "one": 1}, "unk_token": "<pad>"}});
    fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 2);
}

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";

fn file(path: &str) -> Vec<u8> {
    fs::read(fixtures().join("tokenizers").join(path)).unwrap()
}

/// Bytes in place of a tokenizer's file are refused, with what was expected and what they are.
fn refuses(name: &str, file: &str, bytes: &[u8], expected: &str, found: &str) {
    let dir = folder(name, &json!({}));
    fs::write(dir.path().join(file), bytes).unwrap();
    let message = message(&dir);
    for part in [
        file,
        "expected",
        expected,
        "found",
        found,
        "save its tokenizer.json",
    ] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
}

#[test]
fn what_is_no_sentencepiece_model_is_named_with_what_it_is() {
    let (unigram, bpe) = (file("deberta/spm.model"), file("llama/tokenizer.model"));
    let half = &unigram[..unigram.len() / 2 + 1];
    let cases: [(&str, &str, &[u8], &str, &str); 9] = [
        (
            "deberta",
            "spm.model",
            POINTER,
            "type unigram",
            "a Git LFS pointer",
        ),
        ("deberta", "spm.model", b"", "type unigram", "an empty file"),
        (
            "deberta",
            "spm.model",
            &bpe,
            "type unigram",
            "a SentencePiece model of type BPE",
        ),
        ("deberta", "spm.model", half, "type unigram", "binary data"),
        (
            "deberta",
            "spm.model",
            b"{\"a\": 1}",
            "type unigram",
            "JSON",
        ),
        (
            "llama",
            "tokenizer.model",
            &unigram,
            "type BPE",
            "of type unigram",
        ),
        (
            "llama",
            "tokenizer.model",
            b"IQ== 0\nIg== 1\n",
            "type BPE",
            "tiktoken",
        ),
        (
            "llama",
            "tokenizer.model",
            b"PK\x03\x04\0",
            "type BPE",
            "a zip archive",
        ),
        (
            "llama",
            "tokenizer.model",
            b"<!DOCTYPE html>",
            "type BPE",
            "a web page",
        ),
    ];
    for (name, file, bytes, expected, found) in cases {
        refuses(name, file, bytes, expected, found);
    }
}

#[test]
fn what_is_no_vocabulary_is_named_with_what_it_is() {
    let (unigram, pairs) = (file("deberta/spm.model"), file("roberta/merges.txt"));
    let cases: [(&str, &str, &[u8], &str, &str); 7] = [
        (
            "bert",
            "vocab.txt",
            b"{\"[CLS]\": 1}",
            "one token a line",
            "JSON",
        ),
        (
            "bert",
            "vocab.txt",
            &pairs,
            "[UNK], [SEP] and [CLS]",
            "text",
        ),
        (
            "bert",
            "vocab.txt",
            &unigram,
            "one token a line",
            "SentencePiece",
        ),
        (
            "bert",
            "vocab.txt",
            POINTER,
            "one token a line",
            "a Git LFS pointer",
        ),
        ("roberta", "vocab.json", b"[1, 2]", "tokens and ids", "JSON"),
        ("roberta", "vocab.json", &pairs, "tokens and ids", "text"),
        (
            "roberta",
            "merges.txt",
            b"a b c\n",
            "pairs of tokens",
            "text",
        ),
    ];
    for (name, file, bytes, expected, found) in cases {
        refuses(name, file, bytes, expected, found);
    }
    // A file that names itself JSON too.
    let dir = folder("bert", &json!({}));
    fs::write(dir.path().join("tokenizer.json"), POINTER).unwrap();
    let message = message(&dir);
    assert!(message.contains("tokenizer.json is not"), "{message}");
    assert!(
        message.contains("expected JSON, found a Git LFS pointer"),
        "{message}"
    );
}

#[test]
fn files_that_do_not_belong_together_are_named() {
    let dir = folder("roberta", &json!({}));
    fs::remove_file(dir.path().join("merges.txt")).unwrap();
    let text = message(&dir);
    assert!(
        text.contains("merges.txt") && text.contains("not there"),
        "{text}"
    );
    fs::write(dir.path().join("merges.txt"), "#version: 0.2\nt h\nqq zz\n").unwrap();
    let text = message(&dir);
    assert!(
        text.contains("\"qq\" and \"zz\"") && text.contains("vocab.json"),
        "{text}"
    );

    let config = json!({"added_tokens_decoder": {"7": {"content": "<turn>"}}});
    let text = message(&folder("llama", &config));
    for part in [
        "tokenizer_config.json",
        "<turn>",
        "id 7",
        "tokenizer.model",
        "id 800",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let config = json!({"added_tokens_decoder": {"seven": {"content": "<turn>"}}});
    let text = message(&folder("llama", &config));
    assert!(text.contains("\"seven\"; expected ids"), "{text}");
    let text = message(&folder("bert", &json!({"do_lower_case": "yes"})));
    assert!(text.contains("tokenizer_config.json"), "{text}");

    let empty = tempfile::tempdir().unwrap();
    let text = message(&empty);
    for file in ["tokenizer.json", "spm.model", "vocab.txt", "merges.txt"] {
        assert!(text.contains(file), "{text}");
    }
    assert!(Path::new(empty.path()).is_dir());
}

/// An answer has the tokens that it has in the whole text, without the space that begins a text by itself;
/// the prompt's tokens are those that are generated from.
#[test]
fn an_answer_is_tokenized_where_it_stands() {
    let dir = folder("llama", &json!({"pad_token": "<unk>"}));
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    for (prompt, answer) in [
        ("the end of it\n", "and so on"),
        ("the end of it", " and so on"),
        ("the end of i", "t and so on"),
    ] {
        let found = tokenizer.encode_answer(prompt, answer, None, 99).unwrap();
        let prompts = tokenizer.prompts([prompt].into_iter()).unwrap();
        let learned = found
            .type_ids
            .iter()
            .filter(|&&segment| segment == 1)
            .count();
        let (before, behind) = found.ids.split_at(found.ids.len() - learned);
        assert_eq!(before, prompts[0]);
        let whole = tokenizer
            .encode(&format!("{prompt}{answer}"), None, 99)
            .unwrap()
            .ids;
        match whole.starts_with(before) {
            true => assert_eq!(found.ids, whole, "{prompt:?}"),
            // Tokens over the border would be others to generate from.
            false => assert_eq!(
                behind,
                tokenizer.encode(answer, None, 99).unwrap().ids,
                "{prompt:?}"
            ),
        }
    }
}
