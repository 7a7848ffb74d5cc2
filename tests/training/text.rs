//! Raw text, packed into rows: a run learns it, and its scores say how they were made.

use ailora::{
    AdaptConfig,
    finetune::Settings,
    method::Lora,
    models::task::Task,
    output::Existing,
    run::Report,
    runtime::train::{Control, Keep},
};
use serde_json::{Value, json};

use super::{support::Scene, words};

/// Documents that count up from some word, as JSON lines.
fn counting(documents: usize, from: usize) -> String {
    let document = |i: usize| {
        let length = 3 + (5 * i + from) % 40;
        let words = (0..length).map(|j| format!("w{}", 30 + (11 * i + from + j) % 60));
        format!("{}\n", json!({"text": words.collect::<Vec<_>>().join(" ")}))
    };
    (0..documents).map(document).collect()
}

fn train(scene: &Scene, objective: Value, output: &str) -> Report {
    let task = json!({
        "name": "counting",
        "objective": objective,
        "format": "jsonl",
        "text": "{text}",
        "train": {"file": "train.jsonl"},
        "dev": {"dev": {"file": "dev.jsonl"}},
    });
    let task = Task::from_json(&task.to_string()).unwrap();
    let settings = Settings {
        model: scene.path("llama").display().to_string(),
        task: task.name.clone(),
        data: Some(scene.path("counting")),
        adapters: AdaptConfig::method(&Lora, 8),
        epochs: 4,
        batch_size: 4,
        lr: 2e-2,
        max_length: Some(24),
        keep: Some(Keep::Last),
        ..Settings::default()
    };
    let run = settings.run_on(&task).unwrap();
    let fit = run.fit(&scene.path(output), Existing::Refuse, |_| Control::Continue);
    fit.unwrap()
}

#[test]
fn raw_text_is_learned_in_packed_rows() {
    let scene = Scene::new();
    scene.model("llama", "llama_gqa_tied-0", &words());
    scene.write("counting/train.jsonl", counting(60, 0));
    scene.write("counting/dev.jsonl", counting(9, 7));
    let plain = train(&scene, json!("text"), "plain");
    let strided = train(&scene, json!({"text": {"stride": 4}}), "strided");
    for (report, stride) in [(&plain, 23.0), (&strided, 4.0)] {
        let [first, .., last] = &report.evaluations[..] else {
            panic!("{report:?}")
        };
        assert!(
            last.metrics["loss"] < first.metrics["loss"] - 0.3,
            "{first:?} {last:?}"
        );
        assert_eq!(last.metrics["window"], 24.0);
        assert_eq!(last.metrics["stride"], stride);
    }
    // The stride is of evaluation alone.
    let trained = |output: &str| scene.read(&format!("{output}/adapter_model.safetensors"));
    let losses = |report: &Report| -> Vec<f64> {
        report
            .evaluations
            .iter()
            .map(|epoch| epoch.train_loss)
            .collect()
    };
    assert_eq!(losses(&plain), losses(&strided));
    assert_eq!(trained("plain"), trained("strided"));
}
