//! Houlsby's and Pfeiffer's adapters, and BitFit, against what torch computes of them
//! (`tests/fixtures/bottleneck.py`): logits, gradients, twenty steps; what they are when they begin; and
//! their folders.
//!
//! One long file: all of it is about the same models and folders.

mod support;

use std::path::Path;

use ailora_graph::{
    AdaptConfig, Trainable,
    adapt::{Mode, adapt},
    adapter::Site,
    element_types::element_types,
    fuse::cost::Costs,
    ir::{Draw, Program},
    method::{self, Method},
};
use ailora_models::{
    batch::{Batch, Inputs, Targets},
    config::Config,
    generate::{Decode, Generator, Options, Rules, Strategy},
    head::Head,
    model::Model,
    peft::Adapter,
    pretrained::Pretrained,
};
use ailora_runtime::{
    backend::Precision,
    cuda::{CudaError, compile},
    init::initialise,
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    passes::{Fusion, Passes, Pipeline},
    plan::plan,
    store::{Array, Params},
    train::{MicroBatch, Trainer},
};
use serde_json::{Value, json};
use support::{
    File, device, eval, fixtures, labels, largest_difference, one_row, relative_difference, run,
};

/// What is in `tests/fixtures/bottleneck`.
const CASES: [(&str, &[&str]); 3] = [
    (
        "houlsby",
        &[
            "bert_cls",
            "roberta_cls",
            "deberta_v2_cls",
            "llama_mha",
            "bart",
        ],
    ),
    (
        "pfeiffer",
        &[
            "bert_cls",
            "roberta_cls",
            "deberta_v2_cls",
            "llama_mha",
            "bart",
        ],
    ),
    (
        "bitfit",
        &["bert_cls", "roberta_cls", "deberta_v2_cls", "qwen2", "bart"],
    ),
];

/// A small model with a method on it, and the batch of its fixture.
struct Scene {
    base: Pretrained,
    sites: Vec<Site>,
    trainable: Trainable,
    params: Params,
    inputs: Inputs,
    program: Program,
    rows: usize,
}

fn open(model: &str) -> Pretrained {
    let dir = fixtures().join(format!("parity/{model}-0"));
    let head = match model {
        "bart" => Head::Seq2SeqLm { smoothing: 0.0 },
        "llama_mha" | "qwen2" => Head::CausalLm,
        _ => labels(&dir),
    };
    Pretrained::open(&dir, head).unwrap()
}

impl Scene {
    fn new(config: &AdaptConfig, model: &str) -> Self {
        let base = open(model);
        let sites = config.resolve(base.model.sites()).unwrap();
        let parameters = base.model.parameters();
        let trainable = config.resolve_trainable(&sites, parameters).unwrap();
        let mut params = base.weights.clone();
        initialise(&sites, &mut params, 1, &Default::default(), |_| {}).unwrap();
        let io = fixtures().join(format!("parity/{model}-0/io.safetensors"));
        let batch = File::open(&io).batch(base.model.head());
        Self {
            program: base.model.program(batch.shape(), false, true).unwrap(),
            inputs: base.model.inputs(&batch),
            rows: batch.rows,
            base,
            sites,
            trainable,
            params,
        }
    }

    fn of(method: &str, model: &str) -> Self {
        Self::new(&AdaptConfig::method(named(method), 4), model)
    }

    fn passes(&self, precision: Precision) -> Passes<'_> {
        Passes {
            sites: &self.sites,
            trainable: &self.trainable,
            precision,
        }
    }

    fn logits(&self) -> Vec<f64> {
        self.logits_of(&self.sites, &self.params)
    }

    /// Of the model without adapters.
    fn base_logits(&self, params: &Params) -> Vec<f64> {
        self.logits_of(&[], params)
    }

    fn logits_of(&self, sites: &[Site], params: &Params) -> Vec<f64> {
        let passes = Passes {
            sites,
            ..self.passes(Precision::F32)
        };
        let program = passes.inference(&self.program).unwrap();
        let mut outputs = run(&program, params, &self.inputs);
        outputs.retain(|(name, _)| name == "logits");
        outputs.remove(0).1
    }

    fn trained(&self) -> Vec<(String, f64)> {
        let parameters = self.base.model.parameters().iter();
        let names = parameters.map(|parameter| &*parameter.name);
        self.trainable.rates(&self.sites, names)
    }

    /// Moves everything that trains away from where it begins.
    fn disturb(&mut self) {
        for (name, _) in self.trained() {
            let key = Draw::default().key(&name);
            for (i, x) in (0..).zip(self.params[&name].floats_mut()) {
                *x += 0.1 * key.normal(i) as f32;
            }
        }
    }
}

