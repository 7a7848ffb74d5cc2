//! Texts that are shown as they grow, by the real kinds of tokenizers: bytes, and pieces with blanks.

mod support;

use ailora_models::{
    generate::{Stops, TextStream},
    tokenizer::Tokenizer,
};
use support::fixtures;

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_dir(&fixtures().join("tokenizers").join(name)).unwrap()
}

/// What is shown token by token, and last when no more come.
fn shown(tokenizer: &Tokenizer, ids: &[i32]) -> (Vec<String>, String) {
    let (mut stream, stops) = (TextStream::default(), Stops::default());
    let push = |&id| stream.push(tokenizer, &stops, id);
    let parts = ids.iter().map(push).collect();
    (parts, stream.finish(tokenizer, &stops))
}

/// The ids and the text that transformers makes of them.
#[test]
fn parts_are_whole_characters_and_together_the_text() {
    let pieces = tokenizer("llama");
    for (ids, expected) in [
        (&[486, 345, 284, 727, 760][..], " leading x"),
        (
            &[771, 570, 727, 94, 776, 450, 96, 746, 298, 290, 731, 411],
            "Dear [Name], I hope",
        ),
        (
            &[
                730, 727, 232, 143, 154, 231, 189, 175, 727, 243, 162, 156, 133, 727, 796,
            ],
            "a 北京 🙂 é",
        ),
    ] {
        let (parts, rest) = shown(&pieces, ids);
        assert_eq!(parts.concat() + &rest, expected.trim_start());
        assert!(!parts.concat().contains(char::REPLACEMENT_CHARACTER));
        // Behind a prompt the text is that of the new tokens alone.
        for split in 0..ids.len() {
            let (parts, rest) = shown(&pieces, &ids[split..]);
            let own: Vec<u32> = ids[split..].iter().map(|&id| id as u32).collect();
            assert_eq!(parts.concat() + &rest, pieces.decode(&own).unwrap());
        }
    }
    let (parts, rest) = shown(&pieces, &[243, 162, 156, 133]);
    assert_eq!(parts, ["", "", "", "🙂"]);
    assert_eq!(rest, "");
    // A character that is never finished is shown as such in the end.
    let (parts, rest) = shown(&pieces, &[243, 162]);
    assert_eq!(parts.concat(), "");
    assert!(rest.contains(char::REPLACEMENT_CHARACTER));

    let bytes = tokenizer("roberta");
    for text in [
        " leading x",
        "Dear [Name], I hope",
        "🙂",
        "a 北京 🙂 é\n  e\u{301}",
    ] {
        let ids = bytes.encode(text, None, 512).unwrap().ids;
        // Without the tokens around it.
        let ids: Vec<i32> = ids[1..ids.len() - 1].iter().map(|&id| id as i32).collect();
        let (parts, rest) = shown(&bytes, &ids);
        assert!(
            parts
                .iter()
                .all(|part| !part.contains(char::REPLACEMENT_CHARACTER))
        );
        assert_eq!(parts.concat() + &rest, text);
    }
    let ids = bytes.encode("🙂", None, 512).unwrap().ids;
    let ids: Vec<i32> = ids[1..ids.len() - 1].iter().map(|&id| id as i32).collect();
    let (parts, _) = shown(&bytes, &ids);
    let (last, before) = parts.split_last().unwrap();
    assert!(before.iter().all(String::is_empty));
    assert_eq!(last, "🙂");
}
