//! The built command with several adapters made one, and the list of adapters.

mod support;

use serde_json::Value;
use support::Scene;

fn logits(scene: &Scene, adapter: &str) -> Vec<f64> {
    let predict = "predict --model bert --data cola/dev.tsv --output p.jsonl --force";
    scene.ok(&format!("{predict} {adapter}"));
    let rows = scene.lines("p.jsonl");
    let logits = rows
        .iter()
        .flat_map(|row| row["logits"].as_array().unwrap().clone());
    logits.map(|x| x.as_f64().unwrap()).collect()
}

/// Trains an adapter of a rank.
fn finetune(scene: &Scene, output: &str, flags: &str) {
    let cola = "--task cola --data cola --batch-size 8 --lr 5e-3 --epochs 1";
    scene.ok(&format!(
        "finetune --model bert {cola} --output {output} {flags}"
    ));
}

fn assert_near(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= 1e-4, "{a} {b}");
    }
}

#[test]
fn several_adapters_are_one() {
    let scene = Scene::new();
    finetune(&scene, "one", "--method lora --rank 4");
    finetune(&scene, "two", "--method pissa --seed 1 --rank 2");
    let pair = "--adapter a=one:0.5 --adapter b=two:1.5";
    let predict = "predict --model bert --data cola/dev.tsv --output p.jsonl --force";
    scene.refused(
        &format!("{predict} {pair} --combine cat"),
        &["classifier", "--head a", "--head b"],
    );
    let cat = format!("{pair} --combine cat --head b");
    let combined = logits(&scene, &cat);
    let [one, two] = ["one", "two"].map(|name| logits(&scene, &format!("--adapter {name}")));
    assert_ne!(combined, one);
    assert_ne!(combined, two);
    // Written as a folder, merged, and by its weights alone.
    scene.ok(&format!("export --model bert {cat} --output both"));
    assert_eq!(scene.json("both/adapter_config.json")["r"], 4 + 4);
    assert_eq!(scene.json("both/ailora.json")["task"], "cola");
    assert_near(&logits(&scene, "--adapter both"), &combined);
    scene.ok(&format!("merge --model bert {cat} --output merged"));
    let merged = "predict --model merged --task cola --data cola/dev.tsv --output p.jsonl --force";
    scene.ok(merged);
    let rows = scene.lines("p.jsonl");
    assert_eq!(rows[0]["label"], {
        let [x, y] = [combined[0], combined[1]];
        if x > y { "unacceptable" } else { "acceptable" }
    });
    scene.ok(&format!("evaluate --model bert --data cola {cat}"));
    // An adapter of weight 1 is itself, and one of weight 0 is nothing.
    let alone = logits(
        &scene,
        "--adapter a=one:1 --adapter b=two:0 --combine cat --head a",
    );
    assert_near(&alone, &one);
    assert_near(&logits(&scene, "--adapter a=one:1"), &one);
    let dare = |seed: u64| {
        let flags = format!("--combine dare_ties_svd --density 0.5 --combine-seed {seed} --head a");
        logits(&scene, &format!("{pair} {flags}"))
    };
    assert_eq!(dare(3), dare(3));
    assert_ne!(dare(3), dare(4));
}

#[test]
fn what_cannot_be_combined_is_said() {
    let scene = Scene::new();
    finetune(&scene, "one", "--method lora --rank 4");
    finetune(&scene, "a=b:1", "--method lora --seed 1 --rank 2");
    let predict = "predict --model bert --data cola/dev.tsv --output p.jsonl --force";
    let flags = [
        (
            "--adapter a=one:half",
            vec!["a=one:half", "`half`, which is no number"],
        ),
        (
            "--adapter a=one",
            vec!["a=one", "no weight", "NAME=DIR:WEIGHT"],
        ),
        (
            "--adapter one --adapter one",
            vec!["--adapter one", "a=one:0.5"],
        ),
        (
            "--adapter one --combine cat",
            vec!["--combine", "NAME=DIR:WEIGHT"],
        ),
        (
            "--adapter a=one:1 --density 0.5",
            vec!["`linear` has no use for a density"],
        ),
        (
            "--adapter a=one:1 --combine ties",
            vec!["`ties` prunes", "density"],
        ),
        ("--adapter a=one:1 --adapter a=one:1", vec!["called `a`"]),
        (
            "--adapter a=one:1 --adapter b=a=b:1:1 --head a",
            vec!["rank 4", "rank 2", "`cat` or `svd`"],
        ),
        ("--adapter a=none:1", vec!["none", "adapter_config.json"]),
    ];
    for (flags, parts) in flags {
        scene.refused(&format!("{predict} {flags}"), &parts);
    }
    scene.fails(
        2,
        &format!("{predict} --adapter a=one:1 --combine tie"),
        &["did you mean `ties`?"],
    );
    scene.fails(2, "export --model bert --output x", &["--adapter"]);
    // A folder that is there is meant, whatever its name.
    scene.ok(&format!("{predict} --adapter a=b:1"));
    scene.ok(&format!("{predict} --adapter x=a=b:1:0.5"));
    // Tasks that differ.
    let about = scene.json("a=b:1/ailora.json");
    let mut other = about.clone();
    other["task"] = "sst2".into();
    scene.write("a=b:1/ailora.json", other.to_string());
    scene.refused(
        &format!("{predict} --adapter a=one:1 --adapter b=./a=b:1:1 --combine cat --head a"),
        &["do not record the same task", "--task"],
    );
}

#[test]
fn adapters_are_listed_with_what_they_are() {
    let scene = Scene::new();
    scene.finetune("runs/one", "--epochs 1 --adapt q={\"rank\":2}");
    scene.ok("export --model bert --adapter runs/one --output exported");
    scene.write(
        "runs/broken/adapter_config.json",
        "{\"peft_type\": \"LORA\", \"r\": -1}",
    );
    scene.write(
        "runs/empty/adapter_config.json",
        "{\"peft_type\": \"LORA\"}",
    );
    let shown = scene.ok("adapters .");
    for part in [
        "runs/one", "ailora", "4,8", "q,v", "bert", "cola", "matthews", "exported", "lora",
    ] {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }
    for part in [
        "runs/broken: not read: ",
        "`r` is -1",
        "runs/empty: not read: ",
        "adapter_model",
    ] {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }
    let shown = scene.ok("adapters . --json");
    let rows: Vec<Value> = shown
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    assert_eq!(rows.len(), 4);
    let one = rows
        .iter()
        .find(|row| row["folder"] == "./runs/one")
        .unwrap();
    assert_eq!(
        (&one["method"], &one["task"]),
        (&"ailora".into(), &"cola".into())
    );
    assert_eq!(one["targets"], serde_json::json!(["q", "v"]));
    let metrics = scene.json("runs/one/metrics.json");
    assert_eq!(one["metrics"], metrics["last"]["metrics"]);
    let size = scene.read("runs/one/adapter_model.safetensors").len();
    assert_eq!(one["bytes"], size);
    assert!(one["numbers"].as_u64().unwrap() * 4 < size as u64);
    assert!(rows.iter().filter(|row| row["error"].is_string()).count() == 2);
    assert!(scene.ok("adapters cola").contains("no adapter below cola"));
    scene.refused("adapters nowhere", &["nowhere", "cannot list it"]);
}
