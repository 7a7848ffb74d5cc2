//! Training is what it says: its metrics are those of what it left, its steps do not depend on how rows are
//! cut into batches, and what was done to rows is said.

mod dropout;
mod keep;
mod rows;
#[path = "../support/mod.rs"]
mod support;
mod text;

use ailora::runtime::optim::{Schedule, ScheduleKind};
use serde_json::{Value, json};
use support::Scene;

/// A word for every id of the tiny decoders, and no special tokens.
fn words() -> Value {
    let mut tokenizer = support::word_level();
    tokenizer["post_processor"] = Value::Null;
    if let Some(vocabulary) = tokenizer["model"]["vocab"].as_object_mut() {
        for id in vocabulary.len()..99 {
            vocabulary.insert(format!("w{id}"), id.into());
        }
    }
    tokenizer
}

/// A decoder, `llama`, and questions whose answers have 1 to 8 words, `math`.
fn questions() -> Scene {
    let scene = Scene::new();
    scene.model("llama", "llama_gqa_tied-0", &words());
    let rows: Vec<Value> = (0..8)
        .map(|i: usize| {
            let answer: Vec<String> = (0..1 + 3 * i % 8)
                .map(|j| format!("w{}", 30 + 7 * i + j))
                .collect();
            json!({"instruction": "the cat sat on ".repeat(1 + i % 3), "output": answer.join(" ")})
        })
        .collect();
    scene.write("math/train.json", Value::from(rows).to_string());
    scene
}

const FINETUNE: &str =
    "finetune --model llama --task math --data math --rank 4 --method lora --max-length 60";

fn number(row: &Value, name: &str) -> f64 {
    row[name]
        .as_f64()
        .unwrap_or_else(|| panic!("{name} of {row}"))
}

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!(
        (found - expected).abs() <= tolerance,
        "{found} is not {expected}"
    );
}

#[test]
fn rates_are_transformers() {
    let text = include_str!("../fixtures/schedules.json");
    let rows: Vec<Value> = serde_json::from_str(text).unwrap();
    assert_eq!(rows.len(), 27);
    for row in rows {
        let kind: ScheduleKind = serde_json::from_value(row["kind"].clone()).unwrap();
        let total = row["total"].as_u64().unwrap();
        let schedule = Schedule::new(kind, number(&row, "warmup"), total);
        let expected = row["rates"].as_array().unwrap();
        for (step, expected) in (0..total).zip(expected) {
            close(schedule.factor(step), expected.as_f64().unwrap(), 1e-12);
        }
    }
}

#[test]
fn the_rate_starts_full_without_warmup() {
    let scene = questions();
    for (warmup, first) in [("0", 2e-3), ("0.3", 0.0)] {
        let run = format!("{FINETUNE} --batch-size 1 --epochs 1 --lr 2e-3 --warmup {warmup}");
        scene.ok(&format!("{run} --output out-{warmup} --schedule linear"));
        let rows = scene.lines(&format!("out-{warmup}/train.jsonl"));
        assert_eq!(rows.len(), 8);
        close(number(&rows[0], "lr"), first, 1e-15);
    }
    // Of 8 steps 0.3 are 2.4: the rate rises over 3.
    let rows = scene.lines("out-0.3/train.jsonl");
    let rates: Vec<f64> = rows.iter().map(|row| number(row, "lr")).collect();
    close(rates[1], 2e-3 / 3.0, 1e-12);
    close(rates[3], 2e-3, 1e-12);
    close(rates[7], 2e-3 / 5.0, 1e-12);
}

/// One step of answers of unlike lengths; the step behind it shows that the update was the same too.
#[test]
fn micro_batches_weigh_the_tokens_of_answers() {
    let scene = questions();
    let run = |size: usize| {
        let out = format!("out-{size}");
        scene.ok(&format!(
            "{FINETUNE} --epochs 2 --lr 1e-2 --clip 0 --warmup 0 --batch-size {size} --accumulate {} --output {out}",
            8 / size
        ));
        let epochs = scene.json(&format!("{out}/metrics.json"))["epochs"].clone();
        (scene.lines(&format!("{out}/train.jsonl")), epochs)
    };
    let (whole, epochs) = run(8);
    assert_eq!(whole.len(), 2);
    for size in [4, 2, 1] {
        let (rows, found) = run(size);
        for step in 0..2 {
            for name in ["loss", "gradient_norm"] {
                let expected = number(&whole[step], name);
                close(
                    number(&rows[step], name),
                    expected,
                    2e-6 * expected.max(1.0),
                );
            }
        }
        close(
            number(&found[0], "train_loss"),
            number(&epochs[0], "train_loss"),
            2e-6,
        );
    }
    // An epoch of several steps, the last of them of fewer rows: its loss is the mean over its tokens.
    scene.ok(&format!(
        "{FINETUNE} --epochs 1 --lr 1e-12 --warmup 0 --batch-size 1 --accumulate 3 --output parts"
    ));
    let metrics = scene.json("parts/metrics.json");
    assert_eq!(scene.lines("parts/train.jsonl").len(), 3);
    close(
        number(&metrics["last"], "train_loss"),
        number(&whole[0], "loss"),
        2e-6,
    );
}

#[test]
fn a_precision_that_is_not_computed_in_is_refused() {
    let scene = questions();
    for precision in ["bf16", "tf32"] {
        let why = [precision, "f32 only", "--precision"];
        for command in [
            &format!("{FINETUNE} --output out"),
            "evaluate --model bert --task cola --data cola",
            "predict --model bert --task cola --data cola/dev.tsv --output rows.jsonl",
            "plan --model bert --task cola",
            "generate --model llama --prompt the",
        ] {
            scene.refused(
                &format!("{command} --device cpu --precision {precision}"),
                &why,
            );
        }
    }
    assert!(!scene.path("out").exists());
    assert!(!scene.path("rows.jsonl").exists());
}
