//! What `merge` leaves: a folder that says what it holds.

#[path = "../models/tests/support/gguf.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod gguf;
mod support;

use std::{collections::HashMap, path::Path};

use ailora::{
    adapter::Trainable,
    ir::Draw,
    models::{
        batch::{Batch, Targets},
        head::Head,
        peft::Adapter,
        pretrained::Pretrained,
    },
    runtime::{
        backend::Precision,
        engine::Engine,
        passes::Passes,
        store::{self, Array, Params},
    },
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use support::{Scene, TINY};

/// Changes fields of a model's config.json.
fn set(scene: &Scene, model: &str, fields: Value) {
    let path = format!("{model}/config.json");
    let mut config = scene.json(&path);
    for (field, value) in fields.as_object().unwrap() {
        config[field] = value.clone();
    }
    scene.write(&path, config.to_string());
}

/// Writes a model's weights anew, in bfloat16.
fn narrow(scene: &Scene, model: &str) {
    let path = format!("{model}/model.safetensors");
    let bytes = scene.read(&path);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let halves = view.data().chunks(4).flat_map(|x| x[2..].to_vec());
            (name, view.shape().to_vec(), halves.collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::BF16, shape.clone(), data).unwrap();
        (name.as_str(), view)
    });
    scene.write(&path, safetensors::serialize(views, None).unwrap());
}

fn kinds(scene: &Scene, model: &str) -> Vec<Dtype> {
    let bytes = scene.read(&format!("{model}/model.safetensors"));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut kinds: Vec<Dtype> = file
        .tensors()
        .into_iter()
        .map(|(_, view)| view.dtype())
        .collect();
    kinds.dedup();
    kinds
}

/// Writes an adapter of one projection of a causal language model with these weights.
fn adapter(scene: &Scene, weights: &Path, site: &str) {
    let (params, _) = store::load(weights).unwrap();
    let rank = 2;
    let [out, inputs] = params[&format!("{site}.weight")].shape()[..] else {
        panic!("{site} is no matrix")
    };
    let factor = |name: &str, shape: [usize; 2]| {
        let data = (0..shape[0] * shape[1]).map(|i| (i * 7 % 11) as f32 * 0.03 - 0.1);
        let (shape, data) = (shape.to_vec(), data.collect());
        (
            format!("base_model.model.{site}.{name}.weight"),
            Array::new(shape, data),
        )
    };
    let factors = [
        factor("lora_A", [rank, inputs]),
        factor("lora_B", [out, rank]),
    ];
    let factors: Params = factors.into_iter().collect();
    scene.write("adapter/x", "");
    let path = scene.path("adapter/adapter_model.safetensors");
    store::save(&path, &factors, HashMap::new()).unwrap();
    let about = json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 3,
                       "target_modules": [site]});
    scene.write("adapter/adapter_config.json", about.to_string());
}

#[test]
fn configuration_and_tensors_agree_on_type_and_labels() {
    let scene = Scene::new();
    narrow(&scene, "bert");
    set(
        &scene,
        "bert",
        json!({"torch_dtype": "bfloat16", "dtype": "bfloat16", "problem_type": "regression",
               "id2label": {"0": "GOOD", "1": "BAD", "2": "UGLY"}, "num_labels": 3}),
    );
    scene.finetune("out", "--epochs 1");
    scene.ok("merge --model bert --task cola --adapter out --output merged");
    assert_eq!(kinds(&scene, "merged"), [Dtype::F32]);
    let config = scene.json("merged/config.json");
    assert_eq!(
        (&config["dtype"], &config["torch_dtype"]),
        (&json!("float32"), &json!("float32"))
    );
    assert_eq!(
        config["id2label"],
        json!({"0": "unacceptable", "1": "acceptable"})
    );
    assert_eq!(
        config["label2id"],
        json!({"unacceptable": 0, "acceptable": 1})
    );
    assert_eq!(
        (&config["num_labels"], &config["problem_type"]),
        (&json!(2), &json!("single_label_classification"))
    );
    assert_eq!(
        config["architectures"],
        json!(["BertForSequenceClassification"])
    );
    let scores = |of: &str| -> Value {
        let printed = scene.ok(&format!("evaluate --task cola --data cola {of}"));
        serde_json::from_str::<Value>(&printed).unwrap()["dev"].clone()
    };
    let [beside, merged] = ["--model bert --adapter out", "--model merged"].map(scores);
    for (name, tolerance) in [("matthews", 0.0), ("accuracy", 0.0), ("loss", 1e-6)] {
        let [beside, merged] = [&beside, &merged].map(|scores| scores[name].as_f64().unwrap());
        assert!(
            (beside - merged).abs() <= tolerance,
            "{name}: {merged} is not {beside}"
        );
    }
}

