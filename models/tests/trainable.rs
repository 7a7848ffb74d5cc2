//! Parameters that train beside adapters, or without any: what an adapter's folder holds of them, and
//! that it computes what was trained.

mod support;

use std::path::Path;

use ailora_graph::{
    AdaptConfig, Trainable,
    adapt::{Mode, adapt},
    adapter::Site,
    ir::Draw,
    method::Ailora,
};
use ailora_models::{
    head::Head,
    peft::{Adapter, proof},
    pretrained::Pretrained,
};
use ailora_runtime::{init::initialise, spectrum::Options, store::Params};
use serde_json::{Value, json};
use support::{File, fixtures, largest_difference, run};

fn open(fixture: &str, head: Head) -> Pretrained {
    Pretrained::open(&fixtures().join("parity").join(fixture), head).unwrap()
}

fn logits(base: &Pretrained, fixture: &str, sites: &[Site], params: &Params) -> Vec<f64> {
    let io = fixtures().join("parity").join(fixture);
    let batch = File::open(&io.join("io.safetensors")).batch(base.model.head());
    let program = base.model.program(batch.shape(), false, false).unwrap();
    let program = adapt(&program, sites, &Trainable::Adapters, Mode::Infer).unwrap();
    let mut outputs = run(&program, params, &base.model.inputs(&batch));
    outputs.retain(|(name, _)| name == "logits");
    outputs.remove(0).1
}

struct Case {
    fixture: &'static str,
    head: Head,
    adapters: bool,
    patterns: &'static [&'static str],
    /// PEFT's field `bias`.
    bias: &'static str,
    /// How the paths of modules that are saved whole end.
    modules: &'static [&'static str],
}

const BERT: Case = Case {
    fixture: "bert_cls-0",
    head: Head::classification(2),
    adapters: true,
    patterns: &[],
    bias: "none",
    modules: &["classifier"],
};

#[test]
fn what_trains_is_saved_loaded_and_merged() {
    let llama = Case {
        fixture: "llama_gqa_tied-0",
        head: Head::CausalLm,
        ..BERT
    };
    for case in [
        Case {
            patterns: &["*LayerNorm*"],
            modules: &["classifier", "LayerNorm"],
            ..BERT
        },
        Case {
            patterns: &["word_embeddings.weight", "LayerNorm.bias"],
            modules: &["classifier", "word_embeddings"],
            bias: "all",
            ..BERT
        },
        Case {
            patterns: &["query.bias"],
            bias: "lora_only",
            ..BERT
        },
        Case {
            patterns: &["*.bias"],
            bias: "all",
            ..BERT
        },
        // BitFit.
        Case {
            adapters: false,
            patterns: &["*.bias"],
            bias: "all",
            ..BERT
        },
        Case {
            adapters: false,
            patterns: &["*LayerNorm*"],
            modules: &["classifier", "LayerNorm"],
            ..BERT
        },
        Case {
            patterns: &["*norm.weight"],
            modules: &["norm"],
            ..llama
        },
        Case {
            patterns: &["embed_tokens.weight"],
            modules: &["embed_tokens", "lm_head"],
            ..llama
        },
    ] {
        check(&case);
    }
}

fn check(case: &Case) {
    let &Case {
        fixture,
        head,
        adapters,
        patterns,
        ..
    } = case;
    let what = format!("{fixture} {patterns:?} {adapters}");
    let base = open(fixture, head);
    let mut config = AdaptConfig::method(&Ailora, 3);
    config.alpha = Some(5.0);
    let patterns = patterns.iter().map(|&pattern| pattern.to_owned());
    config.trainable = Some(Trainable::Parameters(patterns.collect()));
    if !adapters {
        let frozen = serde_json::from_value(json!({"init": "frozen"})).unwrap();
        config.sites.insert("*".into(), frozen);
    }
    let sites = config.resolve(base.model.sites()).unwrap();
    let parameters = base.model.parameters();
    let trainable = config.resolve_trainable(&sites, parameters).unwrap();
    let mut params = base.weights.clone();
    initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();

    // As if trained: what trains is somewhere else.
    let names = parameters.iter().map(|parameter| &*parameter.name);
    let rates = trainable.rates(&sites, names);
    let count = rates.iter().map(|(name, _)| params[name].len());
    assert_eq!(count.sum::<usize>(), trainable.count(&sites, parameters));
    for (name, _) in &rates {
        let key = Draw::default().key(name);
        for (i, x) in (0..).zip(params[name].floats_mut()) {
            *x += 0.1 * key.normal(i) as f32;
        }
    }
    let expected = logits(&base, fixture, &sites, &params);
    let before = logits(&base, fixture, &[], &base.weights);
    assert!(largest_difference(&before, &expected) > 1e-2, "{what}");

    let held = Adapter::held(&base.model, &sites, &trainable, &[]);
    let adapter = Adapter::from_trained(&base.model, &sites, &params, &trainable, &[]).unwrap();
    let whole: Vec<&String> = adapter.trained_in_full().map(|(name, _)| name).collect();
    assert!(held.iter().all(|name| whole.contains(&name)), "{what}");
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path(), fixture, head).unwrap();
    check_config(folder.path(), case);

    let mut base = open(fixture, head);
    let adapter = Adapter::load(folder.path(), &mut base).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(adapter.sites.is_empty(), !adapters);
    let mut beside = base.weights.clone();
    beside.extend(adapter.tensors.clone());
    let found = logits(
        &base,
        fixture,
        &adapter.apply_to(base.model.sites()),
        &beside,
    );
    let mut merged = base.weights.clone();
    adapter.merge_into(&mut merged).unwrap();
    let merged = logits(&base, fixture, &[], &merged);
    let proof = proof::weights(folder.path(), &base.weights).unwrap();
    let proof = logits(&base, fixture, &[], &proof);
    for found in [found, merged, proof] {
        let difference = largest_difference(&found, &expected);
        assert!(difference <= 2e-5, "{what}: {difference:e}");
    }
}

/// What is saved says which biases and modules were trained.
fn check_config(folder: &Path, case: &Case) {
    let Case { bias, modules, .. } = case;
    let config = std::fs::read(folder.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["bias"], *bias);
    let saved: Vec<&str> = config["modules_to_save"]
        .as_array()
        .unwrap()
        .iter()
        .map(|module| module.as_str().unwrap())
        .collect();
    let ends = |path: &str, module: &&str| path.ends_with(module);
    assert!(
        saved
            .iter()
            .all(|path| modules.iter().any(|module| ends(path, module))),
        "{saved:?}"
    );
    assert!(
        modules
            .iter()
            .all(|module| saved.iter().any(|path| ends(path, module))),
        "{saved:?}"
    );
}