fn named(method: &str) -> &'static dyn Method {
    method::find(method).unwrap()
}

#[test]
fn logits_gradients_and_twenty_steps_equal_torchs() {
    for (method, models) in CASES {
        for model in models {
            let what = format!("{method} {model}");
            let path = fixtures().join(format!("bottleneck/{method}-{model}.safetensors"));
            let file = File::open(&path);
            let mut scene = Scene::of(method, model);
            for name in file.names() {
                if let Some(own) = name.strip_prefix("start.") {
                    let data = file.floats(&name).into_iter().map(|x| x as f32);
                    let array = Array::new(file.shape(&name), data.collect());
                    let begun = scene.params.insert(own.to_owned(), array.clone());
                    assert_eq!(begun.unwrap().shape(), array.shape(), "{what} {own}");
                }
            }
            let found = scene.logits();
            let difference = largest_difference(&found, &file.floats("logits"));
            assert!(
                difference <= device::tolerance(1e-5),
                "{what}: {difference:e}"
            );
            gradients_equal(&what, &scene, &file);
            for fusion in [Fusion::Off, Fusion::At(Costs::default())] {
                steps_equal(&what, &scene, &file, fusion);
            }
        }
    }
}

fn gradients_equal(what: &str, scene: &Scene, file: &File) {
    let step = scene.passes(Precision::F32).step(&scene.program).unwrap();
    let expected: Vec<String> = file.names();
    let gradients = || expected.iter().filter(|name| name.starts_with("grad."));
    for (outputs, tolerance) in [
        (eval(&step, &scene.params, &scene.inputs), 1e-5),
        (
            run(&step, &scene.params, &scene.inputs),
            device::tolerance(1e-5),
        ),
    ] {
        let found = outputs.iter().filter(|(name, _)| name.starts_with("grad."));
        assert_eq!(found.count(), gradients().count(), "{what}");
        for name in gradients() {
            let found = outputs.iter().find(|(other, _)| other == name);
            let found = &found.unwrap_or_else(|| panic!("{what} {name}")).1;
            let expected = file.floats(name);
            let zero = expected.iter().all(|x| x.abs() < 1e-7);
            let difference = match zero {
                // The bias of a key moves no score against another.
                true => largest_difference(found, &expected),
                false => relative_difference(found, &expected),
            };
            assert!(difference <= tolerance, "{what} {name}: {difference:e}");
        }
    }
}

fn steps_equal(what: &str, scene: &Scene, file: &File, fusion: Fusion) {
    let step = scene.passes(Precision::F32).step(&scene.program).unwrap();
    let mut engine = device::engine(scene.params.clone(), fusion);
    let plan = engine.compile(&step).unwrap();
    let rates = scene.trained();
    assert!(rates.iter().all(|(_, rate)| *rate == 1.0), "{what}");
    let group = Group {
        lr: 1.0,
        parameters: rates.into_iter().map(|(name, _)| name).collect(),
    };
    let config = AdamWConfig {
        weight_decay: 0.01,
        ..AdamWConfig::default()
    };
    let optimizer = AdamW::new(config, vec![group], engine.weights());
    let schedule = Schedule {
        kind: ScheduleKind::Constant,
        warmup: 0,
        total: 20,
    };
    let mut trainer = Trainer::new(engine, optimizer, 2e-3, schedule, None, 0);
    for (i, expected) in file.floats("losses").into_iter().enumerate() {
        let micro = MicroBatch {
            plan,
            inputs: scene.inputs.values(),
            rows: scene.rows,
            targets: scene.rows,
        };
        let loss = trainer.step(&[micro]).unwrap().loss;
        let difference = (loss - expected).abs();
        let context = format!("{what}, step {i}: {loss} is not {expected}");
        assert!(difference <= device::tolerance(1e-4), "{context}");
    }
    if !device::is_float32() {
        return;
    }
    for (name, found) in trainer.trained().unwrap() {
        let found: Vec<f64> = found.floats().iter().map(|&x| f64::from(x)).collect();
        // The bias of a key has no gradient but for rounding, whose sign AdamW's first steps follow.
        let gradient = file.floats(&format!("grad.{name}"));
        if gradient.iter().all(|x| x.abs() < 1e-7) {
            continue;
        }
        let expected = file.floats(&format!("final.{name}"));
        let difference = largest_difference(&found, &expected);
        assert!(difference <= 1e-4, "{what} {name}: {difference:e}");
    }
}

