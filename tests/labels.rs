//! The order of a model's labels is what its config.json says.

mod support;

use std::fmt::Write;

use serde_json::{Value, json};
use support::Scene;

const TEXTS: [&str; 8] = [
    "the old cat",
    "a dog ran",
    "she saw him",
    "he sat on the mat",
    "under the mat and on the old mat",
    "her dog",
    "the cat saw a dog",
    "him and her",
];

/// Names the labels of a model, of which there are as many.
fn name(scene: &Scene, model: &str, names: &[&str]) {
    let mut config = scene.json(&format!("{model}/config.json"));
    config["id2label"] = names
        .iter()
        .enumerate()
        .map(|(i, name)| (i.to_string(), json!(name)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    scene.write(&format!("{model}/config.json"), config.to_string());
}

/// A file of pairs with these labels.
fn pairs(labels: &[String]) -> String {
    let mut text = String::from("index\tsentence1\tsentence2\tgold_label\n");
    for (i, (first, label)) in TEXTS.iter().zip(labels).enumerate() {
        let second = TEXTS[(3 * i + 1) % TEXTS.len()];
        writeln!(text, "{i}\t{first}\t{second}\t{label}").unwrap();
    }
    text
}

fn predicted(scene: &Scene, task: &str, data: &str) -> Vec<(Vec<f64>, String)> {
    scene.ok(&format!(
        "predict --model roberta --task {task} --data {data} --output out.jsonl --force"
    ));
    let row = |row: Value| {
        let logits = row["logits"].as_array().unwrap();
        let logits = logits.iter().map(|x| x.as_f64().unwrap()).collect();
        (logits, row["label"].as_str().unwrap().to_owned())
    };
    scene.lines("out.jsonl").into_iter().map(row).collect()
}

#[test]
fn predictions_and_metrics_are_of_the_labels_that_the_model_names() {
    let scene = Scene::new();
    let some = vec!["neutral".to_owned(); TEXTS.len()];
    scene.write("mnli/dev_matched.tsv", pairs(&some));
    let plain = predicted(&scene, "mnli", "mnli/dev_matched.tsv");
    let names = ["NEUTRAL", "Contradiction", "entailment"];
    name(&scene, "roberta", &names);
    let found = predicted(&scene, "mnli", "mnli/dev_matched.tsv");
    let mut labels = Vec::new();
    for ((logits, label), (same, _)) in found.iter().zip(&plain) {
        assert_eq!(logits, same);
        let best = (0..3)
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap();
        assert_eq!(*label, names[best].to_lowercase());
        labels.push(label.clone());
    }
    assert_eq!(labels.len(), TEXTS.len());
    // On what it predicts, it is always right.
    for file in ["dev_matched", "dev_mismatched"] {
        scene.write(&format!("mnli/{file}.tsv"), pairs(&labels));
    }
    let evaluate = "evaluate --model roberta --task mnli --data mnli";
    let scores: Value = serde_json::from_str(&scene.ok(evaluate)).unwrap();
    assert_eq!(scores["matched"]["accuracy"], 1.0);

    // A run that trains nothing to speak of begins where the model is.
    scene.write("mnli/train.tsv", pairs(&labels));
    let train = "finetune --model roberta --task mnli --data mnli --epochs 1 --lr 1e-9 --rank 2";
    scene.ok(&format!("{train} --output out"));
    let adapted = scene.ok(&format!("{evaluate} --adapter out"));
    let scores: Value = serde_json::from_str(&adapted).unwrap();
    assert_eq!(scores["matched"]["accuracy"], 1.0);
    let loss = f64::from_bits(scene.losses("out")[0].1);
    assert!(loss < 1.1, "{loss}");

    // What is merged has its classes where the base has them.
    scene.ok("merge --model roberta --task mnli --adapter out --output merged");
    let config = scene.json("merged/config.json");
    assert_eq!(
        config["id2label"],
        json!({"0": names[0], "1": names[1], "2": names[2]})
    );
    let merged = evaluate.replace("--model roberta", "--model merged");
    let scores: Value = serde_json::from_str(&scene.ok(&merged)).unwrap();
    assert_eq!(scores["matched"]["accuracy"], 1.0);
}

#[test]
fn labels_of_another_task_are_refused_with_both_lists() {
    let scene = Scene::new();
    let some = vec!["neutral".to_owned(); TEXTS.len()];
    for file in ["dev_matched", "dev_mismatched"] {
        scene.write(&format!("mnli/{file}.tsv"), pairs(&some));
    }
    name(&scene, "roberta", &["red", "green", "blue"]);
    scene.refused(
        "evaluate --model roberta --task mnli --data mnli",
        &[
            "id2label",
            "red, green, blue",
            "entailment, neutral, contradiction",
        ],
    );
    // Predictions are the model's, in its own words.
    let found = predicted(&scene, "mnli", "mnli/dev_matched.tsv");
    let own = |(logits, label): &(Vec<f64>, String)| {
        let best = (0..3)
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap();
        *label == ["red", "green", "blue"][best]
    };
    assert!(
        found.len() == TEXTS.len() && found.iter().all(own),
        "{found:?}"
    );
    // Numbers are no names.
    name(&scene, "roberta", &["LABEL_0", "label_1", "2"]);
    scene.ok("evaluate --model roberta --task mnli --data mnli");
}
