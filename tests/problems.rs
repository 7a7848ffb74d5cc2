//! Labels of every kind, from data through training and files back to what is predicted.

mod support;

use ailora::{
    AdaptConfig,
    finetune::{AdapterFolder, Model, Settings},
    method::{Full, Lora},
    models::{
        batch::{Buckets, Encoded},
        data::Example,
        objective::HeldOut,
        task::{Malformed, Task},
    },
    output::Existing,
    run::{Report, backend},
    runtime::train::Control,
};
use serde_json::{Value, json};
use support::Scene;

const WORDS: [&str; 6] = ["cat", "dog", "mat", "the", "sat", "old"];

/// Texts of a few words, with their classes: those of cat, dog and mat that are in it.
fn rows(count: usize) -> String {
    let row = |i: usize| {
        let place = |j: usize| WORDS[(i * i + 3 * j + i * j) % WORDS.len()];
        let words: Vec<&str> = (0..3 + i % 3).map(place).collect();
        let tags: Vec<&str> = (WORDS[..3].iter().copied())
            .filter(|tag| words.contains(tag))
            .collect();
        let numbers = json!([tags.len() as f64 / 3.0, words.len() as f64 / 5.0]);
        json!({"text": words.join(" "), "tags": tags, "numbers": numbers}).to_string() + "\n"
    };
    (0..count).map(row).collect()
}

fn task(scene: &Scene, objective: Value) -> Task {
    scene.write("rows/train.jsonl", rows(120));
    scene.write(
        "rows/dev.jsonl",
        rows(150)
            .split_inclusive('\n')
            .skip(120)
            .collect::<String>(),
    );
    let description = json!({
        "name": "rows", "objective": objective, "format": "jsonl", "text": "{text}",
        "unused": ["tags", "numbers"],
        "train": {"file": "train.jsonl"}, "dev": {"dev": {"file": "dev.jsonl"}},
    });
    Task::from_value(description).unwrap()
}

fn settings(scene: &Scene, adapters: AdaptConfig) -> Settings {
    Settings {
        model: scene.path("bert").display().to_string(),
        task: "rows".into(),
        data: Some(scene.path("rows")),
        adapters,
        epochs: 8,
        batch_size: 8,
        lr: 1e-2,
        ..Settings::default()
    }
}

fn train(scene: &Scene, task: &Task, settings: &Settings, output: &str) -> Report {
    let run = settings.run_on(task).unwrap();
    run.fit(&scene.path(output), Existing::Refuse, |_| Control::Continue)
        .unwrap()
}

/// What a model says of the held-out rows: its scores, and its predictions as people read them.
fn said(scene: &Scene, task: &Task, model: Model) -> (Vec<(String, f64)>, Vec<Value>) {
    let settings = Settings::default();
    let backend = backend(settings.device, settings.precision).unwrap();
    let (mut predictor, mut engine, model) = model.predictor(backend);
    let examples: Vec<Example> = task
        .load_split(&scene.path("rows"), &task.dev[0], Malformed::Refused)
        .unwrap()
        .examples;
    let rows = model.encode(&examples, 64).unwrap();
    let lengths: Vec<usize> = rows.iter().map(Encoded::tokens).collect();
    let buckets = Buckets::choose(&lengths, 64, 4).unwrap();
    let objective = &*model.objective;
    let split = HeldOut::new("dev", rows, objective, &buckets, 8, 0).unwrap();
    let scores = objective
        .evaluate(&mut predictor, &mut engine, &split)
        .unwrap();
    let logits = predictor
        .logits(&mut engine, &split.rows, &split.batches)
        .unwrap();
    let described = logits
        .iter()
        .map(|row| objective.describe(&objective.predict(row)));
    (scores.into_iter().collect(), described.collect())
}

fn adapted(scene: &Scene, task: &Task, output: &str) -> Model {
    let (path, force) = (&*scene.path(output), false);
    let name = scene.path("bert").display().to_string();
    Model::adapted(&name, task, AdapterFolder { path, force }).unwrap()
}

fn opened(scene: &Scene, task: &Task, output: &str) -> Model {
    Model::open(&scene.path(output).display().to_string(), task, 0, true).unwrap()
}

