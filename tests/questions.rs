//! Questions about texts, from files to scored answers.

mod support;

use serde_json::{Value, json};
use support::Scene;

/// A text of more tokens than the tiny models' 40, with `him` in its midst and `her` at its end.
fn long() -> String {
    let part = "the cat sat on the mat and the dog ran under a tree ";
    format!("{part}{part}she saw him {part}{part}he saw her")
}

/// Questions about the long text and a short one; of each the answers with where they start.
fn questions() -> Vec<Value> {
    let long = long();
    let row = |id: &str, question: &str, context: &str, answers: &[&str]| {
        let starts = answers.iter().map(|answer| context.find(answer).unwrap());
        let answers: Vec<Value> = answers
            .iter()
            .zip(starts)
            .map(|(text, start)| json!({"text": text, "answer_start": start}))
            .collect();
        json!({"id": id, "question": question, "context": context, "answers": answers})
    };
    vec![
        row("a", "saw she", &long, &["him", "saw him"]),
        row("b", "saw he", &long, &["her"]),
        row("c", "old", &long, &[]),
        row("d", "sat", "a cat sat on a mat", &["a cat"]),
        row("e", "ran", "a cat sat on a mat", &[]),
    ]
}

/// The official JSON of 2.0, of 1.1 without the questions that have no answer.
fn official(version: &str) -> String {
    let paragraphs: Vec<Value> = questions()
        .into_iter()
        .filter(|row| version == "v2.0" || row["answers"] != json!([]))
        .map(|mut row| {
            let context = row["context"].take();
            row.as_object_mut().unwrap().remove("context");
            if version == "v2.0" {
                row["is_impossible"] = json!(row["answers"] == json!([]));
            }
            json!({"context": context, "qas": [row]})
        })
        .collect();
    json!({"version": version, "data": [{"title": "t", "paragraphs": paragraphs}]}).to_string()
}

/// Rows as the hub's `squad` has them.
fn hub(with_answers: bool) -> String {
    let lines = questions().into_iter().map(|mut row| {
        let answers = row["answers"].as_array().unwrap().clone();
        let all = |name: &str| -> Vec<Value> {
            answers.iter().map(|answer| answer[name].clone()).collect()
        };
        row["answers"] = json!({"text": all("text"), "answer_start": all("answer_start")});
        if !with_answers {
            row.as_object_mut().unwrap().remove("answers");
        }
        format!("{row}\n")
    });
    lines.collect()
}

fn scene() -> Scene {
    let scene = Scene::new();
    for version in ["v1.1", "v2.0"] {
        for split in ["train", "dev"] {
            scene.write(&format!("squad/{split}-{version}.json"), official(version));
        }
    }
    scene.write("hub.jsonl", hub(true));
    scene.write("asked.jsonl", hub(false));
    scene
}

const BERT: &str = "--model bert --rank 4 --lr 5e-3 --batch-size 4 --epochs 2";

/// What an evaluation printed of its only split.
fn scores(printed: &str) -> Value {
    let all: Value = serde_json::from_str(printed.trim()).unwrap();
    all.as_object().unwrap().values().next().unwrap().clone()
}

/// What a run learned is scored in the same way by `evaluate`, and by `score` on what `predict` wrote.
#[test]
fn squad_is_learned_predicted_and_scored() {
    for (task, version, exact) in [
        ("squad", "v1.1", "exact_match"),
        ("squad2", "v2.0", "exact"),
    ] {
        let scene = scene();
        let run = format!("finetune {BERT} --task {task} --data squad --output out");
        scene.ok(&run);
        let found = scores(&scene.ok("evaluate --model bert --adapter out --data squad"));
        let dev = format!("squad/dev-{version}.json");
        scene.ok(&format!(
            "predict --model bert --adapter out --data {dev} --by-id --output answers.json"
        ));
        let judged = scene.ok(&format!(
            "score squad --predictions answers.json --data {dev}"
        ));
        let judged: Value = serde_json::from_str(&judged).unwrap();
        for name in [exact, "f1"] {
            assert_eq!(judged[name], found[name], "{judged} {found}");
        }
        assert!(found["loss"].as_f64().unwrap() > 0.0);
        let kept = scene.lines("out/evaluations.jsonl");
        let best = kept
            .iter()
            .filter_map(|row| row["metrics"]["f1"].as_f64())
            .fold(0.0, f64::max);
        assert_eq!(found["f1"], json!(best), "{kept:?}");
        assert_eq!(found.get("best_f1_thresh").is_some(), task == "squad2");
        let record: Value = serde_json::from_slice(&scene.read("out/ailora.json")).unwrap();
        assert_eq!(record["max_length"], 384);
    }
}

