//! Adapter dropout is training's alone: with it, the metrics that training printed are those of the adapter
//! that it left, whose logits are those of `W + s B A`, made of the files.

use std::{collections::HashMap, fs, path::Path};

use ailora::{
    finetune::Model,
    ir::{Bindings, Draw, Tensor},
    models::{
        batch::{Batch, Encoded, Plan, Shape},
        task::{Labels, Malformed, Task},
    },
    runtime::run::Value as Input,
};
use safetensors::SafeTensors;
use serde_json::Value;

use super::{close, number, support, support::Scene};

const TASK: &str = "--task stsb --data stsb --batch-size 8 --max-length 40";

/// A family's tiny model: its folder, and the changes to the fixture's configuration.
fn families() -> Scene {
    let scene = Scene::new();
    scene.model("deberta_v2", "deberta_v2_cls-0", &support::word_level());
    scene.model("bart", "bart_cls-0", &support::word_level());
    scene.model("llama", "llama_cls-0", &support::word_level());
    scene.model("mistral", "llama_cls-0", &support::word_level());
    scene.model("qwen2", "qwen2-0", &support::word_level());
    for (name, fields) in [
        (
            "mistral",
            &[
                ("model_type", "mistral".into()),
                ("sliding_window", Value::Null),
            ][..],
        ),
        ("qwen2", &[("pad_token_id", 1.into())][..]),
    ] {
        let mut config = scene.json(&format!("{name}/config.json"));
        for (field, value) in fields {
            config[field] = value.clone();
        }
        if name == "mistral" {
            config["architectures"] = vec!["MistralForSequenceClassification"].into();
        }
        scene.write(&format!("{name}/config.json"), config.to_string());
    }
    for (file, count) in [("train", 40), ("dev", 21)] {
        scene.write(&format!("stsb/{file}.tsv"), pairs(count));
    }
    scene
}

/// Pairs of sentences, the more alike the higher the score.
fn pairs(count: usize) -> String {
    let words = [
        "the", "cat", "dog", "sat", "saw", "ran", "her", "mat", "old", "and",
    ];
    let mut text = "index\tsentence1\tsentence2\tscore\n".to_owned();
    for row in 0..count {
        let sentence = |seed: usize| -> Vec<&str> {
            let place = |i: usize| words[(seed * seed + 3 * i + seed * i) % words.len()];
            (0..3 + seed % 5).map(place).collect()
        };
        let (a, b) = (sentence(row), sentence(row + row % 4));
        let alike = a.iter().filter(|word| b.contains(word)).count();
        let score = 5.0 * alike as f64 / a.len() as f64;
        text += &format!("{row}\t{}\t{}\t{score:.2}\n", a.join(" "), b.join(" "));
    }
    text
}

#[test]
fn training_says_what_evaluate_says_of_what_it_left() {
    let scene = families();
    for family in [
        "bert",
        "roberta",
        "deberta",
        "deberta_v2",
        "bart",
        "llama",
        "mistral",
        "qwen2",
    ] {
        let train = |out: &str, more: &str| {
            scene.ok(&format!(
                "finetune --model {family} {TASK} --method lora --rank 4 --alpha 12 --lr 1e-2 --epochs 3 --output {out} {more}"
            ))
        };
        let out = format!("{family}-out");
        let printed = train(&out, "--dropout 0.5");
        let metrics = scene.json(&format!("{out}/metrics.json"));
        let kept = metrics["kept"].as_u64().unwrap() as usize;
        assert!(
            printed.contains(&format!("wrote {out}: epoch {kept}, ")),
            "{printed}"
        );
        let expected = &metrics["epochs"][kept - 1]["metrics"];
        let found = scene.ok(&format!("evaluate --model {family} {TASK} --adapter {out}"));
        let found: Value = serde_json::from_str(&found).unwrap();
        for name in ["spearman", "pearson"] {
            close(number(&found["dev"], name), number(expected, name), 1e-5);
        }

        // Dropout did something: from the second step on, the losses are others.
        train(&format!("{family}-whole"), "--dropout 0");
        let [dropped, whole] = [&out, &format!("{family}-whole")].map(|out| scene.losses(out));
        assert_eq!(dropped[0], whole[0], "{family}");
        assert!(
            dropped[2..].iter().zip(&whole[2..]).all(|(a, b)| a != b),
            "{family}"
        );

        let rows = format!("{family}.jsonl");
        scene.ok(&format!(
            "predict --model {family} --task stsb --max-length 40 --adapter {out} --data stsb/dev.tsv --output {rows}"
        ));
        let logits = folded(&scene, family, &out);
        let found = scene.lines(&rows);
        assert_eq!((found.len(), logits.len()), (21, 21));
        for (row, expected) in found.iter().zip(logits) {
            let found = row["logits"][0].as_f64().unwrap();
            close(found, expected, 1e-5 * expected.abs().max(1.0));
        }
    }
}