#[test]
fn any_of_several_classes_are_learned_saved_and_predicted_by_name() {
    let scene = Scene::new();
    let label = json!({"multilabel": {"label": "tags", "classes": ["cat", "dog", "mat"]}});
    let rows = task(&scene, label);
    for (adapters, output) in [
        (AdaptConfig::method(&Lora, 8), "out"),
        (AdaptConfig::method(&Full, 1), "model"),
    ] {
        let settings = settings(&scene, adapters);
        let report = train(&scene, &rows, &settings, output);
        let best = report.best.unwrap();
        assert_eq!(report.headline.unwrap().name, "micro_f1");
        assert!(best.metrics["micro_f1"] > 0.8, "{output}: {best:?}");
        let model = match output {
            "out" => adapted(&scene, &rows, output),
            _ => opened(&scene, &rows, output),
        };
        let (scores, described) = said(&scene, &rows, model);
        for (name, score) in scores {
            let expected = best.metrics[&name];
            assert!(
                (score - expected).abs() <= 1e-5,
                "{name} {score} {expected}"
            );
        }
        let names = described.iter().flat_map(|names| names.as_array().unwrap());
        assert!(
            names.clone().count() > 10
                && names
                    .clone()
                    .all(|name| WORDS.contains(&name.as_str().unwrap()))
        );
    }
    let config = scene.json("model/config.json");
    assert_eq!(config["problem_type"], "multi_label_classification");
    assert_eq!(
        config["id2label"],
        json!({"0": "cat", "1": "dog", "2": "mat"})
    );
    // Of a task that lists the classes in another order, the same ones are predicted.
    let other = task(
        &scene,
        json!({"multilabel": {"label": "tags", "classes": ["mat", "cat", "dog"]}}),
    );
    let sorted = |described: Vec<Value>| {
        let names = described.into_iter().map(|names| {
            let mut names: Vec<Value> = names.as_array().unwrap().clone();
            names.sort_by_key(Value::to_string);
            names
        });
        names.collect::<Vec<_>>()
    };
    let [(scores, first), (others, second)] =
        [&rows, &other].map(|task| said(&scene, task, opened(&scene, task, "model")));
    assert_eq!(sorted(first), sorted(second));
    for ((name, score), (_, other)) in scores.iter().zip(&others) {
        assert!((score - other).abs() <= 1e-6, "{name}");
    }
}

#[test]
fn several_numbers_are_learned_and_saved() {
    let scene = Scene::new();
    let rows = task(
        &scene,
        json!({"regression": {"label": "numbers", "outputs": 2}}),
    );
    let settings = settings(&scene, AdaptConfig::method(&Full, 1));
    let report = train(&scene, &rows, &settings, "model");
    let best = report.best.unwrap();
    assert_eq!(report.headline.unwrap().name, "pearson");
    assert!(best.metrics["pearson"] > 0.7, "{best:?}");
    let config = scene.json("model/config.json");
    assert_eq!(
        (&config["problem_type"], &config["num_labels"]),
        (&json!("regression"), &json!(2))
    );
    let (scores, described) = said(&scene, &rows, opened(&scene, &rows, "model"));
    for (name, score) in scores {
        assert!((score - best.metrics[&name]).abs() <= 1e-5, "{name}");
    }
    assert!(
        described
            .iter()
            .all(|numbers| numbers.as_array().unwrap().len() == 2)
    );
}

/// Names are saved with the model, and stay in their places when it goes on with rows of one class only.
#[test]
fn names_of_classes_come_back_with_the_model() {
    let scene = Scene::new();
    let rows = |labels: [u8; 2]| {
        let row = |i: usize| {
            format!(
                "{} old mat\t{}\n",
                ["the cat", "a dog"][i % 2],
                labels[i % 2]
            )
        };
        "sentence\tlabel\n".to_owned() + &(0..24).map(row).collect::<String>()
    };
    scene.write("sst2/train.tsv", rows([0, 1]));
    scene.write("sst2/dev.tsv", rows([0, 1]));
    let train = "--task sst2 --data sst2 --method full --batch-size 8 --lr 1e-2";
    scene.ok(&format!(
        "finetune --model bert {train} --epochs 4 --output model"
    ));
    let names = json!({"0": "negative", "1": "positive"});
    let config = scene.json("model/config.json");
    assert_eq!(config["id2label"], names);
    assert_eq!(config["problem_type"], "single_label_classification");
    let predict = "predict --task sst2 --data sst2/dev.tsv --output rows.jsonl --force --model";
    scene.ok(&format!("{predict} model"));
    let labels: Vec<Value> = scene
        .lines("rows.jsonl")
        .iter()
        .map(|row| row["label"].clone())
        .collect();
    assert_eq!(
        labels[..4],
        ["negative", "positive", "negative", "positive"]
    );

    scene.write("sst2/train.tsv", rows([1, 1]));
    scene.ok(&format!(
        "finetune --model model {train} --epochs 1 --keep last --output more"
    ));
    let config = scene.json("more/config.json");
    assert_eq!(config["id2label"], names);
    assert_eq!(config["label2id"], json!({"negative": 0, "positive": 1}));
    scene.ok(&format!("{predict} more"));
    assert_eq!(scene.lines("rows.jsonl")[1]["label"], "positive");
}
