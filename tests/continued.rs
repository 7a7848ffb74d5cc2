//! The built command where a run starts from an adapter, of ours or of PEFT's.

mod support;

use std::{collections::BTreeSet, fs, path::Path};

use ailora::runtime::store::{self, Params};
use serde_json::json;
use support::Scene;

/// A rate that moves no float32.
const STILL: &str = "--epochs 1 --max-steps 1 --keep last --lr 1e-30 --warmup 0";

fn tensors(scene: &Scene, folder: &str) -> Params {
    store::load(&scene.path(&format!("{folder}/adapter_model.safetensors")))
        .unwrap()
        .0
}

/// The names of what a run trained: of what its checkpoint has moments.
fn trained(scene: &Scene, folder: &str) -> BTreeSet<String> {
    let path = scene.path(&format!("{folder}/checkpoint.safetensors"));
    let (saved, _) = store::load(&path).unwrap();
    let names = saved.keys();
    let names = names.filter_map(|name| Some(name.strip_prefix("adam.first.")?.to_owned()));
    names.collect()
}

fn on_from(scene: &Scene, from: &str, output: &str, more: &str) -> String {
    let run = scene.run(&format!(
        "finetune --model bert --task cola --data cola --batch-size 8 --from {from} --output {output} {more}"
    ));
    assert_eq!(run.code, Some(0), "{from}: {}", run.stderr);
    run.stderr
}

/// Copies an adapter that PEFT wrote on the scene's model.
fn peft(scene: &Scene, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let bytes = fs::read(folder.join(name).join(file)).unwrap();
        scene.write(&format!("{name}/{file}"), bytes);
    }
}

/// `switch`ing which parameters train is no state of a model here: what trains is a value that a run is
/// given, so a continued run cannot thaw the base.
#[test]
fn what_trains_is_what_trained_and_the_base_stays() {
    let scene = Scene::new();
    let flags = "--epochs 1 --method lora --dropout 0.1 --b-lr 2 --trainable *LayerNorm*";
    scene.finetune("first", flags);
    on_from(
        &scene,
        "first",
        "second",
        "--lr 5e-3 --warmup 0 --epochs 1 --max-steps 1 --keep last",
    );
    assert!(!trained(&scene, "first").is_empty());
    assert_eq!(trained(&scene, "first"), trained(&scene, "second"));
    let about = ["first", "second"].map(|run| scene.json(&format!("{run}/ailora.json")));
    assert_eq!(about[0]["sites"], about[1]["sites"]);
    assert_eq!(about[1]["from"], "first");
    let run = scene.json("second/run.json");
    assert_eq!(run["settings"]["from"], "first");
    assert!(run["base_sha256"]["from/adapter_model.safetensors"].is_string());

    // One step moved what trains, and nothing else: the merged model has the base's own bits there.
    let [before, after] = ["first", "second"].map(|run| tensors(&scene, run));
    assert!(before.keys().eq(after.keys()));
    for (name, array) in &after {
        assert_ne!(array.floats(), before[name].floats(), "{name} did not move");
    }
    scene.ok("merge --model bert --adapter second --output merged");
    let [base, merged] = ["bert", "merged"].map(|model| {
        let path = scene.path(&format!("{model}/model.safetensors"));
        store::load(&path).unwrap().0
    });
    let adapted = |name: &str| {
        let module = name.trim_end_matches(".weight");
        let parts = [name.to_owned(), format!("{module}.lora_A.weight")];
        let mut parts = parts.iter().map(|part| format!("base_model.model.{part}"));
        parts.any(|part| after.contains_key(&part))
    };
    let frozen: Vec<&String> = base.keys().filter(|name| !adapted(name)).collect();
    assert!(frozen.len() > 10);
    for name in frozen {
        assert_eq!(base[name].floats(), merged[name].floats(), "{name}");
    }

    // A run that goes on is the same run, and another start makes another.
    on_from(
        &scene,
        "first",
        "parts",
        "--lr 5e-3 --epochs 1 --max-steps 2",
    );
    scene.ok("finetune --output parts --resume --max-steps 4");
    scene.finetune("other", &format!("{flags} --seed 1"));
    scene.refused(
        "finetune --output parts --resume --from other",
        &["from/adapter_model.safetensors"],
    );
}

/// A factor that was frozen stays so, and LoRA-FA's gradients are projected again.
#[test]
fn frozen_factors_stay_frozen() {
    let scene = Scene::new();
    for (method, factor) in [
        ("lora-fa", "lora_B"),
        ("mica", "lora_A"),
        ("vera", "vera_lambda"),
        ("ia3", "ia3_l"),
    ] {
        let [first, second] = ["first", "second"].map(|run| format!("{run}-{method}"));
        scene.finetune(
            &first,
            &format!("--epochs 1 --max-steps 1 --keep last --rank 2 --method {method}"),
        );
        on_from(
            &scene,
            &first,
            &second,
            "--lr 5e-3 --warmup 0 --epochs 1 --max-steps 1 --keep last",
        );
        let names = trained(&scene, &second);
        assert_eq!(names, trained(&scene, &first), "{method}");
        let adapters = names.iter().filter(|name| !name.starts_with("classifier"));
        assert!(
            adapters.clone().count() > 0 && adapters.into_iter().all(|name| name.contains(factor)),
            "{names:?}"
        );
        let [before, after] = [&first, &second].map(|run| tensors(&scene, run));
        for (name, array) in &after {
            let moves = name.contains(factor) || name.contains("classifier");
            let same = array.same_values(&before[name]);
            assert_eq!(same, !moves, "{method}: {name}");
        }
    }
}

