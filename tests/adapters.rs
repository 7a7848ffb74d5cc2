//! The built command and adapters: the base and the task they are for, what is said of them, and
//! that an adapter is the trained model.

mod support;

use std::fs;

use ailora::runtime::store;
use serde_json::{Value, json};
use support::Scene;

/// The metrics that a run's folder has for its last epoch, and those of `evaluate`.
fn metrics(scene: &Scene, output: &str, evaluate: &str) -> [Value; 2] {
    let last = scene.json(&format!("{output}/metrics.json"))["last"]["metrics"].clone();
    let found: Value = serde_json::from_str(&scene.ok(evaluate)).unwrap();
    let found = found.as_object().unwrap().values().next().unwrap();
    [last, found.clone()]
}

fn near([a, b]: [Value; 2]) -> bool {
    let a = a.as_object().unwrap();
    let close = |(name, x): (&String, &Value)| {
        (x.as_f64().unwrap() - b[name].as_f64().unwrap()).abs() <= 1e-5
    };
    !a.is_empty() && a.iter().all(close)
}

/// Changes the tensors of a safetensors file.
fn change(scene: &Scene, file: &str, change: impl FnOnce(&mut store::Params)) {
    let path = scene.path(file);
    let (mut tensors, metadata) = store::load(&path).unwrap();
    change(&mut tensors);
    store::save(&path, &tensors, metadata).unwrap();
}

#[test]
fn what_was_drawn_is_in_the_adapter_whatever_the_seed() {
    let scene = Scene::new();
    // Neither pooler nor classifier, as in a base that only guesses words.
    change(&scene, "bert/model.safetensors", |tensors| {
        tensors.retain(|name, _| !name.contains("pooler") && !name.contains("classifier"));
    });
    for (seed, head) in [(0, "full"), (5, "frozen"), (6, "random")] {
        let rank = if head == "random" { ",\"rank\":1" } else { "" };
        let output = format!("out-{seed}");
        scene.finetune(
            &output,
            &format!("--epochs 2 --keep last --seed {seed} --adapt classifier={{\"init\":\"{head}\"{rank}}}"),
        );
        let evaluate = format!("evaluate --model bert --adapter {output} --data cola");
        assert!(near(metrics(&scene, &output, &evaluate)), "{head}");
        let config = scene.json(&format!("{output}/adapter_config.json"));
        let saved = config["modules_to_save"].as_array().unwrap();
        assert!(saved.contains(&json!("bert.pooler.dense")), "{config}");
        assert!(saved.contains(&json!("classifier")), "{config}");
    }
}

