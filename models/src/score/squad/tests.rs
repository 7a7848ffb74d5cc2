use super::*;

fn questions(rows: &[(&str, &[&str])]) -> Vec<Question> {
    let question = |(id, answers): &(&str, &[&str])| Question {
        id: (*id).to_owned(),
        answers: answers.iter().map(|&text| text.to_owned()).collect(),
    };
    rows.iter().map(question).collect()
}

fn predictions(rows: &[(&str, &str)]) -> IndexMap<String, String> {
    let own = |(id, text): &(&str, &str)| ((*id).to_owned(), (*text).to_owned());
    rows.iter().map(own).collect()
}

/// PITFALLS 68.
#[test]
fn texts_are_compared_as_the_official_scripts_do() {
    for (text, expected) in [
        ("The U.S. Army", "us army"),
        ("\u{201c}The Who\u{201d}", "\u{201c} who\u{201d}"),
        ("3/4", "34"),
        ("an-the", "anthe"),
        ("A.", ""),
        ("a\u{301}n\u{a0}an\u{1c}theory", "\u{301}n theory"),
    ] {
        assert_eq!(normal(text), expected);
    }
    assert_eq!(Version::V1.score("the", &["the"]), [1.0, 0.0]);
    assert_eq!(Version::V2.score("the", &["the"]), [1.0, 1.0]);
    assert_eq!(Version::V2.score("", &["the", "A."]), [1.0, 1.0]);
    assert_eq!(Version::V2.score("x", &["the", "A."]), [0.0, 0.0]);
    assert_eq!(Version::V2.score("", &["the", "x"]), [0.0, 0.0]);
    for version in [Version::V1, Version::V2] {
        let [exact, f1] = version.score("in the Denver Broncos team", &["x", "Denver Broncos"]);
        assert!(exact == 0.0 && (f1 - 2.0 / 3.0).abs() < 1e-12, "{f1}");
    }
}

/// PITFALLS 67.
#[test]
fn the_best_threshold_is_searched_over_the_scores_that_are_given() {
    let questions = questions(&[("q1", &["a b"]), ("q2", &[])]);
    let predictions = predictions(&[("q1", "a b"), ("q2", "b")]);
    let scores = [("q1".to_owned(), 0.1), ("q2".to_owned(), 0.9)].into();
    let no_answer = |threshold| {
        Some(NoAnswer {
            scores: &scores,
            threshold,
        })
    };
    let found = score(Version::V2, &questions, &predictions, no_answer(1.0)).unwrap();
    assert_eq!(found.scores["exact"], 50.0);
    assert_eq!(found.scores["best_exact"], 100.0);
    assert_eq!(found.scores["best_exact_thresh"], 0.1);
    let found = score(Version::V2, &questions, &predictions, no_answer(0.5)).unwrap();
    assert_eq!(found.scores["exact"], 100.0);
    let error = score(Version::V1, &questions[..1], &predictions, no_answer(1.0));
    assert_eq!(error, Err(SquadError::Answered));
    let one = [("q1".to_owned(), 0.1)].into();
    let one = Some(NoAnswer {
        scores: &one,
        threshold: 1.0,
    });
    let error = score(Version::V2, &questions, &predictions, one);
    assert_eq!(error, Err(SquadError::NoScore("q2".into())));
}

#[test]
fn what_is_missing_or_too_much_is_counted_or_refused() {
    let all = questions(&[("q1", &["x"]), ("q2", &["y"])]);
    let found = predictions(&[("q2", "y"), ("q3", "z")]);
    let report = score(Version::V1, &all, &found, None).unwrap();
    assert_eq!((report.missing, report.unknown), (1, 1));
    assert_eq!(report.scores["exact_match"], 50.0);
    assert_eq!(report.scores["total"], 2);
    let error = score(Version::V2, &all, &found, None)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("1 of 2 questions have no prediction, `q1` first"),
        "{error}"
    );
    let twice = questions(&[("q", &["x"]), ("q", &["x"])]);
    let error = score(Version::V1, &twice, &found, None);
    assert_eq!(error, Err(SquadError::Twice("q".into())));
    let error = score(Version::V1, &questions(&[("q", &[])]), &found, None);
    assert_eq!(error, Err(SquadError::Unanswered("q".into())));
    assert_eq!(
        score(Version::V1, &[], &found, None),
        Err(SquadError::Empty)
    );
    // Where every question has an answer there is no part of those that have none.
    let found = predictions(&[("q1", "x"), ("q2", "")]);
    let report = score(Version::V2, &all, &found, None).unwrap();
    assert!(report.scores.keys().all(|name| !name.starts_with("NoAns")));
    assert_eq!(report.scores["HasAns_exact"], 50.0);
}

/// Expected: the official formulas in Python.
#[test]
fn scores_are_those_of_the_official_scripts() {
    let fixture = include_str!("../../../../tests/fixtures/score/squad.json");
    let fixture: Value = serde_json::from_str(fixture).unwrap();
    let of = |name: &str| fixture[name].clone();
    let golds: IndexMap<String, Vec<String>> = serde_json::from_value(of("questions")).unwrap();
    let predictions: IndexMap<String, String> = serde_json::from_value(of("predictions")).unwrap();
    let scores: IndexMap<String, f64> = serde_json::from_value(of("no_answer")).unwrap();
    let all: Vec<Question> = golds
        .into_iter()
        .map(|(id, answers)| Question { id, answers })
        .collect();
    let answered = all.iter().filter(|question| !question.answers.is_empty());
    let answered: Vec<Question> = answered.cloned().collect();
    let no_answer = NoAnswer {
        scores: &scores,
        threshold: fixture["threshold"].as_f64().unwrap(),
    };
    for (name, version, questions, no_answer) in [
        ("1.1", Version::V1, &answered, None),
        ("2.0", Version::V2, &all, None),
        ("2.0 with scores", Version::V2, &all, Some(no_answer)),
    ] {
        let found = score(version, questions, &predictions, no_answer).unwrap();
        let expected = fixture[name].as_object().unwrap();
        let names: Vec<&String> = found.scores.keys().collect();
        let count = expected.keys().filter(|name| names.contains(name)).count();
        assert_eq!(
            (count, names.len()),
            (expected.len(), expected.len()),
            "{name}"
        );
        for (key, expected) in expected {
            let [found, expected] = [&found.scores[key], expected].map(|v| v.as_f64().unwrap());
            assert!(
                (found - expected).abs() < 1e-9,
                "{name}, {key}: {found} != {expected}"
            );
        }
    }
}
