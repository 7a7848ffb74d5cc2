//! Training on questions with answers, and generating text, as a user would.

mod support;

use std::collections::HashMap;

use ailora::runtime::store::{self, Array, Params};
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
        "generate --model llama --max-new-tokens 65 --prompt the",
        &[
            "--max-new-tokens is 65",
            "too long",
            "positions for 64",
            "at most 64",
        ],
    );
    scene.ok("generate --model llama --max-new-tokens 64 --prompt the");
    for (flags, expected) in [
        ("--temperature 0", "above 0"),
        ("--temperature nan", "above 0"),
        ("--temperature inf", "above 0"),
        ("--beams 0", "at least 1"),
        ("--beams 257", "at most 256"),
        ("--max-new-tokens 0", "at least 1"),
        ("--temperature 1 --top-p 1.5", "from 0 to 1"),
        ("--temperature 1 --min-p nan", "from 0 to 1"),
        ("--beams 2 --length-penalty inf", "a number"),
        ("--repetition-penalty 0", "from 0.000001 to 1000000"),
        ("--repetition-penalty 1e-300", "from 0.000001 to 1000000"),
        ("--sample --min-p -0.1", "from 0 to 1"),
        ("--sample --top-k -1", "a whole number, at least 0"),
        ("--temperature -1", "above 0"),
        ("--beams 2 --sample", "--beams"),
        ("--stop=", "expected a text"),
    ] {
        scene.fails(
            2,
            &format!("generate --model llama --prompt the {flags}"),
            &[expected],
        );
    }
    for (flags, expected) in [
        ("--top-k 3", "--top-k is for tokens that are drawn"),
        ("--seed 3", "--seed is for tokens that are drawn"),
        (
            "--length-penalty 2",
            "--length-penalty is for a beam search",
        ),
        (
            "--temperature 1 --early-stopping",
            "--early-stopping is for a beam search",
        ),
        (
            "--min-new-tokens 5 --max-new-tokens 4",
            "at least 5 new tokens (min_new_tokens) and at most 4",
        ),
    ] {
        scene.refused(
            &format!("generate --model llama --prompt the {flags}"),
            &[expected],
        );
    }
}

/// A text that could not be written out is no success.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    let scene = scene();
    for prompts in [
        &["--prompt", "the"][..],
        &["--prompt", "the", "--prompt", "cat"],
    ] {
        let full = std::fs::File::create("/dev/full").unwrap();
        let mut command = scene.command("generate --model llama --max-new-tokens 4");
        let ran = command.args(prompts).stdout(full).output().unwrap();
        let message = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{message}");
        assert!(
            message.contains("cannot write to standard output"),
            "{message}"
        );
    }
}

/// Draws depend on a prompt's number, and on nothing that is written beside it: the same prompt given often
/// has as many texts.
#[test]
fn each_prompt_has_its_own_draws() {
    let scene = scene();
    let texts = |command: &str| -> Vec<Value> {
        let lines = scene.ok(command);
        let text = |line: &str| serde_json::from_str::<Value>(line).unwrap()["text"].clone();
        lines.lines().map(text).collect()
    };
    let prompts = " --prompt the".repeat(20);
    let generate = "generate --model llama --max-new-tokens 8 --sample";
    let found = texts(&format!("{generate} {prompts}"));
    let different: std::collections::HashSet<String> =
        found.iter().map(ToString::to_string).collect();
    assert_eq!((found.len(), different.len()), (20, 20), "{found:?}");

    let row = |i: usize| {
        let prompt = ["the", "the cat sat on", "cat"][i % 3];
        serde_json::json!({"prompt": prompt, "completion": "cat"}).to_string() + "\n"
    };
    scene.write("prompts.jsonl", (0..10).map(row).collect::<String>());
    let predict = "predict --model llama --data prompts.jsonl --max-new-tokens 8 --sample --seed 4 --output -";
    let alone = texts(&format!("{predict} --batch-size 1"));
    assert_eq!(alone, texts(&format!("{predict} --batch-size 7")));
    assert_ne!(alone[0], alone[3]);
}

