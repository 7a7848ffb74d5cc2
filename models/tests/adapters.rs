//! Adapters of PEFT's of many kinds, made by `tests/fixtures/adapters.py`: what PEFT computes with
//! them, or an error that names what is wrong with them.
//!
//! One long file: the cases share the folders that PEFT wrote.

mod support;

use std::{collections::HashMap, fs, path::Path};

use ailora_graph::{
    AdaptConfig, AdapterSpec, Strategy, Trainable,
    adapt::Mode,
    adapt::adapt,
    adapter::Site,
    method::{Ailora, constructors::random},
};
use ailora_models::{
    closed::Meaning,
    head::Head,
    peft::{Adapter, LORA, Origin, PeftError, proof},
    pretrained::Pretrained,
};
use ailora_runtime::{
    init::initialise,
    spectrum::Options,
    store::{self, Array, Params},
};
use serde_json::{Value, json};
use support::{File, fixtures, largest_difference, run};

const BERT: (&str, Head) = ("bert_cls-0", Head::classification(2));
const TIED: (&str, Head) = ("llama_gqa_tied-0", Head::CausalLm);
const QWEN: (&str, Head) = ("qwen2-0", Head::CausalLm);

const KINDS: [(&str, (&str, Head)); 21] = [
    ("patterns", BERT),
    ("lists", BERT),
    ("name", BERT),
    ("lora_bias", BERT),
    ("biases", BERT),
    ("adapted_biases", BERT),
    ("embedding", BERT),
    ("dora", BERT),
    ("tokens", BERT),
    ("norms", BERT),
    ("grown", BERT),
    ("pissa", BERT),
    ("olora", BERT),
    ("tied_embedding", TIED),
    ("tied_output", TIED),
    ("tied_saved", TIED),
    ("tied_together", TIED),
    ("tied_tokens", TIED),
    ("tied_grown", TIED),
    ("new_bias", TIED),
    ("some_bias", QWEN),
];

fn open((base, head): (&str, Head)) -> Pretrained {
    Pretrained::open(&fixtures().join("parity").join(base), head).unwrap()
}

/// The logits of the inputs of a fixture, with these projections and parameters.
fn logits(base: &Pretrained, fixture: &str, sites: &[Site], params: &Params) -> Vec<f64> {
    let io = fixtures()
        .join("parity")
        .join(fixture)
        .join("io.safetensors");
    let batch = File::open(&io).batch(base.model.head());
    let program = base.model.program(batch.shape(), false, false).unwrap();
    let program = adapt(&program, sites, &Trainable::Adapters, Mode::Infer).unwrap();
    let mut outputs = run(&program, params, &base.model.inputs(&batch));
    outputs.retain(|(name, _)| name == "logits");
    outputs.remove(0).1
}

/// The logits of a base with an adapter beside its weights, and with it in them.
fn with_adapter(base: &Pretrained, fixture: &str, adapter: &Adapter) -> [Vec<f64>; 2] {
    let mut beside = base.weights.clone();
    beside.extend(adapter.tensors.clone());
    let sites = adapter.apply_to(base.model.sites());
    let mut merged = base.weights.clone();
    adapter.merge_into(&mut merged).unwrap();
    [
        logits(base, fixture, &sites, &beside),
        logits(base, fixture, &[], &merged),
    ]
}

fn assert_near(what: &str, found: &[f64], expected: &[f64]) {
    let difference = largest_difference(found, expected);
    assert!(difference <= 2e-5, "{what}: {difference:e}");
}

#[test]
fn every_kind_computes_what_it_does_in_peft() {
    for (name, (fixture, head)) in KINDS {
        let folder = fixtures().join("adapters").join(name);
        let mut base = open((fixture, head));
        let bare = logits(&base, fixture, &[], &base.weights);
        let adapter = Adapter::load(&folder, &mut base).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = File::open(&folder.join("logits.safetensors")).floats("logits");
        let [beside, merged] = with_adapter(&base, fixture, &adapter);
        assert_near(name, &beside, &expected);
        assert_near(&format!("{name}, merged"), &merged, &expected);
        if bare.len() == expected.len() {
            assert!(largest_difference(&bare, &expected) > 1e-2, "{name}");
        }
        let tensors = File::open(&folder.join("adapter_model.safetensors")).names();
        let report = adapter.report;
        assert_eq!(report.tensors + report.copies, tensors.len(), "{name}");
        let parameters = base.model.parameters().len();
        assert_eq!(report.replaced + report.untouched, parameters, "{name}");
    }
}

