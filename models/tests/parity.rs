//! Logits, losses, gradients and hidden states against those of transformers.

mod support;

use std::path::PathBuf;

use ailora_graph::{
    AdaptConfig, AdapterSpec,
    ir::Op,
    method::constructors::{minor, principal},
};
use ailora_models::{
    batch::{Batch, Shape, Targets},
    config::Config,
    head::Head,
    model::{Model, ModelError},
    pretrained::Pretrained,
};
use support::{
    File, device, eval, fixtures, full_step, labels, largest_difference, relative_difference, run,
};

const ENCODERS: [&str; 3] = ["bert", "roberta", "deberta_v3"];

fn folder(family: &str) -> PathBuf {
    fixtures().join(format!("parity/{family}_cls-0"))
}

fn classifier(family: &str) -> Model {
    let dir = folder(family);
    Model::new(Config::from_dir(&dir).unwrap(), labels(&dir)).unwrap()
}

/// Each fixture's name, how many gradients of adapted weights it holds, and its head.
const MODELS: &[(&str, usize, Head)] = &[
    ("bart", 12, Head::Seq2SeqLm { smoothing: 0.0 }),
    ("bart_cls", 12, Head::classification(3)),
    ("bart_qa", 12, Head::QuestionAnswering),
    ("bert_cls", 4, Head::classification(2)),
    ("bert_qa", 4, Head::QuestionAnswering),
    ("bert_mlm", 4, Head::MaskedLm),
    ("roberta_cls", 4, Head::classification(3)),
    ("roberta_qa", 4, Head::QuestionAnswering),
    ("roberta_mlm", 4, Head::MaskedLm),
    ("roberta_segments", 4, Head::classification(3)),
    // Beside queries and values, what relative positions and the convolution have.
    ("deberta_v3_cls", 5, Head::classification(2)),
    ("deberta_v3_qa", 5, Head::QuestionAnswering),
    ("deberta_v2_cls", 11, Head::classification(3)),
    ("deberta_absolute_cls", 4, Head::classification(3)),
    ("llama_mha", 4, Head::CausalLm),
    ("llama_gqa_tied", 4, Head::CausalLm),
    ("llama_scaled", 4, Head::CausalLm),
    ("llama_cls", 4, Head::classification(3)),
    ("qwen2", 4, Head::CausalLm),
];

#[test]
fn logits_losses_and_gradients_equal_transformers() {
    for &(name, gradients, head) in MODELS {
        for seed in 0..2 {
            let dir = fixtures().join(format!("parity/{name}-{seed}"));
            let base = Pretrained::open(&dir, head).unwrap();
            base.check_head().unwrap();
            assert_eq!(base.report.unused, Vec::<String>::new());
            let class = &base.model.config().json["architectures"][0];
            assert_eq!(class, base.model.class());
            let io = File::open(&dir.join("io.safetensors"));
            let batch = io.batch(head);
            let program = full_step(&base.model, &batch);
            let inputs = base.model.inputs(&batch);
            for (backend, outputs, tolerance) in [
                (
                    "backend",
                    run(&program, &base.weights, &inputs),
                    device::tolerance(1e-5),
                ),
                ("interpreter", eval(&program, &base.weights, &inputs), 1e-5),
            ] {
                let mut compared = 0;
                for output in io.names() {
                    let difference: fn(&[f64], &[f64]) -> f64 = match &*output {
                        "logits" | "start_logits" | "end_logits" | "loss" => largest_difference,
                        name if name.starts_with("grad.") => relative_difference,
                        _ => continue,
                    };
                    let found = outputs.iter().find(|(other, _)| *other == output);
                    let found = &found.expect(&output).1;
                    let difference = difference(found, &io.floats(&output));
                    let context = format!("{name} {seed} {backend}");
                    assert!(
                        difference <= tolerance,
                        "{context} {output}: {difference:e}"
                    );
                    compared += 1;
                }
                let logits = if head == Head::QuestionAnswering {
                    2
                } else {
                    1
                };
                assert_eq!(compared, logits + 1 + gradients, "{name}");
            }
        }
    }
}