#[test]
fn prompts_longer_than_the_positions_are_refused_by_number() {
    let scene = scene();
    scene.model("bart", "bart_generate-0", &tokenizer());
    let long = |words: usize| vec!["the"; words].join(" ");
    for (model, positions) in [("llama", 64), ("bart", 40)] {
        let run = |words: usize| {
            let mut command =
                scene.command(&format!("generate --model {model} --max-new-tokens 1"));
            command
                .args(["--prompt", "the cat", "--prompt", &long(words)])
                .output()
                .unwrap()
        };
        assert!(run(positions).status.success(), "{model}");
        let refused = run(positions + 1);
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{message}");
        let expected = format!(
            "prompt 1 has {} tokens, but the model has positions for {positions}",
            positions + 1
        );
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn the_model_says_how_to_generate_and_flags_say_otherwise() {
    let scene = scene();
    let generate = "generate --model llama --prompt the";
    let plain = scene.ok(&format!("{generate} --max-new-tokens 12"));
    let words: Vec<&str> = plain.split_whitespace().collect();
    let say = |config: &str| scene.write("llama/generation_config.json", config);

    say(r#"{"max_new_tokens": 5}"#);
    assert_eq!(
        scene.ok(generate).split_whitespace().collect::<Vec<_>>(),
        words[..5]
    );
    assert_eq!(scene.ok(&format!("{generate} --max-new-tokens 12")), plain);

    say(r#"{"max_new_tokens": 12, "no_repeat_ngram_size": 1, "num_beams": 4}"#);
    let other = scene.ok(generate);
    assert_ne!(other, plain);
    let mut seen: Vec<&str> = other.split_whitespace().collect();
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count, "{other}");
    assert_eq!(
        scene.ok(&format!("{generate} --beams 1 --no-repeat-ngram-size 0")),
        plain
    );

    // Nothing is drawn unless that is asked for, and it is said.
    say(r#"{"max_new_tokens": 12, "do_sample": true, "temperature": 3.0, "top_p": 0.9}"#);
    let ran = scene.run(generate);
    assert_eq!(ran.stdout, plain);
    assert!(ran.stderr.contains("--sample draws them"), "{}", ran.stderr);
    let drawn = scene.ok(&format!("{generate} --sample"));
    assert_ne!(drawn, plain);
    assert_eq!(
        drawn,
        scene.ok(&format!("{generate} --temperature 3 --top-p 0.9"))
    );
    assert_ne!(
        drawn,
        scene.ok(&format!("{generate} --sample --top-k 2 --seed 4"))
    );

    say(r#"{"num_beam_groups": 2}"#);
    scene.refused(
        generate,
        &["generation_config.json", "`num_beam_groups` is 2"],
    );
    say(r#"{"max_new_tokens": 5, "of_my_own": 1}"#);
    scene.refused(
        &format!("{generate} --strict"),
        &["`of_my_own`", "--strict"],
    );
}

/// The programs of an encoder-decoder read some of the adapted weights each.
#[test]
fn an_adapter_beside_an_encoder_decoder_writes_what_a_merged_one_does() {
    let scene = scene();
    scene.model("bart", "bart_generate-1", &tokenizer());
    let (base, _) = store::load(&scene.path("bart/model.safetensors")).unwrap();
    let sites = [
        "model.encoder.layers.0.self_attn.q_proj",
        "model.decoder.layers.0.encoder_attn.k_proj",
        "model.decoder.layers.1.encoder_attn.v_proj",
        "model.decoder.layers.1.encoder_attn.q_proj",
        "model.decoder.layers.0.fc1",
    ];
    let mut factors = Params::new();
    for site in sites {
        let [out, inputs] = base[&format!("{site}.weight")].shape()[..] else {
            panic!("{site} is no matrix")
        };
        for (name, shape) in [("lora_A", vec![3, inputs]), ("lora_B", vec![out, 3])] {
            let count: usize = shape.iter().product();
            let data = (0..count).map(|i| ((i * 31 + site.len()) % 17) as f32 * 0.25 - 2.0);
            let data = data.collect();
            factors.insert(
                format!("base_model.model.{site}.{name}.weight"),
                Array::new(shape, data),
            );
        }
    }
    let about = serde_json::json!({
        "peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "r": 3, "lora_alpha": 2,
        "target_modules": sites,
    });
    scene.write("adapter/adapter_config.json", about.to_string());
    store::save(
        &scene.path("adapter/adapter_model.safetensors"),
        &factors,
        HashMap::new(),
    )
    .unwrap();
    let generate = "generate --model bart --max-new-tokens 12 --prompt the --prompt w90";
    for how in ["", "--beams 3"] {
        let plain = scene.ok(&format!("{generate} {how}"));
        let beside = scene.ok(&format!("{generate} {how} --adapter adapter"));
        assert_ne!(beside, plain);
        let merged = scene.ok(&format!("{generate} {how} --adapter adapter --merged"));
        assert_eq!(beside, merged, "{how}");
    }
}
