//! `ailora score`, on small files.

mod support;

use serde_json::{Value, json};
use support::Scene;

fn scene(files: &[(&str, &str)]) -> Scene {
    let scene = Scene::new();
    for (name, text) in files {
        scene.write(name, text);
    }
    scene
}

fn scores(scene: &Scene, args: &str) -> Value {
    serde_json::from_str(&scene.ok(&format!("score {args}"))).unwrap()
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Each of these numbers is worked out by hand.
#[test]
fn summaries_are_scored_against_files_of_every_kind() {
    let scene = scene(&[
        ("found.hypo", "d e f.<n>a b c.\n\n"),
        ("gold.txt", "a b c.<q>d e f.\nx\n"),
        (
            "cnn.jsonl",
            "{\"highlights\": \"a b c.\\nd e f.\"}\n{\"highlights\": \"x\"}\n",
        ),
        (
            "tldr.json",
            r#"[{"target": ["y", "a b c. <n>d e f."]}, {"target": ["x"]}]"#,
        ),
        ("sum.csv", "summary,own\n\"a b c.\nd e f.\",q\nx,q\n"),
        (
            "predict.jsonl",
            "{\"index\": 0, \"text\": \"d e f.\\na b c.\"}\n{\"index\": 1, \"text\": \"\"}\n",
        ),
    ]);
    scene.write(
        "cnn.jsonl.gz",
        gzip("{\"highlights\": \"a b c.\\nd e f.\"}\n{\"highlights\": \"x\"}\n"),
    );
    for predictions in ["found.hypo", "predict.jsonl"] {
        for (data, column) in [
            ("gold.txt", None),
            ("cnn.jsonl", Some("highlights")),
            ("cnn.jsonl.gz", Some("highlights")),
            ("tldr.json", Some("target")),
            ("sum.csv", Some("summary")),
        ] {
            let found = scores(
                &scene,
                &format!("rouge --predictions {predictions} --data {data}"),
            );
            for (name, f) in [
                ("rouge1", 0.5),
                ("rouge2", 0.4),
                ("rougeL", 0.25),
                ("rougeLsum", 0.5),
            ] {
                let value = found[name]["f"].as_f64().unwrap();
                assert!((value - f).abs() < 1e-12, "{data}, {name}: {value}");
            }
            assert_eq!(found["rows"], 2);
            assert_eq!(found["stemmer"], true);
            assert_eq!(
                found["columns"],
                json!(column.into_iter().collect::<Vec<_>>())
            );
        }
    }
    let found = scores(
        &scene,
        "rouge --predictions gold.txt --data sum.csv --column own",
    );
    assert_eq!(found["rouge1"]["f"], 0.0);
    scene.write("a.txt", "they were running");
    scene.write("b.txt", "they run");
    let stemmed = scores(&scene, "rouge --predictions a.txt --data b.txt");
    assert_eq!(stemmed["rouge1"]["recall"], 1.0);
    let plain = scores(
        &scene,
        "rouge --predictions a.txt --data b.txt --no-stemmer",
    );
    assert_eq!(
        (&plain["rouge1"]["recall"], &plain["stemmer"]),
        (&json!(0.5), &json!(false))
    );
}

#[test]
fn arithmetic_is_scored_by_a_rule_that_is_named() {
    let scene = scene(&[
        (
            "found.txt",
            "It is 10-7\nThe answer is $1,000.\n#### 3 of 8\n",
        ),
        (
            "adapters.json",
            r#"[{"answer": "7"}, {"answer": "1000.0"}, {"answer": 3}]"#,
        ),
        (
            "gsm.jsonl",
            "{\"answer\": \"x\\n#### 7\"}\n{\"answer\": \"#### 1,000\"}\n{\"answer\": \"#### 3\"}\n",
        ),
        (
            "svamp.json",
            r#"[{"Answer": 7.0}, {"Answer": 1000}, {"Answer": 3}]"#,
        ),
        ("letters.txt", "Answer: B\nB\n"),
        ("aqua.jsonl", "{\"correct\": \"B\"}\n{\"correct\": \"A\"}\n"),
    ]);
    for data in ["adapters.json", "gsm.jsonl", "svamp.json"] {
        for (rule, right) in [("llm-adapters", 1), ("strict", 2), ("marker", 2)] {
            let found = scores(
                &scene,
                &format!("arithmetic --predictions found.txt --data {data} --rule {rule}"),
            );
            assert_eq!(
                (&found["rule"], &found["right"], &found["rows"]),
                (&json!(rule), &json!(right), &json!(3))
            );
            let accuracy = found["accuracy"].as_f64().unwrap();
            assert!((accuracy - f64::from(right) / 3.0).abs() < 1e-12);
        }
    }
    let args = "arithmetic --predictions letters.txt --data aqua.jsonl";
    let found = scores(&scene, args);
    assert_eq!(
        (&found["rule"], &found["accuracy"]),
        (&json!("llm-adapters"), &json!(0.0))
    );
    assert_eq!(
        scores(&scene, &format!("{args} --rule strict"))["accuracy"],
        0.5
    );
}

#[test]
fn tables_and_lists_of_one_answer_are_scored() {
    let scene = scene(&[
        ("found.csv", "index,text\n0,it is 5\n1,it is 6\n"),
        ("found.tsv", "index\ttext\n0\tit is 5\n1\tit is 6\n"),
        ("late.csv", "index,text\n1,it is 5\n0,it is 6\n"),
        (
            "multi.json",
            r#"[{"lSolutions": [5.0]}, {"lSolutions": ["7"]}]"#,
        ),
    ]);
    let data = "--data multi.json --column lSolutions";
    for predictions in ["found.csv", "found.tsv"] {
        let found = scores(
            &scene,
            &format!("arithmetic --predictions {predictions} {data}"),
        );
        assert_eq!((&found["right"], &found["rows"]), (&json!(1), &json!(2)));
    }
    scene.refused(
        &format!("score arithmetic --predictions late.csv {data}"),
        &["line 2, column `index`: expected 0", "found \"1\""],
    );
}

/// A file of SQuAD with three questions, of which the last has no answer.
fn squad() -> Value {
    json!({"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": "a Dane in 1789", "qas": [
        {"id": "q1", "question": "When?", "is_impossible": false,
         "answers": [{"text": "in 1789", "answer_start": 7}, {"text": "1789", "answer_start": 10}]},
        {"id": "q2", "question": "Who?", "is_impossible": false,
         "answers": [{"text": "a Dane", "answer_start": 0}]},
        {"id": "q3", "question": "Why?", "is_impossible": true, "answers": []}]}]}]})
}

