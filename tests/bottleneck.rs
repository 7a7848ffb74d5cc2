//! The command with bottlenecks and with BitFit, and what `plan` counts of every method.

mod support;

use serde_json::{Value, json};
use support::{Scene, TINY, language_model};

/// A rate that does not depend on the number of epochs.
const CONSTANT: &str = "--schedule constant --warmup 0";

/// What the paper of AILoRA counts of RoBERTa-large, without its pooler and with a head of two labels.
#[test]
fn plan_counts_what_papers_count() {
    let scene = Scene::new();
    let config = json!({
        "architectures": ["RobertaForMaskedLM"], "model_type": "roberta", "hidden_act": "gelu",
        "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
        "num_hidden_layers": 24, "vocab_size": 50265, "max_position_embeddings": 514,
        "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5,
    });
    scene.write("large/config.json", config.to_string());
    // 1024 x 1024 + 1024 and 2 x 1024 + 2.
    let head = "1 051 650 of the head (1.05 M)";
    for (method, beside, total) in [
        // 24 layers, queries and values: 8 x (1024 + 1024).
        (
            "lora --rank 8",
            "786 432 of adapters (0.79 M)",
            "1 838 082 (1.84 M)",
        ),
        // And 1024 magnitudes each.
        (
            "dora --rank 8",
            "835 584 of adapters (0.84 M)",
            "1 887 234 (1.89 M)",
        ),
        // 256 + 1024 each.
        (
            "vera --rank 256",
            "61 440 of adapters (0.06 M)",
            "1 113 090 (1.11 M)",
        ),
        // 24 layers, twice: 2 x 1024 x 64 + 64 + 1024.
        (
            "houlsby",
            "6 343 680 of adapters (6.34 M)",
            "7 395 330 (7.40 M)",
        ),
        (
            "pfeiffer",
            "3 171 840 of adapters (3.17 M)",
            "4 223 490 (4.22 M)",
        ),
    ] {
        let expected = format!("trained: {beside} + {head} = {total}\n");
        counts(&scene, method, &expected);
    }
    let own = "of the model's own parameters";
    for (method, beside, total) in [
        // 24 layers of 4 x 1024 + 4096 + 1024 and two norms of 1024; the norm of the embeddings.
        ("bitfit", "271 360", "1 323 010 (1.32 M)"),
        // 50265 + 514 + 1 + 2 rows of 1024, and 24 layers of 12 596 224.
        ("full", "354 310 144", "355 361 794 (355.36 M)"),
    ] {
        let millions = match method {
            "bitfit" => "0.27",
            _ => "354.31",
        };
        let expected = format!("trained: {head} + {beside} {own} ({millions} M) = {total}\n");
        counts(&scene, method, &expected);
    }
}

fn counts(scene: &Scene, method: &str, expected: &str) {
    let plan = "plan --model large --task cola --batch-size 1 --length 4 --inference --method";
    let shown = scene.ok(&format!("{plan} {method}"));
    assert!(shown.contains(expected), "no `{expected}` in\n{shown}");
}

#[test]
fn bottlenecks_train_go_on_and_are_evaluated_but_not_merged() {
    let scene = Scene::new();
    for (method, model) in [("houlsby", "bert"), ("pfeiffer", "deberta")] {
        let run = |out: &str, more: &str| {
            scene.ok(&format!(
                "finetune --model {model} {TINY} {CONSTANT} --method {method} --output {out} {more}"
            ))
        };
        let (whole, parts) = (format!("{method}-whole"), format!("{method}-parts"));
        run(&whole, "--epochs 2");
        run(&parts, "--epochs 1");
        scene.ok(&format!("finetune --output {parts} --resume --epochs 2"));
        assert_eq!(scene.losses(&parts), scene.losses(&whole));
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            let [a, b] = [&parts, &whole].map(|out| scene.read(&format!("{out}/{file}")));
            assert!(a == b, "{method}: {file}");
        }
        is_evaluated(&scene, model, &whole);
        scene.refused(
            &format!("merge --model {model} --adapter {whole} --output {method}-merged"),
            &[method, "has no merged weight", "--adapter"],
        );
        for (flags, part) in [
            ("--alpha 8", "alpha"),
            ("--dropout 0.1", "dropout"),
            ("--scaling rank_stabilized", "scaling"),
            ("--rank 0", "rank 0"),
        ] {
            let args =
                format!("finetune --model {model} {TINY} --method {method} --output no {flags}");
            let args = match flags {
                "--rank 0" => args.replace("--rank 4", ""),
                _ => args,
            };
            scene.refused(&args, &[part]);
        }
    }
}

/// `evaluate` says what training said of the adapter that it kept.
fn is_evaluated(scene: &Scene, model: &str, out: &str) {
    let metrics = scene.json(&format!("{out}/metrics.json"));
    let kept = metrics["kept"].as_u64().unwrap() as usize;
    let expected = &metrics["epochs"][kept - 1]["metrics"];
    let found = scene.ok(&format!(
        "evaluate --model {model} --task cola --data cola --adapter {out}"
    ));
    let found: Value = serde_json::from_str(&found).unwrap();
    for name in ["mcc", "loss"] {
        let [found, expected] = [&found["dev"][name], &expected[name]].map(Value::as_f64);
        if let (Some(found), Some(expected)) = (found, expected) {
            assert!(
                (found - expected).abs() <= 1e-5,
                "{name}: {found}, {expected}"
            );
        }
    }
}

#[test]
fn bitfit_trains_goes_on_is_evaluated_and_merged() {
    let scene = Scene::new();
    let run = |out: &str, more: &str| {
        scene.finetune(out, &format!("{CONSTANT} --method bitfit {more}"));
    };
    run("whole", "--epochs 2");
    run("parts", "--epochs 1");
    scene.ok("finetune --output parts --resume --epochs 2");
    assert_eq!(scene.losses("parts"), scene.losses("whole"));
    assert_eq!(scene.json("whole/adapter_config.json")["bias"], "all");
    is_evaluated(&scene, "bert", "whole");
    scene.ok("merge --model bert --adapter whole --output merged");
    let evaluate = "evaluate --task cola --data cola --model";
    let [beside, merged] =
        ["bert --adapter whole", "merged"].map(|model| scene.ok(&format!("{evaluate} {model}")));
    let [beside, merged] =
        [beside, merged].map(|text| serde_json::from_str::<Value>(&text).unwrap()["dev"].clone());
    assert_eq!(beside, merged);
    scene.refused(
        &format!(
            "finetune --model bert {TINY} --method bitfit --output no --trainable *LayerNorm*"
        ),
        &["method `bitfit` says what trains", "leave out `trainable`"],
    );
    let llama = scene.path("llama");
    language_model(&llama);
    scene.refused(
        "plan --model llama --task math10k --method bitfit",
        &[
            "method `bitfit` trains the parameters `*.bias`",
            "the model has none",
        ],
    );
}
