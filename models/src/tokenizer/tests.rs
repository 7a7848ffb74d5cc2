use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const WORDS: [&str; 10] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s", "on", "mat",
];

/// A folder with a WordPiece tokenizer that pads and truncates to 7 if left to itself.
pub(super) fn dir() -> tempfile::TempDir {
    let vocab: Value = (WORDS.iter().zip(0..))
        .map(|(w, i)| (*w, json!(i)))
        .collect();
    let token = |id: &str, type_id| json!({"SpecialToken": {"id": id, "type_id": type_id}});
    let text = |id: &str, type_id| json!({"Sequence": {"id": id, "type_id": type_id}});
    let special = |id: &str, n| json!({"id": id, "ids": [n], "tokens": [id]});
    let single = json!([token("[CLS]", 0), text("A", 0), token("[SEP]", 0)]);
    let pair = json!([
        token("[CLS]", 0),
        text("A", 0),
        token("[SEP]", 0),
        text("B", 1),
        token("[SEP]", 1)
    ]);
    let tokenizer = json!({
        "version": "1.0",
        "truncation": {"max_length": 7, "strategy": "OnlyFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 7}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair,
                           "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)}},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab}
    });
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "tokenizer.json", tokenizer);
    dir
}

fn write(dir: &tempfile::TempDir, name: &str, value: Value) {
    std::fs::write(dir.path().join(name), value.to_string()).unwrap();
}

/// The tokenizer of [`dir`] with this `tokenizer_config.json`.
pub(super) fn loaded_with(config: Value) -> Tokenizer {
    let dir = dir();
    write(&dir, "tokenizer_config.json", config);
    load(&dir).unwrap()
}

pub(super) fn load(dir: &tempfile::TempDir) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_dir(dir.path())
}

