//! What BART writes against what transformers' `generate` writes.

mod support;

use std::path::Path;

use ailora_graph::AdapterSpec;
use ailora_models::{
    generate::{Generator, Options, Strategy, search},
    head::Head,
    pretrained::Pretrained,
};
use ailora_runtime::engine::Engine;
use serde::Deserialize;
use support::fixtures;

#[derive(Deserialize)]
struct Generated {
    texts: Vec<Vec<i32>>,
    end: i32,
    max_new_tokens: usize,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    beams: usize,
    #[serde(default)]
    length_penalty: f64,
    #[serde(default)]
    early_stopping: bool,
    tokens: Vec<Vec<i32>>,
}

fn generator(dir: &Path, head: Head) -> Generator {
    let mut base = Pretrained::open(dir, head).unwrap();
    base.initialise_head(0);
    let mut sites = base.model.sites();
    for site in &mut sites {
        site.spec = AdapterSpec::frozen();
    }
    Generator::new(base.model, sites, Engine::new(base.weights))
}

#[test]
fn tokens_equal_those_of_transformers() {
    let mut ended = 0;
    for seed in 0..2 {
        let dir = fixtures().join(format!("parity/bart_generate-{seed}"));
        let mut generator = generator(&dir, Head::Seq2SeqLm { smoothing: 0.0 });
        let json = std::fs::read(dir.join("generated.json")).unwrap();
        let expected: Generated = serde_json::from_slice(&json).unwrap();
        assert_eq!(expected.runs.len(), 13);
        for run in &expected.runs {
            let strategy = match run.beams {
                1 => Strategy::Greedy,
                beams => Strategy::Beam {
                    beams,
                    length_penalty: run.length_penalty,
                    early_stopping: run.early_stopping,
                },
            };
            let options = Options {
                strategy,
                max_new_tokens: expected.max_new_tokens,
                ends: vec![expected.end],
            };
            let rows = expected.texts.len();
            let room = options.max_new_tokens;
            let (mut session, logits) = generator.start(&expected.texts, room).unwrap();
            let (never, ignored) = (|_: usize, _: &[i32]| false, |_, _| {});
            let found = search(&mut session, logits, rows, &options, never, ignored).unwrap();
            assert_eq!(found, run.tokens, "{seed} {strategy:?}");
            let ends = |tokens: &&Vec<i32>| tokens.last() == Some(&expected.end);
            ended += found.iter().filter(ends).count();
        }
    }
    assert!(ended > 10, "{ended} texts end by a token");
}

#[test]
fn a_classifier_does_not_generate() {
    let dir = fixtures().join("parity/bart_cls-0");
    let mut generator = generator(&dir, Head::classification(3));
    let error = generator.start(&[vec![5, 2]], 4).unwrap_err();
    assert_eq!(
        error.to_string(),
        "BartForSequenceClassification does not generate text; give a language model, such as llama \
         or bart"
    );
}
