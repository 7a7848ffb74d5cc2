//! `ailora pretrain` and `ailora demo`: from text to a model that is fine-tuned.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

struct Scene(TempDir);

impl Scene {
    /// A folder with two files of text that has something to learn.
    fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        let people = ["Ann", "Bob", "Cid", "Dora"];
        let things = ["apples", "bags", "coins"];
        let line = |i: usize| {
            let (who, what) = (people[i * i % 4], things[i * 7 % 3]);
            format!("{who} had {i} {what}. {who} gave {} {what} away.\n", i / 2)
        };
        for (name, lines) in [("train.txt", 0..400), ("valid.txt", 400..460)] {
            let text: String = lines.map(line).collect();
            std::fs::write(scene.0.path().join(name), text).unwrap();
        }
        scene
    }

    fn ailora(&self, args: &str) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_ailora"))
            .args(args.split_whitespace())
            .current_dir(self.0.path())
            .env("AILORA_CACHE", self.0.path().join("cache"))
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    fn pretrain(&self, output: &str, more: &str) -> Result<String, String> {
        self.ailora(&format!(
            "pretrain --train train.txt --valid valid.txt --output {output} --vocab-size 300 --width 32 \
             --layers 1 --heads 2 --length 24 --batch-size 8 --lr 5e-3 --dropout 0.1 --seed 3 {more}"
        ))
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.0.path().join(file)).unwrap()
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&self.read(file)).unwrap()
    }
}

#[test]
fn a_pretrained_model_has_learnt_and_can_be_fine_tuned() {
    let scene = Scene::new();
    scene.pretrain("model", "--epochs 4 --half").unwrap();
    let metrics = scene.json("model/metrics.json");
    let epochs = metrics["epochs"].as_array().unwrap();
    assert_eq!(epochs.len(), 4);
    let loss = |epoch: &Value| epoch["train_loss"].as_f64().unwrap();
    assert!(loss(&epochs[3]) < loss(&epochs[0]) - 0.5, "{metrics}");
    let held_out = epochs[3]["metrics"]["loss"].as_f64().unwrap();
    assert!(held_out < 0.7 * 300_f64.ln(), "{metrics}");
    let figure = |name: &str| epochs[3]["metrics"][name].as_f64().unwrap();
    assert!(
        (figure("perplexity") - held_out.exp()).abs() < 1e-9,
        "{metrics}"
    );
    assert!((0.05..1.0).contains(&figure("token_accuracy")), "{metrics}");
    assert_eq!(metrics["headline"], "loss");
    // Half a number is two bytes.
    let config = scene.json("model/config.json");
    assert_eq!(config["model_type"], "roberta");
    let weights = scene.read("model/model.safetensors");
    assert!(weights.len() < 2 * 40_000, "{} bytes", weights.len());

    let args =
        "finetune --model model --task svamp --rows 16 --epochs 1 --max-length 24 --output tuned";
    scene.ailora(args).unwrap();
    let printed =
        scene.ailora("evaluate --model model --adapter tuned --task svamp --max-length 24");
    assert!(printed.unwrap().contains("accuracy"));
}

#[test]
fn a_resumed_run_gives_the_same_bits() {
    let scene = Scene::new();
    scene.pretrain("whole", "--epochs 2").unwrap();
    let again = scene.pretrain("whole", "--epochs 2").unwrap_err();
    assert!(again.contains("already holds a run"), "{again}");

    // Stopped by a signal, as a person does it; what is left goes on.
    let mut child = Command::new(env!("CARGO_BIN_EXE_ailora"))
        .args("pretrain --train train.txt --valid valid.txt --output parts --vocab-size 300 --width 32".split(' '))
        .args("--layers 1 --heads 2 --length 24 --batch-size 8 --lr 5e-3 --dropout 0.1 --seed 3".split(' '))
        .args("--epochs 2 --checkpoint-every 5".split(' '))
        .current_dir(scene.0.path())
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let checkpoint = scene.0.path().join("parts/checkpoint.safetensors");
    while !checkpoint.exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended without a checkpoint"
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
    scene
        .pretrain("parts", "--epochs 2 --checkpoint-every 5 --resume")
        .unwrap();
    let before = scene.read("parts/config.json");
    let refused = scene.pretrain(
        "parts",
        "--epochs 2 --checkpoint-every 5 --resume --masked 0.2",
    );
    let refused = refused.unwrap_err();
    let said = "`masked` was 0.15 and is 0.2 now";
    assert!(refused.contains(said), "{refused}");
    assert_eq!(scene.read("parts/config.json"), before);
    for file in ["model.safetensors", "tokenizer.json"] {
        assert!(
            scene.read(&format!("whole/{file}")) == scene.read(&format!("parts/{file}")),
            "{file}"
        );
    }
}

#[test]
fn what_is_wrong_is_named() {
    let scene = Scene::new();
    for (more, expected) in [
        (
            "--vocab-size 20",
            "`vocab_size` is 20; expected at least 261",
        ),
        ("--masked 1.5", "`masked` is 1.5"),
        ("--valid nothing.txt", "nothing.txt"),
        (
            "--batch-size 60000",
            "rows of 24 tokens, less than a batch of 60000",
        ),
        ("--heads 5", "`heads` is 5; expected a divisor of `width`"),
    ] {
        let flag = more.split(' ').next().unwrap();
        // The given flags without the one that is given anew.
        let base = "--train train.txt --valid valid.txt --vocab-size 300 --width 32 --layers 1 --heads 2 \
                    --length 24 --batch-size 8 --epochs 1";
        let mut args = String::from("pretrain --output wrong");
        for pair in base.split_whitespace().collect::<Vec<_>>().chunks(2) {
            if pair[0] != flag {
                args += &format!(" {} {}", pair[0], pair[1]);
            }
        }
        let error = scene.ailora(&format!("{args} {more}")).unwrap_err();
        assert!(error.contains(expected), "{more}: {error}");
        // So that the same command goes through once that is mended.
        assert!(!scene.0.path().join("wrong").exists(), "{more}");
    }
}

#[test]
fn the_demo_leaves_adapters_and_figures() {
    let scene = Scene::new();
    let printed = scene.ailora("demo --epochs 1 --device cpu").unwrap();
    for method in ["ailora", "lora", "pissa", "milora"] {
        assert!(printed.contains(method), "{printed}");
        let metrics = scene.json(&format!("ailora-demo/{method}/metrics.json"));
        let accuracy = metrics["last"]["metrics"]["accuracy"].as_f64().unwrap();
        assert!((0.3..1.0).contains(&accuracy), "{method}: {accuracy}");
    }
    for figure in ["losses", "spectra"] {
        let png = scene.read(&format!("ailora-demo/{figure}.png"));
        assert_eq!(png[..4], *b"\x89PNG");
        let svg = String::from_utf8(scene.read(&format!("ailora-demo/{figure}.svg"))).unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
    let adapter = scene.json("ailora-demo/ailora/adapter_config.json");
    assert_eq!(adapter["peft_type"], "LORA");
}