/// Where matrices are kept in bfloat16, the step is the same but for their roundings, and its kernels
/// compile.
#[test]
fn steps_with_matrices_in_bfloat16_are_near_those_in_float32() {
    let mut plans = Vec::new();
    for (method, models) in CASES {
        for model in models {
            let mut scene = Scene::of(method, model);
            scene.disturb();
            let step = |precision| {
                let step = scene.passes(precision).step(&scene.program).unwrap();
                let pipeline = Pipeline {
                    matrices: precision.matrices(),
                    fusion: Fusion::At(Costs::default()),
                    checkpoints: false,
                };
                if *model == "bert_cls" {
                    plans.push(plan(&pipeline.optimize(&step).unwrap().fused.program));
                }
                element_types(&step, precision.matrices()).unwrap()
            };
            let [wide, narrow] = [Precision::F32, Precision::Bf16].map(step);
            let expected = eval(&wide, &scene.params, &scene.inputs);
            let found = eval(&narrow, &scene.params, &scene.inputs);
            assert_eq!(found.len(), expected.len());
            let largest =
                |values: &[f64]| values.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            for ((name, expected), (other, found)) in expected.iter().zip(&found) {
                assert_eq!(name, other);
                let difference = largest_difference(found, expected);
                // Not of what is zero but for rounding, as the gradient of a key's bias.
                let scale = largest(expected).max(1e-2);
                assert!(
                    difference > 0.0 && difference <= 0.1 * scale,
                    "{method} {model} {name}: {difference:e} of {scale:e}"
                );
            }
        }
    }
    let cache = std::env::var_os("AILORA_CACHE").map(Into::into);
    match compile(&plans, "sm_90a", cache) {
        Ok(kernels) => assert!(kernels > 50, "{kernels}"),
        Err(error @ CudaError::Library { .. }) => eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    }
}

/// An adapter whose last projection is zero adds zeros.
#[test]
fn without_its_last_projection_a_bottleneck_changes_no_bit() {
    for method in ["houlsby", "pfeiffer"] {
        for model in ["bert_cls", "llama_mha", "bart", "bart_cls"] {
            let mut scene = Scene::of(method, model);
            let begun = scene.logits();
            for (name, array) in &mut scene.params {
                if name.contains(".adapter_up.") {
                    array.floats_mut().fill(0.0);
                }
            }
            let found = scene.logits();
            let bare = scene.base_logits(&scene.base.weights);
            assert!(found.iter().all(|x| x.is_finite()));
            assert_eq!(found, bare, "{method} {model}");
            let difference = largest_difference(&begun, &bare);
            assert!(
                difference > 0.0 && difference < 0.05,
                "{method} {model}: begins {difference:e} away"
            );
        }
    }
}

