//! The built command, on models of two narrow layers.
//!
//! One long file: the commands share one scene.

use serde_json::Value;

mod support;

use support::{Scene, TINY};

/// The logits of each row of a predictions file.
fn logits(scene: &Scene, file: &str) -> Vec<Vec<f64>> {
    let rows = scene.lines(file);
    let numbers = |row: &Value| {
        let logits = row["logits"].as_array().unwrap().iter();
        logits.map(|logit| logit.as_f64().unwrap()).collect()
    };
    rows.iter().map(numbers).collect()
}

fn assert_close(found: &[Vec<f64>], expected: &[Vec<f64>]) {
    assert_eq!(found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-4;
        assert!(
            found.len() == expected.len() && found.iter().zip(expected).all(near),
            "row {row}: {found:?} instead of {expected:?}"
        );
    }
}

#[test]
fn finetune_writes_adapter_metrics_and_logs() {
    let scene = Scene::new();
    let printed = scene.finetune("out", "--epochs 2");
    assert!(printed.contains("last epoch 2: matthews "), "{printed}");
    for file in ["adapter_model.safetensors", "checkpoint.safetensors"] {
        assert!(!scene.read(&format!("out/{file}")).is_empty());
    }
    let config = scene.json("out/adapter_config.json");
    assert_eq!(config["peft_type"], "LORA");
    // The adapter less its start: PEFT's has twice the rank.
    assert_eq!(config["r"], 8);
    let about = scene.json("out/ailora.json");
    assert_eq!(
        about["labels"],
        serde_json::json!(["unacceptable", "acceptable"])
    );

    let metrics = scene.json("out/metrics.json");
    assert_eq!(metrics["headline"], "matthews");
    assert_eq!(metrics["finished"], true);
    let epochs = metrics["epochs"].as_array().unwrap();
    assert_eq!(epochs.len(), 2);
    for (i, epoch) in epochs.iter().enumerate() {
        assert_eq!(epoch["epoch"], i + 1);
        assert_eq!(epoch["step"], 6 * (i + 1));
        let names: Vec<&String> = epoch["metrics"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["matthews", "accuracy", "loss"]);
    }
    let kept = metrics["kept"].as_u64().unwrap() as usize;
    assert_eq!(metrics["last"], epochs[kept - 1]);
    let headline = |epoch: &Value| epoch["metrics"]["matthews"].as_f64().unwrap();
    let most = epochs.iter().map(headline).fold(f64::MIN, f64::max);
    assert_eq!(headline(&metrics["best"]), most);

    let run = scene.json("out/run.json");
    assert_eq!(run["settings"]["lr"], 5e-3);
    assert_eq!(run["settings"]["adapters"]["method"], "ailora");
    assert_eq!(run["data_sha256"]["train.tsv"].as_str().unwrap().len(), 64);
    let steps: Vec<u64> = scene.losses("out").iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    let events: Vec<_> = std::fs::read_dir(scene.path("out/tensorboard"))
        .unwrap()
        .collect();
    assert_eq!(events.len(), 1);
    assert!(events[0].as_ref().unwrap().metadata().unwrap().len() > 12 * 4 * 16);
}

#[test]
fn a_seed_fixes_every_bit() {
    let scene = Scene::new();
    for (output, seed) in [("a", 7), ("b", 7), ("c", 8)] {
        scene.finetune(output, &format!("--epochs 2 --dropout 0.1 --seed {seed}"));
    }
    let adapter = |output: &str| scene.read(&format!("{output}/adapter_model.safetensors"));
    assert_eq!(scene.losses("a"), scene.losses("b"));
    assert!(adapter("a") == adapter("b"));
    assert_ne!(scene.losses("a"), scene.losses("c"));
    assert!(adapter("a") != adapter("c"));
}

#[test]
fn gradient_checkpointing_changes_memory_and_not_the_run() {
    let scene = Scene::new();
    for family in ["bert", "deberta"] {
        let [kept, again] = ["", "--gradient-checkpointing"].map(|flag| {
            let output = format!("{family}-out{flag}");
            let args = format!("finetune --model {family} {TINY} --dropout 0.1 {flag}");
            scene.ok(&format!("{args} --output {output}"));
            let bits = scene.losses(&output).into_iter();
            bits.map(|(_, bits)| f64::from_bits(bits))
                .collect::<Vec<_>>()
        });
        assert!(kept.len() > 5 && kept.len() == again.len());
        for (kept, again) in kept.iter().zip(&again) {
            assert!((kept - again).abs() <= 1e-5, "{family}: {kept} {again}");
        }
    }
    let base = "plan --model roberta --task cola --batch-size 32 --length 32";
    let [kept, again] = ["", "--gradient-checkpointing"].map(|flag| {
        let plan = scene.ok(&format!("{base} {flag}"));
        mebibytes(&plan, "intermediate values")
    });
    assert!(again < 0.8 * kept, "{again} of {kept}");
}

