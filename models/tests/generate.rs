//! What is generated against what transformers generates.

mod support;

use std::path::Path;

use ailora_graph::{
    AdaptConfig, AdapterSpec, adapter::Site, fuse::cost::Costs, ir::Draw, method::Lora,
};
use ailora_models::{
    generate::{Decode, GenerateError, Generator, Next, Options, Rules, Strategy, search},
    head::Head,
    pretrained::Pretrained,
};
use ailora_runtime::{engine::Engine, init::initialise, passes::Fusion};
use serde::{Deserialize, de::DeserializeOwned};
use support::{File, device, fixtures};

fn generator(dir: &Path, head: Head) -> (Generator, Engine) {
    let base = Pretrained::open(dir, head).unwrap();
    base.check_head().unwrap();
    let mut sites = base.model.sites();
    for site in &mut sites {
        site.spec = AdapterSpec::frozen();
    }
    let engine = device::engine(base.weights, Fusion::At(Costs::default()));
    (Generator::new(base.model, sites), engine)
}

fn json<T: DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[derive(Deserialize)]
struct Generated {
    #[serde(alias = "texts")]
    prompts: Vec<Vec<i32>>,
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

impl Run {
    fn strategy(&self) -> Strategy {
        match self.beams {
            1 => Strategy::Greedy,
            beams => Strategy::Beam {
                beams,
                length_penalty: self.length_penalty,
                early_stopping: self.early_stopping,
            },
        }
    }
}

fn generate(
    (generator, engine): &mut (Generator, Engine),
    prompts: &[Vec<i32>],
    options: &Options,
) -> Vec<Vec<i32>> {
    let (never, ignored) = (|_: usize, _: &[i32]| false, |_, _| {});
    let found = generator.generate(engine, prompts, options, never, ignored);
    found.unwrap()
}

fn greedy(max_new_tokens: usize) -> Options {
    Options {
        strategy: Strategy::Greedy,
        max_new_tokens,
        ends: Vec::new(),
        rules: Rules::default(),
        numbers: Vec::new(),
    }
}

#[test]
fn tokens_equal_those_of_transformers() {
    if !device::is_float32() {
        eprintln!("skipped: which token is likeliest depends on roundings");
        return;
    }
    let mut ended = 0;
    let seq2seq = Head::Seq2SeqLm { smoothing: 0.0 };
    for (name, head) in [
        ("llama_mha", Head::CausalLm),
        ("llama_gqa_tied", Head::CausalLm),
        ("bart_generate", seq2seq),
    ] {
        for seed in 0..2 {
            let dir = fixtures().join(format!("parity/{name}-{seed}"));
            let mut generator = generator(&dir, head);
            let expected: Generated = json(&dir.join("generated.json"));
            assert_eq!(expected.runs.len(), 13);
            for run in &expected.runs {
                let options = Options {
                    strategy: run.strategy(),
                    max_new_tokens: expected.max_new_tokens,
                    ends: vec![expected.end],
                    rules: Rules::default(),
                    numbers: Vec::new(),
                };
                let found = generate(&mut generator, &expected.prompts, &options);
                assert_eq!(found, run.tokens, "{name} {seed} {:?}", run.strategy());
                ended += found
                    .iter()
                    .filter(|tokens| tokens.last() == Some(&expected.end))
                    .count();
            }
        }
    }
    assert!(ended > 30, "{ended} sequences end by a token");
}

#[test]
fn samples_are_fixed_by_their_seed_and_narrow_to_the_likeliest() {
    let mut generator = generator(&fixtures().join("parity/llama_gqa_tied-0"), Head::CausalLm);
    let prompts = [vec![5, 6, 7], vec![8]];
    let mut sample = |temperature, top_k, top_p, seed| {
        let strategy = Strategy::Sample {
            temperature,
            top_k,
            top_p,
            min_p: 0.0,
            seed,
        };
        let options = Options {
            strategy,
            max_new_tokens: 8,
            ends: Vec::new(),
            rules: Rules::default(),
            numbers: Vec::new(),
        };
        generate(&mut generator, &prompts, &options)
    };
    let drawn = sample(1.0, 0, 1.0, 3);
    assert_eq!(drawn, sample(1.0, 0, 1.0, 3));
    assert_ne!(drawn, sample(1.0, 0, 1.0, 4));
    let likeliest = sample(1.0, 1, 1.0, 0);
    assert_eq!(likeliest, sample(1.0, 0, 1e-9, 1));
    assert_eq!(likeliest, sample(1e-6, 0, 1.0, 2));
}

#[test]
fn a_sequence_stops_where_it_is_told_to() {
    let mut generator = generator(&fixtures().join("parity/llama_mha-0"), Head::CausalLm);
    let prompts = [vec![5, 6, 7], vec![8]];
    let options = Options {
        strategy: Strategy::Greedy,
        max_new_tokens: 60,
        ends: Vec::new(),
        rules: Rules::default(),
        numbers: Vec::new(),
    };
    let whole = generate(&mut generator, &prompts, &options);
    let (generator, engine) = &mut generator;
    let mut seen = vec![Vec::new(); 2];
    let stop = |row: usize, tokens: &[i32]| row == 1 && tokens.len() == 4;
    let watch = |row: usize, token| seen[row].push(token);
    let found = generator.generate(engine, &prompts, &options, stop, watch);
    let found = found.unwrap();
    assert_eq!(found[0], whole[0]);
    assert_eq!(found[1], whole[1][..4]);
    assert_eq!(seen, found);

    let mut message = |prompts: &[Vec<i32>]| {
        let error = generator.start(engine, prompts, &options).err();
        error.map_or_else(String::new, |error| error.to_string())
    };
    let long = message(&[vec![5; 65]]);
    assert!(long.contains("positions for 64"), "{long}");
    let empty = message(&[vec![5], vec![]]);
    assert_eq!(empty, "prompt 1 is empty; expected at least one token");
    let unknown = message(&[vec![99]]);
    assert!(unknown.contains("is not in 0..99"), "{unknown}");
}

/// A model whose every step computes the whole of every sequence anew, each alone.
struct Anew<'a> {
    generator: &'a mut (Generator, Engine),
    sequences: Vec<Vec<i32>>,
    logits: Vec<f32>,
}

