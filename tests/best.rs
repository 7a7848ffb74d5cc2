//! Evaluations in the middle of an epoch, by whichever metric the best is chosen, and what is left then.

mod support;

use serde_json::Value;
use support::Scene;

const TINY: &str = "--task cola --data cola --batch-size 8 --rank 4";

/// Evaluations after these steps, by accuracy.
fn train(scene: &Scene, output: &str, more: &str) -> support::Ran {
    let ran = scene.run(&format!(
        "finetune --model bert {TINY} --lr 3e-2 --method lora --output {output} --evaluate-every 4 \
         --best-by accuracy {more}"
    ));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran
}

#[test]
fn the_best_of_all_evaluations_is_left_by_the_metric_that_was_asked_for() {
    let scene = Scene::new();
    let ran = train(&scene, "out", "--epochs 3");
    // An epoch has 6 steps.
    let steps = [4, 6, 8, 12, 16, 18];
    let rows = scene.lines("out/evaluations.jsonl");
    let found: Vec<u64> = rows
        .iter()
        .map(|row| row["step"].as_u64().unwrap())
        .collect();
    assert_eq!(found, steps);
    let metrics = scene.json("out/metrics.json");
    assert_eq!(metrics["epochs"], Value::from(rows.clone()));
    assert_eq!(metrics["headline"], "accuracy");
    for (place, step) in [
        ("epoch 1, step 4: loss ", 4),
        ("epoch 1: loss ", 6),
        ("epoch 3, step 16: loss ", 16),
    ] {
        assert!(ran.stderr.contains(place), "{step}\n{}", ran.stderr);
    }
    // Since the evaluation before, and not since the epoch's start.
    let losses = scene.losses("out");
    let mean = (f64::from_bits(losses[4].1) + f64::from_bits(losses[5].1)) / 2.0;
    assert!((rows[1]["train_loss"].as_f64().unwrap() - mean).abs() < 1e-12);

    let accuracy = |row: &Value| row["metrics"]["accuracy"].as_f64().unwrap();
    let most = rows.iter().map(accuracy).fold(0.0, f64::max);
    let best = rows.iter().find(|row| accuracy(row) == most).unwrap();
    assert_eq!((&metrics["best"], &metrics["last"]), (best, best));
    let last = rows.last().unwrap();
    assert!(accuracy(last) < most, "{rows:?}");
    let evaluate = "evaluate --model bert --task cola --data cola --adapter out";
    let found: Value = serde_json::from_str(&scene.ok(evaluate)).unwrap();
    assert_eq!(accuracy(best), found["dev"]["accuracy"].as_f64().unwrap());
}

#[test]
fn a_run_that_was_stopped_between_evaluations_leaves_the_same() {
    let scene = Scene::new();
    train(&scene, "whole", "--epochs 3");
    train(&scene, "parts", "--epochs 3 --max-steps 5");
    assert_eq!(scene.lines("parts/evaluations.jsonl").len(), 2);
    train(&scene, "parts", "--epochs 3 --max-steps 14 --resume");
    let ran = scene.run("finetune --output parts --resume --max-steps 18");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for file in ["evaluations.jsonl", "adapter_model.safetensors"] {
        let [whole, parts] = ["whole", "parts"].map(|out| scene.read(&format!("{out}/{file}")));
        assert!(whole == parts, "{file}");
    }
    assert_eq!(scene.losses("parts"), scene.losses("whole"));
}

#[test]
fn what_cannot_be_the_best_is_refused_before_anything_is_written() {
    let scene = Scene::new();
    let train = format!("finetune --model bert {TINY} --output out");
    scene.refused(
        &format!("{train} --best-by acuracy"),
        &[
            "`headline` is `acuracy`",
            "expected one of matthews, accuracy, loss",
            "did you mean `accuracy`?",
        ],
    );
    scene.refused(
        &format!("{train} --evaluate-every 0"),
        &["evaluate_every", "at least 1"],
    );
    assert!(!scene.path("out").exists());
}