#[test]
fn the_task_is_the_adapters_and_another_is_refused() {
    let scene = Scene::new();
    scene.finetune("out", "--epochs 1");
    let data = "--data cola/dev.tsv --output out.jsonl --force";
    let predict = format!("predict --model bert --adapter out {data}");
    let ran = scene.run(&predict);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for said in [
        "adapter out: ",
        "tensors applied, none left over",
        "as they were",
    ] {
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
    let own = scene.read("out.jsonl");
    scene.write("sst2.tsv", "sentence\tlabel\nthe cat sat\t0\n");
    let other =
        "predict --model bert --adapter out --task sst2 --data sst2.tsv --output s.jsonl --force";
    scene.refused(other, &["trained for cola", "sst2", "--force-adapter"]);
    scene.ok(&format!("{other} --force-adapter"));
    // Without a record the task has to be said.
    fs::remove_file(scene.path("out/ailora.json")).unwrap();
    scene.refused(&predict, &["--task is missing", "out"]);
    scene.ok(&format!("{predict} --task cola"));
    assert_eq!(own, scene.read("out.jsonl"));
}

#[test]
fn another_base_is_refused_and_the_same_one_elsewhere_is_not() {
    let scene = Scene::new();
    scene.finetune("out", "--epochs 1");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let bytes = scene.read(&format!("bert/{file}"));
        scene.write(&format!("moved/{file}"), &bytes);
        scene.write(&format!("other/{file}"), &bytes);
    }
    change(&scene, "other/model.safetensors", |tensors| {
        tensors[0].floats_mut()[0] += 1.0;
    });
    // The same weights, rounded.
    for file in ["config.json", "tokenizer.json"] {
        let bytes = scene.read(&format!("bert/{file}"));
        scene.write(&format!("half/{file}"), &bytes);
    }
    let (tensors, metadata) = store::load(&scene.path("bert/model.safetensors")).unwrap();
    store::save_half(&scene.path("half/model.safetensors"), &tensors, metadata).unwrap();
    let data = "--data cola/dev.tsv --output p.jsonl --force";
    scene.ok(&format!("predict --adapter out {data} --model half"));
    for command in [
        format!("predict --adapter out {data} --model"),
        "evaluate --adapter out --data cola --model".into(),
        "merge --adapter out --output merged --model".into(),
        "export --adapter out --output exported --model".into(),
    ] {
        scene.refused(
            &format!("{command} other"),
            &["trained on bert", "--force-adapter"],
        );
    }
    assert!(!scene.path("merged").exists() && !scene.path("exported").exists());
    scene.ok(&format!("predict --adapter out {data} --model moved"));
    scene.ok(&format!(
        "predict --adapter out {data} --model other --force-adapter"
    ));
    // PEFT's record is a name: of a folder that is there, whose weights tell.
    fs::remove_file(scene.path("out/ailora.json")).unwrap();
    let predict = format!("predict --task cola --adapter out {data} --model");
    scene.ok(&format!("{predict} moved"));
    scene.ok(&format!("{predict} half"));
    scene.refused(&format!("{predict} other"), &["trained on bert"]);
    fs::rename(scene.path("bert"), scene.path("gone")).unwrap();
    let ran = scene.run(&format!("{predict} moved"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("note: ") && ran.stderr.contains("trained on bert"));
    scene.refused(&format!("{predict} moved --strict"), &["trained on bert"]);
}

#[test]
fn an_exported_adapter_is_the_adapter() {
    let scene = Scene::new();
    scene.finetune(
        "out",
        r#"--epochs 2 --adapt classifier={"init":"random","rank":2}"#,
    );
    scene.ok("export --model bert --adapter out --output exported");
    let about = scene.json("exported/ailora.json");
    assert_eq!(about["task"], "cola");
    let predict = |adapter: &str| {
        let output = format!("{adapter}.jsonl");
        let data = format!("--data cola/dev.tsv --output {output}");
        scene.ok(&format!("predict --model bert --adapter {adapter} {data}"));
        scene.read(&output)
    };
    assert_eq!(predict("out"), predict("exported"));
}

#[test]
fn numbers_that_are_none_are_said_by_name() {
    let scene = Scene::new();
    scene.finetune("out", "--epochs 1");
    let a = "base_model.model.bert.encoder.layer.0.attention.self.value.lora_A.weight";
    change(&scene, "out/adapter_model.safetensors", |tensors| {
        tensors[a].floats_mut()[1] = f32::NAN;
    });
    let data = "--data cola/dev.tsv --output p.jsonl --force";
    for command in [
        format!("predict --model bert --adapter out {data}"),
        "evaluate --model bert --adapter out --data cola".into(),
        "merge --model bert --adapter out --output merged".into(),
    ] {
        scene.refused(&command, &[a, "NaN"]);
    }
    assert!(!scene.path("merged").exists());
    // Of the model's own weights, where its logits are none.
    let weight = "bert.encoder.layer.1.output.dense.weight";
    change(&scene, "bert/model.safetensors", |tensors| {
        tensors[weight].floats_mut()[7] = f32::INFINITY;
    });
    scene.refused(
        &format!("predict --model bert --task cola {data}"),
        &["a logit of row 0", weight],
    );
    scene.refused(
        "evaluate --model bert --task cola --data cola",
        &["a logit of row 0", weight],
    );
}

#[test]
fn parameters_train_beside_adapters_and_are_in_the_adapter() {
    let scene = Scene::new();
    let flags = "--epochs 2 --keep last --trainable *LayerNorm*";
    let shown = scene.finetune("whole", flags);
    assert!(!shown.is_empty());
    let base = store::load(&scene.path("bert/model.safetensors"))
        .unwrap()
        .0;
    let (adapter, _) = store::load(&scene.path("whole/adapter_model.safetensors")).unwrap();
    for (name, array) in &adapter {
        let name = name.strip_prefix("base_model.model.").unwrap();
        let trained =
            name.contains("lora_") || name.contains("LayerNorm") || name.starts_with("classifier.");
        assert!(trained, "{name}");
        assert!(
            base.get(name)
                .is_none_or(|before| before.floats() != array.floats()),
            "{name} did not move"
        );
    }
    let norms = adapter.keys().filter(|name| name.contains("LayerNorm"));
    let all = base.keys().filter(|name| name.contains("LayerNorm"));
    assert_eq!(norms.count(), all.count());

    // As trained, and merged.
    let evaluate = "evaluate --model bert --adapter whole --data cola";
    assert!(near(metrics(&scene, "whole", evaluate)));
    scene.ok("merge --model bert --adapter whole --output merged");
    let evaluate = "evaluate --model merged --task cola --data cola";
    assert!(near(metrics(&scene, "whole", evaluate)));

    // It is part of what a run is.
    let run = scene.json("whole/run.json");
    assert_eq!(
        run["settings"]["adapters"]["trainable"],
        json!(["*LayerNorm*"])
    );
    scene.finetune("parts", &format!("{flags} --max-steps 7"));
    scene.refused(
        "finetune --output parts --resume --trainable *.bias",
        &["`adapters.trainable` was [\"*LayerNorm*\"] and is [\"*.bias\"] now"],
    );
    scene.ok("finetune --output parts --resume --max-steps 12");
    assert_eq!(scene.losses("parts"), scene.losses("whole"));
    let file = "adapter_model.safetensors";
    assert!(scene.read(&format!("parts/{file}")) == scene.read(&format!("whole/{file}")));

    // BitFit, and what cannot be.
    scene.finetune(
        "bitfit",
        "--epochs 2 --keep last --adapt *={\"init\":\"frozen\"} --trainable *.bias",
    );
    let evaluate = "evaluate --model bert --adapter bitfit --data cola";
    assert!(near(metrics(&scene, "bitfit", evaluate)));
    let finetune = "finetune --model bert --task cola --data cola --output none";
    scene.refused(
        &format!("{finetune} --trainable *LayerNrom.bias"),
        &["did you mean `LayerNorm.bias`?"],
    );
    scene.refused(
        &format!("{finetune} --trainable query.weight"),
        &["carries an adapter"],
    );
    scene.refused(
        &format!("{finetune} --method full --trainable *.bias"),
        &["leave out `trainable`"],
    );
    assert!(!scene.path("none").exists());
}