/// The number behind a word of a line about memory.
fn mebibytes(text: &str, name: &str) -> f64 {
    let (_, rest) = text
        .split_once(name)
        .unwrap_or_else(|| panic!("no {name} in\n{text}"));
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn every_family_is_trained_scored_and_exported() {
    let scene = Scene::new();
    scene.model("bart", "bart_cls-0", &support::word_level());
    scene.model("llama", "llama_cls-0", &support::word_level());
    for family in ["bert", "roberta", "deberta", "bart", "llama"] {
        let run = format!("--model {family} --task cola");
        scene.ok(&format!(
            "finetune --model {family} {TINY} --epochs 12 --output {family}-out"
        ));
        let bits = scene.losses(&format!("{family}-out")).into_iter();
        let losses: Vec<f64> = bits.map(|(_, bits)| f64::from_bits(bits)).collect();
        let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
        let (first, last) = (mean(&losses[..6]), mean(&losses[66..]));
        assert!(last < first, "{family}: {first} to {last}");
        let score = |adapter: &str| {
            let args = format!("evaluate {run} --data cola --adapter {adapter}");
            scene.ok(&args)
        };
        let trained = score(&format!("{family}-out"));
        let exported = format!("{family}-exported");
        scene.ok(&format!(
            "export {run} --adapter {family}-out --output {exported}"
        ));
        assert_eq!(score(&exported), trained, "{family}");
    }
}

#[test]
fn every_method_starts_at_the_pretrained_model() {
    let scene = Scene::new();
    let methods = [
        "lora", "ailora", "pissa", "milora", "reailora", "rslora", "full",
    ];
    let losses: Vec<Vec<f64>> = methods
        .iter()
        .map(|method| {
            scene.finetune(method, &format!("--epochs 1 --method {method}"));
            let bits = scene.losses(method).into_iter().map(|(_, bits)| bits);
            bits.map(f64::from_bits).collect()
        })
        .collect();
    for (method, found) in methods.iter().zip(&losses) {
        assert_eq!(found.len(), 6, "{method}");
        let off = (found[0] - losses[0][0]).abs();
        assert!(off <= 1e-5, "{method}'s first loss is {off} from LoRA's");
    }
    // Then each goes its own way.
    for i in 1..methods.len() {
        for j in 0..i {
            assert_ne!(
                losses[i][5], losses[j][5],
                "{} and {}",
                methods[i], methods[j]
            );
        }
    }
}

#[test]
fn an_adapter_predicts_scores_merges_and_exports() {
    let scene = Scene::new();
    for model in ["bert", "roberta", "deberta"] {
        let base = format!("--model {model} --task cola");
        let out = format!("{model}-out");
        scene.ok(&format!(
            "finetune --model {model} {TINY} --output {out} --epochs 2"
        ));
        let with = format!("{base} --adapter {out}");
        let predict = |flags: &str, file: &str| {
            scene.ok(&format!(
                "predict {flags} --data cola/dev.tsv --output {file} --force"
            ));
            logits(&scene, file)
        };
        let expected = predict(&with, "adapter.jsonl");
        let rows = scene.lines("adapter.jsonl");
        assert_eq!(rows.len(), 17);
        for (i, row) in rows.iter().enumerate() {
            let logits = &expected[i];
            let name = if logits[1] > logits[0] {
                "acceptable"
            } else {
                "unacceptable"
            };
            assert_eq!(row["index"], i);
            assert_eq!(row["label"], name);
        }
        let distinct = |row: &Vec<f64>| row.iter().all(|logit| logit.is_finite());
        assert!(expected.iter().all(distinct) && expected[0] != expected[1]);
        // The order and the number of rows of a batch are nothing to a row.
        assert_close(
            &predict(&format!("{with} --batch-size 3"), "small.jsonl"),
            &expected,
        );

        let scores = scene.ok(&format!("evaluate {with} --data cola"));
        let scores: Value = serde_json::from_str(&scores).unwrap();
        let last = &scene.json(&format!("{out}/metrics.json"))["last"]["metrics"];
        for name in ["matthews", "accuracy"] {
            let (found, expected) = (&scores["dev"][name], &last[name]);
            let off = (found.as_f64().unwrap() - expected.as_f64().unwrap()).abs();
            assert!(off <= 1e-9, "{name}: {found} instead of {expected}");
        }

        let merged = format!("{model}-merged");
        scene.ok(&format!("merge {with} --output {merged}"));
        let found = predict(&format!("--model {merged} --task cola"), "merged.jsonl");
        assert_close(&found, &expected);
        let exported = format!("{model}-exported");
        scene.ok(&format!("export {with} --output {exported}"));
        let found = predict(&format!("{base} --adapter {exported}"), "exported.jsonl");
        assert_eq!(found, expected);
    }
}

#[test]
fn a_fully_trained_model_is_a_model() {
    let scene = Scene::new();
    scene.finetune("full", "--epochs 2 --method full");
    let scores = scene.ok("evaluate --model full --task cola --data cola");
    let scores: Value = serde_json::from_str(&scores).unwrap();
    let last = &scene.json("full/metrics.json")["last"]["metrics"];
    let (found, expected) = (
        scores["dev"]["accuracy"].as_f64(),
        last["accuracy"].as_f64(),
    );
    assert!((found.unwrap() - expected.unwrap()).abs() <= 1e-9);
    scene.ok("predict --model full --task cola --data cola/dev.tsv --output rows.jsonl");
    assert_eq!(scene.lines("rows.jsonl").len(), 17);
    scene.ok("predict --model bert --task cola --data cola/dev.tsv --output base.jsonl");
    assert_ne!(logits(&scene, "rows.jsonl"), logits(&scene, "base.jsonl"));
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    let scene = Scene::new();
    let with = |more: &str| format!("finetune --model bert {TINY} --output out {more}");
    scene.fails(
        2,
        &with("--method alora"),
        &["--method", "alora", "did you mean `ailora`?"],
    );
    scene.fails(
        2,
        &with("--schedule square"),
        &["--schedule", "linear, cosine or constant"],
    );
    scene.fails(2, &with("--adapt key"), &["--adapt", "PATTERN={..}"]);
    scene.fails(2, &with("--adapt key={rnak:4}"), &["--adapt"]);
    scene.fails(2, &with("--adapt key={"), &["--adapt"]);
    scene.fails(2, "finetune", &["--output"]);
    scene.fails(2, "train", &["train"]);

    let unknown = with("").replace("--task cola", "--task colla");
    scene.refused(&unknown, &["unknown task `colla`", "did you mean `cola`?"]);
    let ranked = |rank: &str| with("").replace("--rank 4", &format!("--rank {rank}"));
    scene.refused(
        &ranked("33"),
        &["rank 33 is too large", "32 x 32", "the largest is 32"],
    );
    scene.refused(&ranked("0"), &["rank 0", "at least 1"]);
    scene.refused(
        &with(r#"--adapt qeury={"rank":2}"#),
        &[
            "pattern `qeury` matches no projection",
            "did you mean `query`?",
        ],
    );
    scene.refused(&with("--dropout 1"), &["dropout is 1", "[0, 1)"]);
    scene.refused(
        &with("").replace("5e-3", "0"),
        &["`lr` is 0", "a positive number"],
    );
    scene.refused(
        &with("").replace("5e-3", "nan"),
        &["`lr` is NaN", "a positive number"],
    );
    scene.refused(&with("--epochs 0"), &["`epochs` is 0", "at least 1"]);
    scene.refused(
        &with("--max-length 2"),
        &["`max_length` is 2", "at least 4"],
    );
    scene.refused(&with("--warmup 1.5"), &["`warmup` is 1.5", "[0, 1)"]);
    scene.refused(
        "finetune --output out",
        &["nothing is given to learn", "--task"],
    );
    assert!(!scene.path("out").exists());

    let part = "--model bert --task cola";
    let predict = format!("predict {part} --data cola/dev.tsv --output rows.jsonl");
    for command in [&format!("evaluate {part} --data cola"), &predict] {
        scene.refused(
            &format!("{command} --max-length 2"),
            &["maximum length 2", "at least 3"],
        );
    }
    scene.refused(
        "spectrum --model bert --rank 33",
        &["--rank is 33", "1 to 32"],
    );
    scene.refused(
        "spectrum --model bert --site zzz",
        &["no projection", "zzz"],
    );
    scene.refused(
        &format!("explain {part} --site zzz"),
        &["`zzz`", "layer.0.attention"],
    );
    scene.refused(
        &format!("explain {part} --site self.qeury"),
        &["`self.qeury`", "did you mean `self.query`"],
    );
    scene.refused(&format!("plan {part} --length 41"), &["41", "40"]);
}

#[test]
fn settings_come_from_a_file_and_flags_win() {
    let scene = Scene::new();
    scene.write(
        "run.yaml",
        "model: bert\ntask: cola\ndata: cola\nbatch_size: 8\nepochs: 1\nlr: 1.0e-3\n\
         adapters: {rank: 2, sites: {key: {init: random, rank: 3}}}\n",
    );
    scene.ok("finetune --config run.yaml --output out --lr 2e-3");
    let settings = &scene.json("out/run.json")["settings"];
    assert_eq!(settings["lr"], 2e-3);
    assert_eq!(settings["batch_size"], 8);
    let about = scene.json("out/ailora.json");
    let sites = about["sites"].as_array().unwrap();
    let key = sites
        .iter()
        .find(|site| site["path"].as_str().unwrap().ends_with("key"));
    let key = key.unwrap();
    assert!(key["strategy"] == "random" && key["rank"] == 3, "{about}");

    scene.write("typo.yaml", "model: bert\nlearning_rate: 1.0e-3\n");
    scene.refused(
        "finetune --config typo.yaml --output typo",
        &["typo.yaml", "learning_rate"],
    );
    scene.write("type.yaml", "epochs: many\n");
    scene.refused(
        "finetune --config type.yaml --output typo",
        &["type.yaml", "many"],
    );
    scene.refused(
        "finetune --config none.yaml --output typo",
        &["none.yaml", "cannot read it"],
    );
}

#[test]
fn damaged_models_are_refused() {
    let scene = Scene::new();
    let with = |model: &str| format!("finetune --model {model} {TINY} --output out");
    scene.refused(
        &with("no/such/folder"),
        &["`no/such/folder`", "check the path"],
    );
    scene.refused(&with("nowhere"), &["`nowhere` is no folder here"]);

    let model = |name: &str, file: &str, bytes: &[u8]| {
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            scene.write(
                &format!("{name}/{file}"),
                scene.read(&format!("bert/{file}")),
            );
        }
        scene.write(&format!("{name}/{file}"), bytes);
    };
    let weights = scene.read("bert/model.safetensors");
    model("cut", "model.safetensors", &weights[..weights.len() - 100]);
    scene.refused(
        &with("cut"),
        &["cut/model.safetensors", "truncated", "again"],
    );
    model("head", "model.safetensors", &weights[..5]);
    scene.refused(&with("head"), &["head/model.safetensors", "truncated"]);
    model("words", "tokenizer.json", b"{\"version\": ");
    scene.refused(
        &with("words"),
        &["words/tokenizer.json", "not a usable tokenizer"],
    );
    let tokenizer = String::from_utf8(scene.read("bert/tokenizer.json")).unwrap();
    model(
        "other",
        "tokenizer.json",
        tokenizer
            .replace("\"cat\":", "\"bird\":99,\"cat\":")
            .as_bytes(),
    );
    scene.refused(
        &with("other"),
        &["ids up to 99", "99 tokens", "use the tokenizer"],
    );
    model("config", "config.json", b"[]");
    scene.refused(
        &with("config"),
        &["config/config.json", "not a JSON object"],
    );
    std::fs::remove_file(scene.path("config/config.json")).unwrap();
    scene.refused(&with("config"), &["config/config.json", "cannot read"]);
    std::fs::remove_file(scene.path("cut/model.safetensors")).unwrap();
    scene.refused(&with("cut"), &["cut has no weights"]);
    assert!(!scene.path("out").exists());
}

#[test]
fn damaged_data_is_refused() {
    let scene = Scene::new();
    let good = "t\t1\t\tthe cat sat.\n";
    let at_line_2: [(&str, &[u8], &[&str]); 4] = [
        (
            "columns",
            b"t\t1\tthe cat",
            &["expected 4 tab-separated columns", "found 3"],
        ),
        ("label", b"t\t2\t\tthe cat", &["`label`", "\"2\""]),
        ("nothing", b"t\t\t\tthe cat", &["`label`", "nothing"]),
        ("utf8", b"t\t1\t\tthe \xff cat", &["UTF-8"]),
    ];
    for (name, row, parts) in at_line_2 {
        scene.write(&format!("{name}/dev.tsv"), good);
        scene.write(
            &format!("{name}/train.tsv"),
            [good.as_bytes(), row, b"\n"].concat(),
        );
        let args = format!("finetune --model bert {TINY} --output out");
        let args = args.replace("--data cola", &format!("--data {name}"));
        let place = format!("{name}/train.tsv, line 2");
        scene.refused(&args, &[&[place.as_str()], parts].concat());
    }
    let with = |data: &str| format!("evaluate --model bert --task cola --data {data}");
    scene.write("empty/dev.tsv", "");
    scene.refused(&with("empty"), &["empty/dev.tsv", "no examples"]);
    scene.refused(&with("absent"), &["absent", "dev.tsv", "cola"]);
    let predict = "predict --model bert --task cola --data absent.tsv --output rows.jsonl";
    scene.refused(predict, &["cannot read absent.tsv"]);
    assert!(!scene.path("out").exists() && !scene.path("rows.jsonl").exists());
}

#[test]
fn places_that_cannot_be_written_are_refused() {
    let scene = Scene::new();
    scene.write("file", "a regular file");
    let base = "--model bert --task cola";
    scene.refused(
        &format!("finetune --model bert {TINY} --output file/out"),
        &["file/out: cannot create the folder"],
    );
    scene.refused(
        &format!("predict {base} --data cola/dev.tsv --output file/rows.jsonl"),
        &["file: cannot create the folder"],
    );
    scene.refused(
        &format!("explain {base} --length 16 --dot file/site.dot"),
        &["file: cannot create the folder"],
    );
    scene.refused(
        "spectrum --model bert --plot file/plot.svg",
        &["file: cannot create the folder"],
    );
    assert_eq!(scene.read("file"), b"a regular file");
}

#[test]
fn folders_that_hold_no_fitting_adapter_are_refused() {
    let scene = Scene::new();
    scene.finetune("out", "--epochs 1");
    let with = |more: &str| format!("evaluate --model bert --data cola {more}");
    scene.refused(
        &with("--task cola --adapter cola"),
        &["cola", "adapter_config.json"],
    );
    scene.refused(
        &with("--task cola --adapter none"),
        &["none", "adapter_config.json"],
    );

    let config = scene.read("out/adapter_config.json");
    let weights = scene.read("out/adapter_model.safetensors");
    scene.write("other/adapter_model.safetensors", &weights);
    let text = String::from_utf8(config.clone())
        .unwrap()
        .replace("\"r\": 8", "\"r\": 9");
    assert_ne!(text.as_bytes(), config);
    scene.write("other/adapter_config.json", text);
    let shapes = ["other/adapter_model.safetensors", "lora_", "8", "9"];
    scene.refused(&with("--task cola --adapter other"), &shapes);
    scene.write("other/adapter_config.json", &config);
    scene.write(
        "other/adapter_model.safetensors",
        &weights[..weights.len() / 2],
    );
    let cut = ["other/adapter_model.safetensors", "truncated"];
    scene.refused(&with("--task cola --adapter other"), &cut);
    // A head for another number of labels.
    for command in ["merge", "export"] {
        let args = format!("{command} --model bert --task mnli --adapter out --output made");
        scene.refused(&args, &["trained for cola", "mnli"]);
        let args = format!("{args} --force-adapter");
        scene.refused(
            &args,
            &["out/adapter_model.safetensors", "classifier", "[2]", "[3]"],
        );
    }
    assert!(!scene.path("made").exists());
}

#[test]
fn plan_and_spectrum_show_what_a_step_is() {
    let scene = Scene::new();
    let base = "--model bert --task cola --rank 4";
    let plan = scene.ok(&format!("plan {base} --batch-size 4 --length 16"));
    for part in [
        "principal",
        "minor",
        "32 x 32",
        "matrix product",
        "compiled in",
        "peak memory",
    ] {
        assert!(plan.contains(part), "no `{part}` in\n{plan}");
    }
    // A device need not be there for a plan of what would run on it.
    let [f32, bf16] = ["f32", "bf16"].map(|precision| {
        let flags = format!("--batch-size 64 --length 32 --device cuda --precision {precision}");
        let plan = scene.ok(&format!("plan {base} {flags}"));
        mebibytes(&plan, "intermediate values")
    });
    assert!(bf16 < 0.7 * f32 && bf16 > 0.4 * f32, "{bf16} of {f32}");
    let inference = scene.ok(&format!(
        "plan {base} --batch-size 4 --length 16 --inference --program"
    ));
    assert!(
        inference.contains("gradients and optimiser 0.0 MiB"),
        "{inference}"
    );
    assert!(
        inference.contains("bert.encoder.layer.0.attention.self.query.weight"),
        "{inference}"
    );

    let rows = scene.ok("spectrum --model bert --plot plot.svg");
    for layer in [0, 1] {
        for name in ["query", "value"] {
            let path = format!("layer.{layer}.attention.self.{name}");
            assert!(rows.contains(&path), "{rows}");
        }
    }
    assert!(!rows.contains("self.key"), "{rows}");
    let plot = String::from_utf8(scene.read("plot.svg")).unwrap();
    assert!(plot.contains("<svg") && plot.contains("layer.1.attention.self.query"));
}

/// The line of a text that begins with a word, in words.
fn words<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    let mut lines = text.lines().map(|line| line.split_whitespace().collect());
    lines
        .find(|words: &Vec<&str>| words.first() == Some(&first))
        .unwrap_or_else(|| panic!("no line of {first} in\n{text}"))
}

