//! `generation_config.json` against what transformers makes of it.

mod support;

use std::{collections::HashMap, fs, path::Path};

use ailora_graph::{AdapterSpec, fuse::cost::Costs};
use ailora_models::{
    config::Config,
    generate::{Generator, Options, Settings, Strategy},
    head::Head,
    pretrained::Pretrained,
};
use ailora_runtime::{engine::Engine, passes::Fusion};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use support::{device, fixtures};
use tempfile::TempDir;

/// The most new tokens where a configuration does not say it.
const NEW: usize = 14;

#[derive(Deserialize)]
struct Case {
    model: String,
    prompt: Vec<i32>,
    config: Map<String, Value>,
    tokens: Vec<i32>,
}

fn generator(dir: &Path) -> ((Generator, Engine), Config) {
    let config = Config::from_dir(dir).unwrap();
    let head = match config.architecture.start_token() {
        Some(_) => Head::Seq2SeqLm { smoothing: 0.0 },
        None => Head::CausalLm,
    };
    let base = Pretrained::open(dir, head).unwrap();
    let mut sites = base.model.sites();
    for site in &mut sites {
        site.spec = AdapterSpec::frozen();
    }
    let engine = device::engine(base.weights, Fusion::At(Costs::default()));
    ((Generator::new(base.model, sites), engine), config)
}

fn folder(config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("generation_config.json"),
        config.to_string(),
    )
    .unwrap();
    dir
}