#[test]
fn it_starts_from_the_trained_values_in_one_rank() {
    let scene = Scene::new();
    // Principal and minor starts, which are saved at twice the rank.
    for (first, flags, rank) in [("moved", "", 8), ("plain", "--method rslora", 4)] {
        scene.finetune(first, &format!("--epochs 1 {flags}"));
        let second = format!("{first}-on");
        let said = on_from(&scene, first, &second, STILL);
        assert!(said.contains("tensors applied, none left over"), "{said}");
        let config = scene.json(&format!("{second}/adapter_config.json"));
        assert_eq!(config["r"], rank);
        let sites = scene.json(&format!("{second}/ailora.json"))["sites"].clone();
        assert_eq!(sites[0]["strategy"], "random");
        let [before, after] = [first, &second].map(|run| tensors(&scene, run));
        assert_eq!(before.len(), after.len());
        for (name, array) in &before {
            assert_eq!(array.floats(), after[name].floats(), "{name}");
        }
    }
}

/// What trains of an adapter is a part of what it is: LoRA-FA's `A` stays, DoRA's magnitudes train.
#[test]
fn other_methods_train_on_as_they_are() {
    let scene = Scene::new();
    for method in ["lora-fa", "dora", "vera", "ia3", "bitfit"] {
        let flags = format!("--epochs 1 --method {method}");
        scene.finetune(method, &flags);
        let on = format!("{method}-on");
        on_from(&scene, method, &on, STILL);
        let expected = trained(&scene, method);
        assert!(!expected.is_empty());
        assert_eq!(expected, trained(&scene, &on), "{method}");
        let [before, after] = [method, &on].map(|run| tensors(&scene, run));
        assert!(before.keys().eq(after.keys()), "{method}");
        for (name, array) in &before {
            assert_eq!(array.floats(), after[name].floats(), "{method}: {name}");
        }
    }
}

#[test]
fn what_contradicts_the_adapter_is_refused() {
    let scene = Scene::new();
    scene.finetune("first", "--epochs 1 --method lora --alpha 8");
    let finetune =
        "finetune --model bert --task cola --data cola --from first --output on --epochs 1";
    for (flags, parts) in [
        (
            "--rank 3",
            ["random of rank 4 and scale 2", "random of rank 3"],
        ),
        ("--alpha 4", ["scale 2", "scale 1"]),
        ("--method pissa", ["is random", "principal"]),
        ("--targets q", ["value is random", "frozen"]),
        ("--targets q,k,v", ["key is frozen", "random"]),
        ("--trainable *.bias", ["\"adapters\"", "*.bias"]),
    ] {
        let flags = format!("{finetune} {flags}");
        scene.refused(
            &flags,
            &[&parts[..], &["--from first", "leave those out"]].concat(),
        );
    }
    assert!(!scene.path("on").exists());
    // What it is, may be said again; and rates and dropout are no part of it.
    scene.ok(&format!(
        "{finetune} --alpha 8 --method lora --dropout 0.2 --adapt v={{\"lr\":3}}"
    ));
    let sites = scene.json("on/ailora.json")["sites"].clone();
    let value = sites.as_array().unwrap().iter();
    let mut value = value.filter(|site| site["path"].as_str().unwrap().ends_with("value"));
    let value = value.next().unwrap();
    assert_eq!(
        (&value["lr"], &value["dropout"]),
        (&json!(3.0), &json!(0.2))
    );
    scene.write("none/x", "");
    scene.refused(
        "finetune --model bert --task cola --data cola --from none --output on2",
        &["none", "adapter_config.json"],
    );
}

#[test]
fn adapters_of_peft_train_on_with_what_they_hold_whole() {
    let scene = Scene::new();
    for name in [
        "patterns",
        "norms",
        "biases",
        "adapted_biases",
        "pissa",
        "olora",
        "grown",
    ] {
        peft(&scene, name);
        let on = format!("{name}-on");
        on_from(&scene, name, &on, STILL);
        let predict = |adapter: &str| {
            let output = format!("{adapter}.jsonl");
            let data = format!("--task cola --data cola/dev.tsv --output {output}");
            scene.ok(&format!("predict --model bert --adapter {adapter} {data}"));
            scene.lines(&output)
        };
        let [before, after] = [name, &on].map(predict);
        for (before, after) in before.iter().zip(&after) {
            for place in 0..2 {
                let [x, y] = [before, after].map(|row| row["logits"][place].as_f64().unwrap());
                assert!((x - y).abs() <= 1e-4, "{name}: {x} {y}");
            }
        }
        let trained = trained(&scene, &on);
        let has = |part: &str| trained.iter().any(|name| name.contains(part));
        assert!(has("query.lora_A") && has("classifier.weight"), "{name}");
        assert_eq!(has("LayerNorm.weight"), name == "norms", "{name}");
        assert_eq!(has("query.bias"), name.contains("biases"), "{name}");
        assert_eq!(
            has("LayerNorm.bias"),
            name == "norms" || name == "biases",
            "{name}"
        );
        assert!(!has("query.weight") && !has("word_embeddings"), "{name}");
    }
    for name in ["embedding", "dora", "tokens", "lora_bias"] {
        peft(&scene, name);
        scene.refused(
            &format!("finetune --model bert --task cola --data cola --from {name} --output no"),
            &[name, "cannot be trained on here", "merge the adapter"],
        );
    }
}