/// Of layers of width 8 with bottlenecks of width 2: `2 * 8 * 2 + 2 + 8` numbers each.
#[test]
fn counts_follow_from_widths() {
    let config = |layers: &str, more: Value| {
        let mut json = json!({
            "vocab_size": 9, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "max_position_embeddings": 6, "type_vocab_size": 1, layers: 3,
        });
        let fields = more.as_object().unwrap().clone();
        json.as_object_mut().unwrap().extend(fields);
        json
    };
    let layers = "num_hidden_layers";
    let bart = json!({
        "model_type": "bart", "d_model": 8, "decoder_layers": 3, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
    });
    for (json, head, blocks) in [
        (
            config(layers, json!({"model_type": "bert"})),
            Head::MaskedLm,
            3,
        ),
        (
            config(layers, json!({"model_type": "roberta", "pad_token_id": 1})),
            Head::MaskedLm,
            3,
        ),
        (
            config(layers, json!({"model_type": "deberta-v2"})),
            Head::QuestionAnswering,
            3,
        ),
        (
            config(layers, json!({"model_type": "llama"})),
            Head::CausalLm,
            3,
        ),
        (
            config("encoder_layers", bart),
            Head::Seq2SeqLm { smoothing: 0.0 },
            6,
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
        let config = Config::from_dir(folder.path()).unwrap();
        let model = Model::new(config, head).unwrap();
        let count = |method: &str| {
            let config = AdaptConfig::method(named(method), 2);
            Site::adapters_trainable(&config.resolve(model.sites()).unwrap())
        };
        assert_eq!(count("houlsby"), blocks * 84, "{json}");
        assert_eq!(count("pfeiffer"), blocks * 42, "{json}");
    }
}

/// A folder has what was trained and no more, and is as it was when it is loaded.
#[test]
fn folders_hold_what_was_trained() {
    let narrow = json!({"layers.1.mlp.down_proj": {"rank": 3}});
    for (method, model, more) in [
        ("houlsby", "bert_cls", json!({})),
        ("pfeiffer", "bart", json!({})),
        ("houlsby", "llama_mha", json!({"sites": narrow})),
        (
            "pfeiffer",
            "deberta_v2_cls",
            json!({"trainable": ["*.bias"]}),
        ),
        (
            "houlsby",
            "roberta_cls",
            json!({"trainable": ["*LayerNorm*", "output.dense.bias"]}),
        ),
        ("bitfit", "roberta_cls", json!({})),
        ("bitfit", "qwen2", json!({})),
        ("bitfit", "bart", json!({})),
    ] {
        let what = format!("{method} {model} {more}");
        let mut config: AdaptConfig = serde_json::from_value(more).unwrap();
        config.method = Some(named(method));
        config.rank = Some(4);
        let mut scene = Scene::new(&config, model);
        scene.disturb();
        let expected = scene.logits();

        let folder = tempfile::tempdir().unwrap();
        let Scene {
            base,
            sites,
            trainable,
            params,
            ..
        } = &scene;
        Adapter::check(sites).unwrap();
        let adapter = Adapter::from_trained(&base.model, sites, params, trainable, &[]).unwrap();
        adapter
            .save(folder.path(), model, base.model.head())
            .unwrap();
        let config = std::fs::read(folder.path().join("adapter_config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let kind = match method {
            "bitfit" => "LORA".into(),
            method => method.to_uppercase(),
        };
        assert_eq!(config["peft_type"], kind);

        let mut base = open(model);
        let loaded = Adapter::load(folder.path(), &mut base);
        let loaded = loaded.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(loaded.tensors, adapter.tensors, "{what}");
        let mut params = base.weights.clone();
        params.extend(loaded.tensors.clone());
        let sites = loaded.apply_to(base.model.sites());
        assert_eq!(scene.logits_of(&sites, &params), expected, "{what}");

        let mut merged = base.weights.clone();
        let outcome = loaded.merge_into(&mut merged);
        match method {
            "bitfit" => {
                outcome.unwrap();
                assert_eq!(scene.base_logits(&merged), expected, "{what}");
            }
            method => {
                let error = outcome.unwrap_err().to_string();
                assert!(
                    error.contains(&format!("`{method}` has no merged weight")),
                    "{error}"
                );
                is_refused_if_changed(folder.path(), &mut base, &config);
            }
        }
    }
}

/// What is not as it was written is refused by name.
fn is_refused_if_changed(folder: &Path, base: &mut Pretrained, config: &Value) {
    let paths = config["target_modules"].as_array().unwrap();
    for (field, value, says) in [
        ("non_linearity", json!("gelu"), "non_linearity"),
        ("width", json!(5), "expected [5, 32]"),
        ("width", json!(0), "width"),
        (
            "width_pattern",
            json!({"nothing": 3}),
            "`nothing` has a rank",
        ),
        ("width_pattern", json!({"x": 0.5}), "width_pattern"),
        ("scaling", json!(2.0), "scaling"),
        ("bias", json!("some"), "bias"),
        ("target_modules", json!(paths[1..]), "adapter_down"),
        ("peft_type", json!("BOTTLENECK"), "BOTTLENECK"),
    ] {
        let mut changed = config.clone();
        changed[field] = value;
        let path = folder.join("adapter_config.json");
        std::fs::write(path, changed.to_string()).unwrap();
        let error = Adapter::load(folder, base).unwrap_err().to_string();
        assert!(error.contains(says), "{field}: {error}");
    }
}

/// Steps of generation, over a cache, as the model that reads all of a text at once.
#[test]
fn bottlenecks_generate_what_they_are_trained_to() {
    const TOKENS: [i32; 3] = [17, 44, 9];
    for method in ["houlsby", "pfeiffer"] {
        for model in ["llama_mha", "bart"] {
            let what = format!("{method} {model}");
            let mut scene = Scene::of(method, model);
            scene.disturb();
            let prompt = [5, 6, 30, 31, 2];
            let row = |ids: &[i32], targets: Targets| Batch {
                targets,
                ..one_row(ids)
            };
            // The first position whose logits are those behind the prompt.
            let (batch, first) = match model {
                "bart" => {
                    let targets = Targets::texts([&TOKENS[..], &[2]].concat(), TOKENS.len() + 1);
                    (row(&prompt, targets), 0)
                }
                _ => {
                    let ids = [&prompt[..], &TOKENS].concat();
                    (row(&ids, Targets::default()), prompt.len() - 1)
                }
            };
            let own = &scene.base.model;
            let program = own.program(batch.shape(), false, false).unwrap();
            let program = scene.passes(Precision::F32).inference(&program).unwrap();
            let mut outputs = run(&program, &scene.params, &own.inputs(&batch));
            outputs.retain(|(name, _)| name == "logits");
            let vocabulary = own.config().architecture.vocab_size();
            let expected = outputs[0].1.chunks(vocabulary).skip(first);

            let mut engine = device::engine(scene.params.clone(), Fusion::At(Costs::default()));
            let mut generator = Generator::new(own.clone(), scene.sites.clone());
            let prompts = [prompt.to_vec()];
            let options = Options {
                strategy: Strategy::Greedy,
                rules: Rules::default(),
                ends: Vec::new(),
                max_new_tokens: 4,
                numbers: Vec::new(),
            };
            let (mut session, _) = generator.start(&mut engine, &prompts, &options).unwrap();
            let mut tokens = TOKENS.iter();
            let mut compared = 0;
            for expected in expected {
                let found = session.logits().unwrap();
                let found: Vec<f64> = found.iter().map(|&x| f64::from(x)).collect();
                let largest = expected.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
                let off = largest_difference(&found, expected) / largest;
                assert!(off <= device::tolerance(1e-5), "{what} {compared}: {off:e}");
                compared += 1;
                if let Some(&token) = tokens.next() {
                    session.step(&[0], &[token]).unwrap();
                }
            }
            assert_eq!(compared, TOKENS.len() + 1, "{what}");
        }
    }
}

#[test]
fn a_model_without_biases_is_no_model_for_bitfit() {
    let base = open("llama_mha");
    let config = AdaptConfig::method(named("bitfit"), 4);
    let sites = config.resolve(base.model.sites()).unwrap();
    let error = config.resolve_trainable(&sites, base.model.parameters());
    assert_eq!(
        error.unwrap_err().to_string(),
        "method `bitfit` trains the parameters `*.bias`, of which the model has none; choose another \
         method"
    );
    let mut config = config;
    config.trainable = Some(Trainable::Parameters(vec!["*norm*".into()]));
    let error = config.resolve_trainable(&sites, base.model.parameters());
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("method `bitfit` says what trains"),
        "{error}"
    );
}

#[test]
fn an_adapter_of_a_block_is_refused_within_one() {
    let base = open("bert_cls");
    let mut config = AdaptConfig::method(named("pfeiffer"), 4);
    config.targets = vec!["q".into()];
    let sites = config.resolve(base.model.sites()).unwrap();
    let io = fixtures().join("parity/bert_cls-0/io.safetensors");
    let shape = File::open(&io).batch(base.model.head()).shape();
    let program = base.model.program(shape, false, false).unwrap();
    let error = adapt(&program, &sites, &Trainable::Adapters, Mode::Infer).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("attention.self.query") && error.contains("`pfeiffer` goes between"),
        "{error}"
    );
}