#[test]
fn what_is_written_of_them_is_plain_lora_that_computes_the_same() {
    for (name, (fixture, head)) in KINDS {
        let folder = fixtures().join("adapters").join(name);
        let mut base = open((fixture, head));
        let mut adapter = Adapter::load(&folder, &mut base).unwrap();
        adapter.close(&base.model, &base.weights).unwrap();
        let written = tempfile::tempdir().unwrap();
        let saved = adapter.save(written.path(), fixture, head);
        if name == "new_bias" || name == "some_bias" && adapter.report.replaced == 0 {
            let error = saved.unwrap_err().to_string();
            assert!(
                error.contains("q_proj.bias") && error.contains("merge"),
                "{error}"
            );
            continue;
        }
        saved.unwrap();
        let expected = File::open(&folder.join("logits.safetensors")).floats("logits");
        let proof = proof::weights(written.path(), &base.weights).unwrap();
        let found = logits(&base, fixture, &[], &proof);
        assert_near(&format!("{name}, by definition"), &found, &expected);
        let mut base = open((fixture, head));
        let again = Adapter::load(written.path(), &mut base).unwrap();
        let [beside, _] = with_adapter(&base, fixture, &again);
        assert_near(&format!("{name}, written"), &beside, &expected);
    }
}

/// A copy of an adapter's folder whose configuration and tensors a test changes.
struct Copy {
    folder: tempfile::TempDir,
    config: Value,
    tensors: Params,
}