#[test]
fn tokens_equal_those_of_transformers() {
    if !device::is_float32() {
        eprintln!("skipped: which token is likeliest depends on roundings");
        return;
    }
    let cases = fs::read(fixtures().join("generation.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
    assert!(cases.len() > 100);
    let mut generators = HashMap::new();
    for Case {
        model,
        prompt,
        config,
        tokens,
    } in cases
    {
        let entry = generators.remove(&model);
        let ((generator, mut engine), about) =
            entry.unwrap_or_else(|| generator(&fixtures().join(format!("parity/{model}"))));
        let dir = folder(&Value::from(config.clone()));
        let (settings, notes) = Settings::read(dir.path(), &about).unwrap();
        assert!(
            notes
                .iter()
                .all(|note| note.text.contains("not used beside")),
            "{notes:?}"
        );
        let mut generator = generator.with_start(settings.start);
        let given = generator.given(std::slice::from_ref(&prompt));
        let positions = about.architecture.max_len();
        let options = Options {
            strategy: match settings.beams {
                1 => Strategy::Greedy,
                beams => Strategy::Beam {
                    beams,
                    length_penalty: settings.length_penalty,
                    early_stopping: settings.early_stopping,
                },
            },
            max_new_tokens: settings.room(given[0].len(), positions, NEW).unwrap(),
            ends: settings.ends,
            rules: settings.rules,
            numbers: Vec::new(),
        };
        let (never, ignored) = (|_: usize, _: &[i32]| false, |_, _| {});
        let prompts = std::slice::from_ref(&prompt);
        let found = generator.generate(&mut engine, prompts, &options, never, ignored);
        let found = found.unwrap();
        assert_eq!(found, [tokens], "{model} {prompt:?} {config:?}");
        generators.insert(model, ((generator, engine), about));
    }
}

/// The configuration of a tiny model, with more fields.
fn config(model: &str, more: Value) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let path = fixtures().join(format!("parity/{model}/config.json"));
    let mut json: Map<String, Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    json.extend(more.as_object().cloned().unwrap());
    fs::write(
        dir.path().join("config.json"),
        Value::from(json).to_string(),
    )
    .unwrap();
    Config::from_dir(dir.path()).unwrap()
}

#[test]
fn config_json_says_it_where_no_other_file_does() {
    let more =
        json!({"forced_bos_token_id": 4, "num_beams": 3, "min_length": 6, "eos_token_id": 7});
    let about = config("bart_generate-0", more);
    let none = tempfile::tempdir().unwrap();
    let (settings, notes) = Settings::read(none.path(), &about).unwrap();
    assert_eq!(notes, []);
    assert_eq!(settings.rules.forced_bos, Some(4));
    assert_eq!((settings.beams, settings.rules.min_length), (3, 6));
    assert_eq!(settings.ends, [7]);

    // A file that was made of it: both count, the file first.
    let made = folder(&json!({"_from_model_config": true, "num_beams": 5, "eos_token_id": [7, 8]}));
    let (settings, notes) = Settings::read(made.path(), &about).unwrap();
    assert_eq!(notes, []);
    assert_eq!(settings.rules.forced_bos, Some(4));
    assert_eq!((settings.beams, settings.rules.min_length), (5, 6));
    assert_eq!(settings.ends, [7, 8]);

    // A file of its own counts alone, and what that leaves out is said.
    let own = folder(&json!({"num_beams": 5, "of_my_own": 1}));
    let (settings, notes) = Settings::read(own.path(), &about).unwrap();
    assert_eq!(settings.rules.forced_bos, None);
    assert_eq!((settings.beams, settings.rules.min_length), (5, 0));
    assert_eq!(settings.ends, Vec::<i32>::new());
    let [unknown, unused] = &notes[..] else {
        panic!("{notes:?}")
    };
    assert!(unknown.text.contains("`of_my_own`"), "{unknown}");
    for name in [
        "num_beams",
        "min_length",
        "forced_bos_token_id",
        "eos_token_id",
    ] {
        assert!(unused.text.contains(&format!("`{name}`")), "{unused}");
    }
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let about = config("llama_mha-0", json!({}));
    for (field, value, expected) in [
        (
            "num_beam_groups",
            json!(2),
            "groups of beams are not supported",
        ),
        (
            "diversity_penalty",
            json!(0.5),
            "groups of beams are not supported",
        ),
        ("penalty_alpha", json!(0.6), "contrastive search"),
        ("guidance_scale", json!(1.5), "guidance"),
        ("stop_strings", json!(["."]), "give --stop"),
        ("typical_p", json!(0.9), "give --top-p"),
        ("early_stopping", json!("never"), "searches that go on"),
        (
            "encoder_no_repeat_ngram_size",
            json!(3),
            "rules on the input text",
        ),
        ("watermarking_config", json!({"bias": 2}), "watermarks"),
        ("num_beams", json!(0), "a whole number from 1 to 256"),
        (
            "num_beams",
            json!(1e9 as u64),
            "a whole number from 1 to 256",
        ),
        ("top_p", json!(1.5), "a number from 0 to 1"),
        ("temperature", json!(-1), "a number that is not negative"),
        ("repetition_penalty", json!(0), "a number above 0"),
        ("repetition_penalty", json!(1e-40), "from 0.000001"),
        ("repetition_penalty", json!(1e300), "to 1000000"),
        ("eos_token_id", json!([2, 99]), "each from 0 to 98"),
        ("suppress_tokens", json!([-1]), "each from 0 to 98"),
        ("begin_suppress_tokens", json!([99]), "each from 0 to 98"),
        ("forced_eos_token_id", json!(99), "each from 0 to 98"),
        ("bad_words_ids", json!([[3], [99]]), "each from 0 to 98"),
        ("bad_words_ids", json!([[]]), "no list empty"),
        (
            "eos_token_id",
            json!("2"),
            "the id of a token, or a list of ids",
        ),
        (
            "bad_words_ids",
            json!([1]),
            "a list of lists of tokens' ids",
        ),
        (
            "forced_bos_token_id",
            json!(99),
            "a whole number from 0 to 98",
        ),
        ("max_new_tokens", json!(0), "a whole number from 1"),
    ] {
        let dir = folder(&json!({field: value}));
        let error = Settings::read(dir.path(), &about).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}` is {value}")), "{error}");
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("generation_config.json"), "{error}");
    }
    let harmless = json!({
        "num_beam_groups": 1, "diversity_penalty": 0.0, "guidance_scale": 1, "typical_p": 1.0,
        "early_stopping": true, "stop_strings": null, "temperature": 0.0, "assistant_lookbehind": 3,
    });
    assert!(Settings::read(folder(&harmless).path(), &about).is_ok());
}

#[test]
fn room_is_what_is_said_as_far_as_the_positions_go() {
    let about = config("llama_mha-0", json!({}));
    let room = |config: Value, given: usize| {
        let dir = folder(&config);
        let (settings, _) = Settings::read(dir.path(), &about).unwrap();
        settings.room(given, 64, 50)
    };
    assert_eq!(room(json!({}), 4), Some(50));
    assert_eq!(room(json!({}), 40), Some(25));
    assert_eq!(room(json!({"max_length": 30}), 12), Some(18));
    assert_eq!(room(json!({"max_length": 30}), 30), None);
    assert_eq!(
        room(json!({"max_length": 30, "max_new_tokens": 7}), 30),
        Some(7)
    );
    assert_eq!(room(json!({"max_new_tokens": 700}), 60), Some(5));
    assert_eq!(room(json!({}), 64), Some(1));
    assert_eq!(room(json!({}), 65), None);
}