#[test]
fn a_score_has_one_label() {
    let scene = Scene::new();
    set(
        &scene,
        "roberta",
        json!({"problem_type": "multi_label_classification",
               "id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}),
    );
    let mut text = String::from("sentence1\tsentence2\tscore\n");
    for i in 0..16 {
        text += &format!("the cat\ta dog {}\t{}\n", ["ran", "sat"][i % 2], i % 6);
    }
    scene.write("stsb/train.tsv", &text);
    scene.write("stsb/dev.tsv", &text);
    scene.ok("finetune --model roberta --task stsb --data stsb --epochs 1 --rank 2 --output out");
    scene.ok("merge --model roberta --task stsb --adapter out --output merged");
    let config = scene.json("merged/config.json");
    assert_eq!(config["id2label"], json!({"0": "LABEL_0"}));
    assert_eq!(config["label2id"], json!({"LABEL_0": 0}));
    assert_eq!(
        (&config["num_labels"], &config["problem_type"]),
        (&json!(1), &json!("regression"))
    );
}

#[test]
fn what_lies_beside_the_weights_is_kept() {
    let scene = Scene::new();
    let files = [
        (
            "generation_config.json",
            r#"{"eos_token_id": [3], "max_new_tokens": 9, "top_k": 4}"#,
        ),
        (
            "special_tokens_map.json",
            r#"{"pad_token": "[PAD]", "sep_token": "[SEP]"}"#,
        ),
        ("added_tokens.json", "{}"),
        (
            "tokenizer_config.json",
            r#"{"pad_token": "[PAD]", "model_max_length": 40}"#,
        ),
        ("chat_template.jinja", "{{ messages }}\n"),
        ("additional_chat_templates/tools.jinja", "{{ tools }}\n"),
        ("LICENSE", "as it is\n"),
    ];
    for (name, text) in files {
        scene.write(&format!("bert/{name}"), text);
    }
    scene.ok(&format!(
        "finetune --model bert {TINY} --epochs 1 --output out"
    ));
    scene.ok("merge --model bert --task cola --adapter out --output merged");
    for (name, text) in files {
        let found = String::from_utf8(scene.read(&format!("merged/{name}"))).unwrap();
        assert_eq!(found, text, "{name}");
    }
    assert_eq!(
        scene.read("merged/tokenizer.json"),
        scene.read("bert/tokenizer.json")
    );
}

#[test]
fn a_tied_head_of_its_own_is_no_longer_tied() {
    let scene = Scene::new();
    let mut tokenizer = support::word_level();
    tokenizer["post_processor"] = Value::Null;
    scene.model("llama", "llama_gqa_tied-0", &tokenizer);
    let weights = scene.path("llama/model.safetensors");
    let (mut params, _) = store::load(&weights).unwrap();
    let mut head = params["model.embed_tokens.weight"].clone();
    head.floats_mut().reverse();
    params.insert("lm_head.weight".into(), head.clone());
    store::save(&weights, &params, HashMap::new()).unwrap();

    adapter(&scene, &weights, "model.layers.0.self_attn.q_proj");
    let generate = "generate --max-new-tokens 6 --prompt the";
    let ran = scene.run(&format!("{generate} --model llama --adapter adapter"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("lm_head.weight"), "{}", ran.stderr);
    scene.ok("merge --model llama --task math --adapter adapter --output merged");
    assert_eq!(
        scene.json("merged/config.json")["tie_word_embeddings"],
        false
    );
    let (merged, _) = store::load(&scene.path("merged/model.safetensors")).unwrap();
    assert_eq!(merged["lm_head.weight"], head);
    assert_eq!(scene.ok(&format!("{generate} --model merged")), ran.stdout);
    scene.refused(
        "generate --model llama --prompt the --strict",
        &["tie_word_embeddings", "--strict"],
    );
}

/// The logits of a causal language model with an adapter beside it.
fn logits(base: &Pretrained, adapter: &Adapter) -> Vec<f32> {
    let ids = vec![1, 5, 7, 2, 9, 4];
    let batch = Batch {
        rows: 1,
        len: ids.len(),
        type_ids: vec![0; ids.len()],
        mask: vec![1.0; ids.len()],
        targets: Targets::default(),
        indices: vec![0],
        ids,
    };
    let mut program = base.model.program(batch.shape(), false, false).unwrap();
    program.retain_outputs(|name| name == "logits");
    let sites = adapter.apply_to(base.model.sites());
    let passes = Passes {
        sites: &sites,
        trainable: &Trainable::Adapters,
        precision: Precision::F32,
    };
    let program = passes.inference(&program).unwrap();
    let mut params = base.weights.clone();
    params.extend(adapter.tensors.clone());
    let mut engine = Engine::new(params);
    let plan = engine.compile(&program).unwrap();
    let inputs = base.model.inputs(&batch);
    let outputs = engine.run(plan, &inputs.values(), Draw::default()).unwrap();
    outputs.get("logits").unwrap().to_vec()
}

/// Where table and output differ after a merge, both are written and the configuration says so; a tie that
/// no adapter touches stays one tensor. (No family here has queries, keys and values in one weight, whose
/// rows a merge could mistake.)
#[test]
fn a_merged_table_and_output_are_tied_only_if_they_are_one() {
    let scene = Scene::new();
    let mut tokenizer = support::word_level();
    tokenizer["post_processor"] = Value::Null;
    scene.model("llama", "llama_gqa_tied-0", &tokenizer);
    let weights = scene.path("llama/model.safetensors");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters");
    for (name, from) in [("table", "tied_embedding"), ("output", "tied_output")] {
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let bytes = std::fs::read(fixtures.join(from).join(file)).unwrap();
            scene.write(&format!("{name}/{file}"), bytes);
        }
    }
    let tensors = |name: &str| {
        let path = scene.path(&format!("{name}/adapter_model.safetensors"));
        store::load(&path).unwrap().0
    };
    let mut both = tensors("table");
    both.extend(tensors("output"));
    let mut config = scene.json("table/adapter_config.json");
    config["target_modules"] = json!(["q_proj", "embed_tokens", "lm_head"]);
    scene.write("both/adapter_config.json", config.to_string());
    let path = scene.path("both/adapter_model.safetensors");
    store::save(&path, &both, HashMap::new()).unwrap();
    adapter(&scene, &weights, "model.layers.0.self_attn.q_proj");

    for (name, tied) in [
        ("table", false),
        ("output", false),
        ("both", false),
        ("adapter", true),
    ] {
        let mut base = Pretrained::open(&scene.path("llama"), Head::CausalLm).unwrap();
        let own = Adapter::load(&scene.path(name), &mut base).unwrap();
        let live = logits(&base, &own);
        scene.ok(&format!(
            "merge --model llama --task math --adapter {name} --force-adapter --output merged --force"
        ));
        let config = scene.json("merged/config.json");
        assert_eq!(config["tie_word_embeddings"], tied, "{name}");
        let merged = Pretrained::open(&scene.path("merged"), Head::CausalLm).unwrap();
        assert_eq!(
            merged.weights.contains_key("lm_head.weight"),
            !tied,
            "{name}"
        );
        let again = logits(&merged, &Adapter::default());
        assert_eq!(live.len(), again.len());
        for (x, y) in live.iter().zip(&again) {
            assert!((x - y).abs() <= 1e-5 * x.abs().max(1.0), "{name}: {x} {y}");
        }
    }
}

/// A GGUF file has one file's worth of everything; the merged folder has the files of Hugging Face.
#[test]
fn a_gguf_base_becomes_a_folder_with_a_tokenizer() {
    let scene = Scene::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/qwen2-0");
    scene.write("base/x", "");
    gguf::File::of(&fixture).write(&scene.path("base/tiny.gguf"));
    adapter(
        &scene,
        &fixture.join("model.safetensors"),
        "model.layers.1.self_attn.v_proj",
    );
    let generate = "generate --max-new-tokens 6 --prompt the --prompt cat";
    let beside = scene.ok(&format!("{generate} --model base --adapter adapter"));
    for base in ["base", "base/tiny.gguf"] {
        scene.ok(&format!(
            "merge --model {base} --task math --adapter adapter --output merged --force"
        ));
        assert_eq!(scene.ok(&format!("{generate} --model merged")), beside);
        let config = scene.json("merged/config.json");
        assert_eq!(config["architectures"], json!(["Qwen2ForCausalLM"]));
        assert_eq!(config["dtype"], json!("float32"));
        let about = scene.json("merged/tokenizer_config.json");
        for (field, token) in [
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("pad_token", "<pad>"),
        ] {
            assert_eq!(about[field], json!(token), "{field}");
        }
        let generation = scene.json("merged/generation_config.json");
        assert_eq!(
            generation,
            json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
        );
        let tokenizer = scene.json("merged/tokenizer.json");
        assert_eq!(tokenizer["model"]["vocab"]["th"], json!(30));
    }
}