#[test]
fn squad_is_scored_by_the_rules_of_its_version() {
    let scene = scene(&[
        ("v2.json", &squad().to_string()),
        (
            "found.json",
            r#"{"q1": "1789!", "q2": "Dane in", "q3": "Dane", "other": "x"}"#,
        ),
        ("scores.json", r#"{"q1": 0.1, "q2": 0.2, "q3": 0.9}"#),
    ]);
    let args = "squad --predictions found.json --data v2.json";
    let found = scores(&scene, args);
    let expected = [
        ("exact", 100.0 / 3.0),
        ("f1", (1.0 + 2.0 / 3.0) * 100.0 / 3.0),
        ("HasAns_exact", 50.0),
        ("HasAns_f1", (1.0 + 2.0 / 3.0) * 50.0),
        ("NoAns_exact", 0.0),
        ("NoAns_f1", 0.0),
    ];
    for (name, expected) in expected {
        let value = found[name].as_f64().unwrap();
        assert!((value - expected).abs() < 1e-9, "{name}: {value}");
    }
    assert_eq!(
        (&found["version"], &found["total"]),
        (&json!("2.0"), &json!(3))
    );
    assert!(found.get("best_exact").is_none());
    let warned = scene.run(&format!("score {args}")).stderr;
    assert!(
        warned.contains("for other questions: 1 of 4 predictions (found.json)"),
        "{warned}"
    );
    let found = scores(&scene, &format!("{args} --no-answer-scores scores.json"));
    assert_eq!(
        (&found["exact"], &found["best_exact_thresh"]),
        (&json!(100.0 / 3.0), &json!(0.1))
    );
    assert_eq!(found["best_f1_thresh"], 0.2);
    let best = found["best_f1"].as_f64().unwrap();
    assert!(
        (best - (2.0 + 2.0 / 3.0) * 100.0 / 3.0).abs() < 1e-9,
        "{best}"
    );
    let cut = scores(
        &scene,
        &format!("{args} --no-answer-scores scores.json --no-answer-threshold 0.5"),
    );
    assert_eq!(cut["NoAns_exact"], 100.0);
    scene.write("more.json", r#"{"q1": 0, "q2": 0, "q3": 1, "q4": 0}"#);
    let warned = scene.run(&format!("score {args} --no-answer-scores more.json"));
    let expected = "for other questions: 1 of 4 scores of no answer (more.json)";
    assert!(warned.stderr.contains(expected), "{}", warned.stderr);

    let mut old = squad();
    old["version"] = json!("1.1");
    let questions = &mut old["data"][0]["paragraphs"][0]["qas"];
    questions.as_array_mut().unwrap().pop();
    for question in questions.as_array_mut().unwrap() {
        question.as_object_mut().unwrap().remove("is_impossible");
    }
    scene.write("v1.json.gz", gzip(&old.to_string()));
    scene.write("found.json.gz", gzip(r#"{"q1": "1789!"}"#));
    let args = "squad --predictions found.json.gz --data v1.json.gz";
    let found = scores(&scene, args);
    assert_eq!(
        found,
        json!({"version": "1.1", "exact_match": 50.0, "f1": 50.0, "total": 2})
    );
    let warned = scene.run(&format!("score {args}")).stderr;
    assert!(
        warned.contains("without a prediction: 1 of 2 questions (found.json.gz)"),
        "{warned}"
    );
}

#[test]
fn what_cannot_be_scored_is_refused_by_name() {
    let mut unmarked = squad();
    unmarked["version"] = json!("1.1");
    for question in unmarked["data"][0]["paragraphs"][0]["qas"]
        .as_array_mut()
        .unwrap()
    {
        question.as_object_mut().unwrap().remove("is_impossible");
    }
    let named = "{\"id\": \"a\", \"text\": \"x\"}\n{\"id\": \"b\", \"text\": \"y\"}\n";
    let scene = scene(&[
        ("one.txt", "a\n"),
        ("two.txt", "a\nb\n"),
        ("none.txt", ""),
        ("gold.jsonl", "{\"text\": \"a\", \"label\": \"b\"}\n"),
        ("late.jsonl", "{\"index\": 1, \"text\": \"a\"}\n"),
        ("list.jsonl", "{\"text\": [\"a\"]}\n"),
        ("empty.jsonl", "{\"target\": []}\n"),
        ("table.csv", "a,b\n1,2\n"),
        ("word.jsonl", "{\"answer\": \"seven\"}\n"),
        ("v2.json", &squad().to_string()),
        ("twice.json", r#"{"q1": "a", "q1": "b"}"#),
        ("number.json", r#"{"q1": 3}"#),
        ("part.json", r#"{"q1": "a"}"#),
        ("all.json", r#"{"q1": "a", "q2": "", "q3": ""}"#),
        ("scores.json", r#"{"q1": 0.5}"#),
        ("v1.json", &unmarked.to_string()),
        ("named.out", named),
        ("named.jsonl", named),
        (
            "other.jsonl",
            "{\"id\": \"a\", \"summary\": \"x\"}\n{\"id\": \"c\", \"summary\": \"y\"}\n",
        ),
        ("truth.jsonl", "{\"summary\": true}\n"),
        ("comma.jsonl", "{\"answer\": \"1,5\"}\n"),
        ("several.jsonl", "{\"answer\": [1, 2]}\n"),
    ]);
    let rouge = "score rouge --predictions";
    for (args, parts) in [
        (
            format!("{rouge} one.txt --data two.txt"),
            &["one.txt has 1 texts", "two.txt has 2 rows"][..],
        ),
        (
            format!("{rouge} none.txt --data none.txt"),
            &["none.txt holds no rows"],
        ),
        (
            format!("{rouge} one.txt --data gold.jsonl"),
            &["line 1", "`references`, `target`", "no such field"],
        ),
        (
            format!("{rouge} one.txt --data table.csv"),
            &["`highlights`", "found columns: a, b"],
        ),
        (
            format!("{rouge} one.txt --data one.txt --column x"),
            &["--column x", "no columns"],
        ),
        (
            format!("{rouge} one.txt --data empty.jsonl"),
            &["column `target`", "list of texts"],
        ),
        (
            format!("{rouge} late.jsonl --data one.txt"),
            &["column `index`", "expected 0"],
        ),
        (
            format!("{rouge} list.jsonl --data one.txt"),
            &["column `text`", "a text"],
        ),
        (format!("{rouge} gone.txt --data one.txt"), &["gone.txt"]),
        (
            "score arithmetic --predictions one.txt --data word.jsonl".into(),
            &["word.jsonl, row 1", "\"seven\""],
        ),
        (
            "score squad --predictions twice.json --data v2.json".into(),
            &["`q1` is there twice"],
        ),
        (
            "score squad --predictions number.json --data v2.json".into(),
            &["number.json", "that of `q1` is 3"],
        ),
        (
            "score squad --predictions part.json --data v2.json".into(),
            &["v2.json: 2 of 3", "`q2` first"],
        ),
        (
            "score squad --predictions all.json --data v2.json --no-answer-scores scores.json"
                .into(),
            &["question `q2` has no score"],
        ),
        (
            "score squad --predictions all.json --data v1.json".into(),
            &["question `q3` has no answer", "\"version\": \"v2.0\""],
        ),
        (
            format!("{rouge} named.out --data two.txt"),
            &["named.out", "every line is a JSON object", ".jsonl"],
        ),
        (
            format!("{rouge} two.txt --data named.out"),
            &["named.out", "every line is a JSON object", ".jsonl"],
        ),
        (
            format!("{rouge} one.txt --data truth.jsonl"),
            &["column `summary`", "expected a text", "found \"true\""],
        ),
        (
            format!("{rouge} named.jsonl --data other.jsonl"),
            &[
                "row 2",
                "\"b\" in named.jsonl",
                "\"c\" in other.jsonl",
                "order",
            ],
        ),
        (
            format!("{rouge} other.jsonl --data two.txt"),
            &[
                "column `text`",
                "expected a text, and in no other column (`id`, `summary`)",
            ],
        ),
        (
            format!("{rouge} two.txt --data named.jsonl"),
            &["--column with another (`id`, `text`)"],
        ),
        (
            "score arithmetic --predictions one.txt --data comma.jsonl".into(),
            &["comma.jsonl, row 1", "expected a number", "\"1,5\""],
        ),
        (
            "score arithmetic --predictions one.txt --data several.jsonl".into(),
            &["several.jsonl, row 1", "expected one answer"],
        ),
        (
            "score squad --predictions all.json --data all.json".into(),
            &["all.json: expected a file of SQuAD"],
        ),
    ] {
        scene.refused(&args, parts);
    }
    scene.fails(
        2,
        "score arithmetic --predictions one.txt --data one.txt --rule strikt",
        &[
            "--rule",
            "llm-adapters, strict, marker",
            "did you mean `strict`?",
        ],
    );
}