impl Copy {
    fn of(name: &str) -> Self {
        let from = fixtures().join("adapters").join(name);
        let config = fs::read(from.join("adapter_config.json")).unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            config: serde_json::from_slice(&config).unwrap(),
            tensors: store::load(&from.join("adapter_model.safetensors"))
                .unwrap()
                .0,
        }
    }

    fn write(&self) -> &Path {
        let folder = self.folder.path();
        fs::write(folder.join("adapter_config.json"), self.config.to_string()).unwrap();
        let path = folder.join("adapter_model.safetensors");
        store::save(&path, &self.tensors, HashMap::new()).unwrap();
        folder
    }

    fn load(&self) -> Result<Adapter, PeftError> {
        Adapter::load(self.write(), &mut open(BERT))
    }

    /// Says how it is refused.
    fn refused(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

const VALUE: &str = "base_model.model.bert.encoder.layer.1.attention.self.value";

#[test]
fn fields_are_refused_by_name() {
    for (field, value, says) in [
        ("peft_type", json!("IA3"), "IA3"),
        ("peft_type", json!("LOHA"), "LOHA"),
        ("peft_type", json!(null), "peft_type"),
        ("layer_replication", json!([[0, 1]]), "layer_replication"),
        ("alora_invocation_tokens", json!([3]), "activated LoRA"),
        ("kasa_config", json!({"beta": 0.1}), "KaSA"),
        ("use_qalora", json!(true), "use_qalora"),
        ("target_parameters", json!(["x"]), "target_parameters"),
        ("something_new", json!(2), "something_new"),
        ("r", json!(0), "rank"),
        ("r", json!(-3), "rank"),
        ("r", json!(2.5), "rank"),
        ("r", json!("3"), "rank"),
        ("r", json!(true), "rank"),
        ("r", json!(1u64 << 40), "rank 1099511627776"),
        ("lora_alpha", json!("5"), "a number"),
        ("lora_alpha", json!(1e300), "float32"),
        ("lora_dropout", json!(1.5), "from 0 to 1"),
        ("lora_dropout", json!("no"), "a number"),
        ("bias", json!("some"), "lora_only"),
        ("use_rslora", json!(1), "true or false"),
        ("rank_pattern", json!({"query": 0}), "rank_pattern"),
        ("rank_pattern", json!([3]), "rank_pattern"),
        ("alpha_pattern", json!({"query": "x"}), "alpha_pattern"),
        (
            "alpha_pattern",
            json!({"query(?=x)": 3}),
            "regular expression",
        ),
        ("target_modules", json!(7), "target_modules"),
        ("target_modules", json!([7]), "target_modules"),
        ("target_modules", json!("(value"), "target_modules"),
        ("target_modules", json!([]), "attention.self"),
        ("target_modules", json!(["query"]), "attention.self.value"),
        (
            "target_modules",
            json!(["query", "value", "key"]),
            "self.key.lora_A",
        ),
        ("target_modules", json!("(((e|e)*)*)*x"), "attention.self"),
        ("exclude_modules", json!(["value"]), "attention.self.value"),
        ("layers_to_transform", json!([0]), "layer.1.attention"),
        ("layers_to_transform", json!("0"), "layers_to_transform"),
        ("modules_to_save", json!("classifier"), "a list"),
        (
            "modules_to_save",
            json!(["classifier", "pooler"]),
            "pooler.dense",
        ),
        (
            "init_lora_weights",
            json!("pissa_niter_4"),
            "path_initial_model",
        ),
        ("init_lora_weights", json!("corda"), "path_initial_model"),
        ("init_lora_weights", json!("loftq"), "path_initial_model"),
        ("init_lora_weights", json!("other"), "gaussian"),
        ("lora_bias", json!(true), "lora_B.bias"),
        ("use_dora", json!(true), "lora_magnitude_vector"),
        ("bias", json!("all"), "bias"),
        ("trainable_token_indices", json!([1]), "trainable_token"),
        (
            "trainable_token_indices",
            json!({"x": [-1]}),
            "trainable_token",
        ),
    ] {
        let mut copy = Copy::of("name");
        copy.config[field] = value.clone();
        let error = copy.refused();
        assert!(error.contains(says), "{field} {value}: {error}");
        assert!(!error.contains("missing field"), "{error}");
        assert!(error.contains("adapter_"), "{error}");
    }
}

#[test]
fn fields_that_ask_for_nothing_are_let_be() {
    let mut copy = Copy::of("name");
    copy.config["something_new"] = json!(false);
    copy.config["init_lora_weights"] = json!("gaussian");
    copy.config["revision"] = json!("main");
    copy.load().unwrap();
}

#[test]
fn broken_files_are_refused_by_name() {
    let copy = Copy::of("name");
    for (text, says) in [
        ("[]", "not a JSON object"),
        ("{\"peft_type\": \"LORA\", \"lora_alpha\": NaN}", "line 1"),
        (
            "{\"peft_type\": \"LORA\", \"r\": 3, \"r\": 4}",
            "`r` is there twice",
        ),
        ("{}", "`peft_type` is missing"),
    ] {
        let folder = copy.write();
        fs::write(folder.join("adapter_config.json"), text).unwrap();
        let error = Adapter::load(folder, &mut open(BERT)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(says) && error.contains("adapter_config.json"),
            "{error}"
        );
    }
    fs::remove_file(copy.write().join("adapter_model.safetensors")).unwrap();
    let error = Adapter::load(copy.folder.path(), &mut open(BERT)).unwrap_err();
    assert!(
        error.to_string().contains("no adapter_model.safetensors"),
        "{error}"
    );
}

/// The name of a tensor, of which the end is known.
fn named(params: &Params, end: &str) -> String {
    let mut names = params.keys().filter(|name| name.ends_with(end));
    names.next().unwrap().clone()
}

#[test]
fn tensors_that_are_missing_or_not_finite_are_refused_by_name() {
    type Change = fn(&mut Params);
    let drop: Change = |params| {
        let name = named(params, "layer.1.attention.self.value.lora_B.weight");
        params.shift_remove(&name);
    };
    let drop_both: Change =
        |params| params.retain(|name, _| !name.contains("1.attention.self.value"));
    let head: Change = |params| params.retain(|name, _| !name.ends_with("classifier.bias"));
    let nan: Change = |params| {
        let name = named(params, "layer.1.attention.self.value.lora_A.weight");
        params[&name].floats_mut()[4] = f32::NAN;
    };
    let infinite: Change = |params| {
        let name = named(params, "classifier.weight");
        params[&name].floats_mut()[0] = f32::NEG_INFINITY;
    };
    for (change, says) in [
        (
            drop,
            "layer.1.attention.self.value.lora_B.weight` is missing",
        ),
        (drop_both, "layer.1.attention.self.value"),
        (head, "classifier.bias` is missing"),
        (nan, "NaN among"),
        (infinite, "-inf among"),
    ] {
        let mut copy = Copy::of("norms");
        change(&mut copy.tensors);
        let error = copy.refused();
        assert!(
            error.contains(says) && error.contains("adapter_model"),
            "{error}"
        );
    }
}

#[test]
fn tensors_that_fit_nothing_are_refused_by_name() {
    let ones = |shape: &[usize]| Array::new(shape.to_vec(), vec![1.0; shape.iter().product()]);
    for (name, shape, says) in [
        (
            "base_model.model.spare.weight".to_owned(),
            &[3, 3][..],
            "spare.weight",
        ),
        (format!("{VALUE}.lora_M.weight"), &[3, 3], "lora_M"),
        (format!("{VALUE}.lora_A.weight"), &[3, 31], "[3, 32]"),
        (
            format!("{VALUE}.lora_A.other.weight"),
            &[3, 32],
            "are the same tensor",
        ),
        (
            VALUE.replace("base_model.model.", "") + ".lora_A.weight",
            &[3, 32],
            "are the same",
        ),
        (
            VALUE.replace(".1.", ".7.") + ".lora_A.weight",
            &[3, 32],
            "layer.7",
        ),
        (format!("{VALUE}.lora_magnitude_vector"), &[32], "use_dora"),
        (format!("{VALUE}.lora_B.bias"), &[32], "lora_bias"),
        (
            "base_model.model.classifier.weight".to_owned(),
            &[3, 32],
            "[2, 32]",
        ),
        (
            "base_model.model.bert.embeddings.LayerNorm.bias".to_owned(),
            &[31],
            "[32]",
        ),
    ] {
        let mut copy = Copy::of("norms");
        copy.tensors.insert(name.clone(), ones(shape));
        let error = copy.refused();
        assert!(error.contains(says), "{name}: {error}");
    }
    let mut copy = Copy::of("name");
    let name = named(&copy.tensors, "lora_A.sft.weight").replace(".sft.", ".other.");
    copy.tensors.insert(name, ones(&[3, 32]));
    assert!(copy.refused().contains("several adapters"));
}

#[test]
fn the_table_has_every_field_that_peft_has() {
    let list = fs::read(fixtures().join("fields/adapter_config.json")).unwrap();
    let list: Vec<String> = serde_json::from_slice(&list).unwrap();
    assert!(list.len() > 40);
    for field in &list {
        assert!(LORA.get(field).is_some(), "{field}");
    }
    for field in LORA.fields.iter().copied().flatten() {
        assert!(list.iter().any(|name| name == field.name), "{}", field.name);
        let advice = matches!(field.meaning, Meaning::Only(_, advice) if advice.is_empty());
        assert!(!advice, "{}", field.name);
    }
}

/// Everything that trains is somewhere else than it started.
fn train(sites: &[Site], params: &mut Params) {
    for name in sites.iter().flat_map(Site::trained) {
        let key = ailora_graph::ir::Draw::default().key(&name);
        for (i, x) in (0..).zip(params[&name].floats_mut()) {
            *x += 0.1 * key.normal(i) as f32;
        }
    }
}

#[test]
fn an_adapter_holds_what_was_drawn_and_what_its_head_became() {
    let rank = |rank| random(rank).with_alpha(3.0);
    let frozen = AdapterSpec::frozen;
    for (fixture, head, specs, modules) in [
        // A base without a head: the pooler is drawn and stays as it is.
        (
            "bert_mlm-0",
            2,
            vec![],
            vec!["classifier", "bert.pooler.dense"],
        ),
        (
            "bert_mlm-0",
            2,
            vec![("classifier", frozen())],
            vec!["bert.pooler.dense", "classifier"],
        ),
        (
            "bert_mlm-0",
            2,
            vec![("classifier", rank(1))],
            vec!["bert.pooler.dense", "classifier"],
        ),
        (
            "bert_cls-0",
            2,
            vec![("classifier", frozen())],
            vec!["classifier"],
        ),
        (
            "roberta_cls-0",
            3,
            vec![("classifier.dense", rank(2))],
            vec!["classifier"],
        ),
        (
            "roberta_cls-0",
            3,
            vec![("classifier.out_proj", frozen())],
            vec!["classifier"],
        ),
        (
            "roberta_mlm-0",
            3,
            vec![("classifier.dense", frozen())],
            vec!["classifier"],
        ),
        ("llama_cls-0", 3, vec![("score", frozen())], vec!["score"]),
    ] {
        holds(fixture, Head::classification(head), &specs, &modules);
    }
}

/// An adapter of a base, with these specs by path, is saved with these modules whole, and loaded again is what
/// was trained.
fn holds(fixture: &str, head: Head, specs: &[(&str, AdapterSpec)], modules: &[&str]) {
    let mut base = open((fixture, head));
    base.initialise_head(11);
    let drawn: Vec<String> = (base.report.initialised.iter())
        .map(|initialised| initialised.name.clone())
        .collect();
    let mut config = AdaptConfig::method(&Ailora, 3);
    config.alpha = Some(5.0);
    let mut sites = config.resolve(base.model.sites()).unwrap();
    for (path, spec) in specs {
        let site = sites.iter_mut().find(|site| site.path == *path).unwrap();
        site.spec = *spec;
    }
    let mut params = base.weights.clone();
    initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();
    train(&sites, &mut params);
    let expected = logits(&base, fixture, &sites, &params);

    let held = Adapter::held(&base.model, &sites, &Trainable::Adapters, &drawn);
    let trainable = Trainable::Adapters;
    let adapter = Adapter::from_trained(&base.model, &sites, &params, &trainable, &drawn).unwrap();
    let (mut found, mut wanted) = (adapter.modules.clone(), modules.to_vec());
    found.sort();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "{fixture}");
    let whole: Vec<&String> = adapter.trained_in_full().map(|(name, _)| name).collect();
    assert!(held.iter().all(|name| whole.contains(&name)) && whole.len() == held.len());
    assert!(drawn.iter().all(|name| held.contains(name)));

    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path(), fixture, head).unwrap();
    let mut base = open((fixture, head));
    let adapter = Adapter::load(folder.path(), &mut base).unwrap();
    let what = format!("{fixture} {specs:?}");
    for found in with_adapter(&base, fixture, &adapter) {
        assert_near(&what, &found, &expected);
    }
    let proof = proof::weights(folder.path(), &base.weights).unwrap();
    assert_near(&what, &logits(&base, fixture, &[], &proof), &expected);
    assert!(
        sites
            .iter()
            .any(|site| site.spec.strategy != Strategy::Frozen)
    );
}

