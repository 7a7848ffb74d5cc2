//! Questions about texts, against rows and answers made with transformers' tokenizers by
//! `tests/fixtures/squad.py`.

use ailora_models::{
    batch::Encoded,
    data::Example,
    objective::{Extractive, Objective},
    tokenizer::Tokenizer,
};
use serde_json::{Value, json};

fn fixtures() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// The fixture, or another file that the script made.
fn file() -> Value {
    let path = std::env::var_os("AILORA_SQUAD").map(Into::into);
    let text = std::fs::read(path.unwrap_or_else(|| fixtures().join("squad.json"))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// A model's tokenizer, or one of the fixtures with a configuration.
fn tokenizer(base: &str, config: &Value) -> Tokenizer {
    if std::path::Path::new(base).is_dir() {
        return Tokenizer::from_dir(std::path::Path::new(base)).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let json = fixtures().join(format!("tokenizers/json/{base}.json"));
    std::fs::copy(json, dir.path().join("tokenizer.json")).unwrap();
    let mut config = config.clone();
    config["pad_token"] = match base {
        "bert" => json!("[PAD]"),
        _ => json!("<pad>"),
    };
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::from_dir(dir.path()).unwrap()
}

fn example(question: &Value) -> Example {
    let target = match &question["answers"][0] {
        Value::Null => Value::Null,
        answer => json!({"answers": [answer[0]], "start": answer[1]}),
    };
    Example {
        id: None,
        text: question["question"].as_str().unwrap().to_owned(),
        pair: Some(question["context"].as_str().unwrap().to_owned()),
        target: Some(target),
    }
}

fn size(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The logits of a row, from the generator of the script.
fn logits(seed: usize, len: usize) -> Vec<f32> {
    let mut state = seed as u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 20) as f32 - 8.0
    };
    (0..2 * len).map(|_| next()).collect()
}

#[test]
fn rows_are_those_of_run_qa() {
    let file = file();
    let questions = file["questions"].as_array().unwrap();
    let mut several = 0;
    for case in file["cases"].as_array().unwrap() {
        let tokenizer = tokenizer(text(&case["base"]), &case["config"]);
        let objective = Extractive {
            stride: Some(size(&case["stride"])),
            ..Extractive::new("answers", "starts")
        };
        let length = size(&case["length"]);
        let found = case["found"].as_array().unwrap();
        let asked = found.iter().map(|found| size(&found["question"]));
        let examples: Vec<Example> = asked.map(|number| example(&questions[number])).collect();
        let rows = objective
            .encode_held_out(&examples, &tokenizer, length)
            .unwrap();
        // To train on, the rows are the same without what they are of.
        let trained = objective.encode(&examples, &tokenizer, length).unwrap();
        let bare = |row: &Encoded| Encoded {
            part: None,
            ..row.clone()
        };
        assert_eq!(trained, rows.iter().map(bare).collect::<Vec<_>>());
        let mut rows = rows.iter();
        for (number, found) in found.iter().enumerate() {
            let expected = found["rows"].as_array().unwrap();
            several += usize::from(expected.len() > 1);
            for expected in expected {
                let row = rows.next().unwrap();
                let part = row.part.as_ref().unwrap();
                assert_eq!(part.number, number);
                assert_eq!(json!(row.encoding.ids), expected["ids"], "{number}");
                let second: u32 = row.encoding.type_ids.iter().sum();
                assert_eq!(json!(second), expected["second"]);
                assert_eq!(
                    row.target.as_ref(),
                    Some(&expected["span"]),
                    "{:?}",
                    examples[number]
                );
                assert_eq!(json!(part.first), expected["first"]);
                let places: Vec<[usize; 2]> =
                    part.places.iter().map(|p| [p.start, p.end]).collect();
                assert_eq!(json!(places), expected["places"]);
                assert!(!row.encoding.cut);
            }
        }
        assert!(rows.next().is_none());
    }
    assert!(several > 1, "{several}");
}

/// Where a text goes on over marks that the tokenizer drops, transformers has it without them.
#[test]
fn answers_are_those_of_utils_qa() {
    let file = file();
    let questions = file["questions"].as_array().unwrap();
    let mut compared = 0;
    for case in file["cases"].as_array().unwrap() {
        let tokenizer = tokenizer(text(&case["base"]), &case["config"]);
        for found in case["found"].as_array().unwrap() {
            let number = size(&found["question"]);
            let example = example(&questions[number]);
            let base = Extractive {
                stride: Some(size(&case["stride"])),
                ..Extractive::new("answers", "starts")
            };
            let rows = base.encode_held_out(&[example], &tokenizer, size(&case["length"]));
            let rows = rows.unwrap();
            let random = rows.iter().enumerate();
            let random = random.map(|(i, row)| logits(1000 * number + i, row.tokens()));
            let random: Vec<Vec<f32>> = random.collect();
            for expected in found["answers"].as_array().unwrap() {
                let objective = Extractive {
                    no_answer: expected["negative"] == true,
                    longest_answer: size(&expected["longest"]),
                    ..base.clone()
                };
                let found = &objective.answer(&rows, &random)[0];
                // The word for that no span is left, which is no answer here.
                let best = expected["best"].as_array().unwrap();
                if best.first().is_some_and(|best| best[0] == "empty") {
                    assert_eq!((found.text(&objective), found.best()), ("", None));
                    continue;
                }
                assert_eq!(found.n_best.len(), size(&expected["count"]), "{expected}");
                let (ours, theirs) = (found.text(&objective), text(&expected["text"]));
                assert_eq!(
                    ours.trim_end_matches('\u{301}'),
                    theirs.trim_end_matches('\u{301}')
                );
                let difference = expected["difference"].as_f64().unwrap();
                assert_eq!(f64::from(found.no_answer_score()), difference);
                for (span, expected) in found.n_best.iter().zip(best) {
                    let score = expected[1].as_f64().unwrap();
                    assert_eq!(f64::from(span.score()), score, "{span:?} {expected}");
                }
                compared += 1;
            }
        }
    }
    assert!(compared >= 550, "{compared}");
}

/// Row 63 of the pitfalls: with the blanks a tokenizer of bytes has no room for the text.
#[test]
fn blanks_before_a_question_change_nothing() {
    for (base, length) in [("bert", 24), ("roberta", 48)] {
        let tokenizer = tokenizer(base, &json!({}));
        let rows = |question: &str| {
            let example = Example {
                pair: Some("the old mill by the river is a museum now".to_owned()),
                ..Example::of(question)
            };
            let objective = Extractive::new("answers", "starts");
            objective.encode(&[example], &tokenizer, length).unwrap()
        };
        let blank = format!("{}\u{1f}\u{a0}\n", " ".repeat(400));
        assert_eq!(rows(&format!("{blank}Who?")), rows("Who?"));
    }
}