impl Anew<'_> {
    /// The logits behind each sequence, from a session of its own, without padding or earlier steps.
    fn compute(&mut self) -> Next {
        let (generator, engine) = &mut *self.generator;
        self.logits.clear();
        for sequence in &self.sequences {
            let prompts = std::slice::from_ref(sequence);
            let (mut session, _) = generator.start(engine, prompts, &greedy(1)).unwrap();
            self.logits.extend(session.logits().unwrap());
        }
        Next {
            vocabulary: self.logits.len() / self.sequences.len(),
            ..Next::default()
        }
    }
}

impl Decode for Anew<'_> {
    type Error = GenerateError;

    fn step(&mut self, parents: &[usize], tokens: &[i32]) -> Result<Next, GenerateError> {
        let rows = parents.iter().zip(tokens);
        let longer = rows.map(|(&row, &token)| [&self.sequences[row][..], &[token]].concat());
        self.sequences = longer.collect();
        Ok(self.compute())
    }

    fn logits(&mut self) -> Result<Vec<f32>, GenerateError> {
        Ok(self.logits.clone())
    }
}

/// Prompts of 3 and 9 tokens in one batch, greedily, by beams, with rules: as without a cache, without
/// padding, and without other prompts beside them.
#[test]
fn a_batch_over_a_cache_is_each_prompt_computed_anew() {
    if !device::is_float32() {
        eprintln!("skipped: which token is likeliest depends on roundings");
        return;
    }
    let mut generator = generator(&fixtures().join("parity/llama_gqa_tied-1"), Head::CausalLm);
    let prompts = [vec![5, 6, 7], vec![8, 1, 30, 31, 2, 44, 9, 17, 3]];
    let beam = |beams, length_penalty| Strategy::Beam {
        beams,
        length_penalty,
        early_stopping: false,
    };
    let rules = Rules {
        no_repeat_ngram_size: 2,
        repetition_penalty: 1.3,
        min_new_tokens: 5,
        ..Rules::default()
    };
    for strategy in [Strategy::Greedy, beam(4, 1.0), beam(3, 0.0)] {
        for rules in [Rules::default(), rules.clone()] {
            let options = Options {
                strategy,
                rules,
                ends: vec![11, 40],
                max_new_tokens: 20,
                numbers: Vec::new(),
            };
            let found = generate(&mut generator, &prompts, &options);
            for (prompt, found) in prompts.iter().zip(&found) {
                let mut anew = Anew {
                    sequences: vec![prompt.clone()],
                    logits: Vec::new(),
                    generator: &mut generator,
                };
                let next = anew.compute();
                let given = std::slice::from_ref(prompt);
                let expected = search(&mut anew, next, given, &options, |_, _| false, |_, _| {});
                assert_eq!(*found, expected.unwrap()[0], "{strategy:?}");
            }
        }
    }
}

