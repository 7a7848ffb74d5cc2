//! What was done to rows is said: cut, left out, fields that are not used, logits that are no numbers.

use safetensors::{SafeTensors, serialize};
use serde_json::{Value, json};

use super::{
    FINETUNE, close, number, questions,
    support::{Scene, TINY},
};

/// The notes that a command prints, but for those of the model's files.
fn notes(scene: &Scene, args: &str) -> Vec<String> {
    let ran = scene.run(args);
    assert_eq!(ran.code, Some(0), "{args}\n{}", ran.stderr);
    let lines = ran
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("note: "))
        .filter(|note| !note.contains("tokenizer.json"));
    lines.map(str::to_owned).collect()
}

fn write_questions(scene: &Scene, folder: &str, rows: &[(String, &str)]) {
    let row =
        |(question, answer): &(String, &str)| json!({"instruction": question, "output": answer});
    let rows: Vec<Value> = rows.iter().map(row).collect();
    scene.write(
        &format!("{folder}/train.json"),
        Value::from(rows).to_string(),
    );
}

#[test]
fn prompts_without_room_for_an_answer_are_said_and_left_out() {
    let scene = questions();
    let long = || "the cat sat on the mat ".repeat(9);
    let short = |i: usize| "the dog ran ".repeat(1 + i % 2);
    let some: Vec<(String, &str)> = (0..6)
        .map(|i| (if i % 3 == 1 { long() } else { short(i) }, "w40 w41"))
        .collect();
    let rest: Vec<(String, &str)> = some
        .iter()
        .filter(|(text, _)| text.len() < 60)
        .cloned()
        .collect();
    write_questions(&scene, "some", &some);
    write_questions(&scene, "rest", &rest);
    write_questions(&scene, "none", &[(long(), "w40"), (long(), "w41")]);
    let run = |data: &str| {
        let base = FINETUNE.replace("--data math", &format!("--data {data}"));
        format!("{base} --batch-size 4 --epochs 1 --warmup 0 --output {data}-out")
    };
    let said = notes(&scene, &run("some"));
    assert_eq!(said.len(), 1, "{said:?}");
    for part in [
        "train: 2 of 6 rows were cut to 60 tokens",
        "; 2 have no answer to learn, or none within that length",
    ] {
        assert!(said[0].contains(part), "{said:?}");
    }
    assert_eq!(notes(&scene, &run("rest")), Vec::<String>::new());
    assert_eq!(scene.losses("some-out"), scene.losses("rest-out"));
    let why = [
        "nothing is left to learn or to predict of any of 2 rows",
        "--max-length",
        "60 tokens",
        "up to 64",
    ];
    scene.refused(&run("none"), &why);
}

#[test]
fn rows_that_are_cut_are_counted() {
    let scene = Scene::new();
    // The sentences have 3 to 11 words and a full stop; special tokens are two.
    let out = "--max-length 9 --epochs 1 --output out";
    let said = notes(&scene, &format!("finetune --model roberta {TINY} {out}"));
    let [train, dev] = &said[..] else {
        panic!("{said:?}")
    };
    assert!(
        train.contains("train: 25 of 48 rows were cut to 9 tokens"),
        "{train}"
    );
    assert!(
        dev.contains("dev: 9 of 17 rows were cut to 9 tokens"),
        "{dev}"
    );
    // Without being told, what is evaluated and predicted is cut as in training.
    let with = "--model roberta --task cola --adapter out";
    let evaluate = format!("evaluate {with} --data cola");
    let predict = format!("predict {with} --data cola/dev.tsv --output rows.jsonl");
    for args in [&evaluate, &predict] {
        let said = notes(&scene, args);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].contains("9 of 17 rows were cut to 9 tokens"),
            "{said:?}"
        );
    }
    let found: Value = serde_json::from_str(&scene.ok(&evaluate)).unwrap();
    let metrics = scene.json("out/metrics.json");
    close(
        number(&found["dev"], "matthews"),
        number(&metrics["last"]["metrics"], "matthews"),
        1e-5,
    );
    assert_eq!(
        notes(&scene, &format!("{evaluate} --max-length 20")),
        Vec::<String>::new()
    );
}

#[test]
fn fields_of_rows_that_are_not_used_are_said_once() {
    let scene = questions();
    let rows: Vec<Value> = (0..4)
        .map(|i| json!({"instruction": "the cat", "output": "w50", "input": format!("w6{i}"), "system": "be brief"}))
        .collect();
    scene.write("fields/train.json", Value::from(rows).to_string());
    let plain: Vec<(String, &str)> = (0..4).map(|_| ("the cat".to_owned(), "w50")).collect();
    write_questions(&scene, "plain", &plain);
    let run = |data: &str| {
        let base = FINETUNE.replace("--data math", &format!("--data {data}"));
        format!("{base} --batch-size 4 --epochs 1 --output {data}-out")
    };
    let said = notes(&scene, &run("fields"));
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("train.json") && said[0].contains("`system`"),
        "{said:?}"
    );
    assert_eq!(notes(&scene, &run("plain")), Vec::<String>::new());
    // The input is part of what is learned from.
    assert_ne!(scene.losses("fields-out")[0], scene.losses("plain-out")[0]);
    let strict = format!(
        "{} --strict",
        run("fields").replace("fields-out", "strict-out")
    );
    scene.refused(&strict, &["`system`", "--strict"]);
}

/// Puts a value among the weights of a scene's model.
fn spoil(scene: &Scene, model: &str, tensor: &str, value: f32) {
    let path = format!("{model}/model.safetensors");
    let bytes = scene.read(&path);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Vec<u8>, Vec<usize>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.data().to_vec(), view.shape().to_vec()))
        .collect();
    let (_, data, _) = tensors
        .iter_mut()
        .find(|(name, ..)| name == tensor)
        .unwrap();
    data[44..48].copy_from_slice(&value.to_le_bytes());
    let views = tensors.iter().map(|(name, data, shape)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data);
        (name.as_str(), view.unwrap())
    });
    scene.write(&path, serialize(views, None).unwrap());
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    for (value, says) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinite")] {
        let scene = questions();
        let [query, up] = [
            "bert.encoder.layer.0.attention.output.dense.weight",
            "model.layers.1.mlp.up_proj.weight",
        ];
        spoil(&scene, "bert", query, value);
        spoil(&scene, "llama", up, value);
        let rows = "--model bert --task cola --data";
        scene.refused(&format!("evaluate {rows} cola"), &[query, says]);
        scene.refused(
            &format!("predict {rows} cola/dev.tsv --output rows.jsonl"),
            &[query, says],
        );
        assert!(!scene.path("rows.jsonl").exists());
        for how in ["", "--beams 2", "--temperature 0.8"] {
            scene.refused(
                &format!("generate --model llama --prompt the {how}"),
                &[up, says],
            );
        }
        // Training stops at its first step, and says which.
        let why = ["step 1", "the loss is"];
        scene.refused(
            &format!("finetune --model bert {TINY} --method lora --output out"),
            &why,
        );
    }
}