#[test]
fn explain_shows_what_fusion_does() {
    let scene = Scene::new();
    let base = "explain --model bert --task cola --rank 4 --batch-size 4 --length 16";
    let first = "layer.0.attention.self.query";
    let shown = scene.ok(&format!(
        "{base} --site {first} --forward --dot site.dot --svg site.svg"
    ));
    // Three weights and two adapters; then all `A`, and all that is left.
    assert_eq!(words(&shown, "unfused")[1], "7", "{shown}");
    assert_eq!(words(&shown, "fused")[1], "2", "{shown}");
    let parameters = [
        "query.weight*",
        "key.weight",
        "value.weight*",
        "query.lora_A.weight",
        "query.lora_B.weight",
        "value.lora_A.weight",
        "value.lora_B.weight",
    ];
    let dot = String::from_utf8(scene.read("site.dot")).unwrap();
    let svg = String::from_utf8(scene.read("site.svg")).unwrap();
    for text in [&shown, &dot, &svg] {
        let all = parameters.iter().chain(&[
            "bert.encoder.layer.0.attention.self",
            "bert.embeddings.LayerNorm",
        ]);
        for name in all {
            assert!(text.contains(name), "no {name} in\n{text}");
        }
    }
    // The query's `B` lies beside the query's weight.
    assert_eq!(words(&shown, "query.weight*")[1..], ["[0:32,", "0:32]"]);
    assert_eq!(
        words(&shown, "query.lora_B.weight")[1..],
        ["[0:32,", "32:36]"]
    );
    assert!(words(&shown, "siblings")[1].parse::<usize>().unwrap() > 0);
    // What a device keeps in bfloat16 says so.
    let on_device = format!("{base} --site {first} --device cuda --precision bf16");
    let narrow = scene.ok(&on_device);
    assert!(narrow.contains("bf16 64 × 32"), "{narrow}");
    assert!(!shown.contains("bf16"), "{shown}");
    assert!(shown.contains("stopped because nothing new followed"));
    assert!(dot.starts_with("digraph") && dot.trim_end().ends_with('}'));
    assert_eq!(dot.matches('{').count(), dot.matches('}').count());
    assert_well_formed(&svg);

    let step = scene.ok(&format!("{base} --site {first} --measure"));
    assert_eq!(words(&step, "unfused")[1], "13", "{step}");
    assert!(step.contains("grad.query.lora_A.weight") && step.contains("grad(query)"));
    assert!(scene.path("cache/costs.json").exists());

    // The last layer's query is computed for the first token only: a region of its own.
    let last = scene.ok(&format!(
        "{base} --site layer.1.attention.self.query --forward"
    ));
    assert_eq!(words(&last, "unfused")[1], "3", "{last}");
    assert!(!last.contains("key.weight"), "{last}");
}

/// Asserts that a text is one element of XML in which every tag is closed.
fn assert_well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in xml.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("a tag that does not end");
        let name = tag.split_whitespace().next().unwrap_or_default();
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        match name.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed)),
            None if tag.ends_with('/') => {}
            None => open.push(name),
        }
        assert!(
            !open.is_empty() || text.trim().is_empty(),
            "text after the root"
        );
    }
    assert!(open.is_empty(), "{open:?} is not closed");
}