/// Logits of a batch are those of each prompt alone, whatever is beside it, step by step.
#[test]
fn logits_of_a_batch_are_those_of_each_alone() {
    for (name, head) in [
        ("llama_gqa_tied-0", Head::CausalLm),
        ("bart_generate-0", Head::Seq2SeqLm { smoothing: 0.0 }),
    ] {
        let (mut generator, mut engine) = generator(&fixtures().join("parity").join(name), head);
        let prompts = [vec![5, 6, 7], vec![8; 17], vec![40]];
        let mut logits = |prompts: &[Vec<i32>], tokens: &[i32]| -> Vec<Vec<f32>> {
            let (mut session, _) = generator.start(&mut engine, prompts, &greedy(9)).unwrap();
            let rows: Vec<usize> = (0..prompts.len()).collect();
            let mut all = vec![session.logits().unwrap()];
            for step in 0..4 {
                let tokens: Vec<i32> = tokens.iter().map(|token| token + 3 * step).collect();
                session.step(&rows, &tokens).unwrap();
                all.push(session.logits().unwrap());
            }
            all
        };
        let together = logits(&prompts, &[20, 21, 22]);
        for row in 0..3 {
            let alone = logits(&prompts[row..=row], &[20 + row as i32]);
            for (together, alone) in together.iter().zip(&alone) {
                let own = &together[row * alone.len()..][..alone.len()];
                let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
                let largest = alone.iter().fold(1.0, |most: f32, x| most.max(x.abs()));
                let off =
                    support::largest_difference(&wide(own), &wide(alone)) / f64::from(largest);
                assert!(off <= device::tolerance(1e-5), "{name} {row}: {off}");
            }
        }
    }
}

/// More tokens than a cache has places for at first: those before it grew are still there.
#[test]
fn a_cache_grows_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        let from = fixtures().join("parity/llama_gqa_tied-0").join(file);
        std::fs::copy(from, dir.path().join(file)).unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config: serde_json::Map<String, serde_json::Value> = json(&path);
    config.insert("max_position_embeddings".into(), 1000.into());
    std::fs::write(&path, serde_json::Value::from(config).to_string()).unwrap();
    let logits = |chunks: &[usize]| {
        let (mut generator, mut engine) = generator(dir.path(), Head::CausalLm);
        let prompts = [vec![5, 6, 7], vec![8; 30]];
        let mut last = Vec::new();
        let mut tokens = (0..).map(|i: i32| (i * 37 + 11) % 90 + 3);
        let mut prompts = prompts.to_vec();
        for &count in chunks {
            let options = greedy(700);
            let (mut session, _) = generator.start(&mut engine, &prompts, &options).unwrap();
            for _ in 0..count {
                let token = tokens.next().unwrap();
                session.step(&[0, 1], &[token, token + 1]).unwrap();
                prompts[0].push(token);
                prompts[1].push(token + 1);
            }
            last = session.logits().unwrap();
        }
        last.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>()
    };
    // Through all steps; and with the first tokens as prompts, which need fewer places.
    let (whole, parts) = (logits(&[600]), logits(&[300, 300]));
    let off = support::largest_difference(&whole, &parts);
    assert!(off <= device::tolerance(1e-4), "{off}");
}

#[test]
fn a_session_is_full_where_its_room_ends() {
    let (mut generator, mut engine) =
        generator(&fixtures().join("parity/llama_mha-0"), Head::CausalLm);
    let (mut session, _) = generator
        .start(&mut engine, &[vec![5, 6]], &greedy(40))
        .unwrap();
    for (parents, tokens) in [(&[1][..], &[7][..]), (&[0], &[7, 7]), (&[], &[])] {
        let error = session.step(parents, tokens).unwrap_err().to_string();
        assert!(error.contains("of 1 with"), "{error}");
    }
    let error = session.step(&[0, 0], &[7, 7]).unwrap_err();
    assert!(
        error.to_string().contains("of each of 1 sequences"),
        "{error}"
    );
    let error = (0..200).find_map(|_| session.step(&[0], &[7]).err());
    let error = error.unwrap().to_string();
    assert!(
        error.contains("full") || error.contains("positions for"),
        "{error}"
    );
}

#[test]
fn a_classifier_does_not_generate() {
    let dir = fixtures().join("parity/bart_cls-0");
    let (mut generator, mut engine) = generator(&dir, Head::classification(3));
    let options = greedy(4);
    let error = generator.start(&mut engine, &[vec![5, 2]], &options);
    let error = error.unwrap_err();
    assert_eq!(
        error.to_string(),
        "BartForSequenceClassification does not generate text; give a language model, such as llama \
         or bart"
    );
}

