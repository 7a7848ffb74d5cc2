//! Logits, losses, gradients and hidden states against those of transformers.

mod support;

use std::path::Path;

use ailora_graph::{AdapterSpec, ir::Op};
use ailora_models::{
    batch::{Batch, Targets},
    classifier::{Classifier, ModelError},
    pretrained::Pretrained,
};
use support::{File, eval, fixtures, full_step, largest_difference, relative_difference, run};

const FAMILIES: [&str; 3] = ["bert", "roberta", "deberta_v3"];

fn open(family: &str, seed: usize) -> (Pretrained, Classifier, File) {
    let dir = fixtures().join(format!("parity/{family}_cls-{seed}"));
    let base = Pretrained::open(&dir).unwrap();
    let classifier = Classifier::new(base.config.clone(), base.config.num_labels(), false);
    base.check_head(&classifier).unwrap();
    assert_eq!(base.report.unused, Vec::<String>::new());
    let io = File::open(&dir.join("io.safetensors"));
    (base, classifier, io)
}

#[test]
fn logits_losses_and_gradients_equal_transformers() {
    // Gradients of query and value of two layers, and of what relative positions and the
    // convolution have beside them.
    for (family, seed, count) in [
        ("bert", 2, 4),
        ("roberta", 2, 4),
        ("deberta_v3", 2, 5),
        ("deberta_v2", 2, 11),
        ("deberta_absolute", 1, 4),
    ]
    .into_iter()
    .flat_map(|(family, seeds, count)| (0..seeds).map(move |seed| (family, seed, count)))
    {
        let (base, classifier, io) = open(family, seed);
        let batch = io.batch();
        let program = full_step(&classifier, &batch);
        let inputs = classifier.inputs(&batch);
        let gradients: Vec<String> = io
            .names()
            .into_iter()
            .filter(|name| name.starts_with("grad."))
            .collect();
        assert_eq!(gradients.len(), count, "{family}");
        for (backend, outputs) in [
            ("cpu", run(&program, &base.weights, &inputs)),
            ("interpreter", eval(&program, &base.weights, &inputs)),
        ] {
            let context = format!("{family} {seed} {backend}");
            let output = |name: &str| {
                &outputs
                    .iter()
                    .find(|(other, _)| other == name)
                    .expect(name)
                    .1
            };
            for name in ["logits", "loss"] {
                let difference = largest_difference(output(name), &io.floats(name));
                assert!(difference <= 1e-5, "{context} {name}: {difference:e}");
            }
            for name in &gradients {
                let difference = relative_difference(output(name), &io.floats(name));
                assert!(difference <= 1e-5, "{context} {name}: {difference:e}");
            }
        }
    }
}

#[test]
fn annotations_adapt_queries_and_values_and_train_heads() {
    for family in FAMILIES {
        let (_, classifier, _) = open(family, 0);
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
                true => (path.as_str(), AdapterSpec::principal(8)),
                false => (path.as_str(), AdapterSpec::minor(8).with_lr(2.0)),
            })
            .chain(heads.iter().map(|path| (*path, AdapterSpec::full())))
            .collect();
        assert_eq!(trained, expected);
    }
}

/// Rates of every dropout of a program, in order.
fn dropouts(classifier: &Classifier, training: bool) -> Vec<f64> {
    let program = classifier.program(2, 4, training, true).unwrap();
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
            let config = ailora_models::config::Config::from_dir(dir.path()).unwrap();
            let classifier = Classifier::new(config, 2, false);
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
    let config = ailora_models::config::Config::from_dir(dir.path()).unwrap();
    let classifier = Classifier::new(config, 2, false);
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
fn a_regression_has_the_squared_error_of_its_first_logit() {
    let (mut base, _, io) = open("bert", 0);
    let classifier = Classifier::new(base.config.clone(), 1, true);
    base.initialise_head(&classifier, 3);
    let scores = [0.5_f32, -2.0, 4.25];
    let batch = Batch {
        targets: Targets::Scores(scores.to_vec()),
        ..io.batch()
    };
    let program = full_step(&classifier, &batch);
    let inputs = classifier.inputs(&batch);
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
        let (_, classifier, _) = open(family, 0);
        assert!(classifier.program(1, max, true, true).is_ok());
        let error = classifier.program(1, max + 1, true, true).unwrap_err();
        assert!(matches!(error, ModelError::TooLong { max: limit, .. } if limit == max));
        assert!(matches!(
            classifier.program(0, 4, true, true),
            Err(ModelError::Empty { .. })
        ));
        let headless = Classifier::new(classifier.config().clone(), 0, false);
        let message = headless.program(1, 4, true, true).unwrap_err().to_string();
        assert_eq!(
            message,
            "the number of the head's outputs is 0; expected at least 1"
        );
    }
}

#[test]
fn the_real_minilm_equals_transformers() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/minilm");
    if !dir.is_dir() {
        println!(
            "skipped: the real MiniLM is not in .cache/minilm; scripts/minilm.sh puts it there"
        );
        return;
    }
    let base = Pretrained::open(&dir).unwrap();
    let classifier = Classifier::new(base.config.clone(), 2, false);
    let io = File::open(&fixtures().join("minilm.safetensors"));
    let batch = io.batch();
    let program = classifier.encoder(batch.rows, batch.len).unwrap();
    let outputs = run(&program, &base.weights, &classifier.inputs(&batch));
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