/// Files of one's own: some have no answer, so that none may be predicted.
#[test]
fn questions_of_ones_own_are_understood() {
    let scene = scene();
    let run = format!("finetune {BERT} --train hub.jsonl --valid hub.jsonl --output out");
    let ran = scene.run(&run);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let said = "questions in `question` about `context`, answered by the parts of it in `answers.text`; 2 have no answer";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    let found = scores(&scene.ok("evaluate --model bert --adapter out --data hub.jsonl"));
    assert_eq!(
        (&found["HasAns_total"], &found["NoAns_total"]),
        (&json!(3.0), &json!(2.0))
    );
    let predict = "predict --model bert --adapter out --data asked.jsonl --output";
    scene.ok(&format!("{predict} lines.jsonl --n-best 2"));
    let lines = scene.lines("lines.jsonl");
    assert_eq!(lines.len(), 5);
    for (line, id) in lines.iter().zip(["a", "b", "c", "d", "e"]) {
        assert_eq!(line["id"], id);
        assert_eq!(line["n_best"].as_array().unwrap().len(), 2);
        let (text, score) = (&line["text"], line["no_answer_score"].as_f64().unwrap());
        assert_eq!(text == "", score > 0.0, "{line}");
    }
    scene.ok(&format!("{predict} plain.jsonl"));
    assert_eq!(scene.lines("plain.jsonl")[3].get("n_best"), None);
    // Without any threshold that is reached nothing is ever answered, and everything always.
    for (threshold, empty) in [(-1e6, 5), (1e6, 0)] {
        let objective = json!({"extractive": {"null_threshold": threshold}});
        let file = format!("t{threshold}.jsonl");
        scene.ok(&format!("{predict} {file} --objective {objective}"));
        let lines = scene.lines(&file);
        assert_eq!(
            lines.iter().filter(|line| line["text"] == "").count(),
            empty
        );
    }
    // The long text takes several rows.
    let shown = scene.ok("data hub.jsonl --model bert --max-length 40");
    assert!(shown.contains("she saw⟦ him⟧"), "{shown}");
    assert!(shown.contains(" to 40, half of them"), "{shown}");
}

/// Rows are counted as windows, and read again in each epoch.
#[test]
fn streamed_questions_are_learned_too() {
    let scene = scene();
    let run = format!("finetune {BERT} --train hub.jsonl --hold-out 0 --output");
    scene.ok(&format!("{run} held"));
    let ran = scene.run(&format!("{run} streamed --stream"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let steps = |output: &str| scene.losses(output).len();
    assert_eq!(steps("held"), steps("streamed"));
    let rows = steps("held") / 2 * 4;
    let said = ran
        .stderr
        .lines()
        .find(|line| line.contains("are read again every epoch"));
    let counted: usize = said.unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(
        counted > 8 && counted <= rows && counted > rows - 4,
        "{counted} {rows}"
    );
}

#[test]
fn what_cannot_be_used_is_named() {
    let scene = scene();
    let row = |start: usize| json!({"question": "Who?", "context": "Café 🙂 him", "answers": ["him"], "answer_start": [start]});
    // 7 code points are 11 bytes.
    scene.write("right.jsonl", format!("{}\n{}\n", row(7), row(7)));
    scene.write("bytes.jsonl", format!("{}\n{}\n", row(7), row(11)));
    let run = format!("finetune {BERT} --hold-out 0 --max-steps 1 --output");
    scene.ok(&format!("{run} right --train right.jsonl"));
    scene.refused(
        &format!("{run} out --train bytes.jsonl"),
        &["bytes.jsonl, line 2, column `answer_start`: expected the number of Unicode code points", "[11]"],
    );
    scene.refused(
        "predict --model bert --adapter right --data right.jsonl --by-id --output out.json",
        &["row 0 has no id"],
    );
    let question = "the ".repeat(50);
    let row = json!({"question": question, "context": "a", "answers": ["a"], "answer_start": [0]});
    scene.write("long.jsonl", format!("{row}\n"));
    scene.refused(
        &format!("{run} out --train long.jsonl"),
        &["has 50 tokens and leaves room for 0", "overlap by 13"],
    );
    // Questions of 1.1 that have no answer.
    scene.write("mixed/train-v1.1.json", official("v2.0"));
    scene.write("mixed/dev-v1.1.json", official("v1.1"));
    scene.refused(
        &format!("{run} out --task squad --data mixed").replace("--hold-out 0 ", ""),
        &[
            "train-v1.1.json, record 3, column `answers`",
            "no_answer: true",
        ],
    );
    scene.refused(
        "predict --model bert --task cola --data cola/dev.tsv --by-id --output out",
        &["--by-id and --n-best are for answers to questions"],
    );
}