#[test]
fn plans_of_inference_have_no_dropout() {
    let scene = Scene::new();
    let plan = |more: &str| {
        let args =
            "plan --model bert --task cola --method pissa --batch-size 2 --length 8 --program";
        let text = scene.ok(&format!("{args} {more}"));
        let nodes = text
            .lines()
            .filter(|line| line.trim_start().starts_with('%'));
        nodes.map(str::to_owned).collect::<Vec<_>>()
    };
    let inference = plan("--dropout 0.3 --inference");
    assert!(inference.len() > 20);
    assert_eq!(inference, plan("--dropout 0 --inference"));
    assert_ne!(plan("--dropout 0.3"), plan("--dropout 0"));
}

/// The logits of the held-out rows in float64, of the base's weights with `alpha / r B A` added to them and
/// other tensors of the adapter in the place of the base's.
fn folded(scene: &Scene, family: &str, adapter: &str) -> Vec<f64> {
    let task = Task::parse("stsb").unwrap();
    let path = scene.path(family).display().to_string();
    let model = Model::open(&path, &task, 0, false).unwrap();
    let weights = model.pretrained.weights.iter();
    let mut bindings: Bindings = weights
        .map(|(name, array)| (name.clone(), tensor(array.shape(), &array.floats())))
        .collect();
    add(&scene.path(adapter), &mut bindings);

    let rows = task
        .load(
            &[scene.path("stsb/dev.tsv")],
            Labels::Optional,
            Malformed::Refused,
        )
        .unwrap();
    let encoded = model.encode(&rows.examples, 40).unwrap();
    let pad = model.tokenizer.pad_id();
    let logit = |(row, encoded_row): (usize, &Encoded)| {
        let plan = Plan {
            len: encoded_row.tokens(),
            indices: vec![row],
        };
        let batch = Batch::new(&plan, &encoded, pad).unwrap();
        let model = &model.pretrained.model;
        let program = model
            .program(Shape::new(1, batch.len), false, false)
            .unwrap();
        for (name, value) in model.inputs(&batch).values() {
            let data = match value {
                Input::F32(data) => data.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(),
                Input::I32(data) => data.iter().map(|&x| f64::from(x)).collect(),
            };
            if let Some(leaf) = program.inputs().find(|leaf| *leaf.name == *name) {
                bindings.insert(name.to_owned(), Tensor::new(leaf.ty.shape.clone(), data));
            }
        }
        program.eval(&bindings, Draw::default()).unwrap()["logits"].data[0]
    };
    encoded.iter().enumerate().map(logit).collect()
}

fn tensor(shape: &[usize], data: &[f32]) -> Tensor {
    Tensor::new(
        shape,
        data.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(),
    )
}

/// Adds what a PEFT folder says to the weights.
fn add(folder: &Path, weights: &mut Bindings) {
    let json = fs::read(folder.join("adapter_config.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let scale = number(&json, "lora_alpha") / number(&json, "r");
    assert_eq!(scale, 3.0);
    let bytes = fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut factors: HashMap<String, [Option<Tensor>; 2]> = HashMap::new();
    for (name, view) in file.tensors() {
        let name = name.strip_prefix("base_model.model.").unwrap().to_owned();
        let data: Vec<f32> = view
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&b| f32::from_le_bytes(b))
            .collect();
        let value = tensor(view.shape(), &data);
        let factor = [".lora_A.weight", ".lora_B.weight"].map(|end| name.strip_suffix(end));
        match factor {
            [Some(path), _] => factors.entry(path.to_owned()).or_default()[0] = Some(value),
            [_, Some(path)] => factors.entry(path.to_owned()).or_default()[1] = Some(value),
            _ => {
                let name = name.replace(".modules_to_save.default", "");
                assert!(weights.insert(name.clone(), value).is_some(), "{name}");
            }
        }
    }
    assert!(factors.len() >= 4, "{:?}", factors.keys());
    for (path, factors) in factors {
        let [Some(a), Some(b)] = factors else {
            panic!("{path} has one factor")
        };
        let weight = weights.get_mut(&format!("{path}.weight")).unwrap();
        let (rank, width) = (a.shape[0], a.shape[1]);
        for (i, x) in weight.data.iter_mut().enumerate() {
            let (row, column) = (i / width, i % width);
            let product = (0..rank).map(|k| b.data[row * rank + k] * a.data[k * width + column]);
            *x += scale * product.sum::<f64>();
        }
    }
}
