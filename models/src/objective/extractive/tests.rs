use std::{ops::Range, path::Path, sync::Arc};

use super::*;
use crate::{
    batch::{Part, Plan},
    data::Place,
    tokenizer::Encoding,
};

fn extractive() -> Extractive {
    Extractive::new("answers", "starts")
}

fn nullable() -> Extractive {
    Extractive {
        no_answer: true,
        ..extractive()
    }
}

fn record(answers: Value, starts: Value) -> Record<'static> {
    let fields = vec![("answers".into(), answers), ("starts".into(), starts)];
    Record::new(Path::new("f"), Place::Record(1), fields)
}

fn target(objective: &Extractive, answers: Value, starts: Value) -> Result<Value, String> {
    let found = objective.target(&record(answers, starts));
    found.map_err(|error| error.to_string())
}

#[test]
fn a_target_has_all_answers_and_where_the_first_starts() {
    let extractive = extractive();
    let expected = json!({"answers": ["forty two", "42"], "start": 32});
    let found = target(&extractive, json!(["forty two", "42"]), json!([32, 5]));
    assert_eq!(found, Ok(expected));
    let one = json!({"answers": ["forty two"], "start": 32});
    assert_eq!(
        target(&extractive, json!("forty two"), json!("32")),
        Ok(one)
    );
    for (answers, starts, message) in [
        (
            json!(["a"]),
            json!([-1]),
            "record 1, column `starts`: expected the number",
        ),
        (
            json!(["a"]),
            json!([]),
            "record 1, column `starts`: expected the number",
        ),
        (
            json!([3]),
            json!([1]),
            "column `answers`: expected a text or a list",
        ),
        (
            json!(["a", ""]),
            json!([1, 1]),
            "column `answers`: expected a text or a list",
        ),
        (
            json!(["a", " "]),
            json!([1, 1]),
            "column `answers`: expected a text or a list of texts, of which none is blank",
        ),
        (
            json!(["a", "b"]),
            json!([1]),
            "column `starts`: expected as many starts as there are answers, 2",
        ),
        (
            json!("a"),
            json!([1, 2]),
            "column `starts`: expected as many starts as there are answers, 1",
        ),
        (json!([]), json!([]), "set `no_answer: true`"),
        (json!(""), json!(""), "set `no_answer: true`"),
    ] {
        let error = target(&extractive, answers, starts).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
    for none in [json!([]), Value::Null, json!("")] {
        assert_eq!(target(&nullable(), none, json!([])), Ok(Value::Null));
    }
}

#[test]
fn whether_a_question_can_be_answered_agrees_with_its_answers() {
    let target = |says: Value, answers: Value| {
        let fields = [
            ("answers", answers),
            ("starts", json!([0])),
            ("is_impossible", says),
        ];
        let fields = fields.map(|(name, value)| (name.into(), value)).to_vec();
        let record = Record::new(Path::new("f"), Place::Line(1), fields);
        nullable()
            .target(&record)
            .map_err(|error| error.to_string())
    };
    let (none, one) = (json!([]), json!(["a"]));
    for says in [json!(true), json!("True"), json!(1)] {
        assert_eq!(target(says.clone(), none.clone()), Ok(Value::Null));
        let error = target(says, one.clone()).unwrap_err();
        let expected = "column `is_impossible`: expected false, as the row has answers (1)";
        assert!(error.contains(expected), "{error}");
    }
    for says in [json!(false), json!("False"), json!(0)] {
        target(says.clone(), one.clone()).unwrap();
        let error = target(says, none.clone()).unwrap_err();
        let expected = "column `is_impossible`: expected true, as the row has no answer";
        assert!(error.contains(expected), "{error}");
    }
    for answers in [none, one.clone()] {
        target(Value::Null, answers.clone()).unwrap();
        target(json!(""), answers).unwrap();
    }
    let error = target(json!("maybe"), one).unwrap_err();
    assert!(
        error.contains("expected true or false, found \"maybe\""),
        "{error}"
    );
}

/// Row 57 of the pitfalls: 32 characters are 43 bytes and 33 units of UTF-16.
#[test]
fn an_answer_that_is_elsewhere_is_refused() {
    let example = |start: usize| Example {
        pair: Some(
            "Caf\u{e9} \u{2014} the na\u{ef}ve \u{5317}\u{4eac} answer \u{1f642} is forty two."
                .into(),
        ),
        target: Some(json!({"answers": ["forty two"], "start": start})),
        ..Example::of("What?")
    };
    let check = |start: usize| {
        let record = record(json!(["forty two"]), json!([start]));
        extractive().check(&example(start), &record)
    };
    check(32).unwrap();
    for start in [33, 43, 999] {
        let error = check(start).unwrap_err().to_string();
        assert!(
            error.contains("column `starts`: expected the number of Unicode code points"),
            "{error}"
        );
        assert!(error.ends_with(&format!("found \"[{start}]\"")), "{error}");
    }
    extractive()
        .check(&Example::of("What?"), &record(Value::Null, Value::Null))
        .unwrap();
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let error = |objective: Extractive| objective.checked().unwrap_err();
    assert!(
        error(Extractive {
            n_best: 0,
            ..nullable()
        })
        .contains("`n_best` is 0")
    );
    assert!(
        error(Extractive {
            longest_answer: 0,
            ..nullable()
        })
        .contains("`longest_answer` is 0")
    );
    assert!(
        error(Extractive {
            null_threshold: 1.0,
            ..extractive()
        })
        .contains("`no_answer: true`")
    );
    assert!(
        error(Extractive {
            null_threshold: f64::NAN,
            ..nullable()
        })
        .contains("finite")
    );
    nullable().checked().unwrap();
}

/// Rows of a question of one token about `text`, a token a word: `[CLS] who? [SEP] text [SEP]`. Each has the
/// words from a place on, and the logits of its starts and ends.
fn rows(text: &str, windows: &[(Range<usize>, &[f32], &[f32])]) -> (Vec<Encoded>, Vec<Vec<f32>>) {
    let mut words = Vec::new();
    let mut at = 0;
    for word in text.split(' ') {
        let end = at + word.chars().count();
        words.push(at..end);
        at = end + 1;
    }
    let example = Arc::new(Example {
        pair: Some(text.to_owned()),
        ..Example::of("who?")
    });
    let row = |(of, starts, ends): &(Range<usize>, &[f32], &[f32])| {
        let len = of.len() + 4;
        assert!(starts.len() >= len && starts.len() == ends.len());
        let part = Part {
            number: 0,
            example: example.clone(),
            first: 3,
            places: words[of.clone()].to_vec(),
        };
        let encoding = Encoding {
            ids: vec![7; len],
            type_ids: vec![0; len],
            ..Encoding::default()
        };
        let row = Encoded {
            encoding,
            target: None,
            part: Some(part),
        };
        (row, [*starts, *ends].concat())
    };
    windows.iter().map(row).unzip()
}

fn answer(objective: &Extractive, (rows, logits): (Vec<Encoded>, Vec<Vec<f32>>)) -> Prediction {
    let mut found = objective.answer(&rows, &logits);
    assert_eq!(found.len(), 1);
    found.remove(0)
}

/// Row 60: the very first and the very last token can be predicted.
#[test]
fn the_first_and_the_last_token_are_answers_too() {
    let text = "Paris is big";
    let found = |at: usize| {
        let mut logits = [0.0; 7];
        logits[at] = 9.0;
        answer(&extractive(), rows(text, &[(0..3, &logits, &logits)]))
            .text(&extractive())
            .to_owned()
    };
    assert_eq!([3, 4, 5].map(found), ["Paris", "is", "big"]);
}

/// Row 64: logits of the question, of separators and of padding are larger than all of the text.
#[test]
fn answers_are_of_the_text() {
    let starts = [9.0, 8.0, 9.0, 1.0, 2.0, 0.0, 9.0, 20.0, 20.0];
    let ends = [9.0, 8.0, 9.0, 0.0, 1.0, 0.5, 9.0, 20.0, 20.0];
    for objective in [extractive(), nullable()] {
        let found = answer(&objective, rows("Paris is big", &[(0..3, &starts, &ends)]));
        assert_eq!(found.best().unwrap().text, "is");
        assert_eq!(found.best().unwrap().score(), 3.0);
    }
}

/// Row 66: the null scores are 5.0 and 1.0, the best span has 3.0.
#[test]
fn no_answer_takes_all_rows() {
    let low: &[f32] = &[2.5, -9.0, -9.0, -9.0, -9.0, -9.0];
    let first: &[f32] = &[0.5, -9.0, -9.0, 1.5, -9.0, -9.0];
    let windows = || rows("Paris is big", &[(0..2, low, low), (1..3, first, first)]);
    let found = answer(&nullable(), windows());
    assert_eq!(found.no_answer_score(), 1.0 - 3.0);
    assert_eq!(found.text(&nullable()), "is");
    let at = |null_threshold: f64| Extractive {
        null_threshold,
        ..nullable()
    };
    assert_eq!(found.text(&at(-2.0)), "is");
    assert_eq!(found.text(&at(-2.1)), "");
    assert_eq!(found.described(&at(-2.1))["no_answer_score"], json!(-2.0));
    // What has always an answer has no such score.
    let found = answer(&extractive(), windows());
    assert_eq!(found.text(&extractive()), "is");
    assert_eq!(found.described(&extractive()).get("no_answer_score"), None);
}

/// Row 66: every span is too long. The length is of tokens: `last - first + 1`.
#[test]
fn where_every_span_is_too_long_the_answer_is_empty() {
    let starts = [0.0, -9.0, -9.0, 9.0, -9.0, -9.0, -9.0];
    let ends = [0.0, -9.0, -9.0, -9.0, -9.0, 9.0, -9.0];
    for objective in [extractive(), nullable()] {
        let one = |longest_answer: usize| {
            let objective = Extractive {
                n_best: 1,
                longest_answer,
                ..objective.clone()
            };
            let found = answer(&objective, rows("Paris is big", &[(0..3, &starts, &ends)]));
            found.text(&objective).to_owned()
        };
        assert_eq!([2, 3].map(one), ["", "Paris is big"]);
    }
}

/// Row 58: a mark that no token has is of the answer; one that the next token has is not.
#[test]
fn an_answer_goes_on_over_marks_that_were_dropped() {
    let text = "Cafe\u{301}\u{327} is";
    let logits: &[f32] = &[0.0, 0.0, 0.0, 9.0, 0.0, 0.0];
    let with = |places: [Range<usize>; 2]| {
        let (mut rows, logits) = rows(text, &[(0..2, logits, logits)]);
        rows[0].part.as_mut().unwrap().places = places.to_vec();
        answer(&extractive(), (rows, logits))
            .text(&extractive())
            .to_owned()
    };
    assert_eq!(with([0..4, 7..9]), "Cafe\u{301}\u{327}");
    assert_eq!(with([0..4, 5..9]), "Cafe\u{301}");
    assert_eq!(with([0..4, 4..9]), "Cafe");
    assert_eq!(with([0..3, 7..9]), "Caf");
}

/// The best span is of a token without characters, as some tokenizers have.
#[test]
fn spans_without_characters_are_no_answers() {
    let logits: &[f32] = &[0.0, 0.0, 0.0, 9.0, 1.0, 0.0];
    let objective = Extractive {
        longest_answer: 1,
        ..extractive()
    };
    let (mut rows, logits) = rows("a b", &[(0..2, logits, logits)]);
    rows[0].part.as_mut().unwrap().places = vec![1..1, 2..3];
    assert_eq!(answer(&objective, (rows, logits)).text(&objective), "b");
}

/// The best of each start and end only, and the best of all rows together.
#[test]
fn the_best_spans_are_ordered_and_counted() {
    let starts: &[f32] = &[0.0, -1.0, -1.0, 3.0, 2.0, 1.0, -1.0];
    let objective = Extractive {
        n_best: 3,
        ..nullable()
    };
    let found = answer(&objective, rows("Paris is big", &[(0..3, starts, starts)]));
    let texts = found
        .n_best
        .iter()
        .map(|span| (span.text.as_str(), span.score()));
    // No answer is shown behind the three others.
    let expected = [
        ("Paris", 6.0),
        ("Paris is", 5.0),
        ("Paris is big", 4.0),
        ("", 0.0),
    ];
    assert_eq!(texts.collect::<Vec<_>>(), expected);
    let described = found.described(&objective);
    let sum: f64 = [6.0_f64, 5.0, 4.0, 0.0].iter().map(|x| x.exp()).sum();
    let probability = described["n_best"][1]["probability"].as_f64().unwrap();
    assert!((probability - 5.0_f64.exp() / sum).abs() < 1e-12);
    assert_eq!(
        (&described["text"], &described["score"]),
        (&json!("Paris"), &json!(6.0))
    );
}

#[test]
fn rows_without_a_target_do_not_count() {
    let row = |target: Option<Value>| Encoded {
        encoding: Encoding {
            ids: vec![5; 4],
            type_ids: vec![0; 4],
            ..Encoding::default()
        },
        target,
        part: None,
    };
    let rows = [row(Some(json!([1, 3]))), row(None)];
    let plan = Plan {
        len: 4,
        indices: vec![0, 1],
    };
    let mut batch = Batch::new(&plan, &rows, 0).unwrap();
    let refs: Vec<&Encoded> = rows.iter().collect();
    extractive()
        .prepare(&mut batch, &refs, Draw::default())
        .unwrap();
    assert_eq!(batch.targets, Targets::spans(&[1, 4], &[3, 4], 4));
    assert_eq!(batch.targets.count, 1);
    assert_eq!(extractive().learned(&rows[0]), [false, true, true, true]);
    assert_eq!(extractive().learned(&rows[1]), [false; 4]);
}
