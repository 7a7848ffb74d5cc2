//! Training on questions with answers, and generating text, as a user would.

mod support;

use serde_json::Value;
use support::Scene;

/// A word for every id, and no special tokens.
fn tokenizer() -> Value {
    let mut tokenizer = support::word_level();
    tokenizer["post_processor"] = Value::Null;
    if let Some(vocabulary) = tokenizer["model"]["vocab"].as_object_mut() {
        for id in vocabulary.len()..99 {
            vocabulary.insert(format!("w{id}"), id.into());
        }
    }
    tokenizer
}

fn scene() -> Scene {
    let scene = Scene::new();
    scene.model("llama", "llama_gqa_tied-0", &tokenizer());
    let rows: Vec<Value> = (0..24)
        .map(|i| {
            let (who, where_to) = (["cat", "dog"][i % 2], ["mat", "on"][i % 2]);
            serde_json::json!({
                "instruction": format!("the {who} sat"), "input": "", "answer": "",
                "output": format!("\nthe old {who} ran under the {where_to}"),
            })
        })
        .collect();
    scene.write("math/train.json", Value::from(rows).to_string());
    scene
}

const FINETUNE: &str = "finetune --model llama --task math --data math --batch-size 4 --rank 4 \
                        --lr 2e-2 --epochs 4 --max-length 60 --schedule constant";

#[test]
fn a_language_model_learns_answers_and_writes_them() {
    let scene = scene();
    scene.ok(&format!("{FINETUNE} --output out"));
    let losses: Vec<f64> = scene
        .losses("out")
        .into_iter()
        .map(|(_, bits)| f64::from_bits(bits))
        .collect();
    assert_eq!(losses.len(), 24);
    assert!(losses[23] < losses[0] - 0.5, "{losses:?}");
    let config = scene.json("out/adapter_config.json");
    assert_eq!(config["task_type"], "CAUSAL_LM");

    let generate = "generate --model llama --task math --max-new-tokens 8 --prompt the";
    let before = scene.ok(generate);
    let beside = scene.ok(&format!("{generate} --adapter out"));
    let merged = scene.ok(&format!("{generate} --adapter out --merged"));
    assert_eq!(beside, merged);
    assert_ne!(before, beside);
    scene.ok("merge --model llama --task math --adapter out --output merged");
    let again = generate.replace("--model llama", "--model merged");
    assert_eq!(scene.ok(&again), beside);
    scene.ok("export --model llama --task math --adapter out --output exported");
    assert_eq!(scene.ok(&format!("{generate} --adapter exported")), beside);
}

#[test]
fn several_prompts_give_a_line_each_and_what_is_streamed_is_the_same() {
    let scene = scene();
    let generate = "generate --model llama --max-new-tokens 6";
    for how in [
        "",
        "--beams 3 --early-stopping",
        "--temperature 0.8 --top-k 5",
    ] {
        let both = scene.ok(&format!("{generate} {how} --prompt the --prompt cat"));
        let lines: Vec<Value> = both
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["prompt"], "cat");
        let alone = scene.ok(&format!("{generate} {how} --prompt the"));
        assert_eq!(lines[0]["text"], alone.trim_end_matches('\n'), "{how}");
    }
    let whole = scene.ok(&format!("{generate} --prompt the"));
    let stop = whole.split_whitespace().nth(1).unwrap().to_owned();
    let stopped = scene.ok(&format!("{generate} --prompt the --stop {stop}"));
    assert_eq!(
        stopped.trim_end(),
        whole[..whole.find(&stop).unwrap()].trim_end()
    );
}

#[test]
fn an_encoder_decoder_writes_about_what_it_reads() {
    let scene = scene();
    scene.model("bart", "bart_generate-0", &tokenizer());
    for how in ["", "--beams 4"] {
        let text = |prompt: &str| {
            let generate = "generate --model bart --max-new-tokens 8";
            scene.ok(&format!("{generate} {how} --prompt {prompt}"))
        };
        assert!(!text("the").trim().is_empty());
        assert_ne!(text("the"), text("w90"), "{how}");
    }
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let scene = scene();
    let no_head = ["no head for causal language modelling"];
    scene.refused("generate --model bert --prompt the", &no_head);
    scene.refused(
        "generate --model llama --max-new-tokens 100 --prompt the",
        &["too long", "positions for 64"],
    );
    scene.fails(
        2,
        "generate --model llama --prompt the --temperature 0",
        &["above 0"],
    );
}