#[test]
fn another_base_or_task_is_refused_by_name() {
    let base = open(BERT);
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, value: Value| {
        fs::write(folder.path().join(file), value.to_string()).unwrap();
    };
    let peft = |name: &str, task: &str| {
        write(
            "adapter_config.json",
            json!({"peft_type": "LORA", "task_type": task, "base_model_name_or_path": name}),
        );
        Origin::read(folder.path()).unwrap()
    };
    let check = |origin: &Origin, given: &str| origin.check_base(folder.path(), given, &base);

    // By name alone: the same, the same folder, one of the hub, and one that cannot be told.
    for name in ["org/model", ""] {
        assert_eq!(check(&peft(name, "SEQ_CLS"), "org/model").unwrap(), None);
    }
    let here = base.dir.to_string_lossy().into_owned();
    assert_eq!(check(&peft(&here, "SEQ_CLS"), "elsewhere").unwrap(), None);
    let other = fixtures()
        .join("parity/bert_cls-1")
        .to_string_lossy()
        .into_owned();
    let error = check(&peft(&other, "SEQ_CLS"), "elsewhere")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&other) && error.contains("--force-adapter"),
        "{error}"
    );
    let error = check(&peft("org/other", "SEQ_CLS"), "org/model").unwrap_err();
    assert!(error.to_string().contains("org/other"), "{error}");
    let note = check(&peft("/gone/base", "SEQ_CLS"), "org/model")
        .unwrap()
        .unwrap();
    assert!(note.text.contains("/gone/base"), "{note}");

    let origin = peft("org/model", "CAUSAL_LM");
    let error = origin
        .check_task(folder.path(), Some("rte"), BERT.1)
        .unwrap_err();
    assert!(error.to_string().contains("CAUSAL_LM"), "{error}");
    let origin = peft("org/model", "SEQ_CLS");
    origin
        .check_task(folder.path(), Some("rte"), BERT.1)
        .unwrap();

    // By the hash, wherever the base is.
    for (hash, fits) in [(base.sha256.as_str(), true), ("00ff", false)] {
        write(
            "ailora.json",
            json!({"model": "mine", "base_sha256": hash, "task": "rte", "labels": ["a"]}),
        );
        let origin = Origin::read(folder.path()).unwrap();
        assert_eq!(origin.task.as_deref(), Some("rte"));
        let found = check(&origin, "moved");
        assert_eq!(found.is_ok(), fits);
        if let Err(error) = found {
            assert!(error.to_string().contains("mine"), "{error}");
        }
        let error = origin
            .check_task(folder.path(), Some("mrpc"), BERT.1)
            .unwrap_err();
        assert!(error.to_string().contains("rte") && error.to_string().contains("mrpc"));
    }
    write("ailora.json", json!({"task": 3}));
    let error = Origin::read(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("ailora.json") && error.contains("`task` is 3"),
        "{error}"
    );
}