#[test]
fn the_real_smollm2_equals_transformers() {
    let dir = device::package().join("../.cache/smollm2");
    if !dir.is_dir() {
        println!(
            "skipped: the real SmolLM2 is not in .cache/smollm2; scripts/smollm2.sh puts it there"
        );
        return;
    }
    let base = Pretrained::open(&dir, Head::CausalLm).unwrap();
    base.check_head().unwrap();
    assert_eq!(base.report.unused, Vec::<String>::new());
    let io = File::open(&fixtures().join("smollm2.safetensors"));
    let ids = io.ids("input_ids").unwrap();
    let about: serde_json::Value = json(&fixtures().join("smollm2.json"));
    let tokenizer = base.tokenizer().unwrap();
    let text = about["text"].as_str().unwrap();
    let encoded = tokenizer.encode(text, None, 1024).unwrap().ids;
    let encoded: Vec<i32> = encoded.into_iter().map(|id| id as i32).collect();
    assert_eq!(encoded, ids);

    let batch = support::one_row(&ids);
    let program = base.model.program(batch.shape(), false, false).unwrap();
    let outputs = support::run(&program, &base.weights, &base.model.inputs(&batch));
    let logits = &outputs.iter().find(|(name, _)| name == "logits").unwrap().1;
    let vocabulary = logits.len() / ids.len();
    let some: Vec<f64> = logits
        .chunks_exact(vocabulary)
        .step_by(8)
        .flat_map(|row| row.iter().step_by(61).copied())
        .collect();
    let difference = support::largest_difference(&some, &io.floats("logits"));
    println!("largest difference of logits: {difference:e}");
    assert!(difference <= 1e-3, "{difference:e}");

    let beam = Strategy::Beam {
        beams: 4,
        length_penalty: 1.0,
        early_stopping: false,
    };
    let mut generator = generator(&dir, Head::CausalLm);
    for (name, strategy, count) in [("greedy", Strategy::Greedy, 64), ("beams", beam, 32)] {
        let expected = io.ids(name).unwrap();
        assert_eq!(expected.len(), count);
        let options = Options {
            strategy,
            max_new_tokens: count,
            ends: Vec::new(),
            rules: Rules::default(),
            numbers: Vec::new(),
        };
        let found = generate(&mut generator, std::slice::from_ref(&ids), &options);
        assert_eq!(found, [expected], "{name}");
    }
}

/// Adapters beside the weights are adapters within them, in an encoder-decoder's two programs too, and their
/// dropout is training's.
#[test]
fn adapters_generate_what_merged_weights_do() {
    let mut config = AdaptConfig::method(&Lora, 2);
    (config.alpha, config.dropout) = (Some(5.0), Some(0.5));
    for (name, head) in [
        ("bart_generate-0", Head::Seq2SeqLm { smoothing: 0.0 }),
        ("llama_mha-0", Head::CausalLm),
    ] {
        let base = Pretrained::open(&fixtures().join("parity").join(name), head).unwrap();
        let sites = config.resolve(base.model.sites()).unwrap();
        let mut params = base.weights.clone();
        initialise(&sites, &mut params, 3, &Default::default(), |_| {}).unwrap();
        let mut merged = base.weights.clone();
        let mut frozen = sites.clone();
        let adapted = sites.iter().zip(&mut frozen);
        for (site, frozen) in adapted.filter(|(site, _)| site.spec.rank().is_some()) {
            let key = Draw::default().key(&site.lora_b());
            for (i, x) in (0..).zip(params[&site.lora_b()].floats_mut()) {
                *x = 0.1 * key.normal(i) as f32;
            }
            let [a, b] =
                [site.lora_a(), site.lora_b()].map(|name| params[&name].floats().into_owned());
            let width = site.in_features;
            for (i, x) in merged[&site.weight].floats_mut().iter_mut().enumerate() {
                let (row, column) = (i / width, i % width);
                *x += 2.5
                    * (0..2)
                        .map(|k| b[2 * row + k] * a[width * k + column])
                        .sum::<f32>();
            }
            frozen.spec = AdapterSpec::frozen();
        }
        let prompts = [vec![5, 17, 8, 30], vec![44, 9]];
        let logits = |sites: &[Site], params| {
            let mut engine = device::engine(params, Fusion::At(Costs::default()));
            let mut generator = Generator::new(base.model.clone(), sites.to_vec());
            let (mut session, _) = generator.start(&mut engine, &prompts, &greedy(4)).unwrap();
            let logits = session.logits().unwrap();
            logits.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()
        };
        let beside = logits(&sites, params);
        let plain = logits(&frozen, base.weights.clone());
        let within = logits(&frozen, merged);
        assert!(
            support::largest_difference(&beside, &plain) > 1e-2,
            "{name}"
        );
        let largest = within.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
        let off = support::largest_difference(&beside, &within) / largest;
        assert!(off <= device::tolerance(2e-5), "{name}: {off}");
    }
}