#[test]
fn labels_are_smoothed_as_torch_smooths_them() {
    let dir = fixtures().join("parity/bart-0");
    let base = Pretrained::open(&dir, Head::Seq2SeqLm { smoothing: 0.1 }).unwrap();
    let io = File::open(&dir.join("io.safetensors"));
    let batch = io.batch(base.model.head());
    let program = base.model.program(batch.shape(), false, true).unwrap();
    let inputs = base.model.inputs(&batch);
    let expected = io.floats("smoothed_loss");
    assert!((expected[0] - io.floats("loss")[0]).abs() > 1e-3);
    for (outputs, tolerance) in [
        (
            run(&program, &base.weights, &inputs),
            device::tolerance(1e-5),
        ),
        (eval(&program, &base.weights, &inputs), 1e-5),
    ] {
        let (_, loss) = outputs.iter().find(|(name, _)| name == "loss").unwrap();
        let difference = largest_difference(loss, &expected);
        assert!(difference <= tolerance, "{difference:e}");
    }
}

#[test]
fn each_family_says_which_heads_it_has() {
    let config = Config::from_dir(&folder("bert")).unwrap();
    let message = Model::new(config, Head::CausalLm).unwrap_err().to_string();
    assert_eq!(
        message,
        "bert has no head for causal language modelling; it has heads for sequence \
         classification, question answering, masked language modelling"
    );
}

#[test]
fn annotations_adapt_queries_and_values_and_train_heads() {
    for family in ENCODERS {
        let classifier = classifier(family);
        let sites = classifier.sites();
        let trained: Vec<(&str, AdapterSpec)> = sites
            .iter()
            .filter(|site| site.spec.trains())
            .map(|site| (&*site.path, site.spec))
            .collect();
        let (base, [query, value], heads): (_, _, &[&str]) = match family {
            "bert" => ("bert", ["query", "value"], &["classifier"]),
            "roberta" => (
                "roberta",
                ["query", "value"],
                &["classifier.dense", "classifier.out_proj"],
            ),
            _ => (
                "deberta",
                ["query_proj", "value_proj"],
                &["pooler.dense", "classifier"],
            ),
        };
        let layer =
            |i: usize, name: &str| format!("{base}.encoder.layer.{i}.attention.self.{name}");
        let layers: Vec<String> = (0..2)
            .flat_map(|i| [layer(i, query), layer(i, value)])
            .collect();
        let expected: Vec<(&str, AdapterSpec)> = layers
            .iter()
            .map(|path| match path.ends_with(query) {
                true => (path.as_str(), principal(8)),
                false => (path.as_str(), minor(8).with_lr(2.0)),
            })
            .chain(heads.iter().map(|path| (*path, AdapterSpec::full())))
            .collect();
        assert_eq!(trained, expected);
    }
}

#[test]
fn annotations_adapt_all_three_attentions_of_bart() {
    let classifier = classifier("bart");
    let trained: Vec<(String, AdapterSpec)> = classifier
        .sites()
        .into_iter()
        .filter(|site| site.spec.trains())
        .map(|site| (site.path, site.spec))
        .collect();
    let (q, v) = (principal(8), minor(8).with_lr(2.0));
    let layers = ["encoder", "decoder"].map(|side| [0, 1].map(|i| (side, i)));
    let mut expected = Vec::new();
    for (side, i) in layers.concat() {
        for attention in ["self_attn", "encoder_attn"] {
            if (side, attention) != ("encoder", "encoder_attn") {
                let path = format!("model.{side}.layers.{i}.{attention}");
                // In the order of the fields, which is that of transformers.
                expected.push((format!("{path}.v_proj"), v));
                expected.push((format!("{path}.q_proj"), q));
            }
        }
    }
    for name in ["dense", "out_proj"] {
        let path = format!("classification_head.{name}");
        expected.push((path, AdapterSpec::full()));
    }
    assert_eq!(trained, expected);

    let without = r#"{"sites": {"encoder_attn.*": {"init": "frozen"}}}"#;
    let config: AdaptConfig = serde_json::from_str(without).unwrap();
    let sites = config.resolve(classifier.sites()).unwrap();
    let adapted = sites.iter().filter(|site| site.spec.trains());
    assert_eq!(adapted.count(), 2 * 4 + 2);
}