#[test]
fn encodes_without_padding_and_beyond_the_files_own_limit() {
    let tokenizer = load(&dir()).unwrap();
    let single = tokenizer.encode("The cats", None, 16).unwrap();
    assert_eq!(single.ids, [2, 4, 5, 7, 3]);
    assert_eq!(single.type_ids, [0; 5]);
    let pair = tokenizer.encode("the cat sat on the mat", Some("dog sat"), 64);
    let pair = pair.unwrap();
    assert_eq!(pair.ids, [2, 4, 5, 6, 8, 4, 9, 3, 1, 6, 3]);
    assert_eq!(pair.type_ids, [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
    assert_eq!(tokenizer.vocab_size(), 10);
}

#[test]
fn the_longer_text_is_cut_first() {
    let tokenizer = load(&dir()).unwrap();
    let cut = tokenizer
        .encode("the cat sat on the mat", Some("cat sat"), 8)
        .unwrap();
    assert_eq!(cut.ids, [2, 4, 5, 6, 3, 5, 6, 3]);
    assert!(cut.cut);
    let cut = tokenizer.encode("the cat sat on", None, 4).unwrap();
    assert_eq!(cut.ids, [2, 4, 5, 3]);
    assert!(cut.cut);
    let whole = tokenizer.encode("the cat sat on", None, 6).unwrap();
    assert!(!whole.cut);
    let error = tokenizer.encode("the cat", Some("sat"), 3).unwrap_err();
    assert!(matches!(
        error,
        TokenizerError::TooShort {
            max_len: 3,
            special: 3
        }
    ));
}

#[test]
fn a_tokenizer_of_another_model_is_noticed() {
    let tokenizer = load(&dir()).unwrap();
    tokenizer.check_vocab(10).unwrap();
    let message = tokenizer.check_vocab(9).unwrap_err().to_string();
    assert!(message.contains("ids up to 9") && message.contains("9 tokens (ids 0 to 8)"));
}

#[test]
fn padding_token_by_precedence() {
    let dir = dir();
    assert_eq!(load(&dir).unwrap().pad_id(), 0);
    write(
        &dir,
        "special_tokens_map.json",
        json!({"pad_token": {"content": "cat"}}),
    );
    assert_eq!(load(&dir).unwrap().pad_id(), 5);
    write(&dir, "tokenizer_config.json", json!({"pad_token": "mat"}));
    assert_eq!(load(&dir).unwrap().pad_id(), 5);
    // Where this is, transformers reads no other file.
    let config = json!({"pad_token": "mat", "added_tokens_decoder": {}});
    write(&dir, "tokenizer_config.json", config);
    assert_eq!(load(&dir).unwrap().pad_id(), 9);
    // A token that is not there is added behind the vocabulary, for which the model has no row.
    let config = json!({"pad_token": "<none>", "added_tokens_decoder": {}});
    write(&dir, "tokenizer_config.json", config);
    let tokenizer = load(&dir).unwrap();
    assert_eq!(tokenizer.pad_id(), 10);
    let message = tokenizer.check_vocab(10).unwrap_err().to_string();
    assert!(message.contains("<none>"), "{message}");
}

#[test]
fn a_decoder_without_padding_is_padded_by_its_end() {
    let folder = dir();
    let path = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["padding"] = Value::Null;
    let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
    vocabulary.remove("[PAD]");
    vocabulary.insert("</s>".to_owned(), json!(0));
    write(&folder, "tokenizer.json", json);
    assert_eq!(load(&folder).unwrap().pad_id(), 0);
}

#[test]
fn missing_and_broken_files_are_named() {
    let dir = dir();
    let path = dir.path().join("tokenizer.json");
    let whole = std::fs::read(&path).unwrap();
    for bytes in [
        &whole[..whole.len() / 2],
        b"",
        b"{}",
        b"[1, 2]",
        b"\xff\xfe",
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = load(&dir).unwrap_err();
        assert!(matches!(&error, TokenizerError::Invalid { path: p, .. } if *p == path));
    }
    std::fs::remove_file(&path).unwrap();
    let message = load(&dir).unwrap_err().to_string();
    assert!(message.contains("has no tokenizer.json"), "{message}");
}

/// The kept lengths are what transformers 5.17 keeps of texts of these lengths.
#[test]
fn pairs_are_cut_as_transformers_does() {
    let tokenizer = load(&dir()).unwrap();
    for (lengths, max_len, kept) in [
        ([8, 6], 6, [2, 1]),
        ([8, 6], 8, [3, 2]),
        ([4, 9], 8, [2, 3]),
        ([4, 3], 8, [3, 2]),
    ] {
        let [a, b] = [("the ", lengths[0]), ("cat ", lengths[1])].map(|(w, n)| w.repeat(n));
        let found = tokenizer.encode(&a, Some(&b), max_len).unwrap().ids;
        let [a, b] = [(4, kept[0]), (5, kept[1])].map(|(id, n)| vec![id; n]);
        assert_eq!(found, [vec![2], a, vec![3], b, vec![3]].concat());
    }
}

fn words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec!["the", "cats", "sat", "on", "mat", "dog"]);
    prop::collection::vec(word, 1..12).prop_map(|words| words.join(" "))
}

proptest! {
    /// The oracle cuts what the tokenizers crate makes of each whole text.
    #[test]
    fn batches_keep_order_and_length(
        texts in prop::collection::vec((words(), prop::option::of(words())), 1..20),
        max_len in 4..20usize,
    ) {
        let tokenizer = load(&dir()).unwrap();
        let ids = |text: &str| tokenizer.inner.encode(text, false).unwrap().get_ids().to_vec();
        let inputs: Vec<_> = texts.iter().map(|(a, b)| (a.as_str(), b.as_deref())).collect();
        let batch = tokenizer.encode_batch(&inputs, max_len).unwrap();
        prop_assert_eq!(batch.len(), inputs.len());
        for ((text, pair), found) in inputs.into_iter().zip(batch) {
            let (mut a, mut b) = (ids(text), pair.map(ids));
            match &mut b {
                None => a.truncate(max_len - 2),
                Some(b) => {
                    let room = max_len - 3;
                    let (short, long) = if a.len() > b.len() { (b, &mut a) } else { (&mut a, b) };
                    if short.len() + long.len() > room {
                        short.truncate(room / 2);
                        long.truncate(room - short.len());
                    }
                }
            }
            let first = [vec![2], a, vec![3]].concat();
            let second = b.map_or(vec![], |b| [b, vec![3]].concat());
            let types = [vec![0; first.len()], vec![1; second.len()]].concat();
            prop_assert_eq!(&found.ids, &[first, second].concat());
            prop_assert_eq!(&found.type_ids, &types);
            prop_assert_eq!(&found, &tokenizer.encode(text, pair, max_len).unwrap());
        }
    }
}