/// Rates of every dropout of a program, in order.
fn dropouts(classifier: &Model, training: bool) -> Vec<f64> {
    let program = classifier
        .program(Shape::new(2, 4), training, true)
        .unwrap();
    program
        .ids()
        .filter_map(|id| match &program[id].op {
            Op::Dropout(op) => Some(op.rate.0),
            Op::Attention(op) => Some(op.dropout.0).filter(|rate| *rate > 0.0),
            _ => None,
        })
        .collect()
}

#[test]
fn training_drops_out_where_transformers_does() {
    let layer = [0.2, 0.1, 0.1];
    let body: Vec<f64> = [vec![0.1], layer.repeat(2)].concat();
    for (family, heads) in [("bert", 1), ("roberta", 2)] {
        for (own, rate) in [("null", 0.1), ("0.3", 0.3)] {
            let dir = tempfile::tempdir().unwrap();
            let source = fixtures().join(format!("parity/{family}_cls-0/config.json"));
            let config = std::fs::read_to_string(source).unwrap();
            let config = config
                .replace(
                    r#""hidden_dropout_prob": 0.0"#,
                    r#""hidden_dropout_prob": 0.1"#,
                )
                .replace(
                    r#""attention_probs_dropout_prob": 0.0"#,
                    r#""attention_probs_dropout_prob": 0.2"#,
                )
                .replace(
                    r#""classifier_dropout": null"#,
                    &format!(r#""classifier_dropout": {own}"#),
                );
            std::fs::write(dir.path().join("config.json"), config).unwrap();
            let config = Config::from_dir(dir.path()).unwrap();
            let classifier = Model::new(config, Head::classification(2)).unwrap();
            assert_eq!(dropouts(&classifier, false), Vec::<f64>::new());
            let expected = [body.clone(), vec![rate; heads]].concat();
            assert_eq!(dropouts(&classifier, true), expected, "{family} {own}");
        }
    }
}

#[test]
fn deberta_drops_out_where_transformers_does() {
    let dir = tempfile::tempdir().unwrap();
    let source = fixtures().join("parity/deberta_v2_cls-0/config.json");
    let config = std::fs::read_to_string(source).unwrap();
    let config = config
        .replace(
            r#""hidden_dropout_prob": 0.0"#,
            r#""hidden_dropout_prob": 0.1"#,
        )
        .replace(
            r#""attention_probs_dropout_prob": 0.0"#,
            r#""attention_probs_dropout_prob": 0.2"#,
        )
        .replace(
            r#""pooler_dropout": 0.0"#,
            r#""pooler_dropout": 0.3, "cls_dropout": 0.4"#,
        );
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let config = Config::from_dir(dir.path()).unwrap();
    let classifier = Model::new(config, Head::classification(2)).unwrap();
    assert_eq!(dropouts(&classifier, false), Vec::<f64>::new());
    // Relative positions, probabilities, the ends of the two blocks; the convolution beside the
    // first layer.
    let layer = [0.1, 0.2, 0.1, 0.1];
    let expected = [&[0.1], &layer[..], &[0.1], &layer, &[0.3, 0.4]].concat();
    let mut found = dropouts(&classifier, true);
    // In which order the first of them stand is no matter.
    found[..6].sort_unstable_by(f64::total_cmp);
    let mut first = expected[..6].to_vec();
    first.sort_unstable_by(f64::total_cmp);
    assert_eq!(found[..6], first);
    assert_eq!(found[6..], expected[6..]);
}

#[test]
fn a_regression_has_the_squared_error_of_its_logit() {
    let mut base = Pretrained::open(&folder("bert"), Head::regression(1)).unwrap();
    base.initialise_head(3);
    let io = File::open(&folder("bert").join("io.safetensors"));
    let scores = [0.5_f32, -2.0, 4.25];
    let batch = Batch {
        targets: Targets::scores(scores.to_vec()),
        ..io.batch(Head::regression(1))
    };
    let program = full_step(&base.model, &batch);
    let inputs = base.model.inputs(&batch);
    for outputs in [
        run(&program, &base.weights, &inputs),
        eval(&program, &base.weights, &inputs),
    ] {
        let output = |name: &str| &outputs.iter().find(|(other, _)| other == name).unwrap().1;
        let errors: Vec<f64> = output("logits")
            .iter()
            .zip(scores)
            .map(|(y, t)| y - f64::from(t))
            .collect();
        let squares = errors.iter().map(|e| e * e).sum::<f64>() / 3.0;
        assert!(largest_difference(output("loss"), &[squares]) <= 1e-5);
        let slope = 2.0 * errors.iter().sum::<f64>() / 3.0;
        assert!(largest_difference(output("grad.classifier.bias"), &[slope]) <= 1e-5);
    }
}

#[test]
fn sizes_that_do_not_fit_are_named() {
    for (family, max) in [("bert", 40), ("roberta", 38), ("deberta_v3", 40)] {
        let classifier = classifier(family);
        let program = |rows, len| classifier.program(Shape::new(rows, len), true, true);
        assert!(program(1, max).is_ok());
        let error = program(1, max + 1).unwrap_err();
        assert!(matches!(error, ModelError::TooLong { max: limit, .. } if limit == max));
        assert!(matches!(program(0, 4), Err(ModelError::Empty { .. })));
        let headless = Model::new(classifier.config().clone(), Head::classification(0));
        let message = headless.unwrap_err().to_string();
        assert_eq!(
            message,
            "the number of the head's outputs is 0; expected at least 1"
        );
    }
}

#[test]
fn the_real_minilm_equals_transformers() {
    let dir = device::package().join("../.cache/minilm");
    if !dir.is_dir() {
        println!(
            "skipped: the real MiniLM is not in .cache/minilm; scripts/minilm.sh puts it there"
        );
        return;
    }
    let base = Pretrained::open(&dir, Head::classification(2)).unwrap();
    let io = File::open(&fixtures().join("minilm.safetensors"));
    let batch = io.batch(base.model.head());
    let program = base.model.encoder(batch.shape()).unwrap();
    let outputs = run(&program, &base.weights, &base.model.inputs(&batch));
    let [(name, hidden)] = &outputs[..] else {
        panic!("one output, found {}", outputs.len());
    };
    assert_eq!(name, "last_hidden_state");
    let difference = largest_difference(hidden, &io.floats("last_hidden_state"));
    assert!(difference <= 1e-4, "{difference:e}");

    let tokenizer = base.tokenizer().unwrap();
    let text = std::fs::read_to_string(fixtures().join("minilm.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids =
        |value: &serde_json::Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let sentences = expected["sentences"].as_array().unwrap();
    let pairs = expected["pairs"].as_array().unwrap();
    assert!(sentences.len() >= 9 && pairs.len() >= 3);
    for case in sentences {
        let text = case["text"].as_str().unwrap();
        let found = tokenizer.encode(text, None, 512).unwrap();
        assert_eq!(found.ids, ids(&case["input_ids"]), "{text}");
    }
    for case in pairs {
        let (first, second) = (case["first"].as_str().unwrap(), case["second"].as_str());
        let max_len = case["max_length"].as_u64().unwrap_or(512) as usize;
        let found = tokenizer.encode(first, second, max_len).unwrap();
        assert_eq!(found.ids, ids(&case["input_ids"]), "{first}");
        assert_eq!(found.type_ids, ids(&case["token_type_ids"]), "{first}");
    }
}
